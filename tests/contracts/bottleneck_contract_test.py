"""What every part of `ib_keras.bottlenecks` promises, tested for all."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from ib_keras import plugins
from ib_keras import seeds
from ib_keras.bottlenecks.base import Bottleneck
from ib_keras.optimizers import FusedAdam
from tests.support import models

_LATENT_DIM = 5
_NUM_FEATURES = 8
_SECTIONS = {
    name: {"name": name, "latent_dim": _LATENT_DIM}
    for name in plugins.names("bottlenecks")
}
# Another form of a part.
_SECTIONS["deterministic without a layer"] = {
    "name": "deterministic",
    "latent_dim": None,
}
_SEED = seeds.from_int(9)
_FEATURES = np.random.default_rng(0).normal(size=(6, _NUM_FEATURES))
_FEATURES = _FEATURES.astype(np.float32)
_LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)


def build(name):
    return plugins.build(
        "bottlenecks",
        _SECTIONS[name],
        num_classes=models.NUM_CLASSES,
        steps_per_epoch=10,
    )


def build_classifier(name, seed=17):
    return models.build(_SECTIONS[name], encoder={"name": "linear"}, seed=seed)


@pytest.fixture(scope="module", params=_SECTIONS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def bottleneck(name):
    """The part with random weights."""
    part = build(name)
    part.build(_FEATURES.shape)
    return models.randomise(part, scale=0.3)


@pytest.fixture(scope="module")
def classifier(name):
    """A classifier around the part, after one step of `fit`."""
    model = build_classifier(name)
    start = models.weights_of(model)
    model.compile(FusedAdam(learning_rate=0.001), run_eagerly=True)
    history = model.fit(*models.data(32), batch_size=32, verbose=0).history
    return model, start, history


def test_the_parts_are_found_by_their_files():
    assert {"ceb", "deterministic", "vib"} <= set(_SECTIONS)


@pytest.fixture
def width(name):
    """What is asked for; where nothing is, that of the features."""
    return _SECTIONS[name]["latent_dim"] or _NUM_FEATURES


def test_it_is_a_bottleneck_of_the_width_asked_for(bottleneck, width):
    assert isinstance(bottleneck, Bottleneck)
    assert bottleneck.latent_dim == width
    assert isinstance(bottleneck.is_stochastic, bool)
    assert bottleneck.control


def test_the_posterior_is_a_float32_distribution_per_example(bottleneck, width):
    posterior = bottleneck(_FEATURES)
    assert posterior.dtype == tf.float32
    assert posterior.batch_shape == (6,)
    assert posterior.event_shape == (width,)
    # Each example has its own.
    assert len(np.unique(posterior.mean(), axis=0)) == 6
    one = bottleneck(_FEATURES[3:4]).mean()[0]
    np.testing.assert_allclose(one, posterior.mean()[3], rtol=1e-4, atol=1e-6)


def test_samples_are_a_function_of_the_seed(bottleneck, width):
    posterior = bottleneck(_FEATURES)
    first, again, other = (
        bottleneck.sample(posterior, 3, seeds.from_int(s)).numpy()
        for s in (1, 1, 2)
    )
    count = 3 if bottleneck.is_stochastic else 1
    assert first.shape == (count, 6, width)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other) == bottleneck.is_stochastic
    if bottleneck.is_stochastic:
        assert len(np.unique(first)) == first.size


def test_samples_scatter_around_the_mean_by_the_deviation(bottleneck):
    count = 3000
    posterior = bottleneck(_FEATURES)
    loc, scale = (np.float64(f()) for f in (posterior.mean, posterior.stddev))
    z = np.float64(bottleneck.sample(posterior, count, _SEED))
    error = scale / np.sqrt(count) + 1e-6 * np.abs(loc)
    assert np.all(np.abs(z.mean(0) - loc) <= 5 * error)
    error = scale**2 * np.sqrt(2 / count)
    assert np.all(np.abs(z.var(0) - scale**2) <= 5 * error + 1e-12)
    assert np.all(scale > 0) == bottleneck.is_stochastic


def test_the_rate_is_an_average_of_log_density_ratios(bottleneck):
    posterior = bottleneck(_FEATURES)
    z = bottleneck.sample(posterior, 500, _SEED)
    rate = bottleneck.rate(posterior, z, _LABELS)
    assert rate.shape == (6,) and rate.dtype == tf.float32
    if bottleneck.marginal is None:
        np.testing.assert_array_equal(rate, np.zeros(6))
        return
    marginal = bottleneck.marginal(_LABELS)
    ratio = np.float64(posterior.log_prob(z) - marginal.log_prob(z))
    error = ratio.std(0) / np.sqrt(len(ratio))
    divergence = posterior.kl_divergence(marginal)
    assert np.all(np.abs(rate - divergence) < 5 * error)
    assert np.all(divergence > 0)


def test_the_weight_is_a_float32_that_never_goes_below_zero(bottleneck):
    traced = tf.function(bottleneck.weight)
    for step in (0, 1, 10**6, 2**31 - 1):
        eager = bottleneck.weight(tf.constant(step))
        assert eager.dtype == tf.float32 and eager.shape == ()
        assert 0 <= float(eager) < np.inf
        assert float(traced(tf.constant(step))) == float(eager)
    assert np.isfinite(bottleneck.control_value(tf.constant(0)))


def test_it_comes_back_from_its_config(bottleneck):
    arguments = set(inspect.signature(type(bottleneck)).parameters)
    config = bottleneck.get_config()
    assert arguments - {"kwargs"} <= set(config)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(bottleneck)
    )
    assert again.get_config() == config
    again.set_weights(bottleneck.get_weights())
    before, after = bottleneck(_FEATURES), again(_FEATURES)
    np.testing.assert_array_equal(before.mean(), after.mean())
    np.testing.assert_array_equal(before.stddev(), after.stddev())
    z = bottleneck.sample(before, 2, _SEED)
    np.testing.assert_array_equal(
        bottleneck.rate(before, z, _LABELS), again.rate(after, z, _LABELS)
    )


def test_calling_adds_no_weights(bottleneck):
    count = len(bottleneck.weights)
    posterior = bottleneck(_FEATURES)
    z = bottleneck.sample(posterior, 2, _SEED)
    bottleneck.rate(posterior, z, _LABELS)
    assert len(bottleneck.weights) == count


def test_under_another_policy_the_distribution_stays_float32(name, bottleneck):
    posterior = bottleneck(_FEATURES)
    z = bottleneck.sample(posterior, 2, _SEED)
    expected = [
        posterior.mean(),
        posterior.stddev(),
        z,
        bottleneck.rate(posterior, z, _LABELS),
    ]
    with models.dtype_policy("mixed_bfloat16"):
        other = build(name)
        other.build(_FEATURES.shape)
        other.set_weights(bottleneck.get_weights())
        posterior = other(_FEATURES)
        z = other.sample(posterior, 2, _SEED)
        received = [
            posterior.mean(),
            posterior.stddev(),
            z,
            other.rate(posterior, z, _LABELS),
        ]
    for before, after in zip(expected, received, strict=True):
        assert after.dtype == tf.float32
        np.testing.assert_array_equal(before, after)


def test_the_initial_weights_are_a_function_of_the_seed(name, classifier):
    _, start, _ = classifier
    again = models.weights_of(build_classifier(name))
    other = models.weights_of(build_classifier(name, seed=18))
    assert len(again) == len(other) == len(start)
    for left, right, different in zip(start, again, other, strict=True):
        np.testing.assert_array_equal(left, right)
        if left.ndim > 1:
            assert np.any(left != different)


def test_a_step_of_fit_changes_every_trainable_weight(classifier):
    model, start, history = classifier
    assert np.isfinite(history["loss"]).all()
    assert len(model.weights) == len(start)
    for weight, before in zip(model.weights, start, strict=True):
        assert np.isfinite(weight.numpy()).all()
        assert np.any(weight.numpy() != before), weight.path


def test_a_saved_classifier_is_the_same_after_loading(classifier, tmp_path):
    model, *_ = classifier
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.models.load_model(path)
    images, labels = models.data(8)
    arguments = images, labels, _SEED, tf.constant(3)
    before, after = (m.evaluate_terms(*arguments) for m in (model, loaded))
    np.testing.assert_array_equal(before[1], after[1])
    for left, right in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(left, right)


def gradients(model, images, labels, noise_seed, step):
    with tf.GradientTape() as tape:
        terms = model.terms(images, labels, noise_seed, step)
        loss = tf.reduce_mean(terms.loss)
    return tape.gradient(loss, model.trainable_weights)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compilation_changes_no_step(name, jit_compile, monkeypatch):
    # XLA draws other noise from a seed, so that comes from outside here.
    fixed = np.random.default_rng(1).normal(size=(4, 8, _LATENT_DIM))
    fixed = tf.constant(fixed, tf.float32)
    monkeypatch.setattr(seeds, "noise", lambda seed, shape: fixed)
    model = build_classifier(name)
    images, labels = (tf.constant(array) for array in models.data(8))
    arguments = images, labels, _SEED, tf.constant(3)
    eager = gradients(model, *arguments)
    compiled = tf.function(
        lambda *given: gradients(model, *given), jit_compile=jit_compile
    )(*arguments)
    assert len(eager) == len(compiled)
    for left, right in zip(eager, compiled, strict=True):
        assert np.any(left)
        scale = np.abs(left).max()
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4 * scale)


def test_two_devices_train_it_together(name):
    with models.two_devices().scope():
        model = build_classifier(name)
        model.compile(FusedAdam(learning_rate=0.01))
    start = models.weights_of(model)
    images, labels = models.data(32)
    history = model.fit(images, labels, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    for weight, before in zip(model.trainable_weights, start, strict=True):
        first, second = (v.numpy() for v in weight.value.values)
        np.testing.assert_array_equal(first, second)
        assert np.any(first != before)
