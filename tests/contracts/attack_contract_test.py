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
from ib_keras.attacks import apgd
from ib_keras.attacks import base
from ib_keras.attacks import losses
from ib_keras.attacks import runner
from ib_keras.types import NORMS
from ib_keras.types import ThreatModel
from tests.support import marks

# Part -> (constructor arguments, norms) of each case; without a line: the
# defaults in all norms.
ARGUMENTS = {
    "apgd": (
        ({"num_steps": 10}, NORMS),
        ({"loss": "targeted_dlr", "num_steps": 10, "num_targets": 2}, NORMS),
        ({"num_eot": 2, "num_steps": 4}, ("linf",)),
    ),
    "fab": (({"num_steps": 5, "num_targets": 0}, NORMS),),
    "margin_decomposition": (
        ({"num_steps": 6}, NORMS),
        ({"num_steps": 4, "first_term": "other", "num_eot": 2}, ("linf",)),
    ),
    "multi_targeted": (
        ({"num_steps": 5}, NORMS),
        ({"num_eot": 2, "num_steps": 5}, ("linf",)),
    ),
    "smoothed": (({"num_steps": 5, "num_pairs": 1}, NORMS),),
    "square": (({"num_steps": 12}, NORMS),),
    "uniform_noise": (({"num_steps": 12}, NORMS),),
    "pgd": (
        ({"num_steps": 6, "step_size": 0.05}, NORMS),
        (
            {"num_eot": 3, "num_steps": 3, "step_size": 0.1, "loss": "margin"},
            ("linf",),
        ),
    ),
    "cleverhans": (
        ({"method": "fgm"}, NORMS),
        (
            {
                "method": "pgd",
                "nb_iter": 3,
                "eps_iter": 0.1,
                "rand_init": True,
            },
            NORMS,
        ),
        ({"method": "mim", "nb_iter": 3, "eps_iter": 0.1}, NORMS),
        (
            {
                "method": "spsa",
                "nb_iter": 3,
                "spsa_samples": 16,
                "learning_rate": 0.2,
                "delta": 0.1,
            },
            ("linf",),
        ),
        (
            {
                "method": "carlini_wagner_l2",
                "max_iterations": 6,
                "binary_search_steps": 2,
                "learning_rate": 0.3,
                "initial_const": 10.0,
            },
            ("l2",),
        ),
    ),
}

# Nothing of their start is random.
START_AT_THE_IMAGE = ("cleverhans", "fgs")

SHAPE = (3, 4, 2)
NUM_CLASSES = 5
NUM_EXAMPLES = 16
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
    norm: str = "linf"

    @property
    def id(self):
        values = [str(value) for _, value in self.arguments]
        return "-".join([self.name, *values[:1], self.norm])

    def build(self):
        section = {"name": self.name, **dict(self.arguments)}
        return plugins.build("attacks", section)


def cases_of(name):
    return [
        Case(name, tuple(arguments.items()), norm)
        for arguments, norms in ARGUMENTS.get(name, (({}, NORMS),))
        for norm in norms
    ]


CASES = [case for name in plugins.names("attacks") for case in cases_of(name)]
CONTRACT = []


def parametrize(function, cases):
    CONTRACT.append(function)
    # With this scope all tests of one case run before the next case's:
    # foreign code that draws makes TensorFlow prepare its functions again.
    mark = pytest.mark.parametrize(
        "case", cases, ids=[case.id for case in CASES], scope="module"
    )
    return mark(function)


def contract(function):
    """Runs a test for all attacks and norms, and lists it as a promise."""
    return parametrize(function, CASES)


def is_plain(case):
    arguments = dict(case.arguments)
    is_second = bool({"num_eot", "loss"} & set(arguments))
    is_second |= arguments.get("method") == "mim"
    return case.norm == "linf" and not is_second


def compiled_contract(function, is_quick=is_plain):
    """The same for attacks that compile again in each case: many are slow."""
    quick = {case.id for case in CASES if is_quick(case)}
    cases = marks.others_slow(CASES, quick, name=lambda case: case.id)
    return parametrize(function, cases)


def xla_contract(function):
    """The same for what XLA compiles, which takes seconds."""
    quick = CASES[[case.name for case in CASES].index("pgd")]
    return compiled_contract(function, lambda case: case == quick)


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
        self.home = tf.constant(first_image.reshape(-1))
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
        away = flat - self.home
        bad = tf.reduce_any(tf.abs(away) > 1e-5, axis=1)
        # All other images are further away than any attack comes.
        bad &= tf.norm(away, axis=1) < 1.0
        bad &= self.has_nan
        return tf.where(bad[:, None], float("nan"), logits)


def make_data():
    rng = np.random.default_rng(1)
    images = rng.random((NUM_EXAMPLES, *SHAPE), np.float32)
    # Pixels on the edges of the box.
    images[:, 1] = images[:, 1].round()
    images[0] = images[0].round()
    others = (images[1:] - images[0]).reshape(NUM_EXAMPLES - 1, -1)
    assert np.linalg.norm(others, axis=1).min() > 1.5
    model = Model(images[0])
    logits = model(tf.constant(images), SEED)
    labels = tf.argmax(logits, axis=1, output_type=tf.int32).numpy()
    assert len(np.unique(labels)) > 2
    return images, labels, model


IMAGES, LABELS, MODEL = make_data()


def switch_faults_off():
    MODEL.noise.assign(0)
    MODEL.slope.assign(1)
    MODEL.has_nan.assign(False)


@pytest.fixture(autouse=True)
def _model_without_faults():
    yield
    switch_faults_off()


def distance(norm, images, clean):
    size = int(np.prod(clean.shape[1:]))
    flat = (np.float64(images) - np.float64(clean)).reshape(-1, size)
    return np.linalg.norm(flat, np.inf if norm == "linf" else 2, axis=1)


def check_admissible(norm, images, clean, epsilon):
    images = np.asarray(images)
    assert images.dtype == np.float32 and images.shape == clean.shape
    assert ((images >= -1e-6) & (images <= 1 + 1e-6)).all()
    assert (distance(norm, images, clean) <= epsilon + 1e-6).all()


def begin(case, epsilon=None, rows=None, seed=SEED, model=MODEL):
    """`init` on some rows of the data, with seeds that belong to the rows."""
    attack = attack_of(case)
    rows = np.arange(len(images_of(case))) if rows is None else rows
    more = {}
    if attack.num_targets is not None:
        targets = (LABELS[rows] + 1) % NUM_CLASSES
        more["targets"] = tf.constant(targets, tf.int32)
    if epsilon is None:
        epsilon = EPSILON[case.norm]
    return attack.init(
        model,
        tf.constant(IMAGES[rows]),
        tf.constant(LABELS[rows]),
        ThreatModel(case.norm, epsilon),
        seeds.fold(seed, tf.constant(rows, tf.int32)),
        **more,
    )


def advance(case, state, first=0, last=3, model=MODEL):
    attack = attack_of(case)
    for iteration in range(first, min(last, attack.num_steps)):
        state = attack.step(model, state, tf.constant(iteration))
    return state


@functools.cache
def attack_of(case):
    return case.build()


def images_of(case):
    """The examples of a case: some foreign code goes image by image."""
    return IMAGES[: 6 if attack_of(case).runs_eagerly else NUM_EXAMPLES]


@functools.cache
def trajectory(case):
    """The state after `init` and after each of the first steps, eagerly."""
    states = [begin(case)]
    for step in range(min(attack_of(case).num_steps, 3)):
        states.append(advance(case, states[-1], step, step + 1))
    return states


def check_equal(states, atol):
    """Compares two nests of tensors, non-finite numbers included."""
    first, second = (tf.nest.flatten(state) for state in states)
    for one, other in zip(first, second, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(
            np.asarray(one), np.asarray(other), rtol=1e-5, atol=atol
        )


def take(state, rows):
    return tf.nest.map_structure(lambda t: tf.gather(t, rows), state)


@functools.cache
def runner_of(case):
    """Runs the attack on the switchable model."""
    return runner.Runner(
        MODEL,
        [runner.Stage(case.id, case.build())],
        ThreatModel(case.norm, EPSILON[case.norm]),
        batch_size=8,
        seed=3,
    )


def run(case, epsilon=None, num_restarts=1, batch_size=None, labels=LABELS):
    """A fresh run; runs that differ in these share what is compiled."""
    attack_runner = copy.copy(runner_of(case))
    if epsilon is not None:
        attack_runner = attack_runner.with_epsilon(epsilon)
    if batch_size is not None:
        attack_runner.batch_size = batch_size
    attack_runner.stages = [
        dataclasses.replace(stage, num_restarts=num_restarts)
        for stage in attack_runner.stages
    ]
    images = images_of(case)
    labels = labels[: len(images)]
    return attack_runner.run(images, attack_runner.start(images, labels))


@functools.cache
def healthy_run(case):
    return run(case)


@contract
def test_it_fulfils_the_protocol(case):
    attack = attack_of(case)
    assert isinstance(attack, base.Attack)
    assert attack.num_steps >= 1
    assert attack.num_targets is None or attack.num_targets >= 0


@contract
def test_what_it_claims_is_in_the_ball_and_in_the_box(case):
    """Images that may be recorded; a search may leave the ball."""
    far = begin(case, LARGE_EPSILON[case.norm])
    clean = images_of(case)
    for states, radius in (
        (trajectory(case), EPSILON[case.norm]),
        ([far, advance(case, far)], LARGE_EPSILON[case.norm]),
    ):
        for state in states:
            claims = state.evaluated.margin.numpy() > -np.inf
            images = state.evaluated.images.numpy()
            check_admissible(case.norm, images[claims], clean[claims], radius)
            assert not state.evaluated.is_wrong.numpy()[~claims].any()
            check_admissible("linf", state.images, clean, 1.0)
        moved = distance(case.norm, state.images, clean)
        assert moved.max() > 1e-3


@compiled_contract
def test_what_is_recorded_is_in_the_ball_and_in_the_box(case):
    ledger = healthy_run(case)
    images = ledger.adversarial_images
    check_admissible(case.norm, images, images_of(case), EPSILON[case.norm])
    assert ledger.clean_accuracy == 1.0
    # Robust examples keep the nearest miss, and its margin.
    robust = ledger.is_robust & (ledger.margin > -np.inf)
    margin = losses.margin(MODEL(tf.constant(images), SEED), ledger.label)
    np.testing.assert_allclose(
        ledger.margin[robust], margin.numpy()[robust], rtol=0, atol=1e-4
    )


@contract
def test_a_ball_of_radius_zero_leaves_the_clean_image(case):
    start, clean = begin(case, epsilon=0.0), images_of(case)
    np.testing.assert_allclose(start.images, clean, rtol=0, atol=1e-7)
    evaluated = advance(case, start, 0, 2).evaluated
    assert not evaluated.is_wrong.numpy().any()
    claims = evaluated.margin.numpy() > -np.inf
    np.testing.assert_allclose(
        evaluated.images.numpy()[claims], clean[claims], rtol=0, atol=1e-7
    )


@compiled_contract
def test_a_run_in_a_ball_of_radius_zero_breaks_nothing(case):
    ledger = run(case, epsilon=0.0)
    assert ledger.robust_accuracy == 1.0
    images = ledger.adversarial_images
    np.testing.assert_allclose(images, images_of(case), rtol=0, atol=1e-7)


@contract
def test_every_tensor_of_the_state_begins_with_the_batch(case):
    for state in trajectory(case):
        assert isinstance(state, tuple) and hasattr(state, "_fields")
        assert isinstance(state.evaluated, base.Evaluation)
        for tensor in tf.nest.flatten(state):
            assert tensor.shape[:1] == [len(images_of(case))]


@contract
def test_a_state_keeps_its_shapes_and_types(case):
    """Or it could not be carried through a compiled loop."""
    before, after = trajectory(case)[0], trajectory(case)[-1]
    tf.nest.assert_same_structure(before, after)
    for one, other in zip(
        tf.nest.flatten(before), tf.nest.flatten(after), strict=True
    ):
        assert one.shape == other.shape and one.dtype == other.dtype


@contract
def test_examples_that_leave_do_not_change_those_that_stay(case):
    """Compaction in mid-run, by `tf.gather` on whatever the state holds."""
    if attack_of(case).runs_eagerly:
        pytest.skip("foreign code draws for whole batches, in one step")
    states = trajectory(case)
    keep = np.arange(1, NUM_EXAMPLES, 2)
    middle = len(states) // 2 if len(states) > 2 else 0
    rest = advance(case, take(states[middle], keep), middle)
    check_equal([rest, take(states[-1], keep)], atol=2e-6)


@contract
def test_the_seed_decides(case):
    first, *_, last = trajectory(case)
    check_equal([begin(case), first], atol=0)
    check_equal([advance(case, first), last], atol=0)
    starts_at_image = np.array_equal(first.images, images_of(case))
    assert starts_at_image == (case.name in START_AT_THE_IMAGE)
    if starts_at_image:
        return
    other = begin(case, seed=seeds.from_int(18)).images
    assert (distance(case.norm, other, first.images) > 1e-3).all()


@contract
def test_every_step_has_its_own_noise(case):
    """In AutoPGD every interval, on whose draw losses are compared."""
    attack = attack_of(case)
    if attack.runs_eagerly:
        pytest.skip("foreign code is given one seed")
    seen = []

    def model(images, seed):
        seen.append(tuple(np.array(seed)))
        return MODEL(images, seed)

    ends = range(1, attack.num_steps + 1)
    if case.name == "apgd":
        ends = apgd.checkpoints(attack.num_steps)
    intervals = {}
    state = begin(case)
    for step in range(min(attack.num_steps, 4)):
        seen.clear()
        state = advance(case, state, step, step + 1, model)
        assert len(set(seen)) == getattr(attack, "num_eot", 1)
        interval = sum(end <= step for end in ends)
        assert intervals.setdefault(interval, set(seen)) == set(seen)
    drawn = [seed for found in intervals.values() for seed in found]
    assert len(intervals) > 1 or attack.num_steps == 1
    assert len(set(drawn)) == len(drawn)


@contract
def test_a_start_belongs_to_its_example(case):
    rows = np.array([5, 2, 3])
    some = begin(case, rows=rows).images
    # Bit for bit in linf; in l2 a sum of squares may be rounded otherwise.
    np.testing.assert_allclose(
        some,
        trajectory(case)[0].images.numpy()[rows],
        rtol=0,
        atol=0 if case.norm == "linf" else 1e-7,
    )


@compiled_contract
def test_compiled_and_eager_runs_agree(case):
    if attack_of(case).runs_eagerly:
        pytest.skip("cannot be compiled, and says so")
    compiled = healthy_run(case)
    tf.config.run_functions_eagerly(True)
    try:
        eager = run(case)
    finally:
        tf.config.run_functions_eagerly(False)
    np.testing.assert_array_equal(eager.is_robust, compiled.is_robust)
    np.testing.assert_array_equal(eager.broken_at_step, compiled.broken_at_step)
    for name in ("adversarial_images", "margin", "loss", "gradient_norm"):
        np.testing.assert_allclose(
            eager.arrays()[name],
            compiled.arrays()[name],
            rtol=1e-4,
            atol=1e-5,
            err_msg=name,
        )


@xla_contract
def test_xla_agrees(case):
    attack = attack_of(case)
    if attack.runs_eagerly or not attack.gradients_per_step:
        pytest.skip("not a gradient attack that can be compiled")

    @tf.function(jit_compile=True)
    def step(state, iteration):
        return attack.step(MODEL, state, iteration)

    *_, before, after = trajectory(case)
    last = tf.constant(len(trajectory(case)) - 2)
    check_equal([step(before, last), after], atol=1e-5)


@contract
def test_it_takes_as_many_gradients_as_it_says(case):
    attack = attack_of(case)
    if attack.runs_eagerly:
        pytest.skip("foreign code compiles its own gradients")
    taken = []

    @tf.custom_gradient
    def watched(logits):
        def count(upstream):
            taken.append(1)
            return upstream

        return tf.identity(logits), count

    def model(images, seed):
        return watched(MODEL(images, seed))

    state = begin(case, model=model)
    assert len(taken) == attack.gradients_at_init
    for step in range(min(attack.num_steps, 2)):
        taken.clear()
        state = advance(case, state, step, step + 1, model)
        assert len(taken) == attack.gradients_per_step


@compiled_contract
def test_it_breaks_what_is_easy_to_break(case):
    """And recorded images are wrong, and in the ball and the box."""
    epsilon = LARGE_EPSILON[case.norm]
    ledger = run(case, epsilon)
    assert ledger.clean_accuracy == 1.0
    assert ledger.robust_accuracy <= 0.5
    images = ledger.adversarial_images
    check_admissible(case.norm, images, images_of(case), epsilon)
    predictions = np.argmax(MODEL(tf.constant(images), SEED), axis=1)
    broken = ~ledger.is_robust
    assert (predictions[broken] != ledger.label[broken]).all()
    np.testing.assert_array_equal(
        ledger.adversarial_prediction[broken], predictions[broken]
    )
    assert (ledger.broken_by_stage[broken] == 0).all()
    assert (ledger.broken_at_step[broken] >= 0).all()


@compiled_contract
def test_two_radii_share_one_trace(case):
    (engine,) = runner_of(case)._engines
    if attack_of(case).runs_eagerly:
        assert engine.num_traces() == {}
        return
    for epsilon in (EPSILON[case.norm], 0.0):
        run(case, epsilon)
    assert set(engine.num_traces().values()) == {1}


@compiled_contract
def test_more_restarts_never_unbreak(case):
    one = healthy_run(case)
    two = run(case, num_restarts=2)
    broken = ~one.is_robust
    assert not two.is_robust[broken].any()
    # Those broken by the first of two are those broken by the one.
    np.testing.assert_array_equal(two.broken_by_restart == 0, broken)
    np.testing.assert_array_equal(
        two.adversarial_images[broken], one.adversarial_images[broken]
    )


@compiled_contract
def test_it_works_on_a_stochastic_model(case):
    MODEL.noise.assign(0.3)
    epsilon = LARGE_EPSILON[case.norm]
    ledger = run(case, epsilon)
    assert ledger.clean_accuracy > 0.5
    assert ledger.robust_accuracy < ledger.clean_accuracy
    assert not ledger.num_nonfinite.any()
    images = ledger.adversarial_images
    check_admissible(case.norm, images, images_of(case), epsilon)
    if attack_of(case).runs_eagerly:
        return  # One run was slow enough.
    again = run(case, epsilon)
    for name, values in ledger.arrays().items():
        np.testing.assert_array_equal(values, again.arrays()[name], name)


@compiled_contract
def test_batch_size_changes_nothing_but_rounding(case):
    if attack_of(case).runs_eagerly:
        pytest.skip("foreign code draws for whole batches")
    whole, small = healthy_run(case), run(case, batch_size=5)
    np.testing.assert_array_equal(small.is_robust, whole.is_robust)
    np.testing.assert_array_equal(small.broken_at_step, whole.broken_at_step)
    np.testing.assert_allclose(
        small.adversarial_images, whole.adversarial_images, rtol=0, atol=1e-5
    )


@compiled_contract
def test_passes_side_by_side_are_those_of_one_after_another(case):
    """The ledger too, up to rounding: a larger batch sums in other order."""
    if attack_of(case).runs_eagerly:
        pytest.skip("foreign code runs one pass after another")
    one, together = (
        run(case, num_restarts=3, batch_size=size)
        for size in (NUM_EXAMPLES, 3 * NUM_EXAMPLES)
    )
    for name, values in one.arrays().items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(
                together.arrays()[name], values, rtol=1e-4, atol=1e-5
            )
        else:
            np.testing.assert_array_equal(together.arrays()[name], values)


@compiled_contract
def test_nan_breaks_nothing_and_stays_with_its_example(case):
    healthy = healthy_run(case)
    MODEL.has_nan.assign(True)
    ledger = run(case)
    assert ledger.clean_accuracy == 1.0
    assert ledger.is_robust[0] and ledger.broken_by_stage[0] == -1
    assert not ledger.num_nonfinite[1:].any()
    images = ledger.adversarial_images
    clean, epsilon = images_of(case), EPSILON[case.norm]
    check_admissible(case.norm, images, clean, epsilon)
    if attack_of(case).runs_eagerly:
        return  # Foreign code says nothing, and may mix a batch's examples.
    assert ledger.num_nonfinite[0] > 0
    np.testing.assert_array_equal(ledger.is_robust[1:], healthy.is_robust[1:])
    np.testing.assert_allclose(
        images[1:], healthy.adversarial_images[1:], rtol=0, atol=1e-5
    )


@compiled_contract
def test_zero_gradients_are_survived_and_counted(case):
    MODEL.slope.assign(0)
    logits = MODEL(tf.constant(IMAGES), SEED)
    labels = tf.argmax(logits, axis=1, output_type=tf.int32).numpy()
    ledger = run(case, labels=labels)
    images = ledger.adversarial_images
    clean, epsilon = images_of(case), EPSILON[case.norm]
    check_admissible(case.norm, images, clean, epsilon)
    assert not ledger.num_nonfinite.any()
    attack = attack_of(case)
    if attack.runs_eagerly or not attack.gradients_per_step:
        assert not ledger.num_zero_gradients.any()
        return
    robust = ledger.is_robust
    assert robust.any()
    counted = ledger.num_zero_gradients[robust]
    assert (counted > 0).all()
    assert (counted <= ledger.gradient_evaluations[robust]).all()
    assert (ledger.gradient_norm[robust] == 0).all()


def test_the_parts_are_found_by_their_files():
    assert {"pgd", "fgs", "cleverhans"} <= set(plugins.names("attacks"))
    shared = {"base", "engine", "geometry", "losses", "runner"}
    assert not shared & set(plugins.names("attacks"))


DROPPED = '''
"""An attack that was just added to the package."""

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
        finite = tf.math.is_finite(evaluation.gradient_norm)
        moved = tf.where(finite[:, None, None, None], moved, state.images)
        return state._replace(images=moved, evaluated=evaluation)


def build():
    return Dropped()
'''
SOUND = "state.ball.project(state.images + 0.2 * state.ball.steepest(gradient))"
# Leaves the ball, and lets one example's gradient move another.
CHEAT = "state.images + 0.2 * tf.sign(tf.roll(gradient, 1, 0))"


@pytest.fixture
def drop(monkeypatch, tmp_path):
    """Drops a file into the package; returns the cases of the new part."""
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


def failures(cases, promises):
    """Names of the promises that a part breaks."""
    broken = set()
    for case in cases:
        for promise in promises:
            try:
                promise(case)
            except AssertionError:
                broken.add(promise.__name__)
            except pytest.skip.Exception:
                pass
            switch_faults_off()
    return broken


def test_a_file_dropped_into_the_package_is_found_and_passes(drop):
    cases = drop("dropped_into_the_room", SOUND)
    assert "dropped_into_the_room" in plugins.names("attacks")
    assert [case.norm for case in cases] == list(NORMS)
    assert failures(cases[:1], CONTRACT) == set()


def test_the_contract_catches_a_part_that_breaks_it(drop):
    cases = drop("dropped_but_unsound", CHEAT)
    broken_promises = (
        test_what_it_claims_is_in_the_ball_and_in_the_box,
        test_examples_that_leave_do_not_change_those_that_stay,
    )
    names = {promise.__name__ for promise in broken_promises}
    assert failures(cases, broken_promises) == names
