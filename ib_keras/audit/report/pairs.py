"""Audits of the same examples, each against its baseline's, one by one.

Two accuracies with overlapping intervals may still differ significantly: that
depends on the examples on which exactly one of the two models is robust. So an
audit is paired with that of its baseline by the same protocol, at the same
radius and in the same mode. A model without noise is one function in all modes,
and so is compared with all of the other's.
"""

import dataclasses
import functools
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from ib_keras.audit import statistics
from ib_keras.audit.report import baselines
from ib_keras.audit.report import load
from ib_keras.audit.report import names
from ib_keras.audit.report import text


@dataclasses.dataclass(frozen=True)
class Pair:
    """McNemar's exact test of an audit against its baseline's.

    Attributes:
        audit: Position of the audit among those given.
        baseline: Position of that of the baseline.
        names: Of the two models.
        modes: Of the two audits.
        protocol: Of both, with its version.
        norm: Of both.
        epsilon: Of both.
        accuracies: Robust accuracies of the two.
        test: What the pairs show; the audit first.
        differences: What else differs, so that the models alone do not explain
            the numbers.
    """

    audit: int
    baseline: int
    names: tuple[str, str]
    modes: tuple[str, str]
    protocol: str
    norm: str
    epsilon: float
    accuracies: tuple[float, float]
    test: statistics.Paired
    differences: tuple[str, ...]

    @property
    def condition(self) -> str:
        """Protocol, norm and radius: "pgd_restarts v1, L∞, ε = 0.2"."""
        norm, epsilon = text.norm(self.norm), text.epsilon(self.epsilon)
        return f"{self.protocol}, {norm}, ε = {epsilon}"

    @property
    def mode(self) -> str:
        """The mode of both, or both: "stochastic to mean"."""
        return " to ".join(dict.fromkeys(self.modes))

    def __str__(self) -> str:
        test = self.test
        low, high = map(text.points, test.difference_ci95)
        sentence = (
            f"{self.names[0]} against {self.names[1]} ({self.condition}, "
            f"{self.mode} mode): "
            f"{text.quantity(test.only_a, 'example')} robust in the first "
            f"alone, {test.only_b} in the second alone; McNemar's exact test "
            f"gives p = {test.p_value:.2g}. The difference is "
            f"{text.points(test.difference)} points (95%: {low} to {high})."
        )
        if self.differences:
            sentence += f" They also differ in {', '.join(self.differences)}."
        return sentence


@dataclasses.dataclass(frozen=True)
class Pairs:
    """All pairs, how the baselines were found, and what has no pair.

    Attributes:
        pairs: By protocol, radius and mode, then in the order of the audits.
        note: How the baselines were found.
        unpaired: (position of the audit, why it has no pair).
    """

    pairs: tuple[Pair, ...]
    note: str
    unpaired: tuple[tuple[int, str], ...]

    @property
    def caution(self) -> str:
        """On many p-values; "" for one."""
        if len(self.pairs) < 2:
            return ""
        number = len(self.pairs)
        return f"The p-values are not adjusted for the {number} comparisons."


def compare(audits: Sequence[load.Audit], baseline: str | None = None) -> Pairs:
    """Pairs every audit with those of its baseline, at all radii of both.

    Args:
        audits: Any number of them.
        baseline: The audit folder, name or path of the model to compare with;
            None for the deterministic baseline, see `baselines`.

    Returns:
        The `Pairs`; without any for audits of one model.

    Raises:
        UserError: If no audit is of the wanted model.
    """
    chosen = baselines.choose(audits, baseline)
    named = names.of(audits)
    at_radii = functools.cache(lambda place: load.radii(audits[place]))
    pairs, unpaired = [], []
    for position, audit in enumerate(audits):
        model = chosen.of.get(names.model(audit))
        if model is None:
            continue
        theirs = [i for i, a in enumerate(audits) if names.model(a) == model]
        found, why = _partners(audit, [audits[i] for i in theirs])
        if why:
            unpaired.append((position, f"{named[theirs[0]]} was {why}"))
        for other in (theirs[i] for i in found):
            both = named[position], named[other]
            pairs += [
                _pair(mine, own, position, other, both)
                for mine, own in _alike(at_radii(position), at_radii(other))
            ]
    pairs.sort(key=lambda p: (p.protocol, p.norm, p.epsilon, p.modes[0]))
    return Pairs(tuple(pairs), chosen.note, tuple(unpaired))


def sentences(
    audits: Sequence[load.Audit], baseline: str | None = None
) -> list[str]:
    """The comparisons in words; none for audits of one model."""
    found, named = compare(audits, baseline), names.labels(audits)
    lines = [found.note, *map(str, found.pairs)]
    lines += [
        f"{named[position]}: not compared, {why}."
        for position, why in found.unpaired
    ]
    lines.append(found.caution)
    return [line for line in lines if line]


def _partners(audit, others) -> tuple[list[int], str]:
    """Which of the baseline's audits one is compared with, or why none is."""
    left = list(range(len(others)))
    for fits, why in _CONDITIONS:
        left = [i for i in left if fits(audit, others[i])]
        if not left:
            return [], why(audit)
    first = {others[i].mode: i for i in reversed(left)}
    if audit.mode in first and not baselines.is_noiseless(audit):
        return [first[audit.mode]], ""
    return sorted(first.values()), ""


def _protocol(audit: load.Audit) -> str:
    version = audit.protocol_version
    known = "" if version is None else f" v{text.clean(version, 10)}"
    return text.clean(audit.protocol, 60) + known


def _has_examples_of(one: load.Audit, other: load.Audit) -> bool:
    return all(
        one.dataset.get(name) == other.dataset.get(name)
        for name in ("name", "split")
    ) and all(
        np.array_equal(one.examples[name], other.examples[name])
        for name in ("index", "label")
    )


# What an audit must share with its partner, and what its baseline was not.
_CONDITIONS = (
    (
        lambda a, b: _protocol(a) == _protocol(b),
        lambda a: f"not audited by {_protocol(a)}",
    ),
    (
        lambda a, b: not _radii(a).isdisjoint(_radii(b)),
        lambda a: "attacked at no such radius",
    ),
    (
        _has_examples_of,
        lambda a: "attacked on other examples",
    ),
    (
        lambda a, b: a.mode == b.mode or _is_any_mode(a, b),
        lambda a: f"not audited in {text.clean(a.mode, 20)} mode",
    ),
)


def _is_any_mode(one: load.Audit, other: load.Audit) -> bool:
    """Whether a model without noise is compared across modes."""
    return baselines.is_noiseless(one) or baselines.is_noiseless(other)


def _radii(audit: load.Audit) -> set[tuple[str, float]]:
    """Norm and radius of all parts of an audit."""
    norm = audit.threat_model.norm
    return {(norm, float(epsilon)) for epsilon in load.kept_radii(audit)}


def _alike(ones, others) -> Iterator[tuple[load.Audit, load.Audit]]:
    """Both audits at every radius that both have, the smallest first."""
    by_radius = {one.threat_model: one for one in others}
    for mine in ones:
        own = by_radius.get(mine.threat_model)
        if own is not None and _has_examples_of(mine, own):
            yield mine, own


def _pair(mine, own, position, other, both) -> Pair:
    costs = [
        [(stage.attack, stage.num_restarts) for stage in audit.stages]
        for audit in (mine, own)
    ]
    return Pair(
        audit=position,
        baseline=other,
        names=both,
        modes=(text.clean(mine.mode, 20), text.clean(own.mode, 20)),
        protocol=_protocol(mine),
        norm=mine.threat_model.norm,
        epsilon=float(mine.threat_model.epsilon),
        accuracies=(mine.robust_accuracy, own.robust_accuracy),
        test=statistics.mcnemar(
            mine.examples["is_robust"], own.examples["is_robust"]
        ),
        differences=("attacks or restarts",) if costs[0] != costs[1] else (),
    )
