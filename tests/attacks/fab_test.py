"""FAB-T against the closed form of a linear boundary."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import attacks
from ib_keras.attacks import fab
from ib_keras.attacks import geometry
from ib_keras.types import ThreatModel


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_projection_is_the_nearest_point_of_the_plane_in_the_box(norm):
    rng = np.random.default_rng(0)
    x = rng.random((40, 3, 2, 1)).astype(np.float32)
    w = rng.normal(size=(40, 3, 2, 1)).astype(np.float32)
    inside = rng.random((40, 3, 2, 1)).astype(np.float32)
    offset = (w * inside).sum((1, 2, 3))  # So the plane meets the box.
    ball = geometry.ball(tf.constant(x), ThreatModel(norm, 0.1))
    found = fab._project(ball, tf.constant(x), tf.constant(w), offset).numpy()
    assert found.min() >= -1e-6 and found.max() <= 1 + 1e-6
    np.testing.assert_allclose((w * found).sum((1, 2, 3)), offset, atol=2e-5)
    for i in range(40):
        best = scipy_projection(
            x[i].ravel(), w[i].ravel(), float(offset[i]), norm
        )
        difference = (found[i] - x[i]).ravel().astype(np.float64)
        order = np.inf if norm == "linf" else 2
        reached = np.linalg.norm(difference, order)
        assert reached <= best + 2e-4


def scipy_projection(x, w, offset, norm):
    """The smallest norm by SciPy's own solvers."""
    from scipy import optimize

    size = len(x)
    if norm == "linf":
        # Variables: d and t; minimise t with |d| <= t.
        eye = np.eye(size)
        column = -np.ones((size, 1))
        result = optimize.linprog(
            np.r_[np.zeros(size), 1.0],
            A_ub=np.block([[eye, column], [-eye, column]]),
            b_ub=np.zeros(2 * size),
            A_eq=np.r_[w, 0.0][None],
            b_eq=[offset - w @ x],
            bounds=[*zip(-x, 1 - x, strict=True), (0, None)],
        )
        return result.fun
    result = optimize.minimize(
        lambda d: d @ d,
        np.zeros(size),
        jac=lambda d: 2 * d,
        bounds=list(zip(-x, 1 - x, strict=True)),
        constraints={"type": "eq", "fun": lambda d: w @ (x + d) - offset},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 300},
    )
    return np.sqrt(result.fun)


def linear_model(bias):
    weights = tf.constant([[1.0, -1.0], [-2.0, 2.0], [0.5, -0.5], [0.1, -0.1]])
    return lambda x: tf.reshape(x, [-1, 4]) @ weights + tf.constant([0.0, bias])


def test_it_breaks_exactly_what_lies_within_epsilon_of_a_linear_boundary():
    # Margin of class 0: 2 (w.x) - bias with |2w|_1 = 7.2.
    images = np.full((6, 2, 2, 1), 0.5, np.float32)
    images[:, 0, 0, 0] += np.linspace(0.0, 0.3, 6)
    w = np.array([1.0, -2.0, 0.5, 0.1])
    margin = 2 * images.reshape(6, 4) @ w + 1.0
    distance = margin / (2 * np.abs(w).sum())
    epsilon = float(np.median(distance) + 1e-3)
    found = attacks.run(
        linear_model(-1.0),
        images,
        [0] * 6,
        "fab",
        epsilon=epsilon,
        num_steps=20,
        num_targets=1,
        random_start=False,
    )
    np.testing.assert_array_equal(found.is_robust, distance > epsilon)
    assert 0 < found.is_robust.sum() < 6


def test_what_lies_outside_of_the_ball_is_not_claimed():
    images = np.full((2, 2, 2, 1), 0.5, np.float32)
    found = attacks.run(
        linear_model(-2.0),
        images,
        [0, 0],
        "fab",
        epsilon=0.01,
        num_steps=10,
        num_targets=1,
    )
    assert found.is_robust.all()
    assert np.abs(found.adversarial_images - images).max() <= 0.01 + 1e-6
