"""D26: is the step size a good one?"""

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics.case import Case
from ib_keras.audit.diagnostics.case import stage

_FRACTIONS = (0.01, 0.05, 0.25, 1.0, 2.0)


class StepSizes:
    """Runs PGD at five step sizes.

    Args:
        num_steps: Of each.
    """

    cost = "full"
    ids = ("D26",)

    def __init__(self, num_steps):
        self.num_steps = num_steps

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D26."""
        epsilon = float(case.threat_model.epsilon)
        stages = [
            stage("pgd", num_steps=self.num_steps, step_size=f * epsilon)
            for f in _FRACTIONS
        ]
        return [
            breaks.ask(
                case,
                stages,
                id="D26",
                question="Do other step sizes find nothing more?",
                source="Carlini et al. 2019, section 4.4",
                threshold=0.01,
                words=f"PGD with {self.num_steps} steps of 1/100, 1/20, 1/4, "
                "1 and 2 epsilon",
                advice="Tune the step size, or use apgd, which adapts it.",
            )
        ]


def build(num_steps: int = 50) -> StepSizes:
    """Builds the diagnostic."""
    return StepSizes(num_steps)
