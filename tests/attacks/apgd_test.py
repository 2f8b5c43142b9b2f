"""AutoPGD against the authors' numbers and a plain NumPy loop."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import attacks
from ib_keras import seeds
from ib_keras.attacks import apgd
from ib_keras.attacks import base
from ib_keras.attacks import losses
from ib_keras.errors import UserError
from ib_keras.types import ThreatModel

SHAPE = (3, 2, 1)


@pytest.mark.parametrize(
    ("num_steps", "expected"),
    [
        (100, [22, 41, 57, 70, 80, 87, 93, 99]),
        (200, [44, 82, 114, 140, 160, 174, 186, 198]),
        (50, [11, 21, 30, 38, 45]),
        (40, [8, 15, 21, 26, 30, 33, 35, 37, 39]),
        (20, [4, 7, 9, *range(10, 21)]),
        (1, [1]),
    ],
)
def test_checkpoints_are_those_of_the_authors_code(num_steps, expected):
    assert list(apgd.checkpoints(num_steps)) == expected


def quadratic(num_classes=4, seed=0):
    """A smooth function with bends, and the same in NumPy with a gradient."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(SHAPE))
    linear = rng.normal(size=(size, num_classes))
    bend = 4.0 * rng.normal(size=(size, num_classes))

    def logits_fn(images, seed):
        x = tf.reshape(tf.cast(images, tf.float64), [-1, size])
        value = x @ linear + tf.sin(7.0 * x) @ bend
        return tf.cast(value, tf.float32)

    def loss_and_gradient(x, label):
        z = x @ linear + np.sin(7.0 * x) @ bend
        p = np.exp(z - z.max())
        p /= p.sum()
        upstream = p.copy()
        upstream[label] -= 1.0
        slope = linear + (7.0 * np.cos(7.0 * x))[:, None] * bend
        return -np.log(p[label]), slope @ upstream

    return logits_fn, loss_and_gradient


def plain_loop(loss_and_gradient, clean, label, start, epsilon, num_steps):
    """Algorithm 1 of the paper for one example and l_inf, step by step.

    Besides the best point and the trace it gives what the checkpoints met.
    """

    def project(x):
        return np.clip(
            x, np.maximum(clean - epsilon, 0), np.minimum(clean + epsilon, 1)
        )

    x = start
    loss, gradient = loss_and_gradient(x, label)
    best, best_gradient, best_loss = x, gradient, loss
    before = x
    step, increases = 2.0 * epsilon, 0
    best_at_checkpoint, was_halved = loss, True
    ends = apgd.checkpoints(num_steps)
    last_end = 0
    trace, met = [], set()
    for k in range(num_steps):
        momentum = 1.0 if k == 0 else 0.75
        target = project(x + step * np.sign(gradient))
        new = project(
            x + momentum * (target - x) + (1 - momentum) * (x - before)
        )
        before = x
        x = new
        new_loss, gradient = loss_and_gradient(x, label)
        increases += new_loss > loss
        loss = new_loss
        if loss > best_loss:
            best, best_gradient, best_loss = x, gradient, loss
        if k + 1 in ends:
            oscillates = increases <= 0.75 * (k + 1 - last_end)
            is_stuck = best_loss <= best_at_checkpoint
            halve = oscillates or (not was_halved and is_stuck)
            if is_stuck and not oscillates:
                is_first = " at first" if last_end == 0 else ""
                met.add(f"stuck alone{is_first}, halves: {halve}")
            last_end, increases = k + 1, 0
            was_halved, best_at_checkpoint = halve, best_loss
            if halve:
                step /= 2
                x, gradient, loss = best, best_gradient, best_loss
        trace.append((loss, best_loss, step))
    return best, np.array(trace), met


def run(attack, logits_fn, images, labels, epsilon, targets=None):
    example_seeds = seeds.fold(seeds.from_int(3), tf.range(len(labels)))
    more = {} if targets is None else {"targets": tf.constant(targets)}
    state = attack.init(
        logits_fn,
        tf.constant(images),
        tf.constant(labels),
        ThreatModel("linf", epsilon),
        example_seeds,
        **more,
    )
    states = [state]
    for iteration in range(attack.num_steps):
        state = attack.step(logits_fn, state, tf.constant(iteration))
        states.append(state)
    return states


def test_the_trajectory_is_that_of_a_plain_loop():
    logits_fn, loss_and_gradient = quadratic()
    rng = np.random.default_rng(1)
    images = rng.random((5, *SHAPE)).astype(np.float32)
    labels = rng.integers(0, 4, 5).astype(np.int32)
    attack = apgd.build(num_steps=30)
    states = run(attack, logits_fn, images, labels, 0.3)
    num_halved = 0
    for i in range(5):
        start = states[0].images[i].numpy().reshape(-1).astype(np.float64)
        best, trace, _ = plain_loop(
            loss_and_gradient,
            images[i].reshape(-1).astype(np.float64),
            labels[i],
            start,
            0.3,
            30,
        )
        ours = np.array(
            [(s.loss[i], s.best_loss[i], s.step_size[i]) for s in states[1:]]
        )
        np.testing.assert_allclose(ours, trace, rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(
            states[-1].best_images[i].numpy().reshape(-1), best, atol=1e-4
        )
        num_halved += trace[-1, 2] < 0.6
    assert num_halved >= 3, "the case must exercise the halving"


def scripted(losses_of_calls, slopes):
    """A model whose loss and gradient at its k-th call are given.

    The call of the start comes three times: two probe for noise.
    """
    calls = []

    def logits_fn(images, seed):
        del seed
        k = max(len(calls) - 2, 0)
        calls.append(k)
        tilt = tf.reduce_sum(images * slopes[:, k], axis=[1, 2, 3])
        value = losses_of_calls[:, k] + tilt - tf.stop_gradient(tilt)
        return tf.stack([tf.zeros_like(value), value], axis=1)

    return logits_fn


def test_what_rises_below_its_best_is_halved_at_the_second_checkpoint():
    """Condition 2 alone, which cannot fire at the first checkpoint."""
    rng = np.random.default_rng(5)
    scripts = np.cumsum(rng.normal(0.7, 1.0, (4, 26)), axis=1)
    # Falls once; then it rises all the time, and stays below the start.
    scripts[0] = [30, *range(25)]
    scripts = scripts.astype(np.float32)
    slopes = rng.normal(size=(4, 26, *SHAPE)).astype(np.float32)
    images = rng.random((4, *SHAPE)).astype(np.float32)
    attack = apgd.build(num_steps=25, loss="margin")
    labels = np.zeros(4, np.int32)
    states = run(attack, scripted(scripts, slopes), images, labels, 0.2)
    for i in range(4):
        said = zip(scripts[i], slopes[i].reshape(26, -1), strict=True)
        start = states[0].images[i].numpy().reshape(-1)
        clean = images[i].reshape(-1)
        best, trace, met = plain_loop(
            lambda x, y, said=said: next(said), clean, 0, start, 0.2, 25
        )
        ours = [(s.loss[i], s.best_loss[i], s.step_size[i]) for s in states[1:]]
        np.testing.assert_allclose(ours, trace, rtol=1e-5)
        last = states[-1].best_images[i].numpy()
        np.testing.assert_allclose(last.reshape(-1), best, atol=1e-6)
        if i == 0:
            assert "stuck alone at first, halves: False" in met
            assert "stuck alone, halves: True" in met
            # Intervals of 5, 4, ... steps.
            np.testing.assert_allclose(trace[:8, 2], 0.4)
            np.testing.assert_allclose(trace[8, 2], 0.2)


@pytest.mark.parametrize("loss", ["targeted_dlr", "targeted_margin"])
def test_a_targeted_loss_breaks_only_what_its_targets_reach(loss):
    # Class 0 is predicted; 3 is the runner-up but can never win, 1 can.
    weights = tf.constant([[0.0, 5.2, -5.2, 0.0]])

    def model(images):
        x = tf.reduce_mean(images, axis=[1, 2, 3])[:, None] - 0.5
        return x @ weights + tf.constant([2.0, 1.0, 0.0, 1.5])

    for num_targets in (1, 2):
        found = attacks.run(
            model,
            np.full((4, 4, 4, 1), 0.5, np.float32),
            [0] * 4,
            "apgd",
            epsilon=0.2,
            num_steps=10,
            loss=loss,
            num_targets=num_targets,
        )
        # Order 3, 1, 2: the target with number 1 is class 1.
        if num_targets == 1:
            assert found.is_robust.all()
        else:
            assert (found.adversarial_prediction == 1).all()
            assert (found.broken_by_target == 1).all()


def test_a_mean_loss_takes_the_draws_of_the_gradient():
    images = tf.fill([2, *SHAPE], 0.5)
    labels = tf.constant([0, 1])
    seen = []

    def noisy(x, seed):
        seen.append(tuple(np.array(seed)))
        value = tf.reduce_sum(x, axis=[1, 2, 3])
        value += seeds.noise(seed, tf.shape(value))
        return tf.stack([value, -value], axis=1)

    attack = apgd.build(num_steps=5, num_eot=4)
    seed = seeds.from_int(1)
    loss_fn = attack._loss_fn(labels, labels)
    mean = attack._mean_loss(noisy, loss_fn, images, seed)
    draws = list(seen)
    assert len(set(draws)) == 4
    seen.clear()
    evaluation, _ = attack._evaluate(noisy, images, labels, labels, seed)
    assert seen == draws
    np.testing.assert_allclose(mean, evaluation.loss, rtol=1e-6)


def bad_above(where):
    """A model whose second image is not finite above a mean of 0.55."""

    @tf.custom_gradient
    def with_slope(value, bad):
        slope = tf.where(bad, float("nan"), 1.0)
        return tf.identity(value), lambda upstream: (upstream * slope, None)

    def logits_fn(images, seed):
        del seed
        value = tf.reduce_mean(images, axis=[1, 2, 3])
        bad = (value > 0.55) & (tf.range(len(images)) == 1)
        if where == "loss":
            value = tf.where(bad, float("inf"), value)  # Of slope 0.
        else:
            value = with_slope(value, bad)
        return tf.stack([tf.zeros_like(value), value], axis=1)

    return logits_fn


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_move_to_what_is_not_finite_is_refused(where):
    images = np.full((3, *SHAPE), 0.5, np.float32)
    labels = np.zeros(3, np.int32)
    attack = apgd.build(num_steps=6, loss="margin")
    states = run(attack, bad_above(where), images, labels, 0.2)
    seen = np.array([tf.reduce_mean(s.evaluated.images[1]) for s in states])
    assert (seen > 0.55).any() and seen[0] < 0.55
    for state in states:
        assert tf.reduce_mean(state.images[1]) <= 0.55
        assert tf.reduce_mean(state.best_images[1]) <= 0.55
        for values in (state.gradient, state.best_gradient, state.loss):
            assert np.isfinite(values).all()
    np.testing.assert_allclose(states[-1].images.numpy()[::2], 0.7, rtol=1e-6)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_start_that_is_not_finite_has_no_direction(where):
    """It is asked about again, and then left."""
    calls = []

    @tf.custom_gradient
    def with_slope(value, slope):
        return tf.identity(value), lambda upstream: (upstream * slope, None)

    def model(x, seed):
        del seed
        is_bad = (tf.range(len(x)) == 1) & (not calls)
        calls.append(np.array(x))
        factor = tf.where(is_bad, float("nan"), 1.0)
        value = tf.reduce_sum(x, axis=[1, 2, 3])
        if where == "loss":
            value = value * factor
        value = with_slope(value, factor)
        return tf.stack([tf.zeros_like(value), value], axis=1)

    images = np.full((3, *SHAPE), 0.5, np.float32)
    labels = np.zeros(3, np.int32)
    attack = apgd.build(num_steps=4, loss="margin")
    first, second, *_, last = run(attack, model, images, labels, 0.2)
    assert np.isfinite(calls).all()
    assert not first.gradient[1].numpy().any()
    assert np.isfinite(first.gradient).all()
    np.testing.assert_array_equal(second.images[1], first.images[1])
    np.testing.assert_array_equal(second.best_loss, second.loss)
    assert np.isneginf([first.loss[1], first.best_loss[1]]).all()
    np.testing.assert_allclose(last.best_images, images + 0.2, rtol=1e-6)


def test_every_start_touches_the_surface_of_the_ball():
    logits_fn, _ = quadratic()
    images = np.full((6, *SHAPE), 0.5, np.float32)
    (state, *_) = run(
        apgd.build(num_steps=1), logits_fn, images, np.zeros(6, np.int32), 0.1
    )
    largest = np.abs(state.images.numpy() - images).max(axis=(1, 2, 3))
    np.testing.assert_allclose(largest, 0.1, rtol=1e-5)
    np.testing.assert_allclose(state.step_size, 0.2, rtol=1e-6)


def test_losses_carried_over_a_checkpoint_are_taken_again_on_its_draw():
    images = np.full((4, *SHAPE), 0.5, np.float32)
    seen = []

    def noisy(x, seed):
        seen.append(tuple(np.array(seed)))
        noise = tf.random.stateless_normal([2], seed)
        value = tf.reduce_sum(x, axis=[1, 2, 3]) + 3.0 * noise[0]
        return tf.stack([value, -value], axis=1)

    attack = apgd.build(num_steps=20)
    labels = np.zeros(4, np.int32)
    states = run(attack, noisy, images, labels, 0.1)
    assert states[0].has_noise.numpy().all()
    # Intervals end at 4, 7, 9, 10, ...: a draw for each, and the probe's.
    assert len(set(seen)) == len(apgd.checkpoints(20))
    # Within an interval losses differ by the images alone.
    first = states[1].loss - states[0].loss
    assert np.abs(first).max() < 2 * 0.1 * 6 + 1e-3


def test_losses_are_taken_again_on_the_draw_of_a_smaller_batch():
    """Noise is drawn for a batch: rows that leave it change the draw."""

    def noisy(x, seed):
        value = tf.reduce_sum(x, axis=[1, 2, 3])
        value += seeds.noise(seed, tf.shape(value)[:1] * 3)[: len(x)]
        return tf.stack([value, -value], axis=1)

    attack = apgd.build(num_steps=20)
    images = np.full((4, *SHAPE), 0.5, np.float32)
    states = run(attack, noisy, images, np.zeros(4, np.int32), 0.1)
    # Inside the first interval, which ends after four steps.
    left = tf.nest.map_structure(lambda t: t[2:], states[2])
    seed = base.model_seed(left.seeds, 0)
    paired = attack._pair_losses(noisy, left, tf.constant(2), seed)
    best = losses.cross_entropy(noisy(left.best_images, seed), left.labels)
    assert np.abs(left.best_loss - best).max() > 0.01
    np.testing.assert_allclose(paired.best_loss, best, rtol=1e-6)
    np.testing.assert_allclose(
        paired.best_loss - paired.best_at_checkpoint,
        left.best_loss - left.best_at_checkpoint,
        atol=1e-5,
    )
    again = attack._pair_losses(noisy, paired, tf.constant(2), seed)
    assert again.best_loss is paired.best_loss


def test_a_row_of_nan_is_not_taken_for_noise():
    def model(x, seed):
        del seed
        value = tf.reduce_sum(x, axis=[1, 2, 3])
        value = tf.where(tf.range(len(x)) == 0, float("nan"), value)
        return tf.stack([value, -value], axis=1)

    images = np.full((3, *SHAPE), 0.5, np.float32)
    states = run(
        apgd.build(num_steps=5), model, images, np.zeros(3, np.int32), 0.1
    )
    assert not states[-1].has_noise.numpy().any()
    assert not np.isnan(states[-1].best_loss).any()


def test_no_draw_is_taken_again_without_noise():
    logits_fn, _ = quadratic()
    calls = []

    def counted(x, seed):
        calls.append(1)
        return logits_fn(x, seed)

    images = np.full((2, *SHAPE), 0.5, np.float32)
    run(apgd.build(num_steps=20), counted, images, np.zeros(2, np.int32), 0.1)
    assert len(calls) == 20 + 1 + 2  # Steps, start, and the probe for noise.


def reference_dlr(z, y):
    ordered = np.sort(z)[::-1]
    other = np.delete(z, y).max()
    return (other - z[y]) / (ordered[0] - ordered[2] + 1e-12)


def test_dlr_is_the_formula():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 6)).astype(np.float32) * 10
    y = rng.integers(0, 6, 50).astype(np.int32)
    expected = [reference_dlr(a, b) for a, b in zip(z, y, strict=True)]
    np.testing.assert_allclose(losses.dlr(z, y), expected, rtol=1e-5)
    scaled = losses.dlr(1000.0 * z + 7.0, y)
    np.testing.assert_allclose(scaled, expected, rtol=2e-3, atol=1e-3)
    right = z.argmax(1) == y
    values = losses.dlr(z, y).numpy()
    assert (values[right] <= 0).all() and (values[right] >= -1 - 1e-6).all()
    assert (values[~right] > 0).all()


def test_targeted_dlr_is_the_formula():
    z = np.array([[4.0, 1.0, 3.0, -2.0, 0.5]], np.float32)
    value = losses.targeted_dlr(z, np.array([0]), np.array([2]))
    np.testing.assert_allclose(value, [(3 - 4) / (4 - (1 + 0.5) / 2)])


@pytest.mark.parametrize(
    ("logits", "dlr", "targeted"),
    [
        ([2.0, -1.0], -3.0, -3.0),  # Two classes: the margin.
        ([5.0, 2.0, 1.0], -3.0 / 4.0, -3.0 / 4.0),  # Three: z_(3) alone.
    ],
)
def test_few_classes_are_defined(logits, dlr, targeted):
    z, y, t = np.array([logits], np.float32), np.array([0]), np.array([1])
    np.testing.assert_allclose(losses.dlr(z, y), [dlr], rtol=1e-6)
    np.testing.assert_allclose(
        losses.targeted_dlr(z, y, t), [targeted], rtol=1e-6
    )


def test_ties_and_extremes_are_finite():
    z = np.array([[0.0] * 4, [1e30, -1e30, 0, 0], [500, 500, 500, -200]])
    z, y = z.astype(np.float32), np.array([0, 0, 1])
    for loss in (losses.dlr, losses.margin, losses.cross_entropy):
        assert np.isfinite(loss(z, y)).all()
    assert np.isfinite(losses.targeted_dlr(z, y, np.array([1, 1, 0]))).all()


def test_unknown_loss_names_the_known_ones():
    with pytest.raises(UserError, match="targeted_dlr"):
        apgd.build(loss="cross_entrpy")
    with pytest.raises(UserError, match="count"):
        apgd.build(num_steps=0)
