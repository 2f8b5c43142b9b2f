"""Tests for the ball cut with the box, against NumPy and known laws."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from ib_keras import seeds
from ib_keras.attacks import geometry
from ib_keras.types import NORMS
from ib_keras.types import ThreatModel

SHAPE = (3, 2, 2)
SEED = seeds.from_int(17)
PROFILE = settings(deadline=None, derandomize=True, database=None)


def numpy_distance(norm, images, clean):
    flat = (np.float64(images) - np.float64(clean)).reshape(len(images), -1)
    return np.linalg.norm(flat, np.inf if norm == "linf" else 2, axis=1)


def example_seeds(rows):
    return seeds.fold(SEED, tf.constant(rows, tf.int32))


def random_images(rng, count, shape=SHAPE):
    """Uniform pixels, every third one on the edge of the box."""
    images = rng.random((count, *shape), np.float32)
    edge = rng.random(images.shape) < 1 / 3
    return np.where(edge, images.round(), images)


@settings(PROFILE, max_examples=50)
@given(
    norm=st.sampled_from(NORMS),
    seed=st.integers(0, 2**32 - 1),
    epsilon=st.floats(0, 1, width=32),
    spread=st.sampled_from([1e-6, 0.05, 1.0, 1e4]),
)
def test_projection_reaches_both_sets_and_is_idempotent(
    norm, seed, epsilon, spread
):
    rng = np.random.default_rng(seed)
    clean = random_images(rng, 4)
    far = np.float32(clean + spread * rng.normal(size=clean.shape))
    ball = geometry.ball(tf.constant(clean), ThreatModel(norm, epsilon))
    once = ball.project(tf.constant(far)).numpy()
    assert once.min() >= 0 and once.max() <= 1
    assert (numpy_distance(norm, once, clean) <= epsilon + 1e-6).all()
    twice = ball.project(tf.constant(once)).numpy()
    np.testing.assert_allclose(twice, once, rtol=0, atol=1e-6)


@settings(PROFILE, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), epsilon=st.floats(0, 1, width=32))
def test_projection_is_the_nearest_point_for_linf(seed, epsilon):
    """Per pixel, the nearest of an interval: by NumPy in float64."""
    rng = np.random.default_rng(seed)
    clean = random_images(rng, 4)
    far = np.float32(clean + rng.normal(size=clean.shape))
    ball = geometry.ball(tf.constant(clean), ThreatModel("linf", epsilon))
    inside = np.clip(np.float64(far), clean - epsilon, clean + epsilon)
    np.testing.assert_allclose(
        ball.project(tf.constant(far)), inside.clip(0, 1), rtol=0, atol=1e-7
    )


@settings(PROFILE, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), epsilon=st.floats(0, 0.5, width=32))
def test_projection_is_the_nearest_point_for_l2_inside_the_box(seed, epsilon):
    rng = np.random.default_rng(seed)
    # The ball stays inside the box, which then cuts nothing.
    clean = np.full((4, *SHAPE), 0.5, np.float32)
    far = rng.random(clean.shape, np.float32)
    ball = geometry.ball(tf.constant(clean), ThreatModel("l2", epsilon))
    away = np.float64(far) - clean
    norm = np.sqrt((away**2).sum(axis=(1, 2, 3), keepdims=True))
    np.testing.assert_allclose(
        ball.project(tf.constant(far)),
        clean + away * np.minimum(1, epsilon / norm),
        rtol=0,
        atol=1e-6,
    )


def test_the_box_takes_no_length_from_an_l2_step():
    """What is outside of both sets ends on the sphere, if that is possible."""
    rng = np.random.default_rng(11)
    clean = random_images(rng, 30)
    far = np.float32(clean + rng.normal(size=clean.shape))
    ball = geometry.ball(tf.constant(clean), ThreatModel("l2", 0.7))
    projected = ball.project(tf.constant(far)).numpy()
    in_box = numpy_distance("l2", far.clip(0, 1), clean)
    assert ((far < 0) | (far > 1)).any(axis=(1, 2, 3)).all()
    np.testing.assert_allclose(
        numpy_distance("l2", projected, clean),
        np.minimum(0.7, in_box),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("norm", NORMS)
def test_admissible_images_are_left_alone(norm):
    rng = np.random.default_rng(3)
    clean = random_images(rng, 5)
    near = np.clip(clean + rng.uniform(-0.01, 0.01, clean.shape), 0, 1)
    near = np.float32(near)
    ball = geometry.ball(tf.constant(clean), ThreatModel(norm, 0.3))
    np.testing.assert_allclose(
        ball.project(tf.constant(near)), near, rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("norm", NORMS)
def test_a_ball_of_radius_zero_is_its_centre(norm):
    clean = random_images(np.random.default_rng(4), 3)
    ball = geometry.ball(tf.constant(clean), ThreatModel(norm, 0.0))
    start = ball.random_point(example_seeds(range(3)))
    np.testing.assert_array_equal(start, clean)
    np.testing.assert_array_equal(ball.project(tf.constant(1 - clean)), clean)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1.0, 1e30])
def test_the_steepest_direction_has_unit_norm_at_any_scale(norm, scale):
    """A sum of squares would underflow or overflow in float32."""
    rng = np.random.default_rng(5)
    gradient = np.float32(scale * rng.normal(size=(4, *SHAPE)))
    ball = geometry.ball(tf.zeros((4, *SHAPE)), ThreatModel(norm, 0.1))
    direction = ball.steepest(tf.constant(gradient)).numpy()
    zero = np.zeros_like(direction)
    np.testing.assert_allclose(
        numpy_distance(norm, direction, zero), 1, rtol=1e-6
    )
    expected = np.sign(gradient)
    if norm == "l2":
        wide = np.float64(gradient)
        expected = wide / np.sqrt((wide**2).sum((1, 2, 3), keepdims=True))
    np.testing.assert_allclose(direction, expected, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_moves_nothing(norm):
    clean = random_images(np.random.default_rng(6), 2)
    ball = geometry.ball(tf.constant(clean), ThreatModel(norm, 0.3))
    zero = tf.zeros_like(clean)
    np.testing.assert_array_equal(ball.steepest(zero), zero)
    np.testing.assert_array_equal(ball.full_step(zero), clean)


@pytest.mark.parametrize("norm", NORMS)
def test_a_full_step_maximises_a_linear_function_off_the_box(norm):
    """Its gain is epsilon times the dual norm of the gradient."""
    rng = np.random.default_rng(7)
    clean = np.full((5, *SHAPE), 0.5, np.float32)
    gradient = np.float32(rng.normal(size=clean.shape))
    ball = geometry.ball(tf.constant(clean), ThreatModel(norm, 0.25))
    step = ball.full_step(tf.constant(gradient)).numpy() - clean
    gain = (np.float64(step) * gradient).sum((1, 2, 3))
    flat = np.float64(gradient).reshape(5, -1)
    dual = np.linalg.norm(flat, 1 if norm == "linf" else 2, axis=1)
    np.testing.assert_allclose(gain, 0.25 * dual, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_distance_agrees_with_numpy(norm):
    rng = np.random.default_rng(8)
    clean, other = random_images(rng, 6), random_images(rng, 6)
    ball = geometry.ball(tf.constant(clean), ThreatModel(norm, 0.1))
    np.testing.assert_allclose(
        ball.distance(tf.constant(other)),
        numpy_distance(norm, other, clean),
        rtol=1e-6,
    )


def test_linf_starts_are_uniform_in_the_ball():
    """Kolmogorov and Smirnov, 6000 pixels; the seed is fixed."""
    clean = np.full((500, *SHAPE), 0.5, np.float32)
    ball = geometry.ball(tf.constant(clean), ThreatModel("linf", 0.2))
    away = ball.random_point(example_seeds(range(500))).numpy() - clean
    law = scipy.stats.uniform(-0.2, 0.4)
    assert scipy.stats.kstest(away.ravel(), law.cdf).pvalue > 0.01
    # Neighbours in a row and in a column of the batch are independent.
    for a, b in ((away[1:], away[:-1]), (away[..., 0], away[..., 1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05


def test_l2_starts_are_uniform_in_the_ball():
    """(radius / epsilon)^dimension is uniform; directions have no side."""
    clean = np.full((3000, *SHAPE), 0.5, np.float32)
    ball = geometry.ball(tf.constant(clean), ThreatModel("l2", 0.4))
    starts = ball.random_point(example_seeds(range(3000))).numpy()
    radius = numpy_distance("l2", starts, clean)
    law = scipy.stats.uniform()
    volume = (radius / 0.4) ** np.prod(SHAPE)
    assert scipy.stats.kstest(volume, law.cdf).pvalue > 0.01
    direction = (starts - clean).reshape(3000, -1) / radius[:, None]
    # Each component has mean 0 and mean square 1 / dimension; 5 sigma.
    dimension = direction.shape[1]
    assert abs(direction.mean(0)).max() < 5 / np.sqrt(3000 * dimension)
    squares = (direction**2).mean(0)
    assert abs(squares * dimension - 1).max() < 5 * np.sqrt(2 / 3000)


@pytest.mark.parametrize("norm", NORMS)
def test_a_start_belongs_to_its_example_whatever_the_batch(norm):
    """The batch's size, its order and who else is in it: bit for bit.

    For l2 to rounding: logarithms and sums may be vectorised otherwise.
    """
    clean = random_images(np.random.default_rng(9), 20)
    threat_model = ThreatModel(norm, 0.2)

    def starts(rows):
        ball = geometry.ball(tf.constant(clean[rows]), threat_model)
        return ball.random_point(example_seeds(rows)).numpy()

    whole = starts(np.arange(20))
    assert len(np.unique(whole.reshape(20, -1), axis=0)) == 20
    for rows in ([7], [3, 19, 4], np.arange(20)[::-1], np.arange(5, 18)):
        tolerance = 0 if norm == "linf" else 1e-7
        np.testing.assert_allclose(
            starts(rows), whole[rows], rtol=0, atol=tolerance
        )


@pytest.mark.parametrize("norm", NORMS)
def test_starts_are_cut_with_the_box(norm):
    clean = np.float32(np.random.default_rng(10).integers(0, 2, (50, *SHAPE)))
    ball = geometry.ball(tf.constant(clean), ThreatModel(norm, 0.9))
    starts = ball.random_point(example_seeds(range(50))).numpy()
    assert starts.min() >= 0 and starts.max() <= 1
    assert (numpy_distance(norm, starts, clean) <= 0.9 + 1e-6).all()
    assert (starts == clean).any() and (starts != clean).any()


def test_nan_is_not_hidden_by_a_projection():
    """The engine and the judge look for it afterwards."""
    clean = tf.fill([1, *SHAPE], 0.5)
    images = np.full((1, *SHAPE), 0.5, np.float32)
    images[0, 1, 1, 0] = np.nan
    for norm in NORMS:
        ball = geometry.ball(clean, ThreatModel(norm, 0.1))
        projected = ball.project(tf.constant(images)).numpy()
        assert np.isnan(projected[0, 1, 1, 0])
