"""Sampled logits have the law of logits of sampled latents."""

import types

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import seeds
from tests.support import models

DRAWS = 40000


def gaussian(model, image):
    """Mean and covariance of differences of logits, from the weights."""
    posterior = model.posterior(image)
    kernel, bias = (w.numpy().astype(np.float64) for w in model.decoder.weights)
    kernel, bias = kernel[:, :-1] - kernel[:, -1:], bias[:-1] - bias[-1]
    mean = posterior.mean().numpy()[0] @ kernel + bias
    variance = posterior.variance().numpy()[0]
    return mean, kernel.T @ (variance[:, None] * kernel)


@pytest.mark.parametrize("name", ["vib", "ceb"])
def test_the_moments_are_those_of_the_closed_form(name):
    model = models.randomise(models.build(name), seed=3)
    image = models.data(1)[0]
    drawn = model._sample_logits(
        model.posterior(image), DRAWS, seeds.from_int(5)
    ).numpy()[:, 0]
    assert (drawn[:, -1] == 0).all()
    drawn = drawn[:, :-1].astype(np.float64)
    mean, covariance = gaussian(model, image)
    deviation = np.sqrt(np.diag(covariance))
    error = 4.5 * deviation / np.sqrt(DRAWS)
    assert (np.abs(drawn.mean(0) - mean) < error).all()
    # The variance of a sample covariance of Gaussians.
    spread = covariance**2 + np.outer(deviation**2, deviation**2)
    tolerance = 4.5 * np.sqrt(spread / DRAWS) + 2e-5 * deviation.max() ** 2
    assert (np.abs(np.cov(drawn.T) - covariance) < tolerance).all()


@pytest.mark.parametrize("name", ["vib", "ceb"])
def test_both_ways_of_sampling_give_the_same_mean_probabilities(name):
    model = models.randomise(models.build(name), seed=1)
    images = models.data(6)[0]

    def probabilities(sampling):
        return np.exp(
            model(
                images,
                mode="stochastic",
                noise_seed=seeds.from_int(0),
                num_samples=DRAWS,
                sampling=sampling,
            )
        )

    # A probability's variance is at most 1/4, over two independent means.
    tolerance = 4.5 * np.sqrt(2 * 0.25 / DRAWS)
    difference = probabilities("latents") - probabilities("logits")
    assert np.abs(difference).max() < tolerance


def test_sampled_logits_have_the_gradient_of_the_mean_probability():
    model = models.randomise(models.build("vib"), seed=2)
    images = tf.constant(models.data(3)[0])

    def gradient(sampling):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = model(
                images,
                mode="stochastic",
                noise_seed=seeds.from_int(0),
                num_samples=20000,
                sampling=sampling,
            )
            loss = tf.reduce_sum(logits[:, 0])
        return tape.gradient(loss, images).numpy()

    one, other = gradient("latents"), gradient("logits")
    scale = np.abs(one).max()
    assert scale > 1e-3
    # Both are means of 20,000 draws whose spread is of the order of one.
    assert np.abs(one - other).max() < 0.05 * scale


def test_a_decoder_of_zeros_is_sampled_without_a_fault():
    model = models.build("vib", decoder={"initializer": "zeros"})
    logits = model(
        models.data(2)[0],
        mode="stochastic",
        noise_seed=seeds.from_int(0),
        sampling="logits",
    )
    np.testing.assert_allclose(logits, np.log(1 / 3), rtol=1e-5)


class OnePosterior:
    """Latents of which three alone have a deviation that matters."""

    def __init__(self, latent_dim):
        variance = np.full([4, latent_dim], 1e-12, np.float32)
        variance[:, :3] = 1.0
        self._mean, self._variance = np.zeros_like(variance), variance

    def mean(self):
        return tf.constant(self._mean)

    def variance(self):
        return tf.constant(self._variance)


@pytest.mark.parametrize("num_classes", [10, 200])
def test_a_covariance_of_low_rank_is_factored_and_hardly_widened(num_classes):
    model = models.build("vib")
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(16, num_classes)).astype(np.float32)
    model.num_classes = num_classes
    model.decoder = types.SimpleNamespace(
        kernel=tf.constant(kernel), bias=tf.zeros(num_classes)
    )
    drawn = model._sample_logits(OnePosterior(16), 2000, seeds.from_int(1))
    assert np.isfinite(drawn).all()
    # Of these differences of logits nothing moves but by the ridge.
    differences = kernel[:3, :-1] - kernel[:3, -1:]
    _, _, basis = np.linalg.svd(differences)
    still = drawn.numpy()[:, 0, :-1] @ basis[3:].T
    trace = np.sum(differences**2)
    assert still.var() < 3e-6 * trace
