"""Tests for the pool: stages, restarts, targets, the ledger and resuming."""

import copy
import dataclasses
import importlib
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from ib_keras import attacks
from ib_keras import seeds
from ib_keras.attacks import apgd
from ib_keras.attacks import base
from ib_keras.attacks import engine as engine_lib
from ib_keras.attacks import fgs
from ib_keras.attacks import judging
from ib_keras.attacks import pgd
from ib_keras.attacks import runner as runner_lib
from ib_keras.attacks.runner import Runner
from ib_keras.attacks.runner import Stage
from ib_keras.errors import UserError
from ib_keras.types import NORMS
from ib_keras.types import ThreatModel

SHAPE = (2, 2, 1)
NUM_CLASSES = 3


@pytest.fixture(autouse=True)
def _eagerly(request):
    """Spares the tracing, but in tests that ask for `compiled`."""
    tf.config.run_functions_eagerly("compiled" not in request.fixturenames)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def compiled():
    """See `_eagerly`."""


KERNEL = np.random.default_rng(0).normal(size=(4, NUM_CLASSES))
KERNEL = KERNEL.astype(np.float32)


def linear(images, seed=None):
    del seed
    return tf.reshape(images - 0.5, [-1, 4]) @ KERNEL


def noisy(images, seed):
    """The linear model with a draw for each example and class."""
    logits = linear(images)
    return logits + 0.3 * seeds.noise(seed, tf.shape(logits))


def data(count=24, seed=1):
    images = np.random.default_rng(seed).random((count, *SHAPE), np.float32)
    labels = tf.argmax(linear(images), axis=1, output_type=tf.int32).numpy()
    return images, labels


def make(stages, logits_fn=linear, norm="linf", epsilon=0.1, **arguments):
    stages = [
        stage if isinstance(stage, Stage) else Stage(f"stage{i}", stage)
        for i, stage in enumerate(stages)
    ]
    threat_model = ThreatModel(norm, epsilon)
    return Runner(
        logits_fn, stages, threat_model, **{"batch_size": 32, **arguments}
    )


def run(runner, images, labels, on_batch=lambda progress: None):
    return runner.run(images, runner.start(images, labels), on_batch)


def check_same_ledger(one, other):
    for name, values in one.arrays().items():
        np.testing.assert_array_equal(values, other.arrays()[name], name)


def best_in_linf(image, weights, epsilon):
    """max of weights . x: all corners of the ball cut with the box."""
    flat = np.float64(image).ravel()
    sides = zip(
        np.maximum(flat - epsilon, 0),
        np.minimum(flat + epsilon, 1),
        strict=True,
    )
    return max(np.dot(weights, corner) for corner in itertools.product(*sides))


def best_in_l2(image, weights, epsilon):
    """max of weights . x at clip(image + t weights), by bisection for t."""
    flat = np.float64(image).ravel()
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        x = np.clip(flat + middle * weights, 0, 1)
        is_inside = np.linalg.norm(x - flat) <= epsilon
        low, high = (middle, high) if is_inside else (low, middle)
    return np.dot(weights, np.clip(flat + low * weights, 0, 1))


@pytest.mark.parametrize("norm", NORMS)
def test_robust_accuracy_of_a_linear_model_is_the_closed_form(norm):
    """Per example: some class can be lifted over the label, or none can."""
    best, epsilon = {
        "linf": (best_in_linf, 0.12),
        "l2": (best_in_l2, 0.25),
    }[norm]
    images, labels = data(60)
    kernel, half = np.float64(KERNEL), np.full(4, 0.5)
    worst = []
    for image, label in zip(images, labels, strict=True):
        directions = [
            kernel[:, j] - kernel[:, label]
            for j in range(NUM_CLASSES)
            if j != label
        ]
        worst.append(
            max(best(image, w, epsilon) - w @ half for w in directions)
        )
    worst = np.array(worst)
    # Those that are a step away from the boundary are not decided by theory.
    sure = abs(worst) > 0.01
    assert sure.mean() > 0.9
    expected = worst < 0
    assert 0.2 < expected.mean() < 0.8
    stages = [
        Stage("ce", pgd.build(num_steps=12, step_size=epsilon / 5)),
        Stage(
            "margin",
            pgd.build(num_steps=50, step_size=epsilon / 30, loss="margin"),
            2,
        ),
    ]
    runner = make(stages, norm=norm, epsilon=epsilon, batch_size=64)
    ledger = run(runner, images[sure], labels[sure])
    np.testing.assert_array_equal(ledger.is_robust, expected[sure])
    assert ledger.robust_accuracy == pytest.approx(expected[sure].mean())


def test_the_ledger_records_what_happened():
    images, labels = data()
    stage = Stage("pgd", pgd.build(num_steps=10, step_size=0.03), 2)
    ledger = run(make([stage]), images, labels)
    robust, broken = ledger.is_robust, ~ledger.is_robust
    assert robust.any() and broken.any()
    assert ledger.clean_accuracy == 1.0
    assert ledger.robust_accuracy == robust.mean()
    np.testing.assert_array_equal(ledger.clean_prediction, labels)
    adversarial = ledger.adversarial_images
    assert np.abs(adversarial - images).max() <= 0.1 + 1e-6
    logits = linear(adversarial).numpy()
    np.testing.assert_array_equal(
        ledger.adversarial_prediction[broken], logits.argmax(1)[broken]
    )
    np.testing.assert_array_equal(
        ledger.adversarial_prediction[robust], labels[robust]
    )
    rows = np.arange(len(labels))
    of_label = logits[rows, labels].copy()
    logits[rows, labels] = -np.inf
    margin = logits.max(axis=1) - of_label
    np.testing.assert_allclose(ledger.margin, margin, rtol=0, atol=1e-5)
    assert (margin[broken] > 0).all() and (margin[robust] < 0).all()
    np.testing.assert_array_equal(ledger.wrong_share, broken)
    for name in ("broken_by_stage", "broken_by_restart", "broken_at_step"):
        values = ledger.arrays()[name]
        assert (values[robust] == -1).all() and (values[broken] >= 0).all()
    assert (ledger.broken_by_target == -1).all()
    assert (ledger.gradient_evaluations[robust] == 20).all()
    assert (ledger.gradient_evaluations[broken] <= 20).all()
    assert (ledger.gradient_norm > 0).all()
    assert set(ledger.arrays()) == {
        field.name for field in dataclasses.fields(ledger)
    }


def test_clean_errors_are_never_attacked_and_count_as_not_robust():
    images, labels = data()
    wrong = np.arange(24) % 4 == 0
    labels = np.where(wrong, (labels + 1) % NUM_CLASSES, labels)
    labels = labels.astype(np.int32)
    seen = []

    class Spy(pgd.PGD):
        def init(self, logits_fn, images, labels, threat_model, seeds):
            seen.extend(image.tobytes() for image in images.numpy())
            return super().init(logits_fn, images, labels, threat_model, seeds)

    attack = Spy(5, 0.02, "margin", True, 1)
    ledger = run(make([attack], batch_size=6), images, labels)
    assert ledger.clean_accuracy == 0.75
    assert not ledger.is_robust[wrong].any()
    assert set(seen) == {image.tobytes() for image in images[~wrong]}
    assert (ledger.gradient_evaluations[wrong] == 0).all()
    assert (ledger.broken_by_stage[wrong] == -1).all()
    assert (ledger.wrong_share[wrong] == 1).all()
    np.testing.assert_array_equal(
        ledger.adversarial_images[wrong], images[wrong]
    )
    np.testing.assert_array_equal(
        ledger.adversarial_prediction[wrong], ledger.clean_prediction[wrong]
    )
    assert ledger.robust_accuracy == ledger.is_robust.sum() / 24


def test_in_a_ball_of_radius_zero_robust_is_clean():
    images, labels = data()
    labels[:5] = (labels[:5] + 1) % NUM_CLASSES
    ledger = run(make([pgd.build(num_steps=3)], epsilon=0.0), images, labels)
    assert ledger.robust_accuracy == ledger.clean_accuracy == 19 / 24


def test_fewer_restarts_are_the_first_of_more():
    images, labels = data(60)
    attack = pgd.build(num_steps=2, step_size=0.03)
    many = run(make([Stage("pgd", attack, 4)]), images, labels)
    assert len(set(many.broken_by_restart[~many.is_robust])) > 2
    for count in (1, 3):
        few = run(make([Stage("pgd", attack, count)]), images, labels)
        broken = (0 <= many.broken_by_restart) & (
            many.broken_by_restart < count
        )
        np.testing.assert_array_equal(~few.is_robust, broken)
        for name in ("broken_by_restart", "broken_at_step", "margin"):
            np.testing.assert_array_equal(
                few.arrays()[name][broken], many.arrays()[name][broken]
            )
        np.testing.assert_array_equal(
            few.adversarial_images[broken], many.adversarial_images[broken]
        )


def test_a_stage_attacks_what_the_stages_before_it_left():
    images, labels = data()
    runner = make(
        [fgs.build(), Stage("pgd", pgd.build(num_steps=5, step_size=0.05), 3)],
        batch_size=5,
    )
    progress = runner.start(images, labels)
    ledger = runner.run(images, progress)
    first, second = progress.stages
    broken = [(ledger.broken_by_stage == i).sum() for i in (0, 1)]
    assert broken[0] > 0
    assert (first.num_attacked, second.num_attacked) == (24, 24 - broken[0])
    total = first.gradient_evaluations + second.gradient_evaluations
    assert ledger.gradient_evaluations.sum() == total
    assert first.gradient_evaluations == 24
    # One row a pass: restart, target, num_robust, spent so far.
    assert first.curve == [[0, 0, 24 - broken[0], 24]]
    assert [row[:2] for row in second.curve] == [[0, 0], [1, 0], [2, 0]]
    for restart, _, num_robust, _ in second.curve:
        later = (ledger.broken_by_stage == 1) & (
            ledger.broken_by_restart > restart
        )
        assert num_robust == ledger.is_robust.sum() + later.sum()
    assert second.curve[-1][3] == second.gradient_evaluations


def test_robust_examples_keep_the_nearest_miss_of_all_runs():
    images, labels = data()
    strong = pgd.build(num_steps=6, step_size=0.03)
    weak = pgd.build(num_steps=1, step_size=1e-4, random_start=False)
    one = run(make([strong], logit_scale=1.0), images, labels)
    stages = [strong, Stage("weak", weak, 2)]
    two = run(make(stages, logit_scale=1.0), images, labels)
    robust = one.is_robust
    np.testing.assert_array_equal(two.is_robust, robust)
    np.testing.assert_array_equal(two.margin, one.margin)
    np.testing.assert_array_equal(
        two.adversarial_images, one.adversarial_images
    )
    # The loss and the gradient are those of the last run.
    assert (two.loss < one.loss)[robust].all()
    np.testing.assert_array_equal(two.loss[~robust], one.loss[~robust])


def test_robust_examples_cost_the_most_that_was_announced():
    images, labels = data()
    stages = [
        Stage("pgd", pgd.build(num_steps=4, step_size=0.01, num_eot=2), 3),
        Stage("fgs", fgs.build()),
        Stage("apgd", apgd.build(num_steps=3)),
    ]
    runner = make(stages, epsilon=0.05, compact=False)
    ledger = run(runner, images, labels)
    most = sum(runner.most_gradients(stage, NUM_CLASSES) for stage in stages)
    assert most == 3 * 4 * 2 + 1 + (1 + 3)
    assert ledger.is_robust.any()
    assert (ledger.gradient_evaluations[ledger.is_robust] == most).all()
    assert (ledger.gradient_evaluations <= most).all()


def test_every_pass_and_every_example_has_its_own_draws():
    images, labels = data(6)
    seen = []

    class Spy(pgd.PGD):
        def init(self, logits_fn, images, labels, threat_model, seeds):
            seen.extend(map(tuple, seeds.numpy()[:3]))
            return super().init(logits_fn, images, labels, threat_model, seeds)

    spies = [Stage("s", Spy(1, 0.01, "margin", True, 1), 3) for _ in range(2)]
    runner = make(spies, epsilon=0.0, batch_size=3)
    run(runner, images, labels)
    # 2 stages, 3 restarts, 6 examples.
    assert len(seen) == 36 == len(set(seen))
    again, seen = list(seen), seen
    seen.clear()
    run(make(spies, epsilon=0.0, batch_size=2), images, labels)
    assert set(seen) == set(again)
    seen.clear()
    run(make(spies, epsilon=0.0, batch_size=3, seed=1), images, labels)
    assert not set(seen) & set(again)


def test_the_judge_never_draws_with_a_seed_that_an_attack_saw(monkeypatch):
    """In a whole protocol: clean judgements, stages, restarts and batches."""
    seen = {"attack": [], "judge": []}
    who = ["attack"]
    judged = judging.Judge._judge

    def judge(self, *arguments):
        who.append("judge")
        judgement = judged(self, *arguments)
        who.pop()
        return judgement

    def spy(images, seed):
        seen[who[-1]].append(tuple(seed.numpy()))
        return noisy(images, seed)

    monkeypatch.setattr(judging.Judge, "_judge", judge)
    images, labels = data(10)
    stages = [
        Stage("a", pgd.build(num_steps=3, step_size=0.05), 2),
        Stage("b", pgd.build(num_steps=2, step_size=0.05, num_eot=2), 2),
    ]
    runner = make(stages, spy, batch_size=4, num_judge_samples=3)
    ledger = run(runner, images, labels)
    assert (ledger.broken_by_stage >= 0).any()
    assert len(seen["attack"]) > 14 and len(seen["judge"]) > 12
    assert not set(seen["attack"]) & set(seen["judge"])
    assert len(set(seen["judge"])) == len(seen["judge"])


def test_batch_size_changes_rounding_alone_and_no_start_at_all():
    images, labels = data(13)
    starts = {}

    class Spy(pgd.PGD):
        def init(self, *arguments):
            state = super().init(*arguments)
            for clean, start in zip(
                state.ball.clean.numpy(), state.images.numpy(), strict=True
            ):
                starts.setdefault(clean.tobytes(), set()).add(start.tobytes())
            return state

    attack = Spy(6, 0.03, "cross_entropy", True, 1)
    ledgers = [
        run(make([attack], batch_size=size), images, labels)
        for size in (1, 4, 13, 50)
    ]
    assert len(starts) == 13
    assert all(len(found) == 1 for found in starts.values())
    assert 0 < ledgers[0].robust_accuracy < 1
    for ledger in ledgers[1:]:
        for name in ("is_robust", "broken_at_step", "gradient_evaluations"):
            if name != "gradient_evaluations":
                np.testing.assert_array_equal(
                    ledger.arrays()[name], ledgers[0].arrays()[name]
                )
        np.testing.assert_allclose(
            ledger.adversarial_images[ledger.is_robust],
            ledgers[0].adversarial_images[ledger.is_robust],
            rtol=0,
            atol=1e-5,
        )


def coin(images, seed):
    """Right, but for a coin that each image tosses: 5% of sure errors."""
    key = tf.bitcast(tf.reduce_sum(images, axis=[1, 2, 3]), tf.int32)
    unit = seeds.uniform(seeds.fold(seed, key), (1,))[:, 0]
    return 10.0 * tf.one_hot(tf.cast(unit < 0.05, tf.int32), 2)


class Noise(pgd.PGD):
    """Makes random steps; the model has no gradient."""

    def step(self, logits_fn, state, iteration):
        seed = base.model_seed(state.seeds, iteration)
        logits = logits_fn(state.images, seed)
        said = base.evaluated(
            state.images, logits, state.labels, loss=logits[:, 1]
        )
        return state._replace(images=state.images + 1e-3, evaluated=said)


def test_a_model_that_errs_at_random_is_not_broken_by_chance(compiled):
    """Planted: 5% of draws are wrong; 2 restarts of 10 looks at 20 images."""
    images, _ = data(20)
    labels = np.zeros(20, np.int32)
    stage = Stage("noise", Noise(9, 1.0, "margin", True, 1), 2)
    runner = make([stage], coin, num_judge_samples=11)
    ledger = run(runner, images, labels)
    assert ledger.clean_accuracy == 1.0
    assert ledger.robust_accuracy == 1.0
    assert (ledger.margin > 0).sum() > 6  # Claimed, and turned down.
    assert (ledger.wrong_share < 0.5).all()


def test_a_provably_robust_model_stays_at_one_hundred_percent():
    def constant_margin(images, seed):
        x = tf.sin(7.0 * tf.reshape(images, [-1, 4]))
        return tf.concat(
            [tf.reduce_max(x, axis=1, keepdims=True) + 0.05, x], axis=1
        )

    images, _ = data()
    stages = [
        Stage("pgd", pgd.build(num_steps=10, step_size=0.1), 3),
        Stage("margin", pgd.build(10, 0.1, "margin"), 3),
        fgs.build(),
    ]
    runner = make(stages, constant_margin, epsilon=1.0)
    ledger = run(runner, images, np.zeros(24, np.int32))
    assert ledger.robust_accuracy == 1.0
    np.testing.assert_allclose(ledger.margin, -0.05, atol=1e-5)


def nan_where(logits_fn, is_bad):
    def broken(images, seed):
        bad = is_bad(images)[:, None]
        return tf.where(bad, float("nan"), logits_fn(images, seed))

    return broken


def test_nan_breaks_nothing_and_leaves_the_others_alone():
    images, labels = data()
    bad = np.array([3, 17])
    # Finite at the clean image, NaN around it.
    centres = tf.constant(images[bad])

    def is_bad(x):
        away = tf.reduce_max(abs(x[:, None] - centres), axis=[2, 3, 4])
        return tf.reduce_any((away > 1e-6) & (away < 0.06), axis=1)

    attack = pgd.build(num_steps=6, step_size=0.02)
    stage = Stage("pgd", attack, 2)
    model = nan_where(linear, is_bad)
    ledger = run(make([stage], model, epsilon=0.05), images, labels)
    healthy = run(make([stage], epsilon=0.05), images, labels)
    assert ledger.clean_accuracy == 1.0
    assert ledger.is_robust[bad].all()
    # Every iterate of both restarts, the last of each included.
    assert ledger.num_nonfinite[bad].tolist() == [14, 14]
    others = np.setdiff1d(np.arange(24), bad)
    for name, values in ledger.arrays().items():
        np.testing.assert_array_equal(
            values[others], healthy.arrays()[name][others], name
        )
    assert not ledger.num_nonfinite[others].any()


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_an_image_that_the_model_refuses_costs_no_other_its_attack(mode):
    if mode == "compiled":
        tf.config.run_functions_eagerly(False)
    images, labels = data()
    bad = np.array([3, 17])
    centres = tf.constant(images[bad])

    def refusing(x, seed=None):
        """Raises for a whole batch, if it attacks one of the bad images."""
        away = tf.reduce_max(abs(x[:, None] - centres), axis=[2, 3, 4])
        is_bad = tf.reduce_any((away > 1e-6) & (away < 0.06), axis=1)
        tf.debugging.Assert(~tf.reduce_any(is_bad), ["no such image"])
        return linear(x)

    stage = Stage("pgd", pgd.build(num_steps=6, step_size=0.02), 2)
    ledger = run(make([stage], refusing, epsilon=0.05), images, labels)
    healthy = run(make([stage], epsilon=0.05), images, labels)
    assert ledger.is_robust[bad].all()
    assert ledger.num_nonfinite[bad].tolist() == [2, 2]  # Once a restart.
    others = np.setdiff1d(np.arange(24), bad)
    assert not ledger.num_nonfinite[others].any()
    assert not ledger.is_robust[others].all()
    for name, values in ledger.arrays().items():
        # Smaller batches round otherwise.
        np.testing.assert_allclose(
            values[others],
            healthy.arrays()[name][others],
            rtol=1e-5,
            atol=1e-6,
            err_msg=name,
        )


def test_a_model_that_refuses_every_attack_is_not_called_robust():
    """Its clean answers are right; its gradient has an assertion."""

    @tf.custom_gradient
    def guard(x):
        def gradient(upstream):
            tf.debugging.Assert(tf.constant(False), ["no gradients here"])
            return upstream

        return x, gradient

    images, labels = data()
    stages = [Stage("fgs", fgs.build(), 1)]
    runner = make(stages, lambda x, s: linear(guard(x)))
    with pytest.raises(UserError, match="refused every image") as error:
        run(runner, images, labels)
    assert "no gradients here" in str(error.value)


def test_one_refused_image_may_be_all_that_a_later_stage_is_left_with():
    images, labels = data(8)
    centre = tf.constant(images[3])

    def refusing(x, seed=None):
        away = tf.reduce_max(abs(x - centre), axis=[1, 2, 3])
        near = (away > 1e-6) & (away < 0.6)
        tf.debugging.Assert(~tf.reduce_any(near), ["no such image"])
        return linear(x)

    images[:3] = images[4:] = 0.9 * (images[3] < 0.5)
    labels[:] = tf.argmax(linear(images), axis=1).numpy()
    stages = [Stage(n, pgd.build(num_steps=4, step_size=0.2)) for n in "ab"]
    ledger = run(make(stages, refusing, epsilon=0.5), images, labels)
    assert np.flatnonzero(ledger.is_robust).tolist() == [3]
    assert ledger.num_nonfinite[3] == 2


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16, tf.float64])
def test_logits_may_be_of_any_precision(dtype, compiled):
    images, labels = data(8)

    def rounded(x, seed):
        return tf.cast(linear(x), dtype)

    # With larger logits rounding would decide which class is nearest.
    found, expected = (
        run(make([fgs.build()], model, logit_scale=1.0), images, labels)
        for model in (rounded, linear)
    )
    np.testing.assert_allclose(found.margin, expected.margin, atol=0.05)


def test_an_example_without_finite_clean_logits_is_not_robust():
    images, labels = data()
    images[4] = 0.0
    model = nan_where(linear, lambda x: tf.reduce_max(x, axis=[1, 2, 3]) < 0.01)
    ledger = run(make([pgd.build(num_steps=2)], model), images, labels)
    assert ledger.clean_prediction[4] == -1 and not ledger.is_robust[4]
    assert ledger.broken_by_stage[4] == -1
    assert ledger.gradient_evaluations[4] == 0
    assert ledger.num_nonfinite[4] == 1
    assert ledger.clean_accuracy == 23 / 24


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_without_any_finite_logits_is_a_user_error(value):
    images, labels = data()
    runner = make([fgs.build()], lambda x, s: linear(x) * 0 + value)
    with pytest.raises(UserError, match="not finite on any clean image"):
        run(runner, images, labels)


def test_no_examples_are_a_user_error():
    images, labels = data()
    with pytest.raises(UserError, match="no examples"):
        make([fgs.build()]).start(images[:0], labels[:0])


AIM = '''
"""Lifts the channel of the target by epsilon: nothing else counts."""

from typing import NamedTuple

import tensorflow as tf

from ib_keras.attacks import base
from ib_keras.attacks import geometry

SEEN = []


class State(NamedTuple):
    images: tf.Tensor
    evaluated: base.Evaluation
    ball: geometry.Ball
    targets: tf.Tensor


class Aim(base.GradientAttack):
    num_steps = 1
    gradients_per_step = 0

    def __init__(self, num_targets):
        self.num_targets = num_targets

    def init(self, logits_fn, images, labels, threat_model, seeds, targets):
        if tf.executing_eagerly():
            SEEN.append(targets.numpy())
        ball = geometry.ball(images, threat_model)
        return State(images, base.not_evaluated(images), ball, targets)

    def step(self, logits_fn, state, iteration):
        lift = tf.one_hot(state.targets, state.images.shape[3])
        moved = state.images + lift[:, None, None] * 9.0
        return state._replace(images=state.ball.project(moved))


def build(num_targets):
    return Aim(num_targets)
'''


@pytest.fixture
def aim(tmp_path, monkeypatch):
    """A targeted attack in a user's module."""
    (tmp_path / "foreign_attacks").mkdir()
    (tmp_path / "foreign_attacks" / "aim.py").write_text(AIM)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("foreign_attacks.aim")
    module.SEEN.clear()
    return module


def channels(images, seed=None):
    """The logits are the channels of a pixel, but class 1 is out of reach."""
    del seed
    logits = images[:, 0, 0]
    fixed = tf.round(logits[:, 1:2] * 100) / 1000 + 0.7
    return tf.concat([logits[:, :1], fixed, logits[:, 2:]], axis=1)


def pixels(*rows):
    return np.float32(rows)[:, None, None]


# Epsilon is 0.2. The first is broken as class 2, its third logit; the second to
# class 3, its second logit; nothing is near the third.
PIXELS = pixels(
    [0.9, 0.5, 0.74, 0.76], [0.9, 0.1, 0.3, 0.85], [0.9, 0.3, 0.1, 0.2]
)
PIXELS[0, 0, 0, 3] = 0.1


def targeted_stage(num_targets, num_restarts=1):
    return Stage.build(
        {
            "name": "aim",
            "num_restarts": num_restarts,
            "attack": {
                "name": "foreign_attacks.aim",
                "num_targets": num_targets,
            },
        }
    )


def test_targets_come_by_falling_clean_logit(aim):
    clean = channels(PIXELS).numpy()
    ranked = np.argsort(-clean[:, 1:], axis=1) + 1
    runner = make([targeted_stage(0)], channels, epsilon=0.0, batch_size=3)
    run(runner, PIXELS, np.zeros(3, np.int32))
    np.testing.assert_array_equal(np.stack(aim.SEEN, axis=1), ranked)


def test_the_target_that_broke_an_example_is_recorded(aim):
    labels = np.zeros(3, np.int32)
    clean = channels(PIXELS).numpy()
    ranked = np.argsort(-clean[:, 1:], axis=1) + 1
    runner = make([targeted_stage(0)], channels, epsilon=0.2)
    progress = runner.start(PIXELS, labels)
    ledger = runner.run(PIXELS, progress)
    assert ledger.is_robust.tolist() == [False, False, True]
    assert ledger.adversarial_prediction.tolist() == [2, 3, 0]
    places = [ranked[0].tolist().index(2), ranked[1].tolist().index(3), -1]
    assert ledger.broken_by_target.tolist() == places == [1, 0, -1]
    assert ledger.broken_by_restart.tolist() == [0, 0, -1]
    # One row a target; after the second all that can be broken is.
    assert [row[:3] for row in progress.stages[0].curve] == [
        [0, 0, 2],
        [0, 1, 1],
        [0, 2, 1],
    ]


def test_a_run_is_made_for_each_of_so_many_targets(aim):
    labels = np.zeros(3, np.int32)
    runner = make([targeted_stage(1)], channels, epsilon=0.2)
    ledger = run(runner, PIXELS, labels)
    assert ledger.is_robust.tolist() == [True, False, True]
    assert len(aim.SEEN) == 1
    runner = make([targeted_stage(2, num_restarts=2)], channels, epsilon=0.2)
    ledger = run(runner, PIXELS, labels)
    assert ledger.is_robust.tolist() == [False, False, True]
    # Two restarts of two targets, side by side on three images.
    assert sum(len(seen) for seen in aim.SEEN) == 3 + 2 * 2 * 3
    assert runner.most_gradients(runner.stages[0], 4) == 0


def progress_of(stages, batch_size, **arguments):
    images, labels = data(40)
    runner = make(stages, batch_size=batch_size, **arguments)
    progress = runner.start(images, labels)
    runner.run(images, progress)
    return progress


@pytest.mark.parametrize("norm", NORMS)
def test_passes_side_by_side_give_the_ledger_of_sequential_ones(norm):
    """Ledger, curves and gradients, but for the rounding of larger batches."""
    weak = pgd.build(num_steps=2, step_size=0.02)
    stages = [Stage("weak", weak, 5), Stage("pgd", pgd.build(num_steps=4), 3)]
    epsilon = {"linf": 0.06, "l2": 0.1}[norm]
    asked = {"norm": norm, "epsilon": epsilon, "chunk_steps": 1}
    one, together = (progress_of(stages, size, **asked) for size in (40, 400))
    restarts = set(one.ledger.broken_by_restart.tolist())
    assert {-1, 0, 1} <= restarts, "later passes broke nothing"
    for name, values in one.ledger.arrays().items():
        tolerance = 1e-5 if values.dtype.kind == "f" else 0
        np.testing.assert_allclose(
            together.ledger.arrays()[name],
            values,
            rtol=tolerance,
            atol=tolerance,
            err_msg=name,
        )
    for some, others in zip(together.stages, one.stages, strict=True):
        assert some.curve == others.curve
        assert some.gradient_evaluations == others.gradient_evaluations
        assert some.num_attacked == others.num_attacked


def test_passes_run_together_as_far_as_they_fit_a_batch(aim):
    labels = np.zeros(3, np.int32)
    runner = make([targeted_stage(3, 2)], channels, epsilon=0.0, batch_size=14)
    run(runner, PIXELS, labels)
    # Six passes over three images, at most four at once.
    assert [len(seen) for seen in aim.SEEN] == [12, 6]


def test_there_are_no_more_targets_than_other_classes(aim):
    """Protocols of ten classes run on four: each other class is one target."""
    runner = make([targeted_stage(9)], channels)
    ledger = run(runner, PIXELS, np.zeros(3, np.int32))
    assert len(aim.SEEN) <= 3
    assert ledger.broken_by_target.max() < 3
    assert base.num_targets(targeted_stage(9).attack, 4) == 3
    assert base.num_targets(targeted_stage(0).attack, 4) == 3
    assert base.num_targets(targeted_stage(2).attack, 4) == 2
    assert base.num_targets(targeted_stage(9).attack, 2) == 1


def resumable_runner(module):
    """Noise, targets, restarts and batches: everything that is seeded."""
    weak = pgd.build(num_steps=2, step_size=0.01)
    stages = [Stage("aim", module.build(2)), Stage("pgd", weak, 2)]

    def model(images, seed):
        logits = channels(images)
        return 4.0 * logits + 0.3 * seeds.noise(seed, tf.shape(logits))

    return make(
        stages, model, epsilon=0.15, batch_size=4, num_judge_samples=3, seed=5
    )


class Stop(Exception):
    """Raised where a user would press a key."""


def test_a_run_stopped_after_any_batch_ends_bit_for_bit_the_same(aim, compiled):
    rng = np.random.default_rng(9)
    images = rng.random((9, 1, 1, 4), np.float32)
    images[:, :, :, 0] = 0.85 + 0.15 * images[:, :, :, 0]
    labels = np.zeros(9, np.int32)
    labels[5] = 1  # Not attacked.
    calls = []
    runner = resumable_runner(aim)  # Copies share what is compiled alone.
    progress = runner.start(images, labels)
    undisturbed = runner.run(images, progress, calls.append)
    assert {0, 1} <= set(undisturbed.broken_by_stage)
    assert {0, 1} <= set(undisturbed.broken_by_target)
    assert undisturbed.is_robust.any() and len(calls) > 6
    saved = [runner.start(images, labels)]

    def stop(progress):
        saved.append(copy.deepcopy(progress))
        raise Stop

    # Stopped after every single batch, each by a runner of its own.
    for _ in calls:
        with pytest.raises(Stop):
            copy.copy(runner).run(images, copy.deepcopy(saved[-1]), stop)
    # And from each of these places to the end.
    for done, resumed in enumerate(saved):
        later = []
        ledger = copy.copy(runner).run(images, resumed, later.append)
        assert done + len(later) == len(calls)
        check_same_ledger(ledger, undisturbed)
        for one, other in zip(resumed.stages, progress.stages, strict=True):
            assert one.num_attacked == other.num_attacked
            assert one.gradient_evaluations == other.gradient_evaluations
            assert one.curve == other.curve


def test_a_finished_run_has_nothing_left_to_do():
    images, labels = data()
    runner = make([fgs.build()])
    progress = runner.start(images, labels)
    before = copy.deepcopy(runner.run(images, progress))
    calls = []
    after = make([fgs.build()]).run(images, progress, calls.append)
    check_same_ledger(after, before)
    assert not calls


def test_a_runner_at_another_radius_shares_what_is_compiled(compiled):
    images, labels = data()
    stage = Stage("pgd", pgd.build(num_steps=5, step_size=0.05), 2)
    runner = make([stage], epsilon=0.02, batch_size=8)
    accuracies = [
        run(runner.with_epsilon(epsilon), images, labels).robust_accuracy
        for epsilon in (0.0, 0.05, 0.2, 1.0)
    ]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] == 1.0 and accuracies[-1] == 0.0
    assert runner.threat_model.epsilon == 0.02
    (engine,) = runner._engines
    assert set(engine.num_traces().values()) == {1}


def test_a_stage_is_built_from_its_section():
    stage = Stage.build(
        {"num_restarts": 3, "attack": {"name": "pgd", "num_steps": 7}}
    )
    assert (stage.name, stage.num_restarts) == ("pgd", 3)
    assert stage.attack.num_steps == 7
    assert stage.config == {"name": "pgd", "num_steps": 7}
    assert Stage.build({"name": "x", "attack": {"name": "fgs"}}).name == "x"


# The front door: attacks.run.


def plain_model(images):
    return linear(images)


def test_three_lines_attack_a_keras_model(compiled):
    images, labels = data()
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    model(images[:1])
    model.layers[-1].set_weights([KERNEL, -0.5 * KERNEL.sum(axis=0)])
    ledger = attacks.run(model, images, labels, "pgd", epsilon=0.1)
    assert 0 < ledger.robust_accuracy < ledger.clean_accuracy == 1.0
    adversarial = model(ledger.adversarial_images).numpy().argmax(axis=1)
    np.testing.assert_array_equal(adversarial == labels, ledger.is_robust)


def test_three_lines_attack_a_function():
    images, labels = data()
    ledger = attacks.run(plain_model, images, labels, "fgs", epsilon=0.1)
    again = attacks.run(plain_model, images, labels, "fgs", epsilon=0.1)
    assert 0 < ledger.robust_accuracy < 1
    check_same_ledger(ledger, again)
    more = attacks.run(
        plain_model,
        images.tolist(),
        labels.astype(np.int64),
        "pgd",
        norm="l2",
        epsilon=0.3,
        num_restarts=2,
        num_steps=4,
        step_size=0.1,
        batch_size=7,
        seed=3,
    )
    away = (more.adversarial_images - images).reshape(24, -1)
    assert (np.linalg.norm(away, axis=1) <= 0.3 + 1e-6).all()
    assert (more.gradient_evaluations[more.is_robust] == 8).all()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"images": lambda x: x * 2 - 1}, ["outside of [0, 1]", "-0."]),
        ({"images": lambda x: x * np.nan}, ["outside of [0, 1]", "nan"]),
        (
            {"images": lambda x: (255 * x).astype(np.uint8)},
            ["not floating point", "uint8", "/ 255"],
        ),
        ({"images": lambda x: x[..., 0]}, ["axes", "[..., None]"]),
        ({"images": lambda x: x[:0], "labels": lambda y: y[:0]}, ["0 images"]),
        ({"labels": lambda y: np.eye(3)[y]}, ["one-hot", "argmax"]),
        ({"labels": lambda y: y + 1}, ["out of range", "from 0 to 2"]),
        ({"labels": lambda y: y - 1}, ["out of range", "from -1"]),
        ({"labels": lambda y: y[:-1]}, ["(23,)", "(24,)"]),
        ({"labels": lambda y: y / 1}, ["float64", "integer"]),
        ({"epsilon": -0.1}, ["-0.1", "0 or more"]),
        ({"epsilon": float("inf")}, ["inf", "finite"]),
        ({"epsilon": "8/255"}, ["8/255", "finite number"]),
        ({"epsilon": 8}, ["in pixel units of [0, 1]", "0.0313725"]),
        ({"norm": "Linf"}, ["Linf", 'Did you mean "linf"?']),
        ({"norm": "l1"}, ["l1", "l2, linf"]),
        ({"attack": "pgdd"}, ["pgdd", 'Did you mean "pgd"?', "fgs"]),
        ({"attack": "no.such.module"}, ["no.such.module", "PYTHONPATH"]),
        ({"num_step": 3}, ["num_step", 'Did you mean "num_steps"?']),
        ({"loss": "crossentropy"}, ['Did you mean "cross_entropy"?']),
        ({"num_restarts": 0}, ["num_restarts", "1 or more"]),
        ({"batch_size": 0}, ["batch_size", "1 or more"]),
    ],
    ids=lambda value: "-".join(value),
)
def test_inputs_that_cannot_be_used_are_user_errors(change, words):
    images, labels = data()
    arguments = {
        "images": images,
        "labels": labels,
        "attack": "pgd",
        "epsilon": 0.1,
    }
    for name, value in change.items():
        is_change = callable(value)
        arguments[name] = value(arguments[name]) if is_change else value
    with pytest.raises(UserError) as error:
        attacks.run(plain_model, **arguments)
    text = str(error.value)
    assert "\n" not in text
    for word in ("Received: ", "Expected: ", "Fix: ", *words):
        assert word in text


def test_a_model_without_gradient_is_a_user_error():
    images, labels = data()
    with pytest.raises(UserError, match="no gradient"):
        attacks.run(
            lambda x: plain_model(tf.round(x)), images, labels, epsilon=0.1
        )


def test_counts_of_a_runner_are_checked():
    for name in ("batch_size", "num_judge_samples", "chunk_steps"):
        with pytest.raises(UserError, match=f"{name} is not a count"):
            make([fgs.build()], **{name: 0})


def test_an_unconfirmed_claim_is_no_break(monkeypatch):
    """All draws of the attack say wrong, all draws of the judge say right."""
    images, _ = data(4)
    is_judging = []
    judged = judging.Judge._judge

    def judge(self, *arguments):
        is_judging.append(1)
        judgement = judged(self, *arguments)
        is_judging.pop()
        return judgement

    def model(images, seed):
        wrong = int(not is_judging)
        return 10.0 * tf.one_hot(tf.fill([images.shape[0]], wrong), 2)

    monkeypatch.setattr(judging.Judge, "_judge", judge)
    runner = make([Noise(3, 1.0, "margin", False, 1)], model)
    ledger = run(runner, images, np.zeros(4, np.int32))
    assert ledger.robust_accuracy == 1.0
    assert (ledger.margin == 10).all() and (ledger.wrong_share == 0).all()
    assert (ledger.adversarial_prediction == 0).all()
    assert (ledger.broken_at_step == -1).all()


def test_the_largest_share_of_all_runs_is_kept(monkeypatch):
    """Until the last judgement, which is on the final images."""
    images, _ = data(4)
    shares = {"first": 0.2, "second": 0.4, "third": 0.3}
    judged = engine_lib._Run._judge

    def judge(self, *arguments):
        judgement = judged(self, *arguments)
        share = shares[self.engine.attack.name]
        return judgement._replace(
            wrong_share=np.full_like(judgement.wrong_share, share)
        )

    def model(images, seed):
        del seed
        # Right at the clean images, wrong wherever an attack has moved them.
        moved = tf.reduce_max(images, axis=[1, 2, 3]) > 1e-4
        return 10.0 * tf.one_hot(tf.cast(moved, tf.int32), 2)

    monkeypatch.setattr(engine_lib._Run, "_judge", judge)
    stages = []
    for name in shares:
        attack = Noise(3, 1.0, "margin", False, 1)
        attack.name = name
        stages.append(Stage(name, attack))
    seen = []
    ledger = run(
        make(stages, model),
        0.0 * images,
        np.zeros(4, np.int32),
        lambda progress: seen.append(progress.ledger.wrong_share.copy()),
    )
    assert ledger.clean_accuracy == ledger.robust_accuracy == 1.0
    # The first is the clean batch.
    for shares, expected in zip(seen, (0.0, 0.2, 0.4, 0.4), strict=True):
        np.testing.assert_allclose(shares, expected, rtol=1e-6)


def test_a_new_ledger_is_empty():
    images, labels = data(5)
    progress = make([fgs.build()]).start(images, labels)
    ledger = progress.ledger
    assert (ledger.clean_prediction == -1).all()
    assert not ledger.is_robust.any()
    assert progress.position == runner_lib.Position()
    np.testing.assert_array_equal(ledger.adversarial_images, images)
    ledger.adversarial_images[:] = 0  # A copy: the images stay.
    assert images.any()
