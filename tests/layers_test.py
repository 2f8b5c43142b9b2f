import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from ib_keras import layers
from tests.support import models

tfd = tfp.distributions

FEATURES = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([2, 0, 2, 1, 0, 0], np.int32)

HEADS = (layers.DiagonalGaussian, layers.UnitGaussian, layers.PointMass)
heads = pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)


def randomised(layer, inputs=FEATURES):
    layer(inputs)
    return models.randomise(layer, seed=2)


def affine(layer) -> np.ndarray:
    kernel, bias = models.weights_of(layer)
    return np.float64(FEATURES) @ kernel + bias


def test_the_vib_head_splits_into_mean_and_shifted_softplus_deviation():
    layer = randomised(layers.DiagonalGaussian(3))
    posterior = layer(FEATURES)
    loc, raw = np.split(affine(layer), 2, axis=-1)
    np.testing.assert_allclose(posterior.mean(), loc, rtol=1e-5, atol=1e-6)
    # The paper, appendix: sigma = log(1 + exp(x - 5)).
    scale = np.log(1 + np.exp(raw - 5.0))
    np.testing.assert_allclose(posterior.stddev(), scale, rtol=1e-5)
    assert posterior.batch_shape == (6,) and posterior.event_shape == (3,)


def test_the_shift_of_the_deviation_can_be_chosen():
    layer = randomised(layers.DiagonalGaussian(3, scale_shift=0.5))
    _, raw = np.split(affine(layer), 2, axis=-1)
    np.testing.assert_allclose(
        layer(FEATURES).stddev(), np.log(1 + np.exp(raw + 0.5)), rtol=1e-5
    )


def test_a_fresh_vib_head_is_almost_deterministic():
    scale = layers.DiagonalGaussian(3)(np.zeros([1, 4])).stddev().numpy()
    # softplus(-5), as the bias is zero.
    np.testing.assert_allclose(scale, 0.006_715_348, rtol=1e-5)


def test_a_deviation_that_underflows_keeps_the_density_finite():
    layer = randomised(layers.DiagonalGaussian(3))
    layer.projection.bias.assign([0.0] * 3 + [-300.0] * 3)
    posterior = layer(FEATURES)
    assert posterior.stddev().numpy().min() > 0
    density = posterior.log_prob(posterior.mean()).numpy()
    assert np.isfinite(density).all()
    closed_form = tfd.kl_divergence(posterior, layers.StandardNormal(3)(None))
    assert np.isfinite(closed_form).all()


def test_the_ceb_head_has_its_mean_and_the_identity():
    layer = randomised(layers.UnitGaussian(3))
    posterior = layer(FEATURES)
    loc = affine(layer)
    np.testing.assert_allclose(posterior.mean(), loc, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(posterior.covariance()[0], np.eye(3))
    z = np.ones(3, np.float32)
    expected = scipy.stats.multivariate_normal(loc[0]).logpdf(z)
    assert float(posterior.log_prob(z)[0]) == pytest.approx(expected, rel=1e-5)


def test_the_deterministic_head_is_a_point():
    layer = randomised(layers.PointMass(3))
    posterior = layer(FEATURES)
    np.testing.assert_allclose(posterior.mean(), affine(layer), rtol=1e-5)
    np.testing.assert_array_equal(posterior.stddev(), np.zeros([6, 3]))
    assert posterior.batch_shape == (6,) and posterior.event_shape == (3,)


@heads
def test_a_head_starts_with_glorot_weights_and_zero_biases(head):
    keras.utils.set_random_seed(3)
    layer = head(50)
    layer(np.zeros([1, 100]))
    kernel, bias = models.weights_of(layer)
    assert kernel.shape == (100, 50 * head.units_per_latent)
    limit = np.sqrt(6 / sum(kernel.shape))
    assert 0.99 < np.abs(kernel).max() / limit < 1.000_001
    assert not bias.any()


@heads
def test_a_head_takes_another_initializer(head):
    layer = head(3, kernel_initializer="zeros")
    np.testing.assert_array_equal(layer(FEATURES).mean(), np.zeros([6, 3]))


def test_the_vib_marginal_is_the_standard_normal():
    layer = layers.StandardNormal(3)
    marginal = layer(LABELS)
    assert layer.weights == []
    z = np.random.default_rng(3).normal(size=(5, 6, 3)).astype(np.float32)
    expected = scipy.stats.norm.logpdf(np.float64(z)).sum(-1)
    np.testing.assert_allclose(marginal.log_prob(z), expected, rtol=1e-5)
    assert marginal.batch_shape == () and marginal.event_shape == (3,)


def test_the_ceb_marginal_is_a_linear_map_of_the_one_hot_label():
    layer = randomised(layers.ClassConditionalGaussian(3, 4), LABELS)
    marginal = layer(LABELS)
    (matrix,) = models.weights_of(layer)
    loc = np.eye(3)[LABELS] @ matrix
    np.testing.assert_allclose(marginal.mean(), loc, rtol=1e-6)
    np.testing.assert_array_equal(marginal.covariance()[1], np.eye(4))
    z = np.random.default_rng(3).normal(size=(5, 6, 4)).astype(np.float32)
    expected = scipy.stats.norm.logpdf(np.float64(z), loc).sum(-1)
    np.testing.assert_allclose(marginal.log_prob(z), expected, rtol=1e-5)


def test_the_ceb_marginal_learns_like_that_linear_map():
    layer = randomised(layers.ClassConditionalGaussian(3, 4), LABELS)
    z = np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(LABELS).log_prob(z))
    gradient = tape.gradient(loss, layer.class_means.value)
    one_hot = np.eye(3)[LABELS]
    expected = one_hot.T @ (z - one_hot @ models.weights_of(layer)[0])
    # Dense: of rows with repetitions Adam would make something else.
    assert isinstance(gradient, tf.Tensor)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        layers.DiagonalGaussian(3, scale_shift=1.5, kernel_initializer="ones"),
        layers.UnitGaussian(3, kernel_initializer="ones"),
        layers.PointMass(3, kernel_initializer="ones"),
        layers.StandardNormal(3),
        layers.ClassConditionalGaussian(5, 3, kernel_initializer="ones"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_comes_back_from_its_config(layer):
    config = keras.saving.serialize_keras_object(layer)
    assert config["registered_name"] == f"ib_keras>{type(layer).__name__}"
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == layer.get_config()
    inputs = LABELS if not isinstance(layer, HEADS) else FEATURES
    before, after = layer(inputs), again(inputs)
    np.testing.assert_array_equal(before.mean(), after.mean())
    np.testing.assert_array_equal(before.stddev(), after.stddev())


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_distributions_stay_float32_under_another_policy(policy):
    expected = [randomised(head(3))(FEATURES) for head in HEADS]
    with models.dtype_policy(policy):
        received = [randomised(head(3))(FEATURES) for head in HEADS]
        marginals = [
            layers.StandardNormal(3)(LABELS),
            layers.ClassConditionalGaussian(5, 3)(LABELS),
        ]
    assert {d.dtype for d in received + marginals} == {tf.float32}
    for before, after in zip(expected, received, strict=True):
        # Not one bit is lost to bfloat16 on the way.
        np.testing.assert_array_equal(before.mean(), after.mean())
        np.testing.assert_array_equal(before.stddev(), after.stddev())


@pytest.mark.parametrize("latent_dim", [0, -3])
def test_a_bottleneck_without_dimensions_is_refused(latent_dim):
    for layer in (layers.StandardNormal, *HEADS):
        with pytest.raises(ValueError, match=f"latent_dim={latent_dim}"):
            layer(latent_dim)


def test_building_twice_makes_weights_once():
    layer = layers.UnitGaussian(3)
    layers.ensure_built(layer, (None, 4))
    kernel = layer.projection.kernel
    layers.ensure_built(layer, (None, 4))
    assert layer.projection.kernel is kernel
    assert len(layer.weights) == 2
