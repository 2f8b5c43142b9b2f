"""Tests for PGD: closed forms on linear models, and a loop in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import base
from ib_keras.attacks import pgd
from ib_keras.errors import UserError
from ib_keras.types import NORMS
from ib_keras.types import ThreatModel
from tests.support import models

SEED = seeds.from_int(17)


def start(attack, logits_fn, images, labels, norm, epsilon):
    count = len(images)
    return attack.init(
        logits_fn,
        tf.constant(images, tf.float32),
        tf.constant(labels, tf.int32),
        ThreatModel(norm, epsilon),
        seeds.fold(SEED, tf.range(count)),
    )


def iterates(attack, logits_fn, images, labels, norm, epsilon):
    """The start and the image after each step."""
    state = start(attack, logits_fn, images, labels, norm, epsilon)
    found = [state.images.numpy()]
    step = tf.function(lambda state, i: attack.step(logits_fn, state, i))
    for iteration in tf.range(attack.num_steps):
        state = step(state, iteration)
        found.append(state.images.numpy())
    return found


def two_class(weights):
    """Logits 0 and weights . image: the label 0 is left uphill."""

    def logits_fn(images, seed):
        del seed
        score = tf.reshape(images, [-1, len(weights)]) @ weights[:, None]
        return tf.concat([tf.zeros_like(score), score], axis=1)

    return logits_fn


def numpy_optimum(clean, weights, norm, epsilon):
    """argmax of weights . x over the ball cut with the box, in float64.

    In l2 the optimum is clip(clean + t weights) with the largest t that keeps
    it in the ball (the conditions of Karush, Kuhn and Tucker), by bisection.
    """
    clean = np.float64(clean)
    if norm == "linf":
        return np.clip(clean + epsilon * np.sign(weights), 0, 1)
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        x = np.clip(clean + middle * weights, 0, 1)
        if np.linalg.norm(x - clean) <= epsilon:
            low = middle
        else:
            high = middle
    return np.clip(clean + low * weights, 0, 1)


def test_ibp_case_reaches_its_corners():
    """w = [1, 1], b = 1, x = [1, 2], epsilon 1, box [-0.5, 2.5].

    The maximiser is [2, 2.5] and the minimiser [0, 1]; here in units of the
    box, u = (x + 0.5) / 3.
    """

    def logits_fn(images, seed):
        del seed
        x = 3.0 * tf.reshape(images, [-1, 2]) - 0.5
        score = tf.reduce_sum(x, axis=1, keepdims=True) + 1.0
        return tf.concat([tf.zeros_like(score), score], axis=1)

    clean = np.array([[1.0, 2.0]] * 2).reshape(2, 1, 2, 1)
    clean = (clean + 0.5) / 3
    attack = pgd.build(num_steps=40, step_size=0.02, loss="margin")
    *_, found = iterates(attack, logits_fn, clean, [0, 1], "linf", 1 / 3)
    found = 3 * found.reshape(2, 2) - 0.5
    np.testing.assert_allclose(found, [[2, 2.5], [0, 1]], atol=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("norm", NORMS)
def test_it_reaches_the_closed_form_optimum_of_a_linear_model(norm, loss):
    """In l2 off the box, where its projection is the nearest point."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=12).astype(np.float32)
    clean = rng.random((6, 3, 4, 1), np.float32)
    epsilon = 0.3
    if norm == "l2":
        clean = 0.4 + 0.2 * clean
    attack = pgd.build(num_steps=60, step_size=0.05, loss=loss)
    *_, found = iterates(
        attack, two_class(weights), clean, [0] * 6, norm, epsilon
    )
    for image, x in zip(
        found.reshape(6, -1), clean.reshape(6, -1), strict=True
    ):
        best = numpy_optimum(x, weights, norm, epsilon)
        assert weights @ best - weights @ image < 2e-6
        np.testing.assert_allclose(
            image, best, atol=1e-5 + 1e-3 * (norm == "l2")
        )


def test_it_comes_near_the_optimum_in_l2_where_the_box_cuts():
    """To within the length of a step: its projection is not the nearest."""
    rng = np.random.default_rng(1)
    weights = rng.normal(size=12).astype(np.float32)
    clean = rng.random((6, 3, 4, 1), np.float32)
    steps = 0.02
    attack = pgd.build(num_steps=150, step_size=steps, loss="margin")
    *_, found = iterates(attack, two_class(weights), clean, [0] * 6, "l2", 0.8)
    gaps = []
    for image, x in zip(
        found.reshape(6, -1), clean.reshape(6, -1), strict=True
    ):
        best = numpy_optimum(x, weights, "l2", 0.8)
        assert ((best == 0) | (best == 1)).any()
        gaps.append(weights @ best - weights @ image)
    assert -1e-5 < min(gaps)
    assert max(gaps) < steps * np.linalg.norm(weights)


@pytest.mark.parametrize("norm", NORMS)
def test_its_iterates_are_those_of_a_loop_in_numpy(norm):
    """A tanh network of two layers, its gradient by hand in float64."""
    rng = np.random.default_rng(2)
    hidden = rng.normal(size=(6, 8))
    out = rng.normal(size=(8, 3))
    clean = rng.random((5, 2, 3, 1), np.float32)
    labels = rng.integers(0, 3, 5)
    epsilon, step_size = 0.25, 0.07

    def logits_fn(images, seed):
        del seed
        x = tf.reshape(images, [-1, 6])
        return tf.tanh(x @ np.float32(hidden)) @ np.float32(out)

    def numpy_step(x):
        h = np.tanh(x @ hidden)
        logits = h @ out
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        residual = p - np.eye(3)[labels]
        gradient = (residual @ out.T * (1 - h**2)) @ hidden.T
        flat = clean.reshape(5, -1)
        if norm == "linf":
            x = x + step_size * np.sign(gradient)
            return np.clip(np.clip(x, flat - epsilon, flat + epsilon), 0, 1)
        length = np.linalg.norm(gradient, axis=1, keepdims=True)
        away = np.clip(x + step_size * gradient / length, 0, 1) - flat
        length = np.linalg.norm(away, axis=1, keepdims=True)
        return flat + away * np.minimum(1, epsilon / length)

    attack = pgd.build(num_steps=12, step_size=step_size)
    found = iterates(attack, logits_fn, clean, labels, norm, epsilon)
    assert len(found) == 13
    expected = np.float64(found[0].reshape(5, -1))
    for images in found[1:]:
        expected = numpy_step(expected)
        np.testing.assert_allclose(
            images.reshape(5, -1), expected, rtol=0, atol=1e-5
        )


def test_each_step_evaluates_the_image_that_the_last_one_proposed():
    weights = np.float32([1, -2, 3, -4])
    clean = np.full((2, 2, 2, 1), 0.5, np.float32)
    logits_fn = two_class(weights)
    attack = pgd.build(num_steps=5, step_size=0.03)
    state = start(attack, logits_fn, clean, [0, 0], "linf", 0.2)
    for iteration in range(3):
        proposed = state.images
        state = attack.step(logits_fn, state, tf.constant(iteration))
        np.testing.assert_array_equal(state.evaluated.images, proposed)
        score = proposed.numpy().reshape(2, -1) @ weights
        np.testing.assert_allclose(state.evaluated.margin, score, rtol=1e-5)


def test_only_a_random_start_leaves_the_image():
    clean = np.full((4, 2, 2, 1), 0.5, np.float32)
    logits_fn = two_class(np.ones(4, np.float32))
    for random_start in (False, True):
        attack = pgd.build(random_start=random_start)
        state = start(attack, logits_fn, clean, [0] * 4, "linf", 0.2)
        moved = np.abs(state.images - clean).max(axis=(1, 2, 3))
        assert ((moved > 0.05) == random_start).all()


@pytest.mark.parametrize("norm", NORMS)
def test_its_starts_are_uniform_in_the_ball(norm):
    clean = np.full((1000, 2, 2, 1), 0.5, np.float32)
    state = start(pgd.build(), None, clean, [0] * 1000, norm, 0.1)
    models.assert_uniform((state.images - clean) / 0.1, norm)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_it_stays_where_the_gradient_is_not_finite(jit_compile):
    """And goes on with the other examples; XLA's maximum passes over NaN."""

    @tf.custom_gradient
    def steep(x):
        """The identity; its slope is NaN at the first pixel, below 0.3."""
        ones = tf.ones_like(x[:, 1:])
        first = tf.where(x[:, :1] < 0.3, float("nan"), 1.0)
        slope = tf.concat([first, ones], axis=1)
        return tf.identity(x), lambda upstream: upstream * slope

    def logits_fn(images, seed):
        del seed
        score = tf.reduce_sum(steep(tf.reshape(images, [-1, 4])), axis=1)
        return tf.stack([tf.zeros_like(score), score], axis=1)

    clean = np.full((3, 2, 2, 1), 0.5, np.float32)
    clean[1] = 0.2
    attack = pgd.build(num_steps=3, step_size=0.01, random_start=False)
    state = start(attack, logits_fn, clean, [0] * 3, "linf", 0.2)

    @tf.function(jit_compile=jit_compile)
    def step(state):
        return attack.step(logits_fn, state, tf.constant(0))

    state = step(state)
    norms = state.evaluated.gradient_norm.numpy()
    assert np.isfinite(state.evaluated.margin).all()
    assert np.isfinite(norms).tolist() == [True, False, True]
    np.testing.assert_array_equal(state.images[1], clean[1])
    np.testing.assert_allclose(state.images[::2], clean[::2] + 0.01, atol=1e-6)


def test_an_expectation_costs_as_many_gradients_as_it_has_draws():
    assert pgd.build().gradients_per_step == 1
    assert pgd.build(num_eot=7).gradients_per_step == 7
    assert isinstance(pgd.build(num_eot=7), base.Attack)


def test_an_expectation_steps_along_the_mean_gradient():
    """A model whose gradient is one of two, by the seed's sign."""

    def logits_fn(images, seed):
        x = tf.reshape(images, [-1, 2])
        # The draws disagree about the first pixel, not about the second.
        sign = tf.sign(seeds.noise(seed, [1]))
        score = x[:, :1] * (sign - 0.5) + x[:, 1:]
        return tf.concat([tf.zeros_like(score), score], axis=1)

    clean = np.full((1, 1, 2, 1), 0.5, np.float32)
    attack = pgd.build(
        num_steps=1,
        step_size=0.1,
        loss="margin",
        random_start=False,
        num_eot=40,
    )
    state = start(attack, logits_fn, clean, [0], "linf", 0.3)
    moved = attack.step(logits_fn, state, tf.constant(0)).images - clean
    np.testing.assert_allclose(np.ravel(moved), [-0.1, 0.1], atol=1e-6)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"step_size": 0}, "step_size is not a step"),
        ({"step_size": -0.1}, "step_size is not a step"),
        ({"step_size": float("nan")}, "step_size is not a step"),
        ({"num_steps": 0}, "num_steps is not a count"),
        ({"num_steps": 2.5}, "num_steps is not a count"),
        ({"num_eot": 0}, "num_eot is not a count"),
        ({"loss": "hinge"}, "No attack loss has this name"),
    ],
)
def test_arguments_that_cannot_be_used_are_user_errors(arguments, words):
    with pytest.raises(UserError, match=words):
        pgd.build(**arguments)
