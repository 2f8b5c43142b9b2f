"""Two audits of the same examples: is the difference more than chance?"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from ib_keras.audit import statistics
from ib_keras.audit.formats import rows
from ib_keras.audit.report import load


@dataclasses.dataclass(frozen=True)
class Pair:
    """McNemar's exact test of two audits.

    Attributes:
        first: Name of the first model.
        second: Name of the second.
        only_first: Examples robust in the first audit alone.
        only_second: Examples robust in the second alone.
        p_value: Two-sided, of a difference at least as large by chance; None
            where the audits are not of the same examples.
        difference: Robust accuracy of the first - that of the second.
        interval: Its 95% interval.
        differences: What else differs, so that the models alone do not explain
            the numbers.
    """

    first: str
    second: str
    only_first: int = 0
    only_second: int = 0
    p_value: float | None = None
    difference: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    differences: tuple[str, ...] = ()

    def __str__(self) -> str:
        start = f"{self.first} against {self.second}: "
        if self.p_value is None:
            return start + "not compared, the examples are not the same."
        sentence = (
            f"{start}{self.only_first} examples are robust in the first alone, "
            f"{self.only_second} in the second alone; McNemar's exact test "
            f"gives p = {self.p_value:.2g}. The difference is "
            f"{_points(self.difference)} points (95%: "
            f"{_points(self.interval[0])} to {_points(self.interval[1])})."
        )
        if self.differences:
            sentence += f" They also differ in {', '.join(self.differences)}."
        return sentence


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def compare(audits: Sequence[load.Audit]) -> list[Pair]:
    """Compares every two of the audits, at their own radii.

    Args:
        audits: Any number of them.

    Returns:
        One `Pair` for every two; the p-values are not adjusted for their
        number.
    """
    names = labels(audits)
    return [
        _pair(first, second, names[i], names[j])
        for (i, first), (j, second) in itertools.combinations(
            enumerate(audits), 2
        )
    ]


def labels(audits: Sequence[load.Audit]) -> list[str]:
    """Names of the models, with what tells audits of the same one apart."""
    names = [rows.model_name(audit) for audit in audits]
    if len(set(names)) == len(names):
        return names
    return [
        f"{name} ({position})" for position, name in enumerate(names, start=1)
    ]


def sentences(audits: Sequence[load.Audit]) -> list[str]:
    """The comparisons in words; none for one audit."""
    found = [str(pair) for pair in compare(audits)]
    if len(found) > 1:
        found.append(
            f"The p-values are not adjusted for the {len(found)} comparisons."
        )
    return found


def _pair(first, second, first_name, second_name) -> Pair:
    same = all(
        np.array_equal(first.examples[name], second.examples[name])
        for name in ("index", "label")
    ) and all(
        first.dataset.get(name) == second.dataset.get(name)
        for name in ("name", "split")
    )
    if not same:
        return Pair(first_name, second_name)
    found = statistics.mcnemar(
        first.examples["is_robust"], second.examples["is_robust"]
    )
    aspects = {
        "threat model": lambda audit: audit.threat_model,
        "mode": lambda audit: audit.mode,
        "protocol": lambda audit: (audit.protocol, audit.protocol_version),
    }
    return Pair(
        first_name,
        second_name,
        found.only_a,
        found.only_b,
        found.p_value,
        found.difference,
        found.difference_ci95,
        tuple(
            name
            for name, aspect in aspects.items()
            if aspect(first) != aspect(second)
        ),
    )
