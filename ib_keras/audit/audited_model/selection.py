"""Which of several input and output specifications of a model is the right one.

Whether a trained model takes images in [0, 1], [0, 255] or standardised ones
follows from its accuracy, and from the likelihood of the labels after fitting a
temperature. Without the temperature small logits would favour larger inputs. Of
close candidates none is chosen, since a network without much bias is nearly the
same function of x and of 2 x; the user has to decide. Measured on networks for
the digits and MNIST: see benchmarks/input_table.py.

The best of the recipes need not be right. So a scale and an offset are fitted,
too, on one half of the images, and compared on the other half: if they do
better, none of the recipes is right.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from ib_keras.audit.audited_model.io_spec import IOSpec
from ib_keras.audit.audited_model.preprocessing import Preprocessing
from ib_keras.errors import UserError

# Least difference of two accuracies that decides, beside three standard
# errors; of two mean log-likelihoods 2.5 standard errors decide. No label
# costs more than so many nats, or a few of them would weigh as much as all.
_ACCURACY = 0.02
_ERRORS = 3.0
_LIKELIHOOD_ERRORS = 2.5
_MOST_NATS = 10.0
# Least gain of accuracy by another order of the classes that is reported.
_GAIN = 0.1
# Logits of a trained network are not too large by the first factor, and are
# calibrated within the second.
_OVERCONFIDENT = np.exp(3.5)
_CALIBRATED = np.exp(1.5)
# Least gain of a fitted scale and offset, in nats and in standard errors.
# Fitted to one half and compared on the other, they usually lose if they fit
# noise.
_FIT_GAIN = 0.01
_FIT_ERRORS = 2.0
_FIT_STEPS = 30
_FIT_TOLERANCE = 1e-5


class Undecided(UserError):
    """Several specifications come close; `best` is the likeliest `Trial`."""

    best: "Trial"


@dataclasses.dataclass(frozen=True)
class Trial:
    """The answers by one specification for labelled images.

    Attributes:
        io_spec: How the model was called.
        log_p: float64 `[examples, classes]`; NaN where not finite.
        labels: `[examples]`.
        is_distribution: Whether log p is of one distribution over classes;
            scores of independent classes have no such likelihood.
    """

    io_spec: IOSpec
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

    @functools.cached_property
    def temperature(self) -> float:
        """What the logits divided by make the labels likeliest."""
        return fit_temperature(self.log_p, self.labels)

    @functools.cached_property
    def label_log_p(self) -> np.ndarray:
        """Logarithm of p(label) at the temperature, `[examples]`, in nats.

        Cut at -10.
        """
        if not self.is_distribution:
            return label_log_p(self.log_p, self.labels)
        return label_log_p(self.log_p, self.labels, self.temperature)


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
    # Some gain is due to chance, since the order is the best of many.
    least = max(_GAIN, 1.5 * np.sqrt(classes / count))
    # No order can do better than each class at its most frequent label.
    most = trial.counts().max(axis=1).sum() / count
    if most - trial.accuracy <= least:
        return None
    accuracy, order = trial.reordered()
    return (accuracy, order) if accuracy - trial.accuracy > least else None


def _gaps(first: Trial, second: Trial) -> tuple[float, float, float]:
    """How much better the first is.

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
    return nats > _LIKELIHOOD_ERRORS and not _is_scaled_worse(first, second)


def _is_plausible(usual: Trial, other: Trial) -> bool:
    """Whether the usual specification is at least as good as the other."""
    gap, error, nats = _gaps(usual, other)
    is_known = usual.is_distribution and other.is_distribution
    if _is_scaled_worse(usual, other):
        return False
    return gap >= -error and nats >= (1.0 if is_known else 0.0)


def _is_scaled_worse(first: Trial, second: Trial) -> bool:
    """Whether its logits are too small for a trained network, the other's not.

    A network without much bias that was trained on [0, 255] can be better and
    likelier on [0, 1], with small logits, where it is another function. Nor can
    it be distinguished from one whose logits were scaled down.
    """
    if not (first.is_distribution and second.is_distribution):
        return False
    is_small = first.temperature < 1 / _CALIBRATED
    return is_small and 1 / _CALIBRATED < second.temperature < _OVERCONFIDENT


def _same(first: Trial, second: Trial) -> bool:
    return np.allclose(first.log_p, second.log_p, atol=1e-3, equal_nan=True)


def _is_ruled_out(trial: Trial, all_trials: list[Trial]) -> bool:
    """Whether it is far too confident, and another one is not."""
    if not trial.is_distribution or trial.temperature < _OVERCONFIDENT:
        return False
    return any(
        1 / _CALIBRATED < other.temperature < _CALIBRATED
        and not _beats(trial, other)
        for other in all_trials
        if above_chance(other)
    )


def choose(trials: list[Trial]) -> tuple[Trial, bool]:
    """Chooses the specification that the labels speak for.

    Args:
        trials: One for each candidate, the usual ones first.

    Returns:
        The trial that beats all others, or gives the same answers, and
        whether it does clearly.

    Raises:
        Undecided: If none does.
    """
    if len(trials) == 1:
        return trials[0], True
    orders = [permutation(trial) for trial in trials]
    judged = [
        trial.with_labels(found[1]) if found else trial
        for trial, found in zip(trials, orders, strict=True)
    ]
    possible = [
        (trial, mine)
        for trial, mine in zip(trials, judged, strict=True)
        if not _is_ruled_out(mine, judged)
    ]
    for is_clear in (_beats, _is_plausible):
        for trial, mine in possible:
            is_usual = trial.io_spec.preprocessing.is_identity
            if is_clear is _is_plausible and not is_usual:
                continue
            others = [other for _, other in possible if other is not mine]
            if above_chance(mine) and all(
                _same(mine, other) or is_clear(mine, other) for other in others
            ):
                return trial, is_clear is _beats
    raise _undecided(possible)


def _undecided(possible) -> Undecided:
    """The error that lists the candidates, the likeliest first."""
    by_rank = sorted(possible, key=lambda pair: -pair[1].log_likelihood)
    best, judged_best = by_rank[0]
    close = [trial for trial, mine in by_rank if not _beats(judged_best, mine)]
    described = "; ".join(
        f"{t.io_spec.preprocessing.describe()}, {t.io_spec.layout}: accuracy "
        f"{t.accuracy:.3f}, log-likelihood {t.log_likelihood:.3f}"
        for t in close
    )
    flags = " or ".join(
        dict.fromkeys(t.io_spec.preprocessing.flags() for t in close)
    )
    layouts = {trial.io_spec.layout for trial, _ in possible}
    also = ", --config.model.layout" if len(layouts) > 1 else ""
    error = Undecided(
        "The values of the model's images cannot be inferred",
        received=f"{described} (on {len(best.labels)} clean images, at "
        "the best temperature of each)",
        expected="one preprocessing that is clearly better than the others",
        fix=f"Specify what the model was trained on: {flags}{also}; or, of "
        "others, --config.model.preprocessing.mean and .std; and check the "
        "data set.",
    )
    error.best = best
    return error


def label_log_p(
    log_p: np.ndarray, labels: np.ndarray, temperature: float | None = None
) -> np.ndarray:
    """Logarithm of p(label) in nats, `[examples]`, cut at -10.

    Args:
        log_p: `[examples, classes]`, log-probabilities; with a temperature
            also logits.
        labels: `[examples]`.
        temperature: What they are divided by; None does not scale them.
    """
    if temperature is not None:
        log_p = log_softmax(log_p / temperature)
    found = log_p[np.arange(len(labels)), labels]
    return np.maximum(np.nan_to_num(found, nan=-np.inf), -_MOST_NATS)


def fit_temperature(log_p: np.ndarray, labels: np.ndarray) -> float:
    """The temperature at which labels are likeliest, from e^-15 to e^15.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.

    Args:
        log_p: `[examples, classes]`; rows that are not finite are left out.
        labels: `[examples]`.
    """
    from scipy import optimize

    finite = np.isfinite(log_p).all(axis=1)
    if not finite.any():
        return 1.0
    rows, truth = log_p[finite], labels[finite]

    def loss(exponent):
        return -label_log_p(rows, truth, np.exp(exponent)).mean()

    grid = np.linspace(-15.0, 15.0, 31)
    best = grid[np.argmin([loss(exponent) for exponent in grid])]
    found = optimize.minimize_scalar(
        loss, bounds=(best - 1.0, best + 1.0), method="bounded"
    )
    return float(np.exp(found.x))


@dataclasses.dataclass(frozen=True)
class Fit:
    """The gain of a fitted scale and offset on images not fitted to.

    Attributes:
        preprocessing: Fitted to the second half of the images.
        gain: Mean nats over the chosen specification.
        errors: The same in standard errors.
        accuracy: On the halves that were not fitted to.
    """

    preprocessing: Preprocessing
    gain: float
    errors: float
    accuracy: float

    @property
    def is_better(self) -> bool:
        """Whether it is better by more than noise."""
        return self.gain > _FIT_GAIN and self.errors > _FIT_ERRORS


def fit_affine(
    start: Preprocessing,
    channels: int,
    evaluate: Callable[[np.ndarray, np.ndarray, slice], np.ndarray],
    gradient: Callable[..., tuple[float, ...]] | None,
    labels: np.ndarray,
) -> Fit:
    """Fits scale and offset of each channel, cross-validated on two halves.

    Args:
        start: The start of the fit, to which it is compared.
        channels: Of the images.
        evaluate: Takes scale and offset `[channels]` and which images, and
            gives logits `[examples, classes]`.
        gradient: Takes the same and a factor of the logits, and gives the
            mean cross-entropy with its gradients with respect to scale,
            offset and factor; None where the model has none.
        labels: `[examples]`, in the model's order of classes.
    """
    scale = np.resize(np.asarray(start.scale, np.float64), channels)
    offset = np.resize(np.asarray(start.offset, np.float64), channels)
    half = len(labels) // 2
    halves = (slice(0, half), slice(half, None))
    gains, right = [], []
    for fitted, held in (halves, halves[::-1]):
        truth = labels[fitted]
        heat = fit_temperature(evaluate(scale, offset, fitted), truth)
        found = _minimize(
            scale, offset, heat, evaluate, gradient, fitted, truth
        )
        # Each temperature is fitted on the same half.
        mine = fit_temperature(evaluate(*found, fitted), truth)
        logits = evaluate(*found, held)
        gains.append(
            label_log_p(logits, labels[held], mine)
            - label_log_p(evaluate(scale, offset, held), labels[held], heat)
        )
        right.append(logits.argmax(axis=1) == labels[held])
    gain = np.concatenate(gains)
    error = max(float(gain.std()) / np.sqrt(len(gain)), 1e-9)
    return Fit(
        Preprocessing(
            tuple(map(float, found[0])),
            tuple(map(float, found[1])),
            start.channel_order,
        ),
        float(gain.mean()),
        float(gain.mean()) / error,
        float(np.concatenate(right).mean()),
    )


def _minimize(
    scale, offset, heat, evaluate, gradient, images, labels
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset at the least cross-entropy, the temperature free."""
    from scipy import optimize

    size = len(scale)

    def at(point):
        return (
            scale * np.exp(point[:size]),
            offset + scale * point[size : 2 * size],
        )

    def loss(point):
        nats = -label_log_p(
            evaluate(*at(point), images), labels, heat / np.exp(point[-1])
        )
        return float(nats.mean())

    def loss_and_gradient(point):
        factor = np.exp(point[-1]) / heat
        nats, to_scale, to_offset, to_factor = gradient(
            *at(point), factor, images
        )
        if not np.isfinite(nats):
            return 1e6, np.zeros_like(point)
        return nats, np.concatenate(
            [to_scale * at(point)[0], to_offset * scale, [to_factor * factor]]
        )

    start = np.zeros(2 * size + 1)
    if gradient is None:
        found = optimize.minimize(
            loss,
            start,
            method="Nelder-Mead",
            options={"maxfev": 5 * _FIT_STEPS},
        )
    else:
        found = optimize.minimize(
            loss_and_gradient,
            start,
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": _FIT_STEPS,
                "maxfun": 2 * _FIT_STEPS,
                "ftol": _FIT_TOLERANCE,
            },
        )
    return at(found.x)


def above_chance(trial: Trial) -> bool:
    """Whether its accuracy is above that of guessing, beyond noise."""
    count, classes = trial.log_p.shape
    chance = 1 / max(classes, 2)
    slack = 3 * np.sqrt(chance * (1 - chance) / count)
    return trial.accuracy > chance + slack
