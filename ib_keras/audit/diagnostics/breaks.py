"""Checks of one form: does another attack break what the audit calls robust?

Examples that are broken here were counted as robust, so the audit's number is
too high by their share of all examples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ib_keras.attacks import runner
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics.case import Case


def ask(
    case: Case,
    stages: Sequence[runner.Stage],
    *,
    id: str,
    question: str,
    source: str,
    threshold: float,
    words: str,
    advice: str,
    is_exact: bool = False,
    **arguments,
) -> base.Finding:
    """Attacks examples that the audit calls robust.

    Args:
        case: The audit.
        stages: The other attack.
        id: Of the check.
        question: Of the check.
        source: Of the check.
        threshold: Largest share of all examples, by which the audited number
            may be too high.
        words: A description of the other attack, for the evidence.
        advice: For the case that it breaks more than that.
        is_exact: Whether, of a model without noise, one example is enough.
        **arguments: Further ones of `Case.attack`.

    Returns:
        "fail" where the estimated excess of the number is over the threshold
        and over two standard errors (or, with `is_exact`, one example);
        "warn" where any example is broken; "not applicable" where none is
        robust.
    """
    rows = case.robust_rows
    known: dict[str, Any] = dict(id=id, question=question, source=source)
    if not len(rows):
        return none_is_robust(**known)
    found = case.attack(stages, rows, **arguments)
    # Noise alone can make an example of a stochastic model wrong.
    broken = found.broken_by_stage >= 0
    return finding(
        case,
        rows,
        broken,
        threshold=threshold,
        words=words,
        advice=advice,
        is_exact=is_exact and not case.is_random,
        **known,
    )


def finding(
    case: Case,
    rows: np.ndarray,
    broken: np.ndarray,
    *,
    threshold: float,
    words: str,
    advice: str,
    is_exact: bool = False,
    **known,
) -> base.Finding:
    """The finding about robust examples of which some were broken.

    Args:
        case: The audit.
        rows: Positions of the examples that were attacked.
        broken: bool, one for each.
        threshold: As in `ask`.
        words: As in `ask`.
        advice: As in `ask`.
        is_exact: Whether one example is enough to fail.
        **known: `id`, `question` and `source`.

    Returns:
        The finding.
    """
    excess = float(broken.mean()) * case.open_accuracy
    status = base.PASS
    if broken.any():
        is_clear = is_exact or base.is_clear(int(broken.sum()))
        is_sign = excess > threshold and is_clear
        status = base.FAIL if is_sign else base.WARN
    return base.Finding(
        **known,
        status=status,
        value=excess,
        threshold=threshold,
        evidence=(
            f"{words} broke {int(broken.sum())} of {len(rows)} examples that "
            "the audit calls robust"
            + (
                f": of all examples that is {100 * excess:.2g}%."
                if broken.any()
                else "."
            )
        ),
        advice=advice if broken.any() else "",
        examples=tuple(rows[broken]),
        data={
            "num_attacked": len(rows),
            "num_broken": int(broken.sum()),
            "broken": [int(row) for row in rows[broken]],
        },
    )


def none_is_robust(**known) -> base.Finding:
    """The finding where there is nothing to attack again.

    Args:
        **known: `id`, `question` and `source`, and `data` where there is any.
    """
    return base.Finding(
        **known,
        status=base.NOT_APPLICABLE,
        evidence="The audit left no robust example that is not certified.",
    )
