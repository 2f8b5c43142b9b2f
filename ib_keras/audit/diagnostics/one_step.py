"""D1: is the audit's attack at least as strong as one step?"""

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics.case import Case
from ib_keras.audit.diagnostics.case import stage

_FEWEST_STEPS = 10
_KNOWN = dict(
    id="D1",
    question="Do many steps find all that one step finds?",
    source="Athalye et al. 2018, section 3.1; Carlini et al. 2019, section 4.2",
)


class OneStep:
    """Runs FGS on what stands, if the protocol has more than that."""

    cost = "cheap"
    ids = ("D1",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D1."""
        steps = max(stage.attack.num_steps for stage in case.stages)
        if steps < _FEWEST_STEPS:
            return [
                base.Finding(
                    **_KNOWN,
                    status=base.FAIL,
                    value=steps,
                    threshold=_FEWEST_STEPS,
                    evidence=f"No attack of the protocol makes more than "
                    f"{steps} step(s).",
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
                advice="The iterative attack is held up by the gradients: "
                "try larger steps, more restarts and another loss.",
            )
        ]


def build() -> OneStep:
    """Builds the diagnostic."""
    return OneStep()
