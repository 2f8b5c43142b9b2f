"""Tests for margin decomposition: a loop in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import losses
from ib_keras.attacks import margin_decomposition
from ib_keras.errors import UserError
from ib_keras.types import NORMS
from ib_keras.types import ThreatModel

WEIGHTS = np.random.default_rng(3).normal(size=(9, 4))
IMAGES = np.random.default_rng(4).uniform(0.3, 0.7, (5, 3, 3, 1))
LABELS = np.array([0, 1, 2, 3, 0])
EPSILON = 0.2


def linear(images, seed):
    del seed
    flat = tf.reshape(images, [-1, 9])
    return flat @ tf.constant(WEIGHTS, tf.float32)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def logit_gradient(kind, z):
    """The gradient of a loss with respect to the logits, by hand."""
    p, label = softmax(z), np.eye(4)[LABELS]
    best = np.eye(4)[np.argmax(np.where(label == 1, -np.inf, z), axis=1)]
    if kind == "label":
        return p - label
    if kind == "other":
        return best - p
    # Of p_m - p_y: p_m (e_m - p) - p_y (e_y - p).
    p_m, p_y = (np.sum(p * e, 1, keepdims=True) for e in (best, label))
    return p_m * (best - p) - p_y * (label - p)


def project(x, clean, norm):
    """To the box, then to the ball, as the library does in l2."""
    moved = np.clip(x, 0.0, 1.0) - clean
    if norm == "linf":
        moved = np.clip(moved, -EPSILON, EPSILON)
    else:
        length = np.sqrt((moved**2).sum((1, 2, 3), keepdims=True))
        moved = moved * np.minimum(1.0, EPSILON / length)
    return np.clip(clean + moved, 0.0, 1.0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("first_term", ["label", "other"])
@pytest.mark.parametrize("num_steps", [6, 7])
def test_a_run_is_the_loop_by_hand(norm, first_term, num_steps):
    attack = margin_decomposition.build(num_steps, first_term)
    state = attack.init(
        linear,
        tf.constant(IMAGES, tf.float32),
        tf.constant(LABELS, tf.int32),
        ThreatModel(norm, EPSILON),
        seeds.fold(seeds.from_int(5), tf.range(5)),
    )
    x = np.float64(state.images)
    half = num_steps / 2
    for iteration in range(num_steps):
        is_late = iteration >= half
        kind = "margin" if is_late else first_term
        since = iteration - half if is_late else iteration
        size = EPSILON * (1 + np.cos(np.pi * since / half))
        ascent = logit_gradient(kind, x.reshape(5, 9) @ WEIGHTS) @ WEIGHTS.T
        ascent = ascent.reshape(x.shape)
        if norm == "linf":
            unit = np.sign(ascent)
        else:
            lengths = np.sqrt((ascent**2).sum((1, 2, 3), keepdims=True))
            unit = ascent / lengths
        x = project(x + size * unit, IMAGES, norm)
        state = attack.step(linear, state, tf.constant(iteration))
        np.testing.assert_allclose(state.images, x, atol=2e-5)


def test_the_terms_do_not_saturate():
    """Where float32 rounds p_y to 1 and the others to 0."""
    logits = tf.constant([[80.0, -40.0, -50.0]])
    labels = tf.constant([0])
    for term in ("label", "other"):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = margin_decomposition.first_loss(term, logits, labels)
        assert np.isfinite(loss.numpy()).all()
        gradient = tape.gradient(loss, logits).numpy()[0]
        if term == "other":
            np.testing.assert_allclose(gradient, [-1, 1, 0], atol=1e-6)
    found = losses.log_largest_other(logits, labels)
    np.testing.assert_allclose(found, [-120.0], rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"first_term": "lable"}, 'Did you mean "label"?'),
        ({"num_steps": 0}, "num_steps"),
        ({"loss": "targeted_margin"}, "attack loss"),
    ],
)
def test_what_it_cannot_be_built_with_is_refused(arguments, said):
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        margin_decomposition.build(**arguments)
