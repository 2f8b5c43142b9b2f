"""Tests for the fast gradient sign, against its formula."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import fgs
from ib_keras.errors import UserError
from ib_keras.types import NORMS
from ib_keras.types import ThreatModel

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(12, 3)).astype(np.float32)
IMAGES = RNG.random((7, 3, 2, 2), np.float32)


def linear(images, seed):
    del seed
    return tf.reshape(images, [-1, 12]) @ KERNEL


LABELS = np.argmax(linear(IMAGES, None), axis=1).astype(np.int32)


def attacked(attack, logits_fn, norm, epsilon, images=IMAGES, labels=LABELS):
    state = attack.init(
        logits_fn,
        tf.constant(images),
        tf.constant(labels),
        ThreatModel(norm, epsilon),
        seeds.fold(seeds.from_int(1), tf.range(len(images))),
    )
    np.testing.assert_array_equal(state.images, images)
    return attack.step(logits_fn, state, tf.constant(0))


def numpy_gradient():
    logits = np.float64(IMAGES.reshape(-1, 12)) @ KERNEL
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return ((p - np.eye(3)[LABELS]) @ KERNEL.T).reshape(IMAGES.shape)


@pytest.mark.parametrize("norm", NORMS)
def test_it_is_one_step_of_length_epsilon_from_the_image(norm):
    gradient = numpy_gradient()
    direction = np.sign(gradient)
    if norm == "l2":
        squares = (gradient**2).sum(axis=(1, 2, 3), keepdims=True)
        direction = gradient / np.sqrt(squares)
    expected = np.clip(IMAGES + 0.3 * direction, 0, 1)
    state = attacked(fgs.build(), linear, norm, 0.3)
    np.testing.assert_allclose(state.images, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(state.evaluated.images, IMAGES)


def test_it_is_exact_on_a_linear_model_with_two_classes():
    """In l_inf with the box: no admissible image has a larger loss."""
    weights = KERNEL[:, 0]

    def logits_fn(images, seed):
        del seed
        score = tf.reshape(images, [-1, 12]) @ weights[:, None]
        return tf.concat([-score, score], axis=1)

    labels = np.zeros(7, np.int32)
    state = attacked(fgs.build(), logits_fn, "linf", 0.4, labels=labels)
    upper = np.minimum(IMAGES + 0.4, 1).reshape(7, -1)
    lower = np.maximum(IMAGES - 0.4, 0).reshape(7, -1)
    best = np.where(weights > 0, upper, lower) @ weights
    found = state.images.numpy().reshape(7, -1) @ weights
    np.testing.assert_allclose(found, best, rtol=0, atol=1e-5)


def test_it_takes_one_gradient_and_one_step():
    attack = fgs.build()
    assert attack.num_steps == attack.gradients_per_step == 1
    assert fgs.build(num_eot=5).gradients_per_step == 5


def test_the_margin_moves_where_cross_entropy_is_saturated():
    def logits_fn(images, seed):
        return 1e4 * linear(images, seed)

    still = attacked(fgs.build(), logits_fn, "linf", 0.1)
    assert (still.evaluated.gradient_norm.numpy() == 0).all()
    np.testing.assert_array_equal(still.images, IMAGES)
    moved = attacked(fgs.build(loss="margin"), logits_fn, "linf", 0.1)
    assert (moved.evaluated.gradient_norm.numpy() > 0).all()
    assert (np.abs(moved.images - IMAGES).max(axis=(1, 2, 3)) > 0.05).all()


def test_arguments_that_cannot_be_used_are_user_errors():
    with pytest.raises(UserError, match="num_eot is not a count"):
        fgs.build(num_eot=0)
    with pytest.raises(UserError, match="No attack loss has this name"):
        fgs.build(loss="cross-entropy")
