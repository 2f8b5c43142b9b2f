"""Square and noise search: no gradient is taken, and none is needed."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import attacks
from ib_keras import seeds
from ib_keras.attacks import square
from ib_keras.attacks import uniform_noise
from ib_keras.errors import UserError
from ib_keras.types import ThreatModel


def quantised(images):
    """Planted model (b): a linear model behind steps without gradient."""
    x = tf.round(tf.reshape(images, [-1, 16]) * 8.0) / 8.0
    z = tf.reduce_sum(x, axis=1) - 8.0
    return tf.stack([z, -z], axis=1)


def half_grey(count):
    rng = np.random.default_rng(0)
    images = 0.5 + 0.1 * rng.random((count, 4, 4, 1))
    return images.astype(np.float32)


def test_square_breaks_a_quantised_model_and_gradients_do_not():
    images, labels = half_grey(8), np.zeros(8, np.int32)

    def flat(x):  # Autodiff's gradient of round is 0 and not None.
        return quantised(x) + 0.0 * tf.reduce_sum(x)

    for name in ("pgd", "apgd"):
        found = attacks.run(
            flat, images, labels, name, epsilon=0.3, num_steps=10
        )
        # A random start may do; what matters is that no gradient helped.
        assert (found.num_zero_gradients[found.is_robust] > 0).all()
    found = attacks.run(
        flat, images, labels, "square", epsilon=0.3, num_steps=300
    )
    assert found.robust_accuracy == 0.0
    assert found.gradient_evaluations.sum() == 0


def test_windows_shrink_by_the_authors_schedule():
    queries = [0, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001]
    assert [square.level(q, 10000) for q in queries] == list(range(10))
    # The schedule is rescaled to the budget.
    assert square.level(3000, 5000) == 7


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_proposal_of_square_stays_in_the_ball_and_changes_a_window(norm):
    images = tf.constant(np.full((5, 9, 9, 2), 0.5, np.float32))
    labels = tf.zeros([5], tf.int32)
    attack = square.build(num_steps=50)
    example_seeds = seeds.fold(seeds.from_int(0), tf.range(5))

    def logits_fn(x, seed):
        z = tf.reduce_sum(x[:, :4], axis=[1, 2, 3])
        return tf.stack([-z, z], axis=1)

    state = attack.init(
        logits_fn, images, labels, ThreatModel(norm, 0.3), example_seeds
    )
    margins = []
    for i in range(50):
        state = attack.step(logits_fn, state, tf.constant(i))
        assert (state.ball.distance(state.images) <= 0.3 + 1e-5).numpy().all()
        margins.append(state.margin.numpy())
        changed = np.any(state.images != state.best, axis=(1, 2, 3))
        assert changed.any()
    assert (np.diff(margins, axis=0) >= 0).all(), "the margin never falls"
    assert (margins[-1] > margins[0]).all()


def test_square_in_l_inf_moves_whole_windows_to_the_faces():
    images = tf.constant(np.full((3, 10, 10, 1), 0.5, np.float32))
    attack = square.build(num_steps=100)
    example_seeds = seeds.fold(seeds.from_int(0), tf.range(3))

    def never(x, seed):  # Better at every query: every proposal is kept.
        value = tf.reduce_sum(x, axis=[1, 2, 3]) * 0.0
        return tf.stack([value, value - 1.0], axis=1)

    state = attack.init(
        never,
        images,
        tf.zeros([3], tf.int32),
        ThreatModel("linf", 0.2),
        example_seeds,
    )
    np.testing.assert_allclose(np.abs(state.images - 0.5), 0.2, atol=1e-6)
    columns = state.images.numpy()[:, :, :, 0]
    assert (columns == columns[:, :1]).all(), "the start is vertical stripes"


def propose(norm, iteration, best, clean, epsilon=0.2):
    """What Square proposes after `best`, with 50 queries; and its mass."""
    count = len(clean)
    attack = square.build(num_steps=50)

    def better(x, seed):  # So that what is asked about is kept.
        del seed
        zero = tf.zeros([len(x)])
        return tf.stack([zero + 1.0, zero], axis=1)

    state = attack.init(
        better,
        tf.constant(clean),
        tf.zeros([count], tf.int32),
        ThreatModel(norm, epsilon),
        seeds.fold(seeds.from_int(4), tf.range(count)),
    )
    best = tf.constant(best)
    state = attack.step(
        better, state._replace(images=best), tf.constant(iteration)
    )
    np.testing.assert_array_equal(state.best, best)
    return state.images.numpy() - clean


def window(is_inside):
    """First row and column, height and width of a filled rectangle."""
    rows, columns = (np.flatnonzero(is_inside.any(axis=a)) for a in (1, 0))
    height, width = (int(np.ptp(found)) + 1 for found in (rows, columns))
    assert is_inside.sum() == height * width, "has holes"
    return rows[0], columns[0], height, width


# The share of pixels is 0.8, 0.2, 0.1 and 0.0125 of 90.
@pytest.mark.parametrize(
    ("iteration", "size"), [(0, 8), (1, 4), (2, 3), (20, 1)]
)
def test_a_proposal_in_l_inf_is_a_square_of_the_schedules_size(iteration, size):
    clean = np.full((800, 9, 10, 3), 0.5, np.float32)
    moved = propose("linf", iteration, clean, clean)
    corners, signs = [], []
    for away in moved:
        inside = (away != 0).any(axis=2)
        row, column, height, width = window(inside)
        assert (height, width) == (size, size)
        values = away[inside]
        np.testing.assert_allclose(np.abs(values), 0.2, atol=1e-6)
        assert (values == values[0]).all(), "one sign a channel"
        corners.append((row, column))
        signs.append(tuple(np.sign(values[0])))
    # Every place is drawn, up to the last row and column, and every sign.
    assert {row for row, _ in corners} == set(range(9 - size + 1))
    assert {column for _, column in corners} == set(range(10 - size + 1))
    assert len(set(signs)) == 2**3


def test_a_proposal_in_l2_is_a_bump_half_up_and_half_down():
    clean = np.full((40, 9, 10, 2), 0.5, np.float32)
    moved = propose("l2", 2, clean, clean)
    is_upright, signs = [], []
    for away in moved:
        row, column, *size = window((away != 0).any(axis=2))
        assert size == [3, 3]
        bump = away[row : row + 3, column : column + 3]
        # The same budget for each channel, all of it.
        norms = np.linalg.norm(bump, axis=(0, 1))
        np.testing.assert_allclose(norms, 0.2 / np.sqrt(2), rtol=1e-5)
        # Of an odd size, the halves differ by a line.
        total, mass = bump.sum(axis=(0, 1)), np.abs(bump).sum(axis=(0, 1))
        assert (np.abs(total) < 0.25 * mass).all()
        sign = np.sign(bump)
        upright = (sign == sign[:, :1]).all()
        sideways = (sign == sign[:1]).all()
        assert upright != sideways
        is_upright.append(upright)
        signs.append(tuple(sign[0, 0]))
    assert 5 < sum(is_upright) < 35
    assert len(set(signs)) == 2**2


def test_a_proposal_in_l2_empties_a_second_window_and_spends_its_mass():
    clean = np.full((60, 9, 10, 2), 0.5, np.float32)
    rng = np.random.default_rng(0)
    old = rng.choice([-1.0, 1.0], clean.shape) * (0.5 + rng.random(clean.shape))
    old *= (
        0.15 / np.linalg.norm(old.reshape(60, -1), axis=1)[:, None, None, None]
    )
    best = np.float32(clean + old)
    moved = propose("l2", 2, best, clean)
    num_apart = 0
    for before, after in zip(best - clean, moved, strict=True):
        # Were more spent than there is, all would shrink a little.
        is_changed = (np.abs(after - before) > 1e-5).any(axis=2)
        is_empty = (np.abs(after) < 1e-6).all(axis=2)
        assert window(is_changed & ~is_empty)[2:] == (3, 3)
        assert 0 <= is_empty.sum() <= 9
        if is_empty.sum() == 9:
            assert window(is_empty)[2:] == (3, 3)
            num_apart += 1
        np.testing.assert_allclose(np.linalg.norm(after), 0.2, rtol=1e-5)
    assert num_apart > 20


def test_noise_draws_a_new_point_each_step_and_counts_no_gradient():
    points = []

    def spy(x, seed):
        points.append(np.array(x))
        return tf.stack([tf.ones([len(x)]), tf.zeros([len(x)])], axis=1)

    attack = uniform_noise.build(num_steps=5)
    images = tf.fill([2, 3, 3, 1], 0.5)
    example_seeds = seeds.fold(seeds.from_int(0), tf.range(2))
    state = attack.init(
        spy,
        images,
        tf.zeros([2], tf.int32),
        ThreatModel("linf", 0.1),
        example_seeds,
    )
    for i in range(5):
        state = attack.step(spy, state, tf.constant(i))
    stacked = np.stack(points)
    assert len(np.unique(stacked.reshape(10, -1), axis=0)) == 10
    assert np.abs(stacked - 0.5).max() <= 0.1 + 1e-6
    assert np.abs(stacked - 0.5).max() > 0.09


def test_corners_move_every_pixel_by_epsilon():
    attack = uniform_noise.build(num_steps=1, corners=True)
    images = tf.fill([2, 3, 3, 1], 0.5)
    state = attack.init(
        None,
        images,
        tf.zeros([2], tf.int32),
        ThreatModel("linf", 0.1),
        seeds.fold(seeds.from_int(0), tf.range(2)),
    )
    np.testing.assert_allclose(np.abs(state.images - 0.5), 0.1, rtol=1e-5)


def test_noise_breaks_what_only_chance_can_break():
    # Wrong on a thin set that no gradient points to.
    def needle(x):
        value = tf.reshape(x, [-1, 1])
        hit = tf.cast(tf.abs(value - 0.62) < 0.01, tf.float32)
        return tf.concat([1.0 - 2.0 * hit, 0.0 * value], axis=1)

    images = np.full((4, 1, 1, 1), 0.5, np.float32)
    found = attacks.run(
        needle, images, [0] * 4, "uniform_noise", epsilon=0.2, num_steps=400
    )
    assert found.robust_accuracy == 0.0
    # A share of 0.02 / 0.4 of the points: each is found at about the 20th.
    assert 0 <= np.median(found.broken_at_step) < 100


def test_bad_arguments_are_named():
    with pytest.raises(UserError, match="initial_share"):
        square.build(initial_share=1.5)
    with pytest.raises(UserError, match="num_steps"):
        uniform_noise.build(num_steps=0)
