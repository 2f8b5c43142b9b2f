"""M3: what do all further attacks find together?

Each check allows a few examples to chance. This one adds them up: what is
known to be broken is no part of the number, however little it is. Where the
others broke one to four examples, they are asked about more. It also asks
whether enough examples were looked at for the others to mean anything.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics.case import Case
from ib_keras.audit.statistics import wilson_interval

ID = "M3"
THRESHOLD = 0.01
_ENOUGH = 50
# One example of a hundred is a point, whatever float64 makes of it.
_TINY = 1e-9
# So many times the examples of the checks are looked at where they broke few.
_FURTHER = 4


@dataclasses.dataclass(frozen=True)
class Further:
    """What checks said of robust examples that were not looked at before.

    Attributes:
        rows: Positions of the examples.
        broken: Positions of those that were broken.
        names: Of the checks.
    """

    rows: tuple[int, ...] = ()
    broken: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


_NOTHING = Further()


def look_further(
    case: Case,
    findings: Sequence[Mapping[str, Any]],
    ask: Callable[[Case, str], Sequence[Mapping[str, Any]]],
) -> Further:
    """Asks the checks that broke a few examples about more.

    Args:
        case: The audit; what is spent goes to its account.
        findings: Of all checks, as findings.json holds them.
        ask: What the check of a module's name answers about a case, as
            findings.

    Returns:
        What was found; nothing where no example was broken, or enough to
        decide, or where no other example is robust.
    """
    broken = _broken(case.robust_rows, findings)
    others = np.setdiff1d(np.flatnonzero(case.is_open), case.robust_rows)
    if not broken or base.is_clear(len(broken)) or not len(others):
        return _NOTHING
    rng = np.random.default_rng(case.seed)
    count = _FURTHER * len(case.robust_rows)
    rows = np.sort(rng.permutation(others)[:count])
    names = dict.fromkeys(
        f["name"] for f in findings if f["data"].get("broken")
    )
    other = dataclasses.replace(case, robust_rows=rows)
    said = [finding for name in names for finding in ask(other, name)]
    case.gradient_evaluations = other.gradient_evaluations
    return Further(
        tuple(int(row) for row in rows),
        tuple(_broken(rows, said)),
        tuple(names),
    )


def _broken(rows, findings) -> list[int]:
    """Which of the rows a check broke."""
    found = {row for f in findings for row in f["data"].get("broken", ())}
    return sorted({int(row) for row in rows} & found)


def conclude(
    case: Case,
    findings: Sequence[Mapping[str, Any]],
    further: Further = _NOTHING,
) -> base.Finding:
    """Adds up what the other findings broke.

    Args:
        case: The audit.
        findings: Of all other checks, as findings.json holds them.
        further: What they said of more examples.

    Returns:
        "fail" where the share of all examples is over one point, or fewer
        than fifty robust examples were attacked though more are robust;
        "warn" where any was broken.
    """
    known: dict[str, Any] = dict(
        id=ID,
        question="Do all further attacks together find next to nothing?",
        source="ib_keras",
    )
    if not len(case.robust_rows):
        return breaks.none_is_robust(**known)
    broken = [*_broken(case.robust_rows, findings), *further.broken]
    count = len(case.robust_rows) + len(further.rows)
    num_robust = int(case.is_open.sum())
    excess = len(broken) / count * case.open_accuracy
    low, high = wilson_interval(len(broken), count)
    is_short = len(case.robust_rows) < min(_ENOUGH, num_robust)
    is_high = excess > THRESHOLD + _TINY
    status = base.WARN if broken else base.PASS
    if is_short or is_high:
        status = base.FAIL
    advice = ""
    if is_high:
        advice = (
            "Add the attacks that found them to the protocol and audit again."
        )
    elif is_short:
        advice = f"Set diagnostics.num_examples to {_ENOUGH} or more."
    return base.Finding(
        **known,
        status=status,
        value=excess,
        threshold=THRESHOLD,
        evidence=_evidence(case, count, num_robust, broken, excess, further),
        advice=advice,
        examples=tuple(broken),
        data={
            "epsilon": float(case.threat_model.epsilon),
            "num_attacked": count,
            "num_broken": len(broken),
            "excess_ci95": [
                case.open_accuracy * low,
                case.open_accuracy * high,
            ],
            "robust_accuracy_after_checks": case.robust_accuracy - excess,
            "asked_again": list(further.names),
        },
    )


def _unproved(case) -> str:
    is_any = case.is_certified is not None and case.is_certified.any()
    return "that are not certified " if is_any else ""


def _evidence(case, count, num_robust, broken, excess, further):
    said = (
        f"Of {num_robust} robust examples {_unproved(case)}{count} were "
        "attacked again at "
        f"radius {float(case.threat_model.epsilon):.4g}, and {len(broken)} "
        "were broken by one attack or another: of all examples that is "
        f"{100 * excess:.2g}%."
    )
    if further.rows:
        said += (
            f" {len(further.rows)} of them were shown to those checks alone "
            "that had broken any before."
        )
    return said
