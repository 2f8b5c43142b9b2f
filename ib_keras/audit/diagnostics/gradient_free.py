"""D8: does an attack without gradients find more?"""

from ib_keras.attacks.base import check_count
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics.case import Case
from ib_keras.audit.diagnostics.case import stage


class GradientFree:
    """Runs Square on robust examples.

    Args:
        num_queries: Per example.
    """

    cost = "cheap"
    ids = ("D8",)

    def __init__(self, num_queries):
        self.num_queries = num_queries

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D8."""
        return [
            breaks.ask(
                case,
                [stage("square", num_steps=self.num_queries)],
                id="D8",
                question="Do gradients find all that queries alone find?",
                source="Croce and Hein 2020, AutoAttack's own check; Athalye "
                "et al. 2018, section 3.1",
                threshold=0.002,
                words=f"Square with {self.num_queries:,} queries",
                advice="Gradients are masked: add Square to the protocol, or "
                "run autoattack_standard.",
            )
        ]


def build(num_queries: int = 500) -> GradientFree:
    """Builds the diagnostic."""
    return GradientFree(check_count("num_queries", num_queries))
