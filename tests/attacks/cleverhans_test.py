"""Tests for the adapter of cleverhans, and of our attacks against its."""

import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from ib_keras import attacks
from ib_keras import plugins
from ib_keras import seeds
from ib_keras.attacks import fgs
from ib_keras.attacks import geometry
from ib_keras.attacks import losses
from ib_keras.attacks import pgd
from ib_keras.errors import UserError
from ib_keras.types import NORMS
from ib_keras.types import ThreatModel

pytest.importorskip("cleverhans")
EPSILON = {"linf": 0.15, "l2": 0.8}
ORDER = {"linf": np.inf, "l2": 2}
METHODS = ("fgm", "pgd", "mim", "spsa", "carlini_wagner_l2")


@pytest.fixture(scope="module")
def digits():
    """A trained network on 8x8 digits: the model and what it gets right."""
    found = load_digits()
    images = np.float32(found.images / 16)[..., None]
    labels = found.target.astype(np.int32)
    rng = np.random.default_rng(0)
    weights = [
        tf.Variable(rng.normal(size=shape) * scale, dtype=tf.float32)
        for shape, scale in (
            ([64, 32], 0.2),
            ([32], 0.0),
            ([32, 10], 0.2),
            ([10], 0.0),
        )
    ]

    def model(x):
        hidden = tf.nn.relu(
            (tf.reshape(x, [-1, 64]) - 0.3) @ weights[0] + weights[1]
        )
        return hidden @ weights[2] + weights[3]

    @tf.function
    def train(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(losses.cross_entropy(model(x), y))
        for weight, slope in zip(
            weights, tape.gradient(loss, weights), strict=True
        ):
            weight.assign_sub(0.5 * slope)

    train_images, train_labels = images[200:], labels[200:]
    for _ in range(600):
        rows = rng.integers(0, len(train_labels), 128)
        train(tf.constant(train_images[rows]), tf.constant(train_labels[rows]))
    right = np.argmax(model(images[:200]), axis=1) == labels[:200]
    assert right.mean() > 0.9
    return model, images[:200][right][:48], labels[:200][right][:48]


def library(module, name):
    return getattr(
        sys.modules.get(f"cleverhans.tf2.attacks.{module}")
        or __import__(f"cleverhans.tf2.attacks.{module}", fromlist=[name]),
        name,
    )


def begin(attack, model, images, labels, norm):
    return attack.init(
        lambda x, seed: model(x),
        tf.constant(images),
        tf.constant(labels),
        ThreatModel(norm, EPSILON[norm]),
        seeds.fold(seeds.from_int(17), tf.range(len(labels))),
    )


def with_ours(attack, model, images, labels, norm):
    """The start, and all images that our attack evaluates or proposes."""
    state = begin(attack, model, images, labels, norm)
    step = tf.function(
        lambda state, i: attack.step(lambda x, seed: model(x), state, i)
    )
    found = [state.images]
    for iteration in tf.range(attack.num_steps):
        state = step(state, iteration)
        found.append(state.images)
    return found


@pytest.mark.parametrize("norm", NORMS)
def test_our_fast_gradient_is_theirs_example_by_example(digits, norm):
    model, images, labels = digits
    attack = library("fast_gradient_method", "fast_gradient_method")
    theirs = attack(
        model,
        tf.constant(images),
        EPSILON[norm],
        ORDER[norm],
        clip_min=0.0,
        clip_max=1.0,
        y=labels,
    )
    ours = with_ours(fgs.build(), model, images, labels, norm)[-1]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert np.abs(ours - images).max() > 0.1


@pytest.mark.parametrize("norm", NORMS)
def test_our_pgd_is_at_least_as_strong_from_the_same_start(
    digits, norm, monkeypatch
):
    """Their final images are ours; ours count at every iterate."""
    model, images, labels = digits
    attack = pgd.build(num_steps=15, step_size=EPSILON[norm] / 6)
    start, *iterates = with_ours(attack, model, images, labels, norm)
    run = library("projected_gradient_descent", "projected_gradient_descent")
    # Their start: what they draw is replaced by where ours began.
    monkeypatch.setattr(
        sys.modules[run.__module__],
        "random_lp_vector",
        lambda *arguments, **more: start - images,
    )
    theirs = run(
        model,
        tf.constant(images),
        EPSILON[norm],
        EPSILON[norm] / 6,
        15,
        ORDER[norm],
        clip_min=0.0,
        clip_max=1.0,
        y=labels,
        rand_init=True,
    )
    final_loss = [
        np.mean(losses.cross_entropy(model(x), labels))
        for x in (iterates[-1], theirs)
    ]
    assert final_loss[0] >= final_loss[1] - 1e-5
    np.testing.assert_allclose(iterates[-1], theirs, rtol=0, atol=1e-5)
    wrong = [np.argmax(model(x), axis=1) != labels for x in (start, *iterates)]
    ours = np.any(wrong, axis=0)
    broken_by_theirs = np.argmax(model(theirs), axis=1) != labels
    assert 0.1 < broken_by_theirs.mean() < 1
    assert not (broken_by_theirs & ~ours).any()


@pytest.mark.parametrize("norm", NORMS)
def test_their_fast_gradient_breaks_in_our_runner_what_ours_breaks(
    digits, norm
):
    model, images, labels = digits
    common = {"norm": norm, "epsilon": EPSILON[norm]}
    tf.config.run_functions_eagerly(True)
    try:
        theirs = attacks.run(
            model, images, labels, "cleverhans", method="fgm", **common
        )
        ours = attacks.run(model, images, labels, "fgs", **common)
    finally:
        tf.config.run_functions_eagerly(False)
    assert 0 < ours.robust_accuracy < 1
    np.testing.assert_array_equal(theirs.is_robust, ours.is_robust)
    np.testing.assert_allclose(
        theirs.adversarial_images, ours.adversarial_images, rtol=0, atol=1e-6
    )
    # Foreign code says nothing about its evaluations: none is bad.
    assert not theirs.num_nonfinite.any()
    assert not theirs.num_zero_gradients.any()


def test_spsa_breaks_a_trained_model(digits):
    """The library as it is stops: Keras 3 knows no `lr`."""
    model, images, labels = digits
    ledger = attacks.run(
        model,
        images[:6],
        labels[:6],
        "cleverhans",
        method="spsa",
        epsilon=0.3,
        nb_iter=12,
        spsa_samples=64,
        learning_rate=0.1,
        delta=0.05,
    )
    assert ledger.clean_accuracy == 1.0 and ledger.robust_accuracy <= 0.5
    away = np.abs(ledger.adversarial_images - images[:6]).max(axis=(1, 2, 3))
    assert (away <= 0.3 + 1e-6).all()
    assert (ledger.gradient_evaluations == 0).all()


def test_carlini_and_wagner_breaks_a_trained_model(digits):
    """All of it, and nearer than a gradient step of the whole radius."""
    model, images, labels = digits
    ledger = attacks.run(
        model,
        images[:12],
        labels[:12],
        "cleverhans",
        method="carlini_wagner_l2",
        norm="l2",
        epsilon=3.0,
        max_iterations=40,
        binary_search_steps=3,
        learning_rate=0.1,
        initial_const=1.0,
    )
    assert ledger.clean_accuracy == 1.0 and ledger.robust_accuracy == 0.0
    away = (ledger.adversarial_images - images[:12]).reshape(12, -1)
    distances = np.linalg.norm(away, axis=1)
    assert distances.max() < 2.5
    assert (ledger.gradient_evaluations == 120).all()


def test_carlini_and_wagner_takes_images_of_several_channels():
    """The library multiplies per-example numbers along the last axis."""
    rng = np.random.default_rng(0)
    images = rng.random((5, 3, 4, 3), np.float32)
    kernel = rng.normal(size=(36, 4)).astype(np.float32)

    def model(x):
        return tf.reshape(x - 0.5, [-1, 36]) @ kernel

    labels = np.argmax(model(images), axis=1)
    ledger = attacks.run(
        model,
        images,
        labels,
        "cleverhans",
        method="carlini_wagner_l2",
        norm="l2",
        epsilon=2.0,
        max_iterations=20,
        binary_search_steps=2,
        learning_rate=0.1,
        initial_const=1.0,
    )
    assert ledger.robust_accuracy == 0.0


@pytest.mark.parametrize("method", ["pgd", "mim"])
@pytest.mark.parametrize("epsilon", [0.0, 0.004])
def test_steps_longer_than_the_radius_are_cut_to_it(digits, method, epsilon):
    """The library's PGD would stop at an assertion."""
    model, images, labels = digits
    ledger = attacks.run(
        model,
        images[:4],
        labels[:4],
        "cleverhans",
        method=method,
        epsilon=epsilon,
        nb_iter=2,
    )
    away = np.abs(ledger.adversarial_images - images[:4]).max()
    assert away <= epsilon + 1e-6
    assert (away > 0) == (epsilon > 0)


def test_only_methods_that_draw_touch_the_global_seed(digits):
    model, images, labels = digits
    images, labels = images[:2], labels[:2]

    def after(arguments):
        tf.random.set_seed(1)
        attack = plugins.build("attacks", {"name": "cleverhans", **arguments})
        state = begin(attack, model, images, labels, "linf")
        attack.step(lambda x, seed: model(x), state, tf.constant(0))
        return tf.random.uniform([3]).numpy().tolist()

    tf.random.set_seed(1)
    untouched = tf.random.uniform([3]).numpy().tolist()
    assert after({"method": "fgm"}) == untouched
    assert after({"method": "pgd", "nb_iter": 1}) == untouched
    draws = {"method": "pgd", "nb_iter": 1, "rand_init": True}
    assert after(draws) != untouched
    assert after(draws) == after(draws)


def test_random_starts_follow_from_our_seeds(digits):
    model, images, labels = digits

    def final(seed):
        attack = plugins.build(
            "attacks",
            {
                "name": "cleverhans",
                "method": "pgd",
                "nb_iter": 1,
                "eps_iter": 0.01,
                "rand_init": True,
            },
        )
        state = begin(attack, model, images, labels, "linf")
        state = state._replace(seeds=seeds.fold(state.seeds, seed))
        state = attack.step(lambda x, s: model(x), state, tf.constant(0))
        return state.images.numpy()

    np.testing.assert_array_equal(final(1), final(1))
    assert np.abs(final(1) - final(2)).max() > 0.1


def test_what_they_find_is_projected_on_our_ball(digits, monkeypatch):
    model, images, labels = digits
    attack = plugins.build("attacks", {"name": "cleverhans", "method": "fgm"})
    monkeypatch.setattr(attack, "_run", lambda *arguments: images + 0.5)
    state = begin(attack, model, images, labels, "l2")
    state = attack.step(lambda x, seed: model(x), state, tf.constant(0))
    away = geometry.l2_norm(state.images - images).numpy()
    assert away.max() <= EPSILON["l2"] + 1e-6 and away.min() > 0


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_counted_from_the_arguments(method):
    numbers = {
        "fgm": ({}, 1),
        "pgd": ({"nb_iter": 7}, 7),
        "mim": ({"nb_iter": 7}, 7),
        "spsa": ({"nb_iter": 7}, 0),
        "carlini_wagner_l2": (
            {"max_iterations": 7, "binary_search_steps": 3},
            21,
        ),
    }
    arguments, count = numbers[method]
    attack = plugins.build(
        "attacks", {"name": "cleverhans", "method": method, **arguments}
    )
    assert attack.gradients_per_step == count and attack.runs_eagerly


def test_spsa_is_for_linf_alone(digits):
    model, images, labels = digits
    with pytest.raises(UserError, match="norm l2"):
        attacks.run(
            model,
            images[:1],
            labels[:1],
            "cleverhans",
            method="spsa",
            norm="l2",
            epsilon=1.0,
        )


@pytest.mark.parametrize("method", METHODS)
def test_unknown_arguments_are_user_errors(method):
    with pytest.raises(UserError, match="nb_iters"):
        plugins.build(
            "attacks",
            {"name": "cleverhans", "method": method, "nb_iters": 3},
        )
    # What the threat model decides is not an argument either.
    with pytest.raises(UserError, match='"eps"|"clip_min"'):
        name = "clip_min" if method == "carlini_wagner_l2" else "eps"
        plugins.build(
            "attacks", {"name": "cleverhans", "method": method, name: 0.1}
        )


def test_an_unknown_method_is_a_user_error_with_the_nearest_name():
    with pytest.raises(UserError, match='Did you mean "pgd"'):
        plugins.build("attacks", {"name": "cleverhans", "method": "pdg"})


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_library_is_a_user_error(monkeypatch, method):
    """When the attack is built, not when it is run."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "cleverhans":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cleverhans", None)
    with pytest.raises(UserError, match="cleverhans is not installed") as error:
        plugins.build("attacks", {"name": "cleverhans", "method": method})
    assert "pip install cleverhans" in str(error.value)
    assert isinstance(sys.modules["ib_keras.attacks"], types.ModuleType)
