"""What every part of `ib_keras.attacks` promises, tested for all that exist.

A new attack is tested by being there. One that needs arguments, or would be
slow with its own, gets a line in `ARGUMENTS`.
"""

import copy
import dataclasses
import functools
import importlib
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import plugins
from ib_keras import seeds
from ib_keras.attacks import base
from ib_keras.attacks import runner
from ib_keras.types import NORMS
from ib_keras.types import ThreatModel

# Part -> constructor arguments of each case; without a line: the defaults.
ARGUMENTS = {
    "pgd": (
        {"num_steps": 6, "step_size": 0.05},
        {"num_steps": 3, "step_size": 0.05, "num_eot": 3, "loss": "margin"},
    ),
    "cleverhans": (
        {"method": "fgm"},
        {"method": "pgd", "nb_iter": 4, "eps_iter": 0.05, "rand_init": True},
        {"method": "mim", "nb_iter": 4, "eps_iter": 0.05},
        {"method": "spsa", "nb_iter": 6, "spsa_samples": 8},
        {
            "method": "carlini_wagner_l2",
            "max_iterations": 8,
            "binary_search_steps": 2,
            "learning_rate": 0.2,
            "initial_const": 10.0,
        },
    ),
}
# Cases that know one norm alone.
ONE_NORM = {"spsa": "linf"}

SHAPE = (3, 4, 2)
NUM_CLASSES = 5
NUM_EXAMPLES = 12
# Breaks some of the examples, all but surely not all.
EPSILON = {"linf": 0.08, "l2": 0.3}
# Breaks what can be broken.
LARGE_EPSILON = {"linf": 0.5, "l2": 2.0}
SEED = seeds.from_int(17)


@dataclasses.dataclass(frozen=True)
class Case:
    """One attack, as a config section would ask for it."""

    name: str
    arguments: tuple[tuple[str, Any], ...] = ()

    @property
    def id(self):
        values = [str(value) for _, value in self.arguments]
        return "-".join([self.name, *values[:1]])

    def build(self, norm):
        known = ONE_NORM.get(dict(self.arguments).get("method"), norm)
        if norm != known:
            pytest.skip(f"{self.id} knows {known} alone")
        section = {"name": self.name, **dict(self.arguments)}
        return plugins.build("attacks", section)


def cases_of(name):
    return [
        Case(name, tuple(arguments.items()))
        for arguments in ARGUMENTS.get(name, ({},))
    ]


CASES = [case for name in plugins.names("attacks") for case in cases_of(name)]
CONTRACT = []


def contract(function):
    """Runs a test for all attacks and norms, and lists it as a promise."""
    CONTRACT.append(function)
    mark = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
    return pytest.mark.parametrize("norm", NORMS)(mark(function))


class Model:
    """A smooth classifier, whose faults are switched on without a new trace.

    `noise` is the deviation of its hidden units; then the logits are those of
    the mean of probabilities. With `slope` 0 all gradients are. With `has_nan`
    the first image has finite logits at its own place alone.
    """

    def __init__(self, first_image):
        rng = np.random.default_rng(0)
        size = int(np.prod(SHAPE))
        self.hidden = tf.constant(rng.normal(size=[size, 16]) / 2, tf.float32)
        self.out = tf.constant(rng.normal(size=[16, NUM_CLASSES]), tf.float32)
        self.home = float(first_image.sum())
        self.noise = tf.Variable(0.0, trainable=False)
        self.slope = tf.Variable(1.0, trainable=False)
        self.has_nan = tf.Variable(False, trainable=False)

    def __call__(self, images, seed):
        flat = tf.reshape(images, [-1, int(np.prod(SHAPE))])
        hidden = (flat - 0.5) @ self.hidden
        noise = seeds.noise(seed, tf.concat([[3], tf.shape(hidden)], 0))
        hidden = tf.tanh(hidden + self.noise * noise)
        logits = tf.nn.log_softmax(3 * hidden @ self.out)
        logits = tf.reduce_logsumexp(logits, axis=0) - np.log(3.0)
        logits = self.slope * logits - (1 - self.slope) * tf.one_hot(
            tf.argmin(logits, axis=1), NUM_CLASSES
        )
        # Only the first image's first pixel is above 0.6, at any epsilon of
        # the test that switches this on.
        is_first = flat[:, 0] > 0.6
        is_away = tf.abs(tf.reduce_sum(flat, axis=1) - self.home) > 1e-4
        bad = self.has_nan & is_first & is_away
        return tf.where(bad[:, None], float("nan"), logits)


def make_data():
    rng = np.random.default_rng(1)
    images = rng.random((NUM_EXAMPLES, *SHAPE), np.float32)
    # Pixels on the edges of the box.
    images[:, 1] = images[:, 1].round()
    images[:, 0, 0, 0] *= 0.4
    images[0, 0, 0, 0] = 1
    model = Model(images[0])
    logits = model(tf.constant(images), SEED)
    labels = tf.argmax(logits, axis=1, output_type=tf.int32).numpy()
    assert len(np.unique(labels)) > 2
    return images, labels, model


IMAGES, LABELS, MODEL = make_data()


@pytest.fixture(autouse=True)
def _model_without_faults():
    yield
    MODEL.noise.assign(0)
    MODEL.slope.assign(1)
    MODEL.has_nan.assign(False)


def distance(norm, images, clean):
    flat = (np.float64(images) - np.float64(clean)).reshape(len(clean), -1)
    return np.linalg.norm(flat, np.inf if norm == "linf" else 2, axis=1)


def check_admissible(norm, images, clean, epsilon):
    images = np.asarray(images)
    assert images.dtype == np.float32 and images.shape == clean.shape
    assert images.min() >= -1e-6 and images.max() <= 1 + 1e-6
    assert (distance(norm, images, clean) <= epsilon + 1e-6).all()


def begin(attack, norm, epsilon=None, rows=range(NUM_EXAMPLES), seed=SEED):
    """`init` on some rows of the data, with seeds that belong to the rows."""
    rows = np.asarray(rows)
    more = {}
    if attack.num_targets is not None:
        targets = (LABELS[rows] + 1) % NUM_CLASSES
        more["targets"] = tf.constant(targets, tf.int32)
    return attack.init(
        MODEL,
        tf.constant(IMAGES[rows]),
        tf.constant(LABELS[rows]),
        ThreatModel(norm, EPSILON[norm] if epsilon is None else epsilon),
        seeds.fold(seed, tf.constant(rows, tf.int32)),
        **more,
    )


def advance(attack, state, first=0, last=3):
    for iteration in range(first, min(last, attack.num_steps)):
        state = attack.step(MODEL, state, tf.constant(iteration))
    return state


def check_equal(states, atol):
    """Compares two nests of tensors, non-finite numbers included."""
    first, second = (tf.nest.flatten(state) for state in states)
    for one, other in zip(first, second, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(
            np.asarray(one), np.asarray(other), rtol=1e-5, atol=atol
        )


@functools.cache
def make_runner(case, norm, batch_size=16):
    """Three restarts of the attack on the switchable model."""
    stage = runner.Stage(case.id, case.build(norm), num_restarts=3)
    return runner.Runner(
        MODEL,
        [stage],
        ThreatModel(norm, EPSILON[norm]),
        batch_size=batch_size,
        seed=3,
        num_judge_samples=3,
    )


def run(attack_runner, epsilon=None, num_restarts=1):
    """A fresh run; runners that differ in this alone share what is compiled."""
    if epsilon is not None:
        attack_runner = attack_runner.with_epsilon(epsilon)
    attack_runner = copy.copy(attack_runner)
    attack_runner.stages = [
        dataclasses.replace(stage, num_restarts=num_restarts)
        for stage in attack_runner.stages
    ]
    return attack_runner.run(IMAGES, attack_runner.start(IMAGES, LABELS))


@contract
def test_it_fulfils_the_protocol(case, norm):
    attack = case.build(norm)
    assert isinstance(attack, base.Attack)
    assert attack.num_steps >= 1
    assert attack.num_targets is None or attack.num_targets >= 0


@contract
def test_proposals_are_in_the_ball_and_in_the_box(case, norm):
    attack = case.build(norm)
    for epsilon in (EPSILON[norm], LARGE_EPSILON[norm]):
        state = begin(attack, norm, epsilon)
        check_admissible(norm, state.images, IMAGES, epsilon)
        for step in range(min(attack.num_steps, 3)):
            state = advance(attack, state, step, step + 1)
            check_admissible(norm, state.images, IMAGES, epsilon)
            evaluated = state.evaluated.images
            check_admissible(norm, evaluated, IMAGES, epsilon)
    assert (distance(norm, state.images, IMAGES) > 1e-3).any()


@contract
def test_a_ball_of_radius_zero_leaves_the_clean_image(case, norm):
    attack = case.build(norm)
    state = advance(attack, begin(attack, norm, epsilon=0.0))
    np.testing.assert_allclose(state.images, IMAGES, rtol=0, atol=1e-7)
    ledger = run(make_runner(case, norm), epsilon=0.0)
    assert ledger.robust_accuracy == 1.0
    np.testing.assert_allclose(
        ledger.adversarial_images, IMAGES, rtol=0, atol=1e-7
    )


@contract
def test_every_tensor_of_the_state_begins_with_the_batch(case, norm):
    attack = case.build(norm)
    state = begin(attack, norm)
    for tensors in (state, advance(attack, state)):
        assert isinstance(tensors, tuple) and hasattr(tensors, "_fields")
        assert isinstance(tensors.evaluated, base.Evaluation)
        for tensor in tf.nest.flatten(tensors):
            assert tensor.shape[:1] == [NUM_EXAMPLES]


@contract
def test_a_state_keeps_its_shapes_and_types(case, norm):
    """Or it could not be carried through a compiled loop."""
    attack = case.build(norm)
    state = begin(attack, norm)
    after = advance(attack, state)
    tf.nest.assert_same_structure(state, after)
    for one, other in zip(
        tf.nest.flatten(state), tf.nest.flatten(after), strict=True
    ):
        assert one.shape == other.shape and one.dtype == other.dtype


@contract
def test_examples_that_leave_do_not_change_those_that_stay(case, norm):
    """Compaction in mid-run, by `tf.gather` on whatever the state holds."""
    attack = case.build(norm)
    if attack.runs_eagerly:
        pytest.skip("foreign code draws for whole batches, in one step")
    keep = np.arange(1, NUM_EXAMPLES, 2)
    state = begin(attack, norm)
    middle = min(2, attack.num_steps - 1)
    state = advance(attack, state, 0, middle)
    rest = tf.nest.map_structure(lambda t: tf.gather(t, keep), state)
    whole = advance(attack, state, middle, middle + 2)
    rest = advance(attack, rest, middle, middle + 2)
    kept = tf.nest.map_structure(lambda t: tf.gather(t, keep), whole)
    check_equal([rest, kept], atol=2e-6)


@contract
def test_the_seed_decides(case, norm):
    attack = case.build(norm)
    start = begin(attack, norm)
    check_equal([begin(attack, norm), start], atol=0)
    check_equal([advance(attack, start), advance(attack, start)], atol=0)
    other = begin(attack, norm, seed=seeds.from_int(18))
    if np.array_equal(start.images, IMAGES):
        return  # It starts at the image; nothing of the start is random.
    moved = distance(norm, other.images, np.asarray(start.images))
    assert (moved > 1e-3).all()


@contract
def test_a_start_belongs_to_its_example(case, norm):
    attack = case.build(norm)
    rows = [7, 2, 11]
    whole = begin(attack, norm).images.numpy()
    some = begin(attack, norm, rows=rows).images.numpy()
    # Bit for bit in linf; in l2 a sum of squares may be rounded otherwise.
    tolerance = 0 if norm == "linf" else 1e-7
    np.testing.assert_allclose(some, whole[rows], rtol=0, atol=tolerance)


def compiled(attack, norm, jit_compile):
    @tf.function(jit_compile=jit_compile)
    def whole():
        return advance(attack, begin(attack, norm))

    return whole()


@contract
def test_compiled_and_eager_steps_agree(case, norm):
    attack = case.build(norm)
    if attack.runs_eagerly:
        pytest.skip("cannot be compiled, and says so")
    eager = advance(attack, begin(attack, norm))
    check_equal([compiled(attack, norm, None), eager], atol=2e-6)


@contract
def test_xla_agrees(case, norm):
    attack = case.build(norm)
    if attack.runs_eagerly or not attack.gradients_per_step or norm == "l2":
        pytest.skip("one norm of each gradient attack: XLA is slow to start")
    eager = advance(attack, begin(attack, norm))
    check_equal([compiled(attack, norm, True), eager], atol=1e-5)


@contract
def test_it_takes_as_many_gradients_as_it_says(case, norm):
    attack = case.build(norm)
    if attack.runs_eagerly:
        pytest.skip("foreign code compiles its own gradients")
    taken = []

    @tf.custom_gradient
    def watched(logits):
        def count(upstream):
            taken.append(1)
            return upstream

        return tf.identity(logits), count

    class Watched:
        def __call__(self, images, seed):
            return watched(MODEL(images, seed))

    state = begin(attack, norm)
    at_init = len(taken)
    for step in range(min(attack.num_steps, 2)):
        before = len(taken)
        state = attack.step(Watched(), state, tf.constant(step))
        assert len(taken) - before == attack.gradients_per_step
    assert at_init == 0  # `begin` is of the unwatched model.
    more = {}
    if attack.num_targets is not None:
        more["targets"] = tf.constant((LABELS + 1) % NUM_CLASSES)
    taken.clear()
    attack.init(
        Watched(),
        tf.constant(IMAGES),
        tf.constant(LABELS),
        ThreatModel(norm, EPSILON[norm]),
        seeds.fold(SEED, tf.range(NUM_EXAMPLES)),
        **more,
    )
    assert len(taken) == attack.gradients_at_init


@contract
def test_it_breaks_what_is_easy_to_break(case, norm):
    """And what is booked is wrong, and is in the ball and the box."""
    epsilon = LARGE_EPSILON[norm]
    ledger = run(make_runner(case, norm), epsilon=epsilon)
    assert ledger.clean_accuracy == 1.0
    assert ledger.robust_accuracy <= 0.5
    images = ledger.adversarial_images
    check_admissible(norm, images, IMAGES, epsilon)
    predictions = np.argmax(MODEL(tf.constant(images), SEED), axis=1)
    fallen = ~ledger.is_robust
    assert (predictions[fallen] != LABELS[fallen]).all()
    np.testing.assert_array_equal(
        ledger.adversarial_prediction[fallen], predictions[fallen]
    )
    assert (ledger.broken_by_stage[fallen] == 0).all()
    assert (ledger.broken_at_step[fallen] >= 0).all()


@contract
def test_two_radii_share_one_trace(case, norm):
    attack_runner = make_runner(case, norm)
    for epsilon in (EPSILON[norm], LARGE_EPSILON[norm], 0.0):
        run(attack_runner, epsilon)
    (engine,) = attack_runner._engines
    traces = engine.num_traces()
    assert all(count == 1 for count in traces.values())
    assert bool(traces) != attack_runner.stages[0].attack.runs_eagerly


@contract
def test_more_restarts_never_unbreak(case, norm):
    attack_runner = make_runner(case, norm)
    one, three = (run(attack_runner, num_restarts=n) for n in (1, 3))
    fallen = ~one.is_robust
    assert not three.is_robust[fallen].any()
    # Those that fell to the first of three are those that fell to the one.
    np.testing.assert_array_equal(three.broken_by_restart == 0, fallen)
    np.testing.assert_array_equal(
        three.adversarial_images[fallen], one.adversarial_images[fallen]
    )


@contract
def test_it_works_on_a_stochastic_model(case, norm):
    MODEL.noise.assign(0.3)
    epsilon = LARGE_EPSILON[norm]
    ledger = run(make_runner(case, norm), epsilon)
    assert ledger.clean_accuracy > 0.5
    assert ledger.robust_accuracy < ledger.clean_accuracy
    assert not ledger.num_nonfinite.any()
    check_admissible(norm, ledger.adversarial_images, IMAGES, epsilon)
    again = run(make_runner(case, norm), epsilon)
    for name, values in ledger.arrays().items():
        np.testing.assert_array_equal(values, again.arrays()[name], name)


@contract
def test_batch_size_changes_nothing_but_rounding(case, norm):
    attack_runner = make_runner(case, norm)
    if attack_runner.stages[0].attack.runs_eagerly:
        pytest.skip("foreign code draws for whole batches")
    whole, small = run(attack_runner), run(make_runner(case, norm, 5))
    np.testing.assert_array_equal(small.is_robust, whole.is_robust)
    np.testing.assert_array_equal(small.broken_at_step, whole.broken_at_step)
    np.testing.assert_allclose(
        small.adversarial_images, whole.adversarial_images, rtol=0, atol=1e-5
    )


@contract
def test_nan_breaks_nothing_and_stays_with_its_example(case, norm):
    attack_runner = make_runner(case, norm)
    healthy = run(attack_runner)
    MODEL.has_nan.assign(True)
    ledger = run(attack_runner)
    assert ledger.clean_accuracy == 1.0
    assert ledger.is_robust[0] and ledger.broken_by_stage[0] == -1
    assert ledger.num_nonfinite[0] > 0
    assert not ledger.num_nonfinite[1:].any()
    check_admissible(norm, ledger.adversarial_images, IMAGES, EPSILON[norm])
    if attack_runner.stages[0].attack.runs_eagerly:
        return  # Foreign code may mix the examples of a batch.
    np.testing.assert_array_equal(ledger.is_robust[1:], healthy.is_robust[1:])
    np.testing.assert_allclose(
        ledger.adversarial_images[1:],
        healthy.adversarial_images[1:],
        rtol=0,
        atol=1e-5,
    )


@contract
def test_zero_gradients_are_survived_and_counted(case, norm):
    MODEL.slope.assign(0)
    attack_runner = make_runner(case, norm)
    logits = MODEL(tf.constant(IMAGES), SEED)
    labels = tf.argmax(logits, axis=1, output_type=tf.int32).numpy()
    ledger = attack_runner.run(IMAGES, attack_runner.start(IMAGES, labels))
    check_admissible(norm, ledger.adversarial_images, IMAGES, EPSILON[norm])
    assert not ledger.num_nonfinite.any()
    attack = attack_runner.stages[0].attack
    if attack.runs_eagerly or not attack.gradients_per_step:
        assert not ledger.num_zero_gradients.any()
        return
    stood = ledger.is_robust
    assert stood.any()
    evaluations = ledger.gradient_evaluations[stood]
    assert (0 < ledger.num_zero_gradients[stood]).all()
    assert (ledger.num_zero_gradients[stood] <= evaluations).all()
    assert (ledger.gradient_norm[stood] == 0).all()


def test_the_parts_are_found_by_their_files():
    assert {"pgd", "fgs", "cleverhans"} <= set(plugins.names("attacks"))
    shared = {"base", "engine", "geometry", "losses", "runner"}
    assert not shared & set(plugins.names("attacks"))


DROPPED = '''
"""An attack that somebody has just dropped into the room."""

from typing import NamedTuple

import tensorflow as tf

from ib_keras.attacks import base
from ib_keras.attacks import geometry
from ib_keras.attacks import losses


class State(NamedTuple):
    images: tf.Tensor
    evaluated: base.Evaluation
    ball: geometry.Ball
    labels: tf.Tensor
    seeds: tf.Tensor


class Dropped(base.GradientAttack):
    num_steps = 4

    def init(self, logits_fn, images, labels, threat_model, seeds):
        ball = geometry.ball(images, threat_model)
        start = ball.random_point(seeds)
        return State(start, base.not_evaluated(start), ball, labels, seeds)

    def step(self, logits_fn, state, iteration):
        evaluation, gradient = base.evaluate_gradient(
            logits_fn,
            lambda logits: losses.margin(logits, state.labels),
            state.images,
            state.labels,
            base.model_seed(state.seeds, iteration),
        )
        moved = MOVED
        moved = base.moved_where_finite(evaluation, moved, state.images)
        return state._replace(images=moved, evaluated=evaluation)


def build():
    return Dropped()
'''
SOUND = "state.ball.project(state.images + 0.2 * state.ball.steepest(gradient))"
# Leaves the ball, and lets one example's gradient move another.
CHEAT = "state.images + 0.2 * tf.sign(tf.roll(gradient, 1, 0))"


@pytest.fixture
def drop(monkeypatch, tmp_path):
    """Drops a file into the room; returns the cases of the new part."""
    package = importlib.import_module("ib_keras.attacks")

    def drop(name, move):
        source = DROPPED.replace("MOVED", move)
        (tmp_path / f"{name}.py").write_text(source)
        paths = [*package.__path__, str(tmp_path)]
        monkeypatch.setattr(package, "__path__", paths)
        plugins.names.cache_clear()
        return cases_of(name)

    before = set(sys.modules)
    yield drop
    for name in set(sys.modules) - before:
        if name.startswith("ib_keras.attacks."):
            del sys.modules[name]
            delattr(package, name.rpartition(".")[2])
    plugins.names.cache_clear()


def failures(cases):
    """Names of the promises that a part breaks."""
    broken = set()
    for case in cases:
        for norm in NORMS:
            for promise in CONTRACT:
                try:
                    promise(case, norm)
                except AssertionError:
                    broken.add(promise.__name__)
                except pytest.skip.Exception:
                    pass
                MODEL.noise.assign(0)
                MODEL.slope.assign(1)
                MODEL.has_nan.assign(False)
    return broken


def test_a_file_dropped_into_the_room_is_found_and_passes(drop):
    cases = drop("dropped_into_the_room", SOUND)
    assert "dropped_into_the_room" in plugins.names("attacks")
    assert failures(cases) == set()


def test_the_contract_catches_a_part_that_breaks_it(drop):
    broken = failures(drop("dropped_but_unsound", CHEAT))
    for name in (
        "test_proposals_are_in_the_ball_and_in_the_box",
        "test_a_ball_of_radius_zero_leaves_the_clean_image",
        "test_examples_that_leave_do_not_change_those_that_stay",
    ):
        assert name in broken
