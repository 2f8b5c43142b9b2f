"""Every objective on a linear model of two classes, where it is in closed form.

The cross-entropy of such a model is log(1 + exp(-m)) of the margin m of the
label, and an adversary can do no more than to move m by epsilon |w|_1.
"""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import seeds
from ib_keras.objectives import crafting
from ib_keras.objectives import pgd_at
from ib_keras.objectives.cure import Cure
from ib_keras.objectives.llr import LocalLinearity
from ib_keras.objectives.n_fgsm import NFGSMTraining
from ib_keras.objectives.pgd_at import PGDTraining
from ib_keras.objectives.standard import Standard
from ib_keras.objectives.trades import Trades
from tests.support import models

EPSILON = 0.1
SHAPE = (3, 3, 1)
SEED = seeds.from_int(5)
STEP = tf.constant(3)
RNG = np.random.default_rng(0)
# So far inside of the box that no step of these tests leaves it.
IMAGES = RNG.uniform(0.4, 0.6, (16, *SHAPE)).astype(np.float32)
LABELS = RNG.integers(0, 2, 16).astype(np.int32)


@pytest.fixture(scope="module")
def model():
    return models.two_class_linear(SHAPE)


@pytest.fixture(scope="module")
def weights(model):
    """What the margin of the label gains from each pixel, `[batch, pixels]`."""
    zero = model(np.zeros((1, *SHAPE), np.float32)).numpy()[0]
    unit = np.eye(9, dtype=np.float32).reshape(9, *SHAPE)
    rows = model(unit).numpy().astype(np.float64) - zero
    gain = rows[:, 1] - rows[:, 0]
    return np.where(LABELS == 1, 1.0, -1.0)[:, None] * gain


def margins(model, images):
    logits = model(images).numpy().astype(np.float64)
    difference = logits[:, 1] - logits[:, 0]
    return np.where(LABELS == 1, difference, -difference)


def cross_entropy(margin):
    return np.log1p(np.exp(-margin))


def slope(margin):
    """The derivative of `cross_entropy`."""
    return -1.0 / (1.0 + np.exp(margin))


def terms(objective, model):
    return objective(
        model, tf.constant(IMAGES), tf.constant(LABELS), SEED, STEP
    )


def test_standard_is_cross_entropy(model):
    found = terms(Standard(), model)
    expected = cross_entropy(margins(model, IMAGES))
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_pgd_lowers_the_margin_by_all_that_the_ball_allows(
    model, weights, loss
):
    objective = PGDTraining(EPSILON, step_size=0.05, num_steps=6, loss=loss)
    lowest = margins(model, IMAGES) - EPSILON * np.abs(weights).sum(axis=1)
    found = terms(objective, model)
    np.testing.assert_allclose(found.loss, cross_entropy(lowest), rtol=1e-4)


@pytest.mark.parametrize("step, share", [(0, 0.1), (3, 0.4), (50, 1.0)])
def test_a_radius_on_a_ramp_is_reached_at_its_end(model, weights, step, share):
    objective = pgd_at.build(
        EPSILON, 0.05, num_steps=6, ramp_epochs=0.5, steps_per_epoch=20
    )
    reach = share * EPSILON * np.abs(weights).sum(axis=1)
    found = objective(model, IMAGES, LABELS, SEED, tf.constant(step))
    lowest = margins(model, IMAGES) - reach
    np.testing.assert_allclose(found.loss, cross_entropy(lowest), rtol=1e-4)


def test_n_fgsm_steps_from_noise_and_is_not_clipped(model, weights):
    objective = NFGSMTraining(EPSILON)
    each = crafting.example_seeds(SEED, tf.constant(IMAGES))
    noise = seeds.uniform(each, SHAPE, -2 * EPSILON, 2 * EPSILON).numpy()
    assert np.abs(noise).max() > 1.5 * EPSILON
    moved = (weights * noise.reshape(len(noise), -1)).sum(axis=1)
    expected = (
        margins(model, IMAGES) + moved - EPSILON * np.abs(weights).sum(axis=1)
    )
    found = terms(objective, model)
    np.testing.assert_allclose(found.loss, cross_entropy(expected), rtol=1e-4)


def test_trades_adds_the_divergence_at_an_end_of_the_ball(model, weights):
    objective = Trades(beta=3.0, epsilon=EPSILON, step_size=0.05, num_steps=8)
    found = terms(objective, model)
    clean = margins(model, IMAGES)
    reach = EPSILON * np.abs(weights).sum(axis=1)
    p = 1.0 / (1.0 + np.exp(-clean))
    ends = []
    for moved in (clean - reach, clean + reach):
        q = 1.0 / (1.0 + np.exp(-moved))
        ends.append(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    divergence = found.metrics["divergence"].numpy()
    assert_one_of(divergence, ends)
    np.testing.assert_allclose(
        found.loss, cross_entropy(clean) + 3.0 * divergence, rtol=1e-4
    )


def test_cure_penalises_the_squared_difference_of_gradients(model, weights):
    objective = Cure(gamma=2.0, h=0.3)
    found = terms(objective, model)
    clean = margins(model, IMAGES)
    moved = clean - 0.3 * np.abs(weights).sum(axis=1) / 3.0  # sqrt(9 pixels).
    expected = (slope(moved) - slope(clean)) ** 2 * (weights**2).sum(axis=1)
    np.testing.assert_allclose(
        found.metrics["curvature"], expected, rtol=2e-3, atol=1e-7
    )
    np.testing.assert_allclose(
        found.loss, cross_entropy(clean) + 2.0 * expected, rtol=1e-4
    )


def test_cure_grows_its_step_with_the_epochs():
    objective = Cure(h=1.5, anneal_steps=10)
    found = [objective.length(tf.constant(step)) for step in (0, 4, 9, 50)]
    np.testing.assert_allclose(found, [0.15, 0.75, 1.5, 1.5], rtol=1e-6)


def test_llr_finds_where_the_loss_is_farthest_from_linear(model, weights):
    objective = LocalLinearity(
        weight=2.0, mu=0.5, epsilon=EPSILON, step_size=0.05, num_steps=8
    )
    found = terms(objective, model)
    clean = margins(model, IMAGES)
    reach = EPSILON * np.abs(weights).sum(axis=1)
    ends = [
        cross_entropy(clean + d) - cross_entropy(clean) - slope(clean) * d
        for d in (-reach, reach)
    ]
    nonlinearity = found.metrics["nonlinearity"].numpy()
    assert_one_of(nonlinearity, ends)
    directional = np.abs(slope(clean)) * reach
    np.testing.assert_allclose(
        found.metrics["directional"], directional, rtol=1e-4
    )
    expected = cross_entropy(clean) + 2.0 * nonlinearity + 0.5 * directional
    np.testing.assert_allclose(found.loss, expected, rtol=1e-4)


def assert_one_of(values, ends):
    """An ascent in one dimension ends at one of two ends, by its start."""
    nearest = np.min(np.abs(values - np.array(ends)), axis=0)
    np.testing.assert_allclose(nearest, 0.0, atol=1e-4)
    assert (values > 1e-3).any()


def test_gradients_of_gradients_are_right(model):
    """By finite differences of the penalty in a weight, in float64."""
    kernel = model.decoder.kernel
    start = kernel.numpy()
    direction = RNG.normal(size=start.shape).astype(np.float32)

    def loss(t):
        kernel.assign(start + np.float32(t) * direction)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(terms(Cure(gamma=4.0, h=0.3), model).loss)
        return total, tape.gradient(total, kernel)

    high, low = (float(loss(t)[0]) for t in (0.02, -0.02))
    gradient = loss(0.0)[1]
    kernel.assign(start)
    inner = float(tf.reduce_sum(direction * gradient))
    assert abs((high - low) / 0.04 - inner) < 1e-2 * abs(inner)
