"""D7: does random noise find what gradients do not?"""

import math

from ib_keras.attacks.base import check_count
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics.case import Case
from ib_keras.audit.diagnostics.case import stage

# The most runs that the points are drawn in, side by side in a batch.
_MOST_RUNS = 10


class Noise:
    """Tries random points and corners of the ball on robust examples.

    Args:
        num_points: Of each kind, per example.
    """

    cost = "cheap"
    ids = ("D7",)

    def __init__(self, num_points):
        self.num_points = num_points

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D7."""
        runs = self._num_runs(case)
        # A run evaluates its start as well.
        num_steps = max(math.ceil(self.num_points / runs) - 1, 1)
        count = runs * (num_steps + 1)
        return [
            breaks.ask(
                case,
                [
                    stage("uniform_noise", runs, num_steps=num_steps),
                    stage(
                        "uniform_noise",
                        runs,
                        num_steps=num_steps,
                        corners=True,
                    ),
                ],
                id="D7",
                question="Do gradients find all that random noise finds?",
                source="Athalye et al. 2018, section 3.1; Carlini et al. "
                "2019, section 4.3",
                threshold=0.0,
                # Random points that succeed show that gradients missed them.
                is_exact=True,
                words=f"2 x {count:,} random points of the ball",
                advice="Gradients mislead here: add the stages of "
                "autoattack_standard, which has an attack without gradients.",
            )
        ]

    def _num_runs(self, case) -> int:
        """As many as fit a batch.

        A model with noise takes one: each run is judged on its own, and each
        judgement is a chance for a lucky noise sample.
        """
        if case.is_random or not case.batch_size:
            return 1
        rooms = case.batch_size // max(len(case.robust_rows), 1)
        return min(max(rooms, 1), _MOST_RUNS)


def build(num_points: int = 500) -> Noise:
    """Builds the diagnostic."""
    return Noise(check_count("num_points", num_points))
