"""Landscapes of models whose surfaces are known in closed form."""

import functools
import json
import pathlib
import types

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import files
from ib_keras import seeds
from ib_keras.attacks import ledger as ledgers
from ib_keras.audit import landscape
from ib_keras.audit import runner as audits
from ib_keras.audit.diagnostics import case as cases
from ib_keras.audit.diagnostics import landscape as diagnostic
from ib_keras.audit.landscape import examples as landscape_examples
from ib_keras.audit.landscape import of_audit
from ib_keras.types import ThreatModel
from tests.support import models
from tests.support import runs

SHAPE = (4, 4, 1)
SIZE = 16
EPSILON = 0.1
LINF = ThreatModel("linf", EPSILON)
L2 = ThreatModel("l2", EPSILON)
SEED = seeds.from_int(3)


def grey():
    return np.full(SHAPE, 0.5, np.float32)


def signs(seed=0):
    """A direction that no pixel of a grey image is clipped on."""
    rng = np.random.default_rng(seed)
    return (EPSILON * rng.choice([-1.0, 1.0], SHAPE)).astype(np.float32)


@functools.cache
def weights(num_classes=3):
    return np.random.default_rng(5).normal(size=(SIZE, num_classes))


def linear(images, seed, num_classes=3):
    flat = tf.reshape(images, [-1, SIZE])
    return flat @ tf.constant(weights(num_classes), tf.float32)


def two_logits(score):
    """Logits whose margin for label 0 is the score, `[batch]`."""
    return tf.stack([tf.zeros_like(score), score], axis=1)


def evaluate(logits_fn, threat_model=LINF, direction=None, **arguments):
    direction = signs() if direction is None else direction
    arguments = {"grid": 17, "batch_size": 64, **arguments}
    return landscape.compute(
        logits_fn, grey(), 0, threat_model, direction, 3, **arguments
    )


def planes_points(found, plane):
    """The images of all points in float64, `[grid, grid, 16]`."""
    a = found.first_axis.astype(np.float64)[None, :, None]
    b = found.second_axis.astype(np.float64)[:, None, None]
    u, v = plane.first.ravel(), plane.second.ravel()
    return np.clip(plane.image.ravel() + a * u + b * v, 0, 1)


@pytest.mark.parametrize("threat_model", [LINF, L2], ids=lambda t: t.norm)
def test_a_linear_softmax_has_the_losses_and_gradients_of_its_formula(
    threat_model,
):
    found = evaluate(linear, threat_model)
    plane = landscape.plane(grey(), 0, threat_model, signs(), SEED)
    logits = planes_points(found, plane) @ weights()
    log_p = models.log_softmax(logits)
    np.testing.assert_allclose(found.cross_entropy, -log_p[..., 0], rtol=1e-4)
    other = logits[..., 1:].max(-1)
    np.testing.assert_allclose(
        found.margin, other - logits[..., 0], rtol=1e-4, atol=1e-5
    )
    wrong = np.exp(log_p) - [1, 0, 0]
    np.testing.assert_allclose(
        found.gradient_norm,
        np.abs(wrong @ weights().T).max(-1),
        rtol=1e-4,
    )
    best = 1 + logits[..., 1:].argmax(-1)
    slopes = np.abs(weights()[:, best] - weights()[:, :1, None]).max(0)
    np.testing.assert_allclose(found.margin_gradient_norm, slopes, rtol=1e-4)
    # u has length epsilon, so the attack's point is farther out in l2.
    at = {"linf": 1.0, "l2": 4.0}[threat_model.norm]
    assert found.attack_at == pytest.approx(at, rel=1e-5)
    end = (0.5 + signs().ravel()) @ weights()
    assert found.attack_margin == pytest.approx(
        end[1:].max() - end[0], rel=1e-4
    )
    assert found.attack_cross_entropy == pytest.approx(
        -models.log_softmax(end)[0], rel=1e-4
    )


def test_a_linear_margin_has_no_curvature_and_no_flat_point():
    found = evaluate(functools.partial(linear, num_classes=2))
    numbers = landscape.describe(found)
    assert numbers.margin_curvature < 1e-2  # Of rounding, over step^2 of 1/41.
    # The cross-entropy is softplus(margin), whose bend is p (1 - p) slope^2.
    slopes = np.gradient(
        found.margin, found.first_axis[1] - found.first_axis[0]
    )
    p = 1 / (1 + np.exp(-found.margin[found.in_ball]))
    bend = (p * (1 - p)).mean() * np.mean(np.square(slopes))
    assert numbers.curvature == pytest.approx(bend, rel=0.1)
    assert numbers.flat_share == numbers.margin_flat_share == 0.0
    assert not numbers.is_constant
    # The highest margin of the diamond is at one of its corners.
    plane = landscape.plane(grey(), 0, LINF, signs(), SEED)
    slope = weights(2)[:, 1] - weights(2)[:, 0]
    rise = max(
        abs(slope @ plane.first.ravel()), abs(slope @ plane.second.ravel())
    )
    step = found.first_axis[1] - found.first_axis[0]
    assert numbers.highest_margin == pytest.approx(
        0.5 * slope.sum() + rise, abs=2 * rise * step
    )


def test_a_quadratic_margin_has_its_own_curvature():
    plane = landscape.plane(grey(), 0, L2, signs(), SEED)
    u = plane.first.ravel() / EPSILON
    v = plane.second.ravel() / EPSILON

    def bowl(images, seed):
        moved = tf.reshape(images - 0.5, [-1, SIZE]) / EPSILON
        a = tf.linalg.matvec(moved, tf.constant(u, tf.float32))
        b = tf.linalg.matvec(moved, tf.constant(v, tf.float32))
        return two_logits(3.0 * a**2 - 5.0 * b**2 - 1.0)

    found = evaluate(bowl, L2, span=1.0)
    a, b = np.meshgrid(found.first_axis, found.second_axis)
    expected = 3 * a**2 - 5 * b**2 - 1
    np.testing.assert_allclose(found.margin, expected, atol=1e-4)
    # Triples along a bend by 6, along b by 10; a disc has as many of both.
    numbers = landscape.describe(found)
    assert numbers.margin_curvature == pytest.approx(8.0, rel=1e-2)
    share = (expected[found.in_ball] > 0).mean()
    assert numbers.wrong_share == pytest.approx(share, abs=0.01)
    assert numbers.highest_margin == pytest.approx(2.0, abs=1e-3)


def test_a_cliff_is_flat_and_has_a_step():
    def cliff(images, seed):
        moved = tf.reduce_sum((images - 0.5) * signs(), axis=[1, 2, 3])
        along = moved / (SIZE * EPSILON**2)
        step = tf.where(along > 0.45, 1.0, -1.0) + 0.0 * along
        return two_logits(step)

    found = evaluate(cliff)
    numbers = landscape.describe(found)
    assert numbers.flat_share == numbers.margin_flat_share == 1.0
    assert not numbers.is_constant
    assert 0 < numbers.wrong_share < 0.5
    assert numbers.highest_margin == found.attack_margin == 1.0
    assert numbers.margin_curvature > 1


def test_a_constant_model_is_called_constant():
    found = evaluate(lambda x, seed: two_logits(0 * x[:, 0, 0, 0] - 4.0))
    numbers = landscape.describe(found)
    assert numbers.is_constant
    assert numbers.flat_share == 1.0
    assert numbers.curvature == numbers.margin_curvature == 0.0
    assert numbers.wrong_share == 0.0
    assert numbers.highest_margin == -4.0


def test_the_balls_are_a_diamond_and_a_disc():
    found = evaluate(linear, span=1.5, grid=25)
    a, b = np.meshgrid(found.first_axis, found.second_axis)
    np.testing.assert_array_equal(found.in_ball, np.abs(a) + np.abs(b) < 1.001)
    found = evaluate(linear, L2, span=1.5, grid=25)
    np.testing.assert_array_equal(found.in_ball, np.hypot(a, b) < 1.0001)


def test_points_leave_no_box_and_images_in_the_ball_no_ball():
    image = grey()
    image[0] = 0.0
    image[1] = 1.0
    plane = landscape.plane(image, 0, LINF, signs(), SEED)
    seen = []

    def watch(images, seed):
        tf.debugging.assert_less_equal(tf.abs(images - 0.5), 0.5)
        seen.append(images.shape)
        return linear(images, seed)

    found = landscape.LandscapeEvaluator(
        watch, LINF, grid=9, span=2.0, batch_size=32
    )(plane, SEED)
    # Traced once, with an open batch axis.
    assert {tuple(shape) for shape in seen} == {(None, *SHAPE)}
    # Where the only pixels that go too far are clipped, it is in the ball.
    image[:] = 0.0
    down = np.full(SHAPE, -EPSILON)
    clipped = landscape.plane(image, 0, LINF, down, SEED)
    found = landscape.LandscapeEvaluator(linear, LINF, grid=9, span=2.0)(
        clipped, SEED
    )
    assert found.in_ball[4].tolist() == [False] * 2 + [True] * 7
    images = clipped.images_at(np.array([[-2.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(images[0], EPSILON)
    assert images.min() == 0.0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_both_directions_have_length_epsilon(norm):
    threat_model = ThreatModel(norm, 0.3)
    found = landscape.plane(grey(), 0, threat_model, 0.5 * signs(), SEED)
    order = {"linf": np.inf, "l2": 2}[norm]
    for direction in (found.first, found.second):
        assert np.linalg.norm(direction.ravel(), order) == pytest.approx(0.3)
    assert found.attack_at == pytest.approx(
        np.linalg.norm(0.5 * signs().ravel(), order) / 0.3
    )
    if norm == "linf":
        assert set(np.abs(found.second).ravel()) == {np.float32(0.3)}
    else:
        dot = found.first.ravel() @ found.second.ravel()
        assert abs(dot) < 1e-6
    other = landscape.plane(grey(), 0, threat_model, signs(), seeds.from_int(4))
    assert not np.array_equal(other.second, found.second)


def test_an_attack_that_did_not_move_leaves_a_random_plane():
    plane = landscape.plane(grey(), 0, LINF, np.zeros(SHAPE), SEED)
    assert plane.attack_at == 0.0
    assert set(np.abs(plane.first).ravel()) == {np.float32(EPSILON)}
    assert not np.array_equal(plane.first, plane.second)


def test_a_model_without_gradients_has_losses_alone():
    def rounded(images, seed):
        return linear(tf.round(images * 8) / 8, seed)

    found = evaluate(rounded, take_gradients=False)
    assert (found.gradient_norm == -1).all()
    numbers = landscape.describe(found)
    assert numbers.flat_share is None and numbers.margin_flat_share is None
    assert np.isfinite(numbers.curvature)


def test_noise_is_averaged_over_draws():
    def noisy(images, seed):
        noise = seeds.noise(seed, [images.shape[0]])
        return two_logits(0.0 * images[:, 0, 0, 0] + noise)

    one, many = (
        evaluate(noisy, num_draws=n, take_gradients=False) for n in (1, 16)
    )
    assert np.std(many.cross_entropy) < 0.5 * np.std(one.cross_entropy)
    with_gradients = evaluate(noisy, num_draws=16)
    assert np.std(with_gradients.cross_entropy) < 0.5 * np.std(
        one.cross_entropy
    )


def test_what_is_not_finite_is_no_success():
    def broken(images, seed):
        score = tf.reduce_sum(images - 0.5, axis=[1, 2, 3])
        return two_logits(tf.where(score > 0.05, float("nan"), -1.0 + score))

    numbers = landscape.describe(evaluate(broken))
    assert numbers.wrong_share == 0.0
    assert -1.5 < numbers.highest_margin < -0.9
    assert np.isfinite(numbers.margin_curvature)


def test_equal_seeds_give_equal_landscapes_at_any_batch_size():
    first, second = evaluate(linear), evaluate(linear, batch_size=100)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_used_is_refused():
    runs.refused(evaluate, linear, grid=8)
    runs.refused(evaluate, linear, grid=3)
    runs.refused(evaluate, linear, span=0.5)
    runs.refused(evaluate, linear, span=float("nan"))
    runs.refused(evaluate, linear, ThreatModel("linf", 0.0))
    runs.refused(evaluate, linear, direction=np.zeros((2, 2, 1)))


# The diagnostic, on models whose right verdict is known.


def ledger_of(images, labels, adversarial, is_broken=None, margin=-1.0):
    """The ledger of an audit whose attack ended at given images."""
    ledger = ledgers.Ledger.new(images, labels)
    is_broken = np.zeros(len(labels), bool) if is_broken is None else is_broken
    ledger.is_robust[:] = ~is_broken
    ledger.clean_prediction[:] = labels
    ledger.broken_by_stage[is_broken] = 0
    ledger.broken_by_restart[is_broken] = np.flatnonzero(is_broken)
    ledger.adversarial_images[:] = adversarial
    ledger.margin[:] = margin
    return ledger


def ask(logits_fn, ledger, images, num_judge_samples=1, **arguments):
    """The finding, and what was written."""
    written = {}
    rows = np.arange(len(images))
    case = cases.Case(
        subject=types.SimpleNamespace(
            logits_fn=logits_fn,
            images=images,
            labels=ledger.label,
            num_judge_samples=num_judge_samples,
        ),
        ledger=ledger,
        summary={},
        threat_model=LINF,
        stages=[],
        rows=rows,
        robust_rows=rows[ledger.is_robust],
        write=written.__setitem__,
    )
    (finding,) = diagnostic.build(grid=21, **arguments).ask(case)
    json.dumps(finding.to_json(), allow_nan=False)
    return finding, written, case


def some_images(num=3):
    rng = np.random.default_rng(2)
    return rng.uniform(0.3, 0.7, (num, *SHAPE)).astype(np.float32)


def scored(scale=1.0, shift=0.0):
    """A linear margin for label 0, along `signs`: -1 + scale at epsilon."""

    def logits_fn(images, seed):
        along = tf.reduce_sum((images - 0.5) * signs(), axis=[1, 2, 3])
        return two_logits(scale * along / (SIZE * EPSILON**2) + shift)

    return logits_fn


def test_an_attack_at_the_maximum_passes():
    images = some_images()
    ledger = ledger_of(images, np.zeros(3, np.int32), images + signs())
    finding, written, case = ask(scored(shift=-4.0), ledger, images)
    assert finding.status == "pass", finding
    assert finding.value == 0.0
    assert finding.data["highest_gain"] < 1e-3
    assert "at most 0.0% more than by the attack" in finding.evidence
    assert case.gradient_evaluations == 3 * 2 * (21**2 + 1)
    arrays = written["landscapes"]
    assert arrays["row"].tolist() == landscape_examples.choose(
        ledger, [0, 1, 2], 3
    )
    assert arrays["cross_entropy"].shape == (3, 21, 21)


def test_an_attack_that_stopped_half_way_is_warned_of():
    images = some_images()
    ledger = ledger_of(
        images, np.zeros(3, np.int32), images + np.float32(0.5) * signs()
    )
    finding, _, _ = ask(scored(shift=-4.0), ledger, images)
    assert finding.status == "warn"
    assert finding.value == pytest.approx(1.0, rel=0.01)  # As much again.
    assert set(finding.examples) == {0, 1, 2}


def test_a_grid_that_breaks_a_robust_example_fails():
    images = np.stack([grey()] * 2)

    def cliff(images, seed):
        along = tf.reduce_sum((images - 0.5) * signs(), axis=[1, 2, 3])
        along /= SIZE * EPSILON**2
        return two_logits(tf.where(along > 0.7, 1.0, -1.0) + 0.0 * along)

    near = images + np.float32(0.5) * signs()
    ledger = ledger_of(images, np.zeros(2, np.int32), near)
    finding, _, _ = ask(cliff, ledger, images)
    assert finding.status == "fail"
    assert (finding.value, finding.threshold) == (2, 0)
    # Of a broken example the grid may know worse images than the attack.
    broken = ledger_of(images, np.zeros(2, np.int32), near, np.ones(2, bool))
    finding, _, _ = ask(cliff, broken, images)
    assert finding.status == "warn"
    assert (finding.value, finding.threshold) == (1.0, 0.5)
    assert "square" in finding.advice


def test_a_saturated_cross_entropy_is_distinguished_from_a_vanished_gradient():
    images = some_images()
    at = images + signs()
    ledger = ledger_of(images, np.zeros(3, np.int32), at)
    finding, _, _ = ask(scored(scale=10.0, shift=-900.0), ledger, images)
    assert finding.status == "warn"
    assert finding.value == 1.0
    assert finding.data["margin_flat_share"] == 0.0
    assert "margin" in finding.advice


def test_a_constant_model_is_no_sign_of_anything():
    images = some_images()
    ledger = ledger_of(images, np.zeros(3, np.int32), images)
    finding, _, _ = ask(
        lambda x, seed: two_logits(0 * x[:, 0, 0, 0] - 4.0), ledger, images
    )
    assert finding.status == "pass"
    assert finding.value is None and finding.threshold is None
    assert "same everywhere" in finding.evidence


def test_a_lucky_noise_sample_is_no_misclassification():
    """Wrong on 3 draws of 10: some of the points are so on most of five."""

    def coin(images, seed):
        unit = tf.random.stateless_uniform([images.shape[0]], seed)
        score = tf.where(unit < 0.3, 1.0, -1.0)
        return two_logits(score + 0.0 * images[:, 0, 0, 0])

    images = np.stack([grey()] * 2)
    ledger = ledger_of(images, np.zeros(2, np.int32), images + signs())
    finding, written, _ = ask(coin, ledger, images, num_judge_samples=5)
    assert (written["landscapes"]["margin"] > 0).mean() > 0.2
    assert finding.status != "fail", finding


def test_a_model_without_gradients_is_evaluated_all_the_same():
    def rounded(images, seed):
        return scored(shift=-4.0)(tf.round(images * 20) / 20, seed)

    images = some_images()
    ledger = ledger_of(images, np.zeros(3, np.int32), images + signs())
    finding, written, case = ask(rounded, ledger, images)
    assert finding.status in ("pass", "warn")
    assert finding.data["flat_share"] is None
    assert (written["landscapes"]["gradient_norm"] == -1).all()
    assert case.gradient_evaluations == 0


def test_without_an_attacked_example_it_does_not_apply():
    images = some_images()
    ledger = ledgers.Ledger.new(images, np.zeros(3, np.int32))
    finding, written, _ = ask(scored(), ledger, images)
    assert finding.status == "not applicable"
    assert not written


def test_the_hardest_and_the_typical_are_chosen_in_turns():
    images = np.zeros((9, *SHAPE), np.float32)
    broken = np.array([0, 0, 0, 0, 1, 1, 1, 1, 0], bool)
    ledger = ledger_of(images, np.zeros(9, np.int32), images, broken)
    ledger.margin[:4] = [-5, -1, -3, np.nan]
    ledger.is_robust[8] = False  # Wrong unattacked.
    rows = np.arange(9)
    # By distance 1, 2, 0, 3; by restart from the last 7, 6, 5, 4.
    assert landscape_examples.choose(ledger, rows, 4) == [1, 7, 0, 5]
    assert landscape_examples.choose(ledger, rows, 99) == [
        *(1, 7, 0, 5, 2, 6, 3, 4)
    ]
    assert landscape_examples.choose(ledger, [3, 8, 4], 9) == [3, 4]
    assert landscape_examples.choose(ledger, [8], 9) == []


# A finished audit.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of an audit, and the model that it was of."""
    folder = tmp_path_factory.mktemp("landscapes")
    model = runs.foreign_model(folder / "model", mean=runs.bright_or_dark)
    config = runs.audit_config(
        num_examples=12,
        threat_model__epsilon=0.02,
        diagnostics__set="none",
        stages__pgd__attack__num_steps=2,
        stages__pgd__num_restarts=1,
    )
    audits.audit(config, model, str(folder / "audit"), quiet=True)
    return folder / "audit", model


def test_a_finished_audit_is_evaluated(finished):
    workdir, _ = finished
    evaluated = dict(of_audit.evaluate(str(workdir), ["3", 7], grid=5))
    assert list(evaluated) == [3, 7]
    arrays = files.read_npz(workdir / "examples.npz")
    for index, found in evaluated.items():
        bright = arrays["adversarial_images"][index].mean() - 0.5
        margin = 20 * bright * (1 - 2 * arrays["label"][index])
        assert found.attack_margin == pytest.approx(margin, abs=1e-4)
        assert found.in_ball[2, 2] and found.cross_entropy.shape == (5, 5)
    again = dict(of_audit.evaluate(str(workdir), [3], grid=5, seed=1))
    assert not np.array_equal(again[3].margin, evaluated[3].margin)
    assert again[3].attack_margin == evaluated[3].attack_margin


def test_an_audit_that_cannot_be_evaluated_is_refused(finished, tmp_path):
    workdir, _ = finished

    def evaluate(*arguments, **more):
        return list(of_audit.evaluate(*arguments, grid=5, **more))

    for examples in (["12"], ["-1"], ["many"]):
        runs.refused(evaluate, str(workdir), examples)
    runs.refused(evaluate, str(tmp_path))
    other = runs.foreign_model(
        tmp_path / "other", mean=lambda x: 2.0 * runs.bright_or_dark(x)
    )
    error = runs.refused(evaluate, str(workdir), saved_model=other)
    assert "sha256" in str(error)


@pytest.mark.slow
def test_the_command_writes_pictures_and_numbers(finished, tmp_path):
    workdir, _ = finished
    process = runs.Process(
        f"--workdir={workdir}",
        "--examples=2",
        "--grid=5",
        f"--output={tmp_path}/out",
        module="launch.landscape",
    )
    assert process.wait() == 0, process.read("errors")
    assert "Misclassified: " in process.read("output")
    names = sorted(p.name for p in pathlib.Path(tmp_path, "out").iterdir())
    assert names == [
        "example_2.csv",
        "example_2.png",
        "example_2.svg",
        "example_2_surface.png",
        "example_2_surface.svg",
    ]
