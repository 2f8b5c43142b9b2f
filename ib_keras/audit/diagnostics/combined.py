"""M3: what do all further attacks find together?

Each check tolerates a few examples as chance. This one adds them up, and checks
that enough examples were attacked for the others to be meaningful.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics.case import Case

ID = "M3"
_THRESHOLD = 0.01
_ENOUGH = 50


def conclude(case: Case, findings: Sequence[Mapping[str, Any]]) -> base.Finding:
    """Adds up what the other findings broke.

    Args:
        case: The audit.
        findings: Of all other checks, as findings.json holds them.

    Returns:
        "fail" where the share of all examples is over one point and over two
        standard errors, or fewer than fifty robust examples were attacked
        though there are more.
    """
    known = dict(
        id=ID,
        question="Do all further attacks together find next to nothing?",
        source="ib_keras",
    )
    if not len(case.robust_rows):
        return base.Finding(
            **known,
            status=base.NOT_APPLICABLE,
            evidence="The audit left no robust example.",
        )
    robust = {int(row) for row in case.robust_rows}
    broken = sorted(
        robust & {row for f in findings for row in f["data"].get("broken", ())}
    )
    excess = len(broken) / len(robust) * case.robust_accuracy
    num_robust = int(case.ledger.is_robust.sum())
    is_short = len(robust) < min(_ENOUGH, num_robust)
    is_high = excess > _THRESHOLD and base.is_clear(len(broken))
    status = base.PASS
    if broken:
        status = base.WARN
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
        threshold=_THRESHOLD,
        evidence=f"Of {num_robust} robust examples {len(robust)} were "
        f"attacked again at radius {float(case.threat_model.epsilon):.4g}, and "
        f"{len(broken)} were broken by some attack: of all examples "
        f"that is {100 * excess:.2g}%.",
        advice=advice,
        examples=tuple(broken),
    )
