"""D1: is the audit's attack at least as strong as one step?"""

from typing import Any

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics.case import Case
from ib_keras.audit.diagnostics.case import stage

_FEWEST_STEPS = 10
_KNOWN: dict[str, Any] = dict(
    id="D1",
    question="Do many steps find all that one step finds?",
    source="Athalye et al. 2018, section 3.1; Carlini et al. 2019, section 4.2",
)


class OneStep:
    """Runs FGS on robust examples, if the protocol has more than FGS."""

    cost = "cheap"
    ids = ("D1",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D1."""
        # Attacks of other libraries make all their steps in one of ours.
        steps = [
            max(s.attack.num_steps, s.attack.gradients_per_step)
            for s in case.stages
            if s.attack.gradients_per_step
        ]
        if steps and max(steps) < _FEWEST_STEPS:
            return [
                base.Finding(
                    **_KNOWN,
                    status=base.FAIL,
                    value=max(steps),
                    threshold=_FEWEST_STEPS,
                    evidence="No gradient attack of the protocol makes more "
                    f"than {max(steps)} step(s).",
                    advice="One step shows what one step finds: audit by "
                    "pgd_restarts or aa_mt.",
                )
            ]
        return [
            breaks.ask(
                case,
                [stage("fgs")],
                **_KNOWN,
                threshold=0.0,
                words="One gradient step (FGS)",
                advice="Gradients mislead the iterative attack: "
                "try larger steps, more restarts and another loss.",
            )
        ]


def build() -> OneStep:
    """Builds the diagnostic."""
    return OneStep()
