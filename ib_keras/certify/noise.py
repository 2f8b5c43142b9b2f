"""Certificates of classifiers whose noise is drawn anew for each answer.

With the noise of one seed fixed the classifier is a function, and the seed is
*good* for an example if that function is proved right on the whole ball. The
share of good seeds is at most the chance that an answer is right, whichever
image of the ball an attacker takes, even one made for it. So from independent
seeds a lower confidence bound of that share is one of the chance.

References:
    Clopper and Pearson, "The use of confidence or fiducial limits illustrated
    in the case of the binomial", Biometrika 26, 1934.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.certify.certifier import Certifier
from ib_keras.errors import UserError
from ib_keras.types import check_count


class NoiseCertificate(NamedTuple):
    """What was proved for noise that is drawn anew.

    Attributes:
        is_certified: bool `[examples]`: whether, at the confidence asked for,
            most answers are right for every image of the ball.
        chance: float64 `[examples]`, the lower confidence bound of the chance
            that an answer is right, for the worst image of the ball; 0 of those
            that were given up.
        num_good: int `[examples]`, seeds whose noise was certified.
        num_draws: Seeds that were tried.
        confidence: Of each example's statement.
    """

    is_certified: np.ndarray
    chance: np.ndarray
    num_good: np.ndarray
    num_draws: int
    confidence: float


def certify_over_noise(
    certifier: Certifier,
    images: np.ndarray,
    labels: np.ndarray,
    epsilon: float,
    *,
    num_draws: int = 16,
    confidence: float = 0.999,
    seed: tf.Tensor | None = None,
) -> NoiseCertificate:
    """Certifies a stochastic classifier by concentration over its draws.

    Args:
        certifier: Of the classifier.
        images: float32 `[examples, height, width, channels]` in [0, 1].
        labels: int `[examples]`.
        epsilon: Radius of the l_inf balls.
        num_draws: Independent seeds; by default a confidence of 0.999 asks for
            10 good ones of 10, or 15 of 16.
        confidence: Of each example's statement.
        seed: int32 `[2]`, that the seeds are folded from.

    Returns:
        A `NoiseCertificate`.

    Raises:
        UserError: As `Certifier.certify`, or if so few draws cannot show that
            most answers are right.
    """
    num_draws = check_count("num_draws", num_draws)
    needed = _fewest_good(num_draws, confidence)
    if needed is None:
        raise UserError(
            "So few draws can prove nothing of fresh noise",
            received=f"{num_draws} draws at a confidence of {confidence:g}",
            expected=f"at least {_fewest_draws(confidence)} draws",
            fix="Set num_draws higher.",
        )
    seed = seeds.from_int(0) if seed is None else seed
    num_good = np.zeros(len(images), int)
    for draw in range(num_draws):
        rows = np.flatnonzero(num_good + num_draws - draw >= needed)
        if not len(rows):
            break
        found = certifier.certify(
            images[rows],
            labels[rows],
            epsilon,
            seed=seeds.fold(seed, draw),
        )
        num_good[rows] += found.is_certified
    chance = chance_of_right(num_good, num_draws, confidence)
    is_certified = num_good >= needed
    return NoiseCertificate(
        is_certified,
        np.where(is_certified, chance, 0.0),
        num_good,
        num_draws,
        confidence,
    )


def chance_of_right(num_good, num_draws: int, confidence: float):
    """The Clopper-Pearson lower bound of a share.

    Args:
        num_good: int `[...]`, successes.
        num_draws: Independent trials.
        confidence: One-sided.

    Returns:
        float64 `[...]`.
    """
    from scipy import stats

    good = np.asarray(num_good)
    bound = stats.beta.ppf(
        1 - confidence, np.maximum(good, 1), num_draws - good + 1
    )
    return np.where(good > 0, bound, 0.0)


def _fewest_good(num_draws: int, confidence: float) -> int | None:
    """How many good seeds show that most answers are right."""
    counts = np.arange(num_draws + 1)
    is_enough = chance_of_right(counts, num_draws, confidence) > 0.5
    return int(counts[is_enough][0]) if is_enough.any() else None


def _fewest_draws(confidence: float) -> int:
    """How many draws there must be if all are good."""
    return int(np.floor(np.log(1 - confidence) / np.log(0.5))) + 1
