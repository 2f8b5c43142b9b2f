"""D37: do gradients that are averaged over noise find more?"""

from ib_keras.attacks.base import check_count
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics.case import Case
from ib_keras.audit.diagnostics.case import stage

# Of epsilon: narrow enough for fine waves, wide enough for coarse steps.
_WIDTHS = (0.1, 0.5, 1.0)
# Losses alone need more points than gradients do, and are asked at one width.
_WIDTH_OF_LOSSES = 0.5


class SmoothedGradients:
    """Runs PGD on smoothed losses, by gradients and by losses alone.

    Args:
        num_steps: Of each run.
        num_pairs: Antithetic pairs of points a step.
    """

    cost = "cheap"
    ids = ("D37",)

    def __init__(self, num_steps, num_pairs):
        self.num_steps = num_steps
        self.num_pairs = num_pairs

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D37."""
        runs = [(width, False) for width in _WIDTHS]
        runs.append((_WIDTH_OF_LOSSES, True))
        stages = [
            stage(
                "smoothed",
                num_steps=self.num_steps,
                num_pairs=self.num_pairs,
                width=width,
                from_losses=from_losses,
            )
            for width, from_losses in runs
        ]
        return [
            breaks.ask(
                case,
                stages,
                id="D37",
                question="Do gradients that are averaged over noise find "
                "nothing more?",
                source="Athalye et al. 2018, section 4; Ilyas et al. 2018",
                threshold=0.005,
                words=f"PGD on smoothed losses, {len(stages)} runs of "
                f"{self.num_steps} steps of {2 * self.num_pairs} points,",
                advice="The surface has steps or waves that hide its slope: "
                "add the attack smoothed to the protocol.",
            )
        ]


def build(num_steps: int = 20, num_pairs: int = 2) -> SmoothedGradients:
    """Builds the diagnostic."""
    return SmoothedGradients(
        check_count("num_steps", num_steps),
        check_count("num_pairs", num_pairs),
    )
