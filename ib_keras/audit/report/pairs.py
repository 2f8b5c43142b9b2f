"""Two audits of the same examples, compared example by example.

Two accuracies with wide intervals may still differ for certain, or not at all:
only the examples on which exactly one of the two models stands tell.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ib_keras.audit import statistics
from ib_keras.audit.report import charts
from ib_keras.audit.report import load


@dataclasses.dataclass(frozen=True)
class Pair:
    """An audit against the first one; the letters are those of the charts."""

    first: str
    second: str
    test: statistics.Paired


def describe(audits: Sequence[load.Audit]) -> tuple[Pair, ...]:
    """Compares every audit that can be paired with the first one.

    Args:
        audits: In the order of the page.

    Returns:
        A pair for each audit of the same examples under the same threat
        model as the first one; empty for a single audit.
    """
    return tuple(
        Pair(
            charts.letter(0),
            charts.letter(position),
            statistics.mcnemar(
                audits[0].examples["is_robust"], audit.examples["is_robust"]
            ),
        )
        for position, audit in enumerate(audits[1:], start=1)
        if _is_paired(audits[0], audit)
    )


def _is_paired(first: load.Audit, second: load.Audit) -> bool:
    """Whether both attacked the same examples within the same ball."""
    return (
        first.threat_model == second.threat_model
        and first.dataset == second.dataset
        and all(
            np.array_equal(first.examples[name], second.examples[name])
            for name in ("index", "label")
        )
    )
