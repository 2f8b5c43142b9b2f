"""D9, D28: how does the deterministic baseline (the twin) do?"""

from typing import Any

import numpy as np

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics import traces
from ib_keras.audit.diagnostics.case import Case
from ib_keras.audit.diagnostics.case import stage

_UNDEFENDED = 0.05


class Twin:
    """Attacks the baseline, and tests its adversarial images on the model.

    Args:
        num_steps: Of AutoPGD on the baseline.
    """

    cost = "cheap"
    ids = ("D9", "D28")

    def __init__(self, num_steps):
        self.num_steps = num_steps

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D28, and D9 if there are robust examples."""
        if case.twin is None:
            return []
        return [self._pipeline(case), self._transfer(case)]

    def _pipeline(self, case):
        other = case.with_subject(case.twin)
        robust = other.attack(
            case.own_stages(),
            case.rows,
            logits_fn=case.twin.logits_fn,
            is_random=False,
            logit_scale=case.twin.logit_scale,
        ).is_robust
        case.gradient_evaluations = other.gradient_evaluations
        accuracy = float(robust.mean())
        status = base.PASS if accuracy <= _UNDEFENDED else base.WARN
        return base.Finding(
            id="D28",
            question="Does the same protocol break the deterministic baseline?",
            status=status,
            value=accuracy,
            threshold=_UNDEFENDED,
            evidence=f"With one restart a stage {100 * accuracy:.3g}% of "
            f"{len(robust)} examples of the baseline are robust.",
            advice="Where an undefended model is robust, the radius or the "
            "attack is too small to tell defences apart."
            if status == base.WARN
            else "",
            source="Carlini et al. 2019, section 5",
            data={"robust_accuracy": accuracy},
        )

    def _transfer(self, case):
        rows = case.robust_rows
        known: dict[str, Any] = dict(
            id="D9",
            question="Does transfer from the baseline find nothing more?",
            source="Carlini et al. 2019, section 4.3",
        )
        if not len(rows):
            return breaks.none_is_robust(**known)
        attack = stage(
            "apgd", num_steps=self.num_steps, loss="cross_entropy"
        ).attack
        trace = traces.run(
            case,
            attack,
            rows,
            case.twin.logits_fn,
            logit_scale=case.twin.logit_scale,
        )
        draws = 25 if case.is_random else 1
        broken = (
            traces.wrong_share(
                case.subject.logits_fn,
                trace.images,
                case.subject.labels[rows],
                case.seed_of(9),
                draws,
            )
            > 0.5
        )
        return breaks.finding(
            case,
            rows,
            np.asarray(broken),
            threshold=0.0,
            words="Adversarial images of the baseline",
            advice="A model whose own gradients find less than another's "
            "masks them.",
            **known,
        )


def build(num_steps: int = 50) -> Twin:
    """Builds the diagnostic."""
    return Twin(num_steps)
