"""Intervals and tests: how accurate a share is, which model is better.

Intervals for shares of examples, and a paired test for two models that were
audited on the same examples. `training_seeds` summarises several trainings.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ib_keras import files
from ib_keras.audit import folder as names
from ib_keras.audit import summary as summaries
from ib_keras.errors import UserError


@functools.cache
def wilson_interval(num_success: int, num_trials: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a share, such as an accuracy.

    It stays inside [0, 1] and keeps a positive width at 0% and at 100%, where
    the normal approximation claims certainty. Its coverage is 95% on average.

    Args:
        num_success: How many trials succeeded.
        num_trials: How many trials there were; with none of them the interval
            is all of [0, 1].

    Returns:
        The lower and the upper end, shares of 1.

    Raises:
        UserError: If the counts are not whole, or not 0 <= successes <=
            trials.

    References:
        Wilson, "Probable inference, the law of succession, and statistical
        inference", JASA 22(158), 1927.
    """
    whole = int(num_success) == num_success and int(num_trials) == num_trials
    if not whole or not 0 <= num_success <= num_trials:
        raise UserError(
            "Counts have no interval",
            received=f"{num_success} successes in {num_trials} trials",
            expected="whole numbers with 0 <= successes <= trials",
            fix="Count the examples again.",
        )
    if num_trials == 0:
        return 0.0, 1.0
    return _wilson(int(num_success), int(num_trials))


def _wilson(num_success, num_trials):
    """As in SciPy, whose `stats` takes a second to import."""
    from scipy import special

    z = float(special.ndtri(0.975))
    share = num_success / num_trials
    total = 2 * (num_trials + z**2)
    center = (2 * num_trials * share + z**2) / total
    spread = 4 * num_trials * share * (1 - share) + z**2
    delta = z / total * math.sqrt(spread)
    low = center - delta if num_success else 0.0
    high = center + delta if num_success < num_trials else 1.0
    return low, high


@dataclasses.dataclass(frozen=True)
class Paired:
    """Two models on the same examples.

    Attributes:
        num_examples: n.
        only_a: b, examples that only the first model gets right.
        only_b: c, examples that only the second one gets right.
        both: Examples that both get right.
        p_value: Of McNemar's exact test, two-sided: how likely a split of the
            b + c examples at least as uneven is if neither model is better.
        difference: Accuracy of the first - accuracy of the second.
        difference_ci95: Its interval.
    """

    num_examples: int
    only_a: int
    only_b: int
    both: int
    p_value: float
    difference: float
    difference_ci95: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self) | {
            "difference_ci95": list(self.difference_ci95)
        }


def mcnemar(is_right_a: np.ndarray, is_right_b: np.ndarray) -> Paired:
    """Tests two models by their correct answers for the same examples.

    The p-value is that of a fair coin for the examples on which the models
    differ. The interval is Newcombe's tenth method: Wilson's intervals of both
    accuracies, combined with the correlation of the pairs.

    Args:
        is_right_a: bool `[n]`, of the first model.
        is_right_b: bool `[n]`, of the second, in the same order.

    Returns:
        The `Paired` result.

    Raises:
        UserError: If there are no examples, or not as many of both.

    References:
        McNemar, "Note on the sampling error of the difference between
        correlated proportions or percentages", Psychometrika 12(2), 1947.
        Newcombe, "Improved confidence intervals for the difference between
        binomial proportions based on paired data", Statistics in Medicine 17,
        1998.
    """
    a, b = np.asarray(is_right_a, bool), np.asarray(is_right_b, bool)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise UserError(
            "Results are not paired",
            received=f"results of shapes {a.shape} and {b.shape}",
            expected="one result of each model for each of the same examples",
            fix="Audit both models on the same examples.",
        )
    both, neither = int((a & b).sum()), int((~a & ~b).sum())
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    p_value = 1.0
    if only_a + only_b:
        from scipy import stats

        test = stats.binomtest(only_a, only_a + only_b, 0.5)
        p_value = float(test.pvalue)
    return Paired(
        num_examples=len(a),
        only_a=only_a,
        only_b=only_b,
        both=both,
        p_value=p_value,
        difference=(only_a - only_b) / len(a),
        difference_ci95=_newcombe(both, only_a, only_b, neither),
    )


def _newcombe(both, only_a, only_b, neither) -> tuple[float, float]:
    n = both + only_a + only_b + neither
    in_a, in_b = both + only_a, both + only_b
    share_a, share_b = in_a / n, in_b / n
    low_a, high_a = wilson_interval(in_a, n)
    low_b, high_b = wilson_interval(in_b, n)
    product = in_a * (n - in_a) * in_b * (n - in_b)
    excess = both * neither - only_a * only_b
    if excess > 0:
        # The correction for continuity of method 10.
        excess = max(excess - n / 2, 0)
    correlation = excess / math.sqrt(product) if product else 0.0

    def length(x, y):
        return math.sqrt(max(x * x - 2 * correlation * x * y + y * y, 0.0))

    difference = share_a - share_b
    below = length(share_a - low_a, high_b - share_b)
    above = length(high_a - share_a, share_b - low_b)
    return max(difference - below, -1.0), min(difference + above, 1.0)


def difference_over_seeds(
    is_right_a: np.ndarray, is_right_b: np.ndarray
) -> tuple[float, tuple[float, float]]:
    """The difference of two accuracies, each over several trainings.

    The interval is over examples, for the trainings that were made: answers of
    several models to one example are not independent, so an example counts
    once, with its mean difference. For one training it is the adjusted Wald
    interval of Agresti and Min.

    Args:
        is_right_a: bool `[seeds, n]`, of the first kind of models.
        is_right_b: bool `[seeds, n]`, of the second, on the same examples.

    Returns:
        Accuracy of the first - accuracy of the second, and its 95% interval.

    References:
        Agresti and Min, "Simple improved confidence intervals for comparing
        matched proportions", Statistics in Medicine 24(5), 2005.
    """
    differences = np.float64(is_right_a) - np.float64(is_right_b)
    by_example = differences.mean(axis=0)
    n = len(by_example) + 2  # With half an example in each of four cells.
    center = by_example.sum() / n
    variance = ((by_example**2).sum() + 1) / n - center**2
    spread = 1.959964 * math.sqrt(variance / n)
    low, high = max(center - spread, -1.0), min(center + spread, 1.0)
    return float(by_example.mean()), (float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values, corrected for their number.

    Args:
        p_values: Of any number of tests, in any dependence.

    Returns:
        The corrected ones in the same order.

    References:
        Holm, "A simple sequentially rejective multiple test procedure",
        Scandinavian Journal of Statistics 6(2), 1979.
    """
    values = np.asarray(p_values, float)
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    corrected = np.empty_like(values)
    steps = np.maximum.accumulate(factors * values[order])
    corrected[order] = np.minimum(steps, 1.0)
    return corrected.tolist()


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two audits of the same examples.

    Attributes:
        robust: Of robust accuracy.
        clean: Of clean accuracy.
        notes: Other differences of the audits than their models, which may
            explain a difference in accuracy.
    """

    robust: Paired
    clean: Paired
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "robust": self.robust.to_json(),
            "clean": self.clean.to_json(),
            "notes": list(self.notes),
        }


# Fields that two audits may differ in, with a note.
_NOTED = (
    "protocol",
    "protocol_version",
    "mode",
    "num_samples",
    "num_judge_samples",
    "seed",
)


def compare(folder_a: str, folder_b: str) -> Comparison:
    """Compares two audits, example by example.

    Args:
        folder_a: A finished audit.
        folder_b: Another, of the same examples under the same threat model.

    Returns:
        A `Comparison`, of the first to the second.

    Raises:
        UserError: If a folder is not a finished audit, or they are not paired:
            other data, other examples or labels, or another threat model.
    """
    folders = (folder_a, folder_b)
    found = [summaries.read(folder) for folder in folders]
    for name in ("dataset", "threat_model"):
        _same(name, [getattr(s, name) for s in found], folders)
    costs = [[(s.attack, s.num_restarts) for s in f.stages] for f in found]
    notes = []
    for name in _NOTED:
        a, b = (getattr(summary, name) for summary in found)
        if a != b:
            notes.append(f"{name} is {a} and {b}")
    a, b = (summary.versions.get("git_commit") for summary in found)
    if a != b:
        notes.append(f"the commit is {a} and {b}")
    if costs[0] != costs[1]:
        notes.append("the stages or their restarts differ")
    both = [files.read_npz(files.join(f, names.EXAMPLES)) for f in folders]
    try:
        for name in ("index", "label"):
            _same(name, [arrays[name] for arrays in both], folders)
        clean = [f["clean_prediction"] == f["label"] for f in both]
        robust = [arrays["is_robust"] for arrays in both]
    except KeyError as error:
        raise UserError(
            "An audit is incomplete",
            received=f"{' or '.join(folders)} without {error}",
            expected="the examples.npz of launch.audit",
            fix="Run launch.verify on both.",
        ) from error
    return Comparison(mcnemar(*robust), mcnemar(*clean), tuple(notes))


def _same(name, values, folders):
    if np.array_equal(values[0], values[1]):
        return
    received = [
        f"{len(v)} rows" if isinstance(v, np.ndarray) else v for v in values
    ]
    if received[0] == received[1]:
        received = ["one order", "another"]
    raise UserError(
        f"The audits are not paired: {name} differs",
        received=f"{received[0]} in {folders[0]}, {received[1]} in "
        f"{folders[1]}",
        expected="the same data set, examples and threat model",
        fix="Audit both models on the same examples at the same epsilon.",
    )
