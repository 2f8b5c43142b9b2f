"""Each diagnostic on a planted model whose answer is known."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import plugins
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics import load
from ib_keras.audit.diagnostics import traces
from ib_keras.audit.diagnostics.case import stage
from tests.support import cases

SIZE = 16
WEIGHTS = np.linspace(0.5, 1.5, SIZE) * np.resize([1.0, -1.0], SIZE)
L1 = np.abs(WEIGHTS).sum()


def linear(x, seed=None):
    """Class 0 against two others, of which 1 is nearer by 20."""
    kernel = tf.constant(WEIGHTS[:, None], tf.float32)
    value = tf.reshape(x - 0.5, [-1, SIZE]) @ kernel
    return value * [1.0, -1.0, -1.0] - [0.0, 0.0, 20.0]


def data(reach=0.2, count=40, nearest=0.0):
    """Images of classes 0 and 1 at even l_inf distances from their boundary."""
    steps = nearest + (reach - nearest) * (np.arange(count) + 0.5) / count
    labels = np.resize([0, 1], count).astype(np.int32)
    flat = 0.5 + (steps * (1 - 2 * labels))[:, None] * np.sign(WEIGHTS)
    return flat.reshape(count, 4, 4, 1).astype(np.float32), labels


def ask(name, case, **arguments):
    """The findings of a diagnostic by id, each checked to be JSON."""
    found = plugins.build("audit.diagnostics", {"name": name, **arguments})
    findings = found.ask(case)
    assert {f.id for f in findings} <= set(found.ids)
    return {f.id: f for f in findings}


def quantised(x, seed=None):
    return linear(tf.round(8.0 * x) / 8.0 + 0.0 * x)


@pytest.fixture(scope="module")
def honest():
    steps = stage("pgd", 2, num_steps=40, step_size=0.01)
    return cases.make(linear, *data(), steps)


@pytest.fixture(scope="module")
def blind():
    """All gradients are zero, and clean images are at the edge of a plateau."""
    start = stage("pgd", num_steps=10, step_size=0.02, random_start=False)
    images, labels = data(0.1, nearest=0.07)
    return cases.make(quantised, images, labels, start, epsilon=0.2)


def test_the_audit_of_the_honest_model_is_exact(honest):
    distance = np.abs(np.float64(honest.subject.images) - 0.5).max((1, 2, 3))
    np.testing.assert_array_equal(honest.ledger.is_robust, distance > 0.1)
    assert honest.ledger.robust_accuracy == 0.5


@pytest.mark.parametrize("name", sorted(set(load("quick")) - {"landscape"}))
def test_nothing_is_found_against_an_honest_model(honest, name):
    is_neighbours = name == "neighbours"
    case = cases.with_gradient(honest) if is_neighbours else honest
    try:
        answers = ask(name, case)
    except AttributeError as error:
        if "behaviour" not in str(error):
            raise
        pytest.skip("reads what only a loaded model has")
    for finding in answers.values():
        assert finding.status in (base.PASS, base.NOT_APPLICABLE), finding


@pytest.mark.parametrize("name", ["one_step", "noise", "gradient_free"])
def test_what_a_misled_attack_missed_is_found(blind, name):
    assert blind.robust_accuracy == 1.0
    (finding,) = ask(name, blind).values()
    if name == "one_step":  # It needs a gradient too.
        assert finding.status == base.PASS
        return
    assert finding.status == base.FAIL
    assert finding.value > 0.3 and len(finding.examples) == 5
    assert finding.value == finding.data["num_broken"] / 40


def test_one_example_that_noise_finds_is_enough_without_noise(honest):
    found = breaks.finding(
        honest,
        honest.robust_rows,
        honest.robust_rows == honest.robust_rows[3],
        threshold=0.0,
        words="Noise",
        advice="Look.",
        is_exact=True,
        id="D7",
        question="?",
        source="",
    )
    assert found.status == base.FAIL and found.data["num_broken"] == 1
    robust_rows = honest.robust_rows
    missed = np.isin(np.arange(40), robust_rows[:1])
    case = dataclasses.replace(honest, robust_rows=np.flatnonzero(missed))
    assert ask("noise", case)["D7"].status == base.PASS


def ask_again(case, difference=0.0):
    case.subject.behaviour = types.SimpleNamespace(batch_difference=difference)
    return ask("repetition", case)["M4"]


def test_a_model_that_answers_otherwise_later_is_seen():
    """Its state is nowhere: the calls are counted outside of it."""
    calls = []

    def fickle(x, seed=None):
        calls.append(len(x))
        sign = 1.0 if len(calls) <= 60 else -1.0
        return sign * linear(x)

    tf.config.run_functions_eagerly(True)
    try:
        case = cases.make(fickle, *data())
        assert ask_again(case).status == base.PASS
        calls.extend([0] * 60)
        found = ask_again(case)
    finally:
        tf.config.run_functions_eagerly(False)
    assert found.status == base.FAIL
    assert found.value == 40
    assert "repetition" in load("quick")


def test_a_model_that_knows_its_batch_is_seen():
    def crowded(x, seed=None):
        is_many = tf.cast(tf.shape(x)[0] > 25, tf.float32)
        return linear(x) * (1.0 - 2.0 * is_many)

    case = cases.make(crowded, *data())
    assert case.robust_accuracy == 0.0
    assert ask_again(case).value > 0
    # Where batches differ by rounding as much as the logits, M4 cannot tell.
    assert ask_again(case, difference=1.0).status == base.PASS


def test_zero_gradients_are_seen(blind, honest):
    assert ask("zero_gradients", blind)["D10"].value == 1.0
    assert ask("zero_gradients", honest)["D10"].value == 0.0


def test_a_misled_attack_fails_at_radii_where_it_must_succeed(blind):
    found = ask("radii", blind)
    assert found["D3"].value == 1.0 and found["D4"].value > 1 / 3
    assert found["D3"].status == found["D4"].status == base.FAIL
    assert found["D2"].status == base.PASS


def test_at_half_of_the_box_one_class_can_be_right():
    # Of two balanced classes a constant answer is right for half.
    def constant(x, seed):
        return 0.0 * linear(x) + [1.0, 0.0, 0.0]

    images, _ = data()
    labels = np.resize([0, 1], 40).astype(np.int32)
    case = cases.make(constant, images, labels)
    finding = ask("radii", case)["D3"]
    assert finding.value == 0.5 and finding.status == base.PASS
    assert finding.threshold == 0.5  # Exact, for nothing is random.


def test_accuracy_that_rises_with_the_radius_is_seen():
    # Wrong in a shell alone, which the steps of a larger ball jump over.
    def shell(x, seed):
        moved = tf.reduce_max(tf.abs(x - 0.5), axis=[1, 2, 3])
        is_in = (moved > 0.04) & (moved < 0.06)
        value = tf.where(is_in, -1.0, 1.0) + 0.0 * tf.reduce_sum(x, [1, 2, 3])
        return tf.stack([value, -value, -2.0 + 0.0 * value], axis=1)

    images = np.full([40, 4, 4, 1], 0.5, np.float32)
    case = cases.make(
        shell,
        images,
        np.zeros(40, np.int32),
        stage("uniform_noise", num_steps=3, corners=True),
        epsilon=0.05,
    )
    assert case.robust_accuracy == 0.0
    finding = ask("radii", case)["D2"]
    assert finding.status == base.FAIL and finding.value == 1.0


def test_restarts_are_read_from_the_curves():
    stages = [
        stage("pgd", 10, num_steps=20, step_size=0.02),
        stage("pgd", 10, num_steps=20, step_size=0.01),
    ]
    case = cases.make(linear, *data(), *stages)

    def ask_curves(*curves):
        for row, curve in zip(case.summary["stages"], curves, strict=True):
            row["restart_curve"] = curve
        found = plugins.build("audit.diagnostics", {"name": "restarts"})
        return found.ask(case)

    flat = [0.5] * 10
    falling = [0.9] * 5 + [0.9, 0.8, 0.7, 0.6, 0.5]
    assert {f.status for f in ask_curves(flat, flat)} == {base.PASS}
    first, second = ask_curves(flat, falling)
    assert (first.status, second.status) == (base.PASS, base.FAIL)
    assert second.value == pytest.approx(0.4)
    slightly = [0.9] * 9 + [0.875]  # One example.
    assert ask_curves(slightly, flat)[0].status == base.WARN
    # A curve that is too short is made longer.
    (more, _) = sorted(
        ask_curves([0.5], flat), key=lambda f: "restart_curve" in f.data
    )
    assert "10 restarts more" in more.evidence and more.status == base.PASS


def test_a_protocol_without_gradients_can_be_asked():
    case = cases.make(linear, *data(), stage("square", num_steps=100))
    assert ask("zero_gradients", case)["D10"].status == base.PASS
    assert ask("one_step", case)["D1"].status != base.FAIL


def test_foreign_code_makes_its_steps_in_one(honest):
    one = cases.make(linear, *data(), stage("fgs"))
    assert ask("one_step", one)["D1"].status == base.FAIL
    foreign = stage("cleverhans", method="pgd", eps_iter=0.01, nb_iter=20)
    honest.stages.append(foreign)
    try:
        assert ask("one_step", honest)["D1"].status == base.PASS
    finally:
        honest.stages.pop()


def test_a_trace_looks_at_the_last_iterate(honest):
    attack = stage("fgs").attack
    found = traces.run(honest, attack, honest.rows, each_step=True)
    assert found.step_is_wrong.shape == (2, 40)
    distance = np.abs(np.float64(honest.subject.images) - 0.5).max((1, 2, 3))
    np.testing.assert_array_equal(found.step_is_wrong[-1], distance < 0.1)
    assert not found.step_is_wrong[0].any()


def test_a_trace_is_the_same_without_its_steps(honest):
    attack = stage("pgd", num_steps=30, step_size=0.02).attack
    whole = traces.run(honest, attack, honest.rows, each_step=True)
    short = traces.run(honest, attack, honest.rows)
    np.testing.assert_array_equal(short.images, whole.images)
    np.testing.assert_array_equal(short.is_wrong, whole.is_wrong)
    np.testing.assert_array_equal(
        whole.is_wrong, whole.step_is_wrong.any(axis=0)
    )
    assert 0 < short.is_wrong.sum() < len(short.is_wrong)
    assert short.step_loss.shape == (0, 40)


@pytest.mark.parametrize("name", ["D6", "D7"])
def test_an_answer_does_not_depend_on_the_size_of_batches(name):
    """Restarts go side by side where a batch has room for them."""
    near = cases.make(
        linear, *data(0.02), stage("pgd", num_steps=2, step_size=1e-3)
    )
    part = {"D6": "restarts", "D7": "noise"}[name]
    found = [
        ask(part, dataclasses.replace(near, batch_size=size))[name]
        for size in (None, 7, 1000)
    ]
    broken = [f.data["broken"] for f in found]
    assert 0 < len(broken[0]) <= len(near.robust_rows)
    if name == "D6":
        assert broken == broken[:1] * 3
    costs = [f.data["num_attacked"] for f in found]
    assert costs == [len(near.robust_rows)] * 3


@pytest.mark.parametrize("size", [None, 40, 130, 4000])
def test_random_points_are_as_many_as_named(honest, size):
    case = dataclasses.replace(honest, batch_size=size)
    calls = []

    def attack(stages, rows, **arguments):
        calls.extend(s.num_restarts * (s.attack.num_steps + 1) for s in stages)
        return dataclasses.replace(honest).attack(stages, rows, **arguments)

    case.attack = attack
    found = ask("noise", case)["D7"]
    assert found.status == base.PASS
    assert calls[0] == calls[1]
    assert 500 <= calls[0] < 510
    assert found.evidence.startswith(f"2 x {calls[0]} random points")


def test_what_stays_broken_is_wrong_at_the_last_iterate_too(honest):
    attack = stage("pgd", num_steps=12, step_size=0.02).attack
    found = traces.run(honest, attack, honest.rows, each_step=True)
    before, last = found.step_is_wrong[-2], found.step_is_wrong[-1]
    assert before.sum() > 5
    # No step lowers the margin of a linear model.
    assert last[before].all()


def test_chance_does_not_hide_what_noise_finds():
    """A draw in twenty is wrong; random corners break what is near enough."""
    near = coin(0.05)
    case = cases.make(
        near,
        *data(0.02),
        stage("pgd", num_steps=10, step_size=1e-7, random_start=False),
        draws=5,
    )
    assert case.robust_accuracy > 0.9
    assert ask("noise", case)["D7"].status == base.FAIL


def loud_in_part(factor):
    """The linear model, its logits multiplied where a fifth of images lie."""

    def logits_fn(x, seed):
        logits = linear(x)
        distance = tf.abs(logits[:, :1] - logits[:, 1:2]) / (2 * L1)
        is_loud = (distance > 0.04) & (distance < 0.08)
        return tf.where(is_loud, factor, 1.0) * logits

    return logits_fn


def test_logits_of_one_scale_do_not_matter(honest):
    case = cases.make(
        lambda x, seed: 1000.0 * linear(x), *data(), *honest.stages
    )
    np.testing.assert_array_equal(
        case.ledger.is_robust, honest.ledger.is_robust
    )
    assert ask("losses", case)["D11"].status == base.PASS
    assert ask("zero_gradients", case)["D10"].status == base.PASS


def test_a_saturated_loss_is_seen():
    case = cases.make(
        loud_in_part(1000.0),
        *data(),
        stage("pgd", num_steps=10, random_start=False),
    )
    assert case.robust_accuracy == pytest.approx(0.8, abs=0.03)
    # What comes from a distance under 0.1 stops at 0.08; AutoPGD goes on.
    found = plugins.build("audit.diagnostics", {"name": "losses"}).ask(case)
    by_question = {f.question: f for f in found}
    dlr = by_question[
        "Does a loss that ignores the scale of the logits find nothing more?"
    ]
    assert dlr.status == base.FAIL
    expected = case.robust_accuracy - 0.5
    assert dlr.value == pytest.approx(expected, abs=0.03)
    assert by_question["Do logits times 0.01 change nothing?"].value > 0.1
    # 0.5 are always robust.
    asked = [q for q in by_question if q.startswith("Do logits times")]
    assert len(asked) == 4 and "Do logits times 100 change nothing?" in asked


def test_the_steadiness_of_the_loss_is_the_mean_change_of_the_margin(honest):
    # Margin m = 2 w.(x - 1/2); w.d is nearly normal for d uniform.
    side = 8 / 255
    deviation = 2 * np.sqrt((WEIGHTS**2).sum() * side**2 / 12)
    margin = 2 * L1 * np.abs(honest.subject.images - 0.5).max((1, 2, 3))
    mean = np.sqrt(2 / np.pi) * deviation / margin
    finding = ask("loss_stability", honest, num_draws=400)["D14"]
    assert finding.value == pytest.approx(np.median(mean), rel=0.05)


def test_a_run_that_is_too_short_is_seen():
    """Steps of epsilon / 100 from the image: the loss rises to the end."""
    short = stage("pgd", num_steps=20, step_size=0.001, random_start=False)
    case = cases.make(linear, *data(), short)
    assert ask("convergence", case)["D16"].status == base.WARN
    assert ask("steps", case)["D5"].status == base.FAIL
    assert ask("step_sizes", case, num_steps=10)["D26"].status == base.FAIL
    assert ask("validation", case)["D29"].status == base.FAIL


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["validation", "binarization", "steps", "step_sizes", "diversity"]
)
def test_the_full_set_finds_nothing_against_an_honest_model(honest, name):
    for finding in ask(name, honest).values():
        assert finding.status == base.PASS, finding


def test_the_linear_control_is_exact_in_l2():
    case = cases.make(
        linear,
        *data(),
        stage("pgd", num_steps=20, step_size=0.1),
        norm="l2",
        epsilon=0.3,
    )
    found = ask("validation", case)
    for finding in found.values():
        assert finding.status == base.PASS, finding.evidence


def test_an_attack_that_goes_nowhere_misses_what_was_planted(honest):
    nowhere = stage("pgd", num_steps=2, step_size=1e-6, random_start=False)
    case = cases.make(linear, *data(), nowhere)
    finding = ask("binarization", case)["D31"]
    assert finding.status == base.FAIL and finding.value < 0.1


def test_images_outside_of_the_ball_invalidate_the_audit(honest):
    assert ask("conformance", honest)["D33"].status == base.PASS
    images = honest.ledger.adversarial_images
    kept = images[3].copy()
    try:
        images[3] = honest.subject.images[3] + 0.1 + 1 / 255
        finding = ask("conformance", honest)["D33"]
        assert finding.status == base.FAIL and finding.examples == (3,)
        images[3] = np.nan
        assert ask("conformance", honest)["D33"].status == base.FAIL
    finally:
        images[3] = kept


# Stochastic models.


def coin(share):
    def logits_fn(x, seed):
        unit = tf.random.stateless_uniform([tf.shape(x)[0], 1], seed)
        logits = linear(x)
        return tf.where(unit < share, tf.roll(logits, 1, axis=1), logits)

    return logits_fn


def test_the_share_by_chance_is_that_of_a_binomial():
    images, labels = data(count=200)
    case = cases.make(coin(0.1), images + 0, labels, epsilon=1e-4, draws=5)
    assert case.robust_accuracy > 0.99
    found = plugins.build("audit.diagnostics", {"name": "fresh_noise"})
    reproduced, chance = found.ask(case)
    assert reproduced.status == base.PASS and chance.status == base.WARN
    numbers = chance.data
    error = np.sqrt(0.09 / (200 * 20))
    assert abs(numbers["mean"] - 0.9) < 4 * error
    every = 0.9**20
    assert abs(numbers["every_draw"] - every) < 4 * np.sqrt(every / 200)
    assert chance.value == pytest.approx(
        numbers["mean"] - numbers["every_draw"]
    )


@pytest.mark.parametrize("is_robust", [True, False])
def test_a_number_that_does_not_reproduce_is_seen(is_robust):
    """A ledger turned round: too high is void, too low is chance."""
    case = cases.make(coin(0.05), *data(), draws=5)
    changed = np.flatnonzero(case.ledger.is_robust != is_robust)[:10]
    case.ledger.is_robust[changed] = is_robust
    found = plugins.build("audit.diagnostics", {"name": "fresh_noise"})
    reproduced, _ = found.ask(case)
    sign = 1 if is_robust else -1
    assert reproduced.value == pytest.approx(sign * len(changed) / 40, abs=0.05)
    assert reproduced.status == (base.FAIL if is_robust else base.WARN)


def test_gradients_agree_as_their_noise_lets_them():
    """Per draw the gradient is w + s n; the cosine is w^2 / (w^2 + s^2 n^2)."""
    size = 400
    weights = tf.ones([size, 1])

    def model(scale):
        def logits_fn(x, seed):
            noise = tf.random.stateless_normal([size, 1], seed)
            value = tf.reshape(x - 0.5, [-1, size]) @ (weights + scale * noise)
            return 1e-3 * value * [1.0, -1.0, -1.0]

        return logits_fn

    images = np.full([10, 20, 20, 1], 0.5, np.float32)
    labels = np.zeros(10, np.int32)
    for scale in (0.1, 1.0):
        case = cases.make(model(scale), images, labels, epsilon=0.01, draws=5)
        finding = ask("expectation", case)["D22"]
        expected = 1 / (1 + scale**2)
        assert finding.value == pytest.approx(expected, abs=0.15)
        is_low = expected < 0.9
        assert finding.status == (base.WARN if is_low else base.PASS)


def test_an_attack_on_the_mean_mode_breaks_what_noise_hides():
    """Its stochastic mode has logits of the mean mode but no gradient."""

    def masked(x, seed):
        noise = 0.01 * tf.random.stateless_normal([tf.shape(x)[0], 1], seed)
        return tf.stop_gradient(linear(x)) + noise + 0.0 * linear(x)

    modes = {"mean": linear, "stochastic": masked}
    case = cases.make(masked, *data(), draws=5, modes=modes)
    found = ask("modes", case)
    matrix = np.array(found["D24"].data["robust_accuracy"])
    # A random start of the blind attack finds little, the seeing one half.
    assert matrix[0, 1] < 0.55 < 0.8 < matrix[1, 1]
    assert found["D24"].status == base.FAIL
    assert found["D21"].status == base.PASS
    assert ask("modes", cases.make(linear, *data())) == {}


def test_the_baseline_is_attacked_and_its_images_are_tried(blind):
    blind.twin = cases.subject(linear, *data(0.1))
    try:
        found = ask("twin", blind, num_steps=20)
    finally:
        blind.twin = None
    assert found["D28"].status == base.PASS and found["D28"].value == 0.0
    assert found["D9"].status == base.FAIL
    assert ask("twin", blind) == {}
