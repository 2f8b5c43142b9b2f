"""Which of several readings of a model is the right one.

A model does not say whether it wants images in [0, 1], [0, 255] or [-1, 1],
but a trained one shows it: by its accuracy, and where that hardly depends on
the scale, as in networks without much bias, by how likely it thinks the
labels. Measured on small networks for the digits and MNIST, each trained in
one of the three ranges: from 359 images on the likelihood alone told the right
one by more than four standard errors, but for [0, 255] under a few weights.
Where neither makes a clear difference [0, 1], what this library means by an
image, stands if nothing speaks against it; else the user is asked.
"""

import dataclasses

import numpy as np

from ib_keras.audit.target.reading import Reading
from ib_keras.errors import UserError

# Least difference of two accuracies that decides, beside three standard
# errors; of two mean log-likelihoods 2.5 standard errors decide. No label
# costs more than so many nats, or a few of them would weigh as much as all.
_ACCURACY = 0.02
_ERRORS = 3.0
_LIKELIHOOD_ERRORS = 2.5
_MOST_NATS = 10.0
# Accuracy that another order of the classes must win to be worth saying.
_GAIN = 0.1


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a reading gives on labelled images.

    Attributes:
        reading: How the model was called.
        log_p: float64 `[examples, classes]`; NaN where not finite.
        labels: `[examples]`.
        is_distribution: Whether log p is of one distribution over classes;
            scores of independent classes have no such likelihood.
    """

    reading: Reading
    log_p: np.ndarray
    labels: np.ndarray
    is_distribution: bool = True

    @property
    def prediction(self) -> np.ndarray:
        """`[examples]`, -1 where the answer is not finite."""
        finite = np.isfinite(self.log_p).all(axis=1)
        best = np.where(finite[:, None], self.log_p, -1e300).argmax(axis=1)
        return np.where(finite, best, -1)

    def counts(self) -> np.ndarray:
        """How often a class is answered, by the label: `[classes, labels]`."""
        size = max(self.log_p.shape[1], int(self.labels.max()) + 1)
        counts = np.zeros([size, size])
        known = self.prediction >= 0
        np.add.at(counts, (self.prediction[known], self.labels[known]), 1)
        return counts

    def reordered(self) -> tuple[float, list[int]]:
        """The order of the classes that explains the labels best.

        Returns:
            The accuracy under it, and for each of the model's classes the
            label it seems to mean.
        """
        from scipy import optimize

        counts = self.counts()
        rows, columns = optimize.linear_sum_assignment(-counts)
        accuracy = counts[rows, columns].sum() / len(self.labels)
        return float(accuracy), [int(c) for c in columns]

    def with_labels(self, order: list[int]) -> "Trial":
        """The same, the labels put in the model's order of classes."""
        to_model = np.argsort(order)
        return dataclasses.replace(self, labels=to_model[self.labels])

    @property
    def accuracy(self) -> float:
        """Share of labels that are predicted."""
        return float(np.mean(self.prediction == self.labels))

    @property
    def log_likelihood(self) -> float:
        """Mean of `label_log_p`."""
        return float(self.label_log_p.mean())

    @property
    def label_log_p(self) -> np.ndarray:
        """Logarithm of p(label) in nats, `[examples]`, cut at -10."""
        found = self.log_p[np.arange(len(self.labels)), self.labels]
        return np.maximum(np.nan_to_num(found, nan=-np.inf), -_MOST_NATS)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64, and NaN for rows that are not finite."""
    logits = np.asarray(logits, np.float64)
    bad = ~np.isfinite(logits).all(axis=1)
    logits = np.where(bad[:, None], 0.0, logits)
    shifted = logits - logits.max(axis=1, keepdims=True)
    found = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.where(bad[:, None], np.nan, found)


def permutation(trial: Trial) -> tuple[float, list[int]] | None:
    """Whether another order of the classes explains the labels better.

    Returns:
        The accuracy under it and the order, as `Trial.reordered`; None where
        the order is right, or the images are too few to tell.
    """
    count, classes = trial.log_p.shape
    # Some gain comes by luck, for the order is the best of many.
    least = max(_GAIN, 1.5 * np.sqrt(classes / count))
    # No order can do better than each class at its most frequent label.
    most = trial.counts().max(axis=1).sum() / count
    if most - trial.accuracy <= least:
        return None
    accuracy, order = trial.reordered()
    return (accuracy, order) if accuracy - trial.accuracy > least else None


def _gaps(first: Trial, second: Trial) -> tuple[float, float, float]:
    """By how much the first is better.

    Returns:
        The difference of the accuracies, its standard error, and the
        difference of the log-likelihoods in standard errors; all paired.
    """
    right = first.prediction == first.labels
    other = second.prediction == second.labels
    error = float(np.sqrt((right != other).sum()) / len(right))
    nats = first.label_log_p - second.label_log_p
    spread = max(float(nats.std()) / np.sqrt(len(nats)), 1e-9)
    gap = first.accuracy - second.accuracy
    is_known = first.is_distribution and second.is_distribution
    return gap, error, float(nats.mean()) / spread if is_known else 0.0


def _beats(first: Trial, second: Trial) -> bool:
    gap, error, nats = _gaps(first, second)
    if abs(gap) > max(_ACCURACY, _ERRORS * error):
        return gap > 0
    return nats > _LIKELIHOOD_ERRORS


def _stands(usual: Trial, other: Trial) -> bool:
    """Whether nothing speaks for the other reading."""
    gap, error, nats = _gaps(usual, other)
    return gap >= -error and nats >= -1


def _same(first: Trial, second: Trial) -> bool:
    return np.allclose(first.log_p, second.log_p, atol=1e-3, equal_nan=True)


def choose(trials: list[Trial]) -> tuple[Trial, bool]:
    """Chooses the reading that the labels speak for.

    Args:
        trials: One for each candidate, the usual ones first.

    Returns:
        The trial that beats all others, or gives the same answers, and
        whether it does clearly.

    Raises:
        UserError: If none does.
    """
    if len(trials) == 1:
        return trials[0], True
    orders = [permutation(trial) for trial in trials]
    judged = [
        trial.with_labels(found[1]) if found else trial
        for trial, found in zip(trials, orders, strict=True)
    ]
    for is_clear in (_beats, _stands):
        for trial, mine in zip(trials, judged, strict=True):
            if is_clear is _stands and trial.reading.input_range != (0, 1):
                continue
            others = [other for other in judged if other is not mine]
            if _above_chance(mine) and all(
                _same(mine, other) or is_clear(mine, other) for other in others
            ):
                return trial, is_clear is _beats
    described = "; ".join(
        f"{t.reading.layout} in [{t.reading.input_range[0]:g}, "
        f"{t.reading.input_range[1]:g}]: accuracy {t.accuracy:.3f}, "
        f"log-likelihood {t.log_likelihood:.2f}"
        for t in trials
    )
    raise UserError(
        "It cannot be told which images the model takes",
        received=f"{described} (on {len(trials[0].labels)} clean images)",
        expected="one layout and range that is clearly better than the others",
        fix="Set --config.model.input_range=0,1 (or 0,255 or -1,1) and "
        "--config.model.layout=channels_last, and check the data set.",
    )


def _above_chance(trial: Trial) -> bool:
    count, classes = trial.log_p.shape
    chance = 1 / max(classes, 2)
    slack = 3 * np.sqrt(chance * (1 - chance) / count)
    return trial.accuracy > chance + slack
