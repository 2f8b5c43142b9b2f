import keras
import numpy as np
import pytest

from ib_keras import plugins
from ib_keras import seeds
from ib_keras.bottlenecks import base
from ib_keras.bottlenecks.ceb import CEB
from ib_keras.bottlenecks.vib import VIB
from ib_keras.errors import UserError
from tests.support import models

NUM_SAMPLES = 4000
LABELS = np.array([0, 2, 1, 2, 0], np.int32)
SEED = seeds.from_int(5)


def make(kind, rate_estimator="sampled"):
    more = {"scale_shift": 0.0} if kind is VIB else {"num_classes": 3}
    bottleneck = kind(6, rate_estimator=rate_estimator, **more)
    features = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    bottleneck(features)
    models.randomise(bottleneck, seed=3, scale=0.4)
    return bottleneck, bottleneck(features)


def parts(bottleneck, posterior):
    """Mean and deviation of p(z|x), mean of the marginal, in float64."""
    loc = np.float64(posterior.mean())
    scale = np.float64(posterior.stddev())
    if isinstance(bottleneck, VIB):
        return loc, scale, 0.0
    means = np.float64(bottleneck.marginal.class_means.numpy())
    return loc, scale, means[LABELS]


kinds = pytest.mark.parametrize("kind", [VIB, CEB])


@kinds
def test_samples_are_the_mean_plus_the_deviation_times_the_noise(kind):
    bottleneck, posterior = make(kind)
    latents = bottleneck.sample(posterior, 7, SEED)
    noise = seeds.noise(SEED, [7, 5, 6]).numpy()
    loc, scale, _ = parts(bottleneck, posterior)
    assert latents.shape == (7, 5, 6)
    np.testing.assert_allclose(
        latents, loc + scale * noise, rtol=1e-5, atol=1e-6
    )


@kinds
def test_samples_have_the_moments_of_the_posterior(kind):
    bottleneck, posterior = make(kind)
    latents = np.float64(bottleneck.sample(posterior, NUM_SAMPLES, SEED))
    loc, scale, _ = parts(bottleneck, posterior)
    error = scale / np.sqrt(NUM_SAMPLES)
    assert np.all(np.abs(latents.mean(0) - loc) < 5 * error)
    error = scale**2 * np.sqrt(2 / NUM_SAMPLES)
    assert np.all(np.abs(latents.var(0) - scale**2) < 5 * error)


@kinds
def test_the_closed_form_rate_is_the_formula(kind):
    bottleneck, posterior = make(kind, "closed_form")
    loc, scale, other = parts(bottleneck, posterior)
    expected = models.gaussian_kl(loc, scale, other)
    if kind is CEB:
        # Of unit Gaussians: half the squared distance of the means.
        np.testing.assert_allclose(
            expected, 0.5 * np.sum((loc - other) ** 2, -1)
        )
    rate = bottleneck.rate(posterior, None, LABELS)
    assert rate.shape == (5,) and expected.min() > 0.2
    np.testing.assert_allclose(rate, expected, rtol=1e-5)


@kinds
def test_the_sampled_rate_is_the_mean_log_density_ratio(kind):
    bottleneck, posterior = make(kind)
    latents = bottleneck.sample(posterior, 3, SEED)
    loc, scale, other = parts(bottleneck, posterior)
    z = np.float64(latents)
    ratio = models.gaussian_log_density(
        z, loc, scale
    ) - models.gaussian_log_density(z, other, 1.0)
    rate = bottleneck.rate(posterior, latents, LABELS)
    assert rate.shape == (5,)
    np.testing.assert_allclose(rate, ratio.mean(0), rtol=1e-4)


@kinds
def test_both_rates_agree_up_to_the_standard_error(kind):
    bottleneck, posterior = make(kind)
    latents = bottleneck.sample(posterior, NUM_SAMPLES, SEED)
    sampled = np.float64(bottleneck.rate(posterior, latents, LABELS))
    loc, scale, other = parts(bottleneck, posterior)
    z = np.float64(latents)
    ratio = models.gaussian_log_density(
        z, loc, scale
    ) - models.gaussian_log_density(z, other, 1.0)
    error = ratio.std(0) / np.sqrt(NUM_SAMPLES)
    exact = models.gaussian_kl(loc, scale, other)
    assert np.all(error < 0.05 * exact)
    assert np.all(np.abs(sampled - exact) < 5 * error)


def test_the_rate_of_the_marginal_itself_is_zero():
    bottleneck = VIB(6, scale_shift=float(np.log(np.e - 1)))
    bottleneck.build((None, 4))
    for weight in bottleneck.weights:
        weight.assign(np.zeros(weight.shape))
    bottleneck.rate_estimator = "closed_form"
    posterior = bottleneck(np.ones([2, 4], np.float32))
    np.testing.assert_allclose(
        bottleneck.rate(posterior, None, None), [0, 0], atol=1e-6
    )


@kinds
def test_an_unknown_estimator_suggests_the_nearest(kind):
    with pytest.raises(UserError, match='Did you mean "closed_form"'):
        make(kind, "closedform")


def test_the_estimator_is_a_field_of_the_config():
    for name in ("vib", "ceb"):
        bottleneck = plugins.build(
            "bottlenecks",
            {"name": name, "rate_estimator": "closed_form"},
            num_classes=3,
            steps_per_epoch=2,
        )
        assert bottleneck.rate_estimator == "closed_form"
        assert bottleneck.latent_dim == 256


def test_a_bottleneck_without_a_weight_is_an_error():
    with pytest.raises(
        NotImplementedError, match="Bottleneck defines no weight"
    ):
        base.Bottleneck(3).weight(0)


def test_a_subclass_needs_its_layers_and_weight_only():
    @keras.saving.register_keras_serializable(package="tests")
    class Halved(VIB):
        def weight(self, step):
            return 0.5 * super().weight(step)

    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(Halved(6, beta=0.3))
    )
    keras.saving.get_custom_objects().pop("tests>Halved")
    assert float(again.weight(0)) == pytest.approx(0.15)
