"""Tests for what attacks maximise, against NumPy in float64."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ib_keras.attacks import losses
from ib_keras.errors import UserError

PROFILE = settings(deadline=None, derandomize=True, database=None)


def numpy_margin(logits, labels):
    rows = np.arange(len(labels))
    others = np.float64(logits)
    others[rows, labels] = -np.inf
    return others.max(axis=1) - logits[rows, labels]


def numpy_cross_entropy(logits, labels):
    logits = np.float64(logits)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return (
        np.log(np.exp(shifted).sum(axis=1))
        - shifted[np.arange(len(labels)), labels]
    )


@st.composite
def logits_and_labels(draw):
    shape = draw(st.tuples(st.integers(1, 5), st.integers(2, 6)))
    # Few values, so that ties are frequent; large ones saturate a softmax.
    values = st.sampled_from([0.0, 1.0, -1.0, 2.5, -700.0, 700.0, 1e-3, 3e4])
    logits = draw(arrays.arrays(np.float32, shape, elements=values))
    labels = st.integers(0, shape[1] - 1)
    return logits, draw(arrays.arrays(np.int32, shape[0], elements=labels))


@settings(PROFILE, max_examples=60)
@given(logits_and_labels())
def test_margin_and_cross_entropy_agree_with_numpy(case):
    logits, labels = case
    np.testing.assert_allclose(
        losses.margin(tf.constant(logits), tf.constant(labels)),
        numpy_margin(logits, labels),
        rtol=1e-6,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        losses.cross_entropy(tf.constant(logits), tf.constant(labels)),
        numpy_cross_entropy(logits, labels),
        rtol=1e-6,
        atol=1e-6,
    )


@settings(PROFILE, max_examples=30)
@given(logits_and_labels(), st.integers(1, 5))
def test_the_margin_is_the_largest_of_the_targeted_ones(case, shift):
    logits, labels = case
    num_classes = logits.shape[1]
    per_target = [
        losses.targeted_margin(
            tf.constant(logits),
            tf.constant(labels),
            tf.constant((labels + 1 + i) % num_classes),
        )
        for i in range(num_classes - 1)
    ]
    margin = losses.margin(tf.constant(logits), tf.constant(labels))
    np.testing.assert_array_equal(np.max(per_target, axis=0), margin)
    targets = (labels + shift) % num_classes
    rows = np.arange(len(labels))
    np.testing.assert_array_equal(
        losses.targeted_margin(
            tf.constant(logits), tf.constant(labels), tf.constant(targets)
        ),
        logits[rows, targets] - logits[rows, labels],
    )


def test_a_tie_of_the_label_has_margin_zero_and_two_classes_are_enough():
    logits = tf.constant([[1.5, 1.5], [2.0, -1.0], [2.0, -1.0]])
    labels = tf.constant([1, 0, 1])
    np.testing.assert_array_equal(
        losses.margin(logits, labels), [0.0, -3.0, 3.0]
    )


def test_the_margin_is_not_clipped_and_survives_the_range_of_float32():
    largest = np.finfo(np.float32).max
    logits = tf.constant([[-largest, 0.0], [0.0, -largest], [1e30, -1e30]])
    margin = losses.margin(logits, tf.constant([1, 0, 1]))
    np.testing.assert_array_equal(
        margin, np.float32([-largest, -largest, 2e30])
    )


def test_saturated_cross_entropy_is_zero_and_its_opposite_is_linear():
    logits = tf.constant([[500.0, 0.0, -500.0]] * 2)
    found = losses.cross_entropy(logits, tf.constant([0, 2]))
    np.testing.assert_array_equal(found, [0.0, 1000.0])


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_a_loss_is_per_example_whatever_the_batch(name):
    rng = np.random.default_rng(0)
    logits = tf.constant(rng.normal(size=(6, 5)), tf.float32)
    labels = tf.constant(rng.integers(0, 5, 6), tf.int32)
    whole = losses.get(name)(logits, labels)
    assert whole.shape == [6] and whole.dtype == tf.float32
    single = [
        losses.get(name)(logits[i : i + 1], labels[i : i + 1]) for i in range(6)
    ]
    np.testing.assert_allclose(whole, tf.concat(single, 0), rtol=1e-6)


def test_gradients_of_the_margin_reach_the_two_classes_that_decide():
    logits = tf.constant([[3.0, 1.0, 2.0, -9.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.margin(logits, tf.constant([0]))
    np.testing.assert_array_equal(
        tape.gradient(loss, logits), [[-1.0, 0.0, 1.0, 0.0]]
    )


def of_float64(logits, labels, classes):
    """log(1 + p_t - p_y) and the gradient of p_t - p_y, by their definitions.

    Rows of float64 logits, labels and the classes aimed at.
    """
    rows = np.arange(len(labels))
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    p_t, p_y = shares[rows, classes], shares[rows, labels]
    others = shares.copy()
    others[rows, labels] = 0.0
    # 1 + p_t - p_y without a difference that would lose digits.
    value = others.sum(axis=1) + p_t
    # dp_k / dz_j = p_k (1[j = k] - p_j).
    gradient = -shares * (p_t - p_y)[:, None]
    gradient[rows, classes] += p_t
    gradient[rows, labels] = -p_y * value
    return np.log(value), gradient


def value_and_gradient(loss, logits, *classes):
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(logits, *(tf.constant(c) for c in classes))
    return value.numpy(), tape.gradient(value, logits).numpy()


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("is_targeted", [False, True])
def test_the_probability_margin_climbs_as_its_definition(spread, is_targeted):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 6)) * spread
    labels = rng.integers(0, 6, 50).astype(np.int32)
    others = logits.copy()
    others[np.arange(50), labels] = -np.inf
    best = others.argmax(axis=1).astype(np.int32)
    targets = (labels + 1) % 6 if is_targeted else best
    expected, direction = of_float64(logits, labels, targets)
    if is_targeted:
        found, gradient = value_and_gradient(
            losses.targeted_probability_margin, logits, labels, targets
        )
    else:
        found, gradient = value_and_gradient(
            losses.probability_margin, logits, labels
        )
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    # The gradient of log(1 + v) is that of v over 1 + v.
    np.testing.assert_allclose(
        gradient * np.exp(expected)[:, None], direction, rtol=1e-7, atol=1e-15
    )


def test_the_probability_margin_does_not_saturate():
    """Float32 follows float64 where the probability itself is 1."""
    lead = np.array([5.0, 20.0, 100.0, 1e4])
    logits = np.stack([lead, 0 * lead, 0 * lead - 1.0], axis=1)
    labels = np.zeros(4, np.int32)
    probability = tf.nn.softmax(tf.constant(logits, tf.float32))[:, 0]
    np.testing.assert_array_equal(probability == 1.0, [False, True, True, True])
    loss = losses.probability_margin
    exact, exact_gradient = value_and_gradient(loss, logits, labels)
    found, gradient = value_and_gradient(loss, np.float32(logits), labels)
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    np.testing.assert_allclose(gradient, exact_gradient, rtol=1e-5)
    assert (np.diff(found) < 0).all()  # It still tells near from far.


ALL = {**losses.LOSSES, **losses.TARGETED_LOSSES}


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_number_added_to_all_logits_changes_nothing(name):
    rng = np.random.default_rng(1)
    # Whole numbers of 2^-8, which float32 has next to 1,000 as well.
    logits = np.float32(rng.integers(-1000, 1000, (40, 7)) / 256)
    labels = rng.integers(0, 7, 40).astype(np.int32)
    classes = [labels]
    if name in losses.TARGETED_LOSSES:
        classes.append((labels + 3) % 7)
    plain, gradient = value_and_gradient(ALL[name], logits, *classes)
    for offset in (-1000.0, 1000.0, 2.0**14):
        found, moved = value_and_gradient(
            ALL[name], logits + np.float32(offset), *classes
        )
        np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moved, gradient, rtol=1e-5, atol=1e-6)


def test_an_unknown_loss_is_a_user_error_with_the_nearest_name():
    with pytest.raises(UserError, match='Did you mean "cross_entropy"'):
        losses.get("crossentropy")
