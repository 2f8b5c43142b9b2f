import keras
import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.bottlenecks import deterministic
from tests.support import models

FEATURES = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def make():
    bottleneck = deterministic.build(10, 49, latent_dim=6)
    bottleneck.build((None, 4))
    return models.randomise(bottleneck)


def test_the_latents_are_a_linear_function_of_the_features():
    bottleneck = make()
    kernel, bias = models.weights_of(bottleneck)
    latents = bottleneck.sample(bottleneck(FEATURES), 12, seeds.from_int(0))
    assert latents.shape == (1, 5, 6)
    np.testing.assert_allclose(
        latents[0], FEATURES @ kernel + bias, rtol=1e-5, atol=1e-6
    )


def test_nothing_is_random():
    bottleneck = make()
    posterior = bottleneck(FEATURES)
    first, second = (
        bottleneck.sample(posterior, 3, seeds.from_int(i)) for i in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert not bottleneck.is_stochastic


def test_nothing_is_penalised():
    bottleneck = make()
    posterior = bottleneck(FEATURES)
    latents = bottleneck.sample(posterior, 1, seeds.from_int(0))
    rate = bottleneck.rate(posterior, latents, np.zeros(5, np.int32))
    np.testing.assert_array_equal(rate, np.zeros(5))
    assert float(bottleneck.weight(tf.constant(7))) == 0.0


def test_it_comes_back_from_its_config():
    bottleneck = deterministic.Deterministic(6, name="other")
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(bottleneck)
    )
    assert again.get_config() == bottleneck.get_config()


def test_its_width_is_that_of_the_paper():
    bottleneck = deterministic.build(10, 49)
    bottleneck.build((None, 1024))
    shapes = [weight.shape for weight in bottleneck.weights]
    assert shapes == [(1024, 256), (256,)]


def test_without_a_layer_the_latents_are_the_features():
    bottleneck = deterministic.build(10, 49, latent_dim=None)
    bottleneck.build((None, 4))
    assert bottleneck.weights == [] and bottleneck.latent_dim == 4
    posterior = bottleneck(FEATURES)
    latents = bottleneck.sample(posterior, 12, seeds.from_int(0))
    np.testing.assert_array_equal(latents, FEATURES[None])
    np.testing.assert_array_equal(posterior.stddev(), np.zeros((5, 4)))


def test_the_width_that_it_took_is_not_in_its_config():
    bottleneck = deterministic.build(10, 49, latent_dim=None)
    before = bottleneck.get_config()
    bottleneck.build((None, 4))
    assert bottleneck.get_config() == before
    assert before["latent_dim"] is None
    again = deterministic.Deterministic.from_config(before)
    again.build((None, 7))
    assert again.latent_dim == 7


def test_with_the_linear_encoder_it_is_a_linear_classifier():
    """One kernel and one bias from pixels to logits; both may start at 0."""
    model = models.build(
        {"name": "deterministic", "latent_dim": None},
        encoder={"name": "linear"},
        decoder={"initializer": "zeros"},
    )
    kernel, bias = model.trainable_variables
    assert kernel.shape == (16, 3) and bias.shape == (3,)
    assert not kernel.numpy().any() and not bias.numpy().any()
    models.randomise(model)
    images, _ = models.data(5)
    expected = (2 * images.reshape(5, 16) - 1) @ kernel.numpy() + bias.numpy()
    np.testing.assert_allclose(model(images), expected, rtol=1e-5, atol=1e-6)
