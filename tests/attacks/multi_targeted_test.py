"""MultiTargeted: its schedule, its Adam and its targets."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ib_keras import attacks
from ib_keras import seeds
from ib_keras.attacks import multi_targeted
from ib_keras.errors import UserError
from ib_keras.types import NORMS
from ib_keras.types import ThreatModel
from tests.support import models


def test_the_default_schedule_falls_by_ten_at_half_and_three_quarters():
    rates = multi_targeted.build(num_steps=200).learning_rates
    np.testing.assert_allclose(rates[:100], 0.1)
    np.testing.assert_allclose(rates[100:150], 0.01)
    np.testing.assert_allclose(rates[150:], 0.001)


def test_dm40_is_the_public_schedule_whose_factors_multiply():
    rates = multi_targeted.build(num_steps=40, schedule="dm40").learning_rates
    np.testing.assert_allclose(rates[:20], 0.1)
    np.testing.assert_allclose(rates[20:30], 0.01)
    np.testing.assert_allclose(rates[30:], 1e-4)


def linear(weights):
    def logits_fn(images, seed):
        return tf.reshape(images, [images.shape[0], -1]) @ weights

    return logits_fn


@pytest.mark.parametrize("scale", [1e-2, 1e-6])
def test_adam_makes_the_steps_of_keras_adam_inside_a_large_ball(scale):
    rng = np.random.default_rng(0)
    weights = tf.constant(rng.normal(size=(4, 3)) * scale, tf.float32)
    images = tf.fill([2, 2, 2, 1], 0.5)
    labels, targets = tf.constant([0, 1]), tf.constant([2, 0])
    attack = multi_targeted.build(
        num_steps=8, learning_rate=0.01, schedule="constant"
    )
    example_seeds = seeds.fold(seeds.from_int(0), tf.range(2))
    logits_fn = linear(weights)
    state = attack.init(
        logits_fn,
        images,
        labels,
        ThreatModel("linf", 1.0),
        example_seeds,
        targets,
    )
    state = state._replace(images=images)
    variable = tf.Variable(images)
    optimizer = keras.optimizers.Adam(0.01, epsilon=1e-9)
    for step in range(8):
        state = attack.step(logits_fn, state, tf.constant(step))
        with tf.GradientTape() as tape:
            logits = logits_fn(variable, None)
            margin = tf.gather(logits, targets, axis=1, batch_dims=1)
            margin -= tf.gather(logits, labels, axis=1, batch_dims=1)
        gradient = tape.gradient(margin, variable)
        optimizer.apply([-gradient], [variable])
    # Keras adds epsilon before it corrects the bias: 3% of a gradient of 1e-6.
    tolerance = 1e-5 if scale == 1e-2 else 0.005
    np.testing.assert_allclose(state.images, variable, atol=tolerance)
    # Gradients of 1e-6 do move it: Keras' own epsilon would hold it back.
    assert np.abs(state.images - 0.5).max() > 0.05


def test_every_other_class_is_a_target_by_falling_clean_logit():
    # Class 0 is predicted; 3 is the runner-up but can never win, 1 can.
    weights = tf.constant([[0.0, 5.2, -5.2, 0.0]])

    def model(images):
        x = tf.reshape(images, [-1, 1]) - 0.5
        return x @ weights + tf.constant([2.0, 1.0, 0.0, 1.5])

    images = np.full((1, 1, 1, 1), 0.5, np.float32)
    found = attacks.run(
        model,
        images,
        [0],
        "multi_targeted",
        epsilon=0.2,
        num_steps=20,
        batch_size=8,
    )
    # Order 3, 1, 2: the target with number 1 is class 1.
    assert not found.is_robust[0]
    assert found.adversarial_prediction[0] == 1
    assert found.broken_by_target[0] == 1


@pytest.mark.parametrize("optimizer", multi_targeted.OPTIMIZERS)
def test_both_optimizers_reach_the_corner_of_a_linear_model(optimizer):
    weights = tf.constant([[1.0, -1.0], [-2.0, 2.0]])
    images = np.full((1, 1, 2, 1), 0.5, np.float32)
    found = attacks.run(
        lambda x: tf.reshape(x, [-1, 2]) @ weights + [0.0, -2.6],
        images,
        [0],
        "multi_targeted",
        epsilon=0.25,
        num_steps=50,
        optimizer=optimizer,
    )
    np.testing.assert_allclose(
        found.adversarial_images[0, 0, :, 0], [0.25, 0.75], atol=1e-6
    )


def begin(attack, logits_fn, images):
    """Half way into the box, so that a random start hides no step."""
    count = len(images)
    state = attack.init(
        logits_fn,
        tf.constant(images),
        tf.zeros([count], tf.int32),
        ThreatModel("linf", 0.4),
        seeds.fold(seeds.from_int(0), tf.range(count)),
        tf.ones([count], tf.int32),
    )
    return state._replace(images=tf.constant(images))


@pytest.mark.parametrize("optimizer", multi_targeted.OPTIMIZERS)
def test_steps_are_as_long_as_the_schedule_says(optimizer):
    """Under a gradient that stays, Adam's are too."""
    weights = tf.constant([[0.0, 1.0], [0.0, -2.0]])
    images = np.full((2, 1, 2, 1), 0.5, np.float32)
    attack = multi_targeted.build(
        num_steps=8, optimizer=optimizer, learning_rate=0.02, schedule="dm40"
    )
    logits_fn = linear(weights)
    state = begin(attack, logits_fn, images)
    expected = [0.02] * 4 + [0.002] * 2 + [2e-5] * 2
    for step, rate in enumerate(expected):
        before = state.images
        state = attack.step(logits_fn, state, tf.constant(step))
        moved = (state.images - before).numpy().reshape(2, 2)
        np.testing.assert_allclose(moved, [[rate, -rate]] * 2, atol=5e-7)


@pytest.mark.parametrize("optimizer", multi_targeted.OPTIMIZERS)
def test_it_stays_where_the_gradient_is_not_finite(optimizer):
    """And goes on with the other examples, and from there if it can."""

    @tf.custom_gradient
    def with_slope(value, slope):
        return tf.identity(value), lambda upstream: (upstream * slope, None)

    calls = []

    def logits_fn(images, seed):
        del seed
        is_bad = (tf.range(len(images)) == 1) & (len(calls) < 2)
        calls.append(1)
        value = tf.reduce_sum(images, axis=[1, 2, 3])
        value = with_slope(value, tf.where(is_bad, float("nan"), 1.0))
        return tf.stack([tf.zeros_like(value), value], axis=1)

    images = np.full((3, 2, 2, 1), 0.5, np.float32)
    attack = multi_targeted.build(
        num_steps=4,
        optimizer=optimizer,
        learning_rate=0.02,
        schedule="constant",
    )
    state = begin(attack, logits_fn, images)
    for step in range(4):
        state = attack.step(logits_fn, state, tf.constant(step))
        expected = images[::2] + 0.02 * (step + 1)
        np.testing.assert_allclose(state.images[::2], expected, atol=1e-6)
        is_finite = np.isfinite(state.evaluated.gradient_norm)
        assert is_finite.tolist() == [True, step > 1, True]
        if step < 2:
            np.testing.assert_array_equal(state.images[1], images[1])
    assert (state.images[1] > images[1] + 0.01).numpy().all()


@pytest.mark.parametrize("norm", NORMS)
def test_its_starts_are_uniform_in_the_ball(norm):
    images = tf.fill([1000, 2, 2, 1], 0.5)
    state = multi_targeted.build().init(
        None,
        images,
        tf.zeros([1000], tf.int32),
        ThreatModel(norm, 0.1),
        seeds.fold(seeds.from_int(0), tf.range(1000)),
        tf.ones([1000], tf.int32),
    )
    models.assert_uniform((state.images - images) / 0.1, norm)


def test_bad_arguments_are_named():
    with pytest.raises(UserError, match="decade"):
        multi_targeted.build(schedule="decades")
    with pytest.raises(UserError, match="adam"):
        multi_targeted.build(optimizer="adams")
    with pytest.raises(UserError, match="learning_rate"):
        multi_targeted.build(learning_rate=0)
