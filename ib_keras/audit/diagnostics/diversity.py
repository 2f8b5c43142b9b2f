"""D27: do different losses and optimisers agree?"""

import numpy as np

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics.case import Case
from ib_keras.audit.diagnostics.case import stage

_THRESHOLD = 0.02


class Diversity:
    """Compares the best of several attacks with their union.

    Args:
        num_steps: Of each.
    """

    cost = "full"
    ids = ("D27",)

    def __init__(self, num_steps):
        self.num_steps = num_steps

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D27."""
        rows = case.rows
        losses = ["cross_entropy", "margin"]
        if case.num_classes >= 3:
            losses.append("dlr")
        attacks = {
            f"apgd {loss}": stage("apgd", num_steps=self.num_steps, loss=loss)
            for loss in losses
        }
        attacks["adam margin"] = stage(
            "multi_targeted", num_steps=self.num_steps, num_targets=1
        )
        robust = {
            name: case.attack([attack], rows).is_robust
            for name, attack in attacks.items()
        }
        accuracy = {name: float(s.mean()) for name, s in robust.items()}
        union = np.all(list(robust.values()), axis=0)
        gap = min(accuracy.values()) - float(union.mean())
        count = round(gap * len(rows))
        status = base.PASS
        if gap > _THRESHOLD:
            status = base.FAIL if base.is_clear(count) else base.WARN
        listed = ", ".join(f"{n} {100 * a:.3g}%" for n, a in accuracy.items())
        return [
            base.Finding(
                id="D27",
                question="Do single attacks find what all of them find "
                "together?",
                status=status,
                value=gap,
                threshold=_THRESHOLD,
                evidence=f"One run each leaves {listed}; together "
                f"{100 * union.mean():.3g}%.",
                advice="The loss surface is rough: one attack is not evidence; "
                "use an ensemble with restarts."
                if status != base.PASS
                else "",
                source="Tramer et al. 2020; Carlini et al. 2019, section 4.3",
                data=accuracy,
            )
        ]


def build(num_steps: int = 50) -> Diversity:
    """Builds the diagnostic."""
    return Diversity(num_steps)
