"""Interval bounds that train: a closed form, and `certify` beside them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ib_keras import certify
from ib_keras import classifier
from ib_keras import modes
from ib_keras import seeds
from ib_keras.errors import UserError
from ib_keras.objectives import ibp
from tests.support import models

EPSILON = 0.1
SEED = seeds.from_int(5)


MLP = {"name": "mlp", "hidden_units": (8, 6)}
CNN = {"name": "small_cnn", "filters": (2, 3), "hidden_units": (5,)}


@pytest.mark.parametrize(
    ("bottleneck", "encoder"),
    [*((name, MLP) for name in models.BOTTLENECKS), ("vib", CNN)],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_bounds_are_those_of_certify(bottleneck, encoder):
    """Whose margin counts rounding; this one is without."""
    model = classifier.build(
        models.config(bottleneck, encoder=encoder),
        image_shape=(8, 8, 1),
        num_classes=3,
        steps_per_epoch=10,
    )
    models.randomise(model, scale=0.3)
    images, labels = models.data(6, (8, 8, 1))
    worst = ibp.worst_logits(model, images, labels, 0.02)[0].numpy()
    rows = np.arange(len(labels))
    np.testing.assert_allclose(worst[rows, labels], 0.0, atol=1e-5)
    worst[rows, labels] = -np.inf
    mean = modes.mean(model)
    certifier = certify.Certifier(lambda x, seed: mean(x), (8, 8, 1), "ibp")
    margin = certifier.certify(images, labels, 0.02).margin
    found = -worst.max(axis=1)
    np.testing.assert_allclose(found, margin, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("bottleneck", ["vib", "ceb"])
def test_no_draw_with_the_same_noise_exceeds_its_bound(bottleneck):
    """At radius 0 they are equal; at another one, at 50 corners of the ball."""
    model = models.randomise(models.build(bottleneck), scale=0.3)
    images, labels = models.data(8)
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(3, 8, 5)).astype(np.float32)

    def differences(images):
        mean, deviation = models.numpy_posterior(model, images)
        logits = models.dense(model.decoder, mean + deviation * noise)
        own = np.take_along_axis(logits, labels[None, :, None], axis=2)
        return logits - own

    found = ibp.worst_logits(model, images, labels, 0.0, noise)
    np.testing.assert_allclose(found, differences(images), atol=1e-4)
    bound = ibp.worst_logits(model, images, labels, EPSILON, noise).numpy()
    for _ in range(50):
        moved = EPSILON * rng.choice([-1, 1], images.shape)
        moved = np.clip(images + moved, 0, 1).astype(np.float32)
        assert (differences(moved) <= bound + 1e-4).all()


def test_stochastic_mode_is_the_mean_probability_over_draws():
    model = models.randomise(models.build("vib"), scale=0.3)
    batch = models.data(8)
    objective = ibp.IntervalBounds(EPSILON, mode="stochastic")
    found = objective(model, *batch, SEED, tf.constant(0))
    noise = objective._noise(model, batch[1], SEED)
    assert noise.shape == (model.num_samples, 8, 5)
    worst = np.float64(ibp.worst_logits(model, *batch, EPSILON, noise))
    own = np.exp(models.log_softmax(worst))[:, np.arange(8), batch[1]]
    np.testing.assert_allclose(
        found.metrics["ibp_cross_entropy"],
        -np.log(own.mean(axis=0)),
        rtol=1e-4,
    )


def test_a_linear_model_has_a_closed_form():
    model = models.two_class_linear((3, 3, 1))
    rng = np.random.default_rng(0)
    images = rng.uniform(0.3, 0.7, (8, 3, 3, 1)).astype(np.float32)
    labels = rng.integers(0, 2, 8).astype(np.int32)
    zero = model(np.zeros((1, 3, 3, 1), np.float32)).numpy()[0]
    unit = np.eye(9, dtype=np.float32).reshape(9, 3, 3, 1)
    gains = model(unit).numpy().astype(np.float64) - zero
    steepness = np.abs(gains[:, 1] - gains[:, 0]).sum()
    logits = model(images).numpy()
    margins = np.where(labels == 1, 1, -1) * (logits[:, 1] - logits[:, 0])
    expected = np.log1p(np.exp(-(margins - EPSILON * steepness)))
    terms = ibp.IntervalBounds(EPSILON, 0.25)(
        model, images, labels, SEED, tf.constant(0)
    )
    found = terms.metrics["ibp_cross_entropy"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    clean = np.log1p(np.exp(-margins))
    np.testing.assert_allclose(
        terms.loss, 0.25 * clean + 0.75 * expected, rtol=1e-4
    )


def test_epsilon_and_kappa_follow_their_schedules():
    made = ibp.build(0.2, 0.5, 2.0, 4.0, steps_per_epoch=10)
    shares = [float(made.share(tf.constant(s))) for s in (0, 19, 39, 59, 99)]
    np.testing.assert_allclose(shares, [0.0, 0.0, 0.5, 1.0, 1.0])
    assert float(ibp.IntervalBounds().share(tf.constant(0))) == 1.0
    # Before them it is the standard objective.
    model = models.randomise(models.build("vib"))
    batch = models.data(8)
    terms = made(model, *batch, SEED, tf.constant(0))
    plain = model.terms(*batch, SEED, tf.constant(0))
    np.testing.assert_allclose(terms.loss, plain.loss, rtol=1e-6)


def test_batch_normalisation_has_the_statistics_of_inference():
    layer = keras.layers.BatchNormalization()
    encoder = keras.Sequential(
        [
            keras.Input(models.IMAGE_SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(6, activation="relu"),
            layer,
        ]
    )
    made = models.build("deterministic")
    model = type(made)(encoder, made.bottleneck, models.NUM_CLASSES)
    model.build((None, *models.IMAGE_SHAPE))
    models.randomise(model)
    layer.moving_variance.assign(np.linspace(0.5, 2, 6))
    images, labels = models.data(8)
    exact = model(images).numpy()
    exact -= exact[np.arange(8), labels][:, None]
    at_zero = ibp.worst_logits(model, images, labels, 0.0)[0]
    np.testing.assert_allclose(at_zero, exact, atol=1e-4)
    bound = ibp.worst_logits(model, images, labels, EPSILON)[0].numpy()
    rng = np.random.default_rng(1)
    for _ in range(50):
        moved = EPSILON * rng.choice([-1, 1], images.shape)
        moved = np.clip(images + moved, 0, 1).astype(np.float32)
        logits = model(moved).numpy()
        logits -= logits[np.arange(8), labels][:, None]
        assert (logits <= bound + 1e-4).all()


def test_bounds_do_not_update_batch_statistics():
    """Only the clean pass does, once: these images have the mean 0.5."""
    layer = keras.layers.BatchNormalization(momentum=0.5)
    encoder = keras.Sequential(
        [
            keras.Input(models.IMAGE_SHAPE),
            layer,
            keras.layers.Flatten(),
            keras.layers.Dense(6, activation="relu"),
        ]
    )
    made = models.build("deterministic")
    model = type(made)(encoder, made.bottleneck, models.NUM_CLASSES)
    model.build((None, *models.IMAGE_SHAPE))
    layer.moving_mean.assign([1.0])
    images, labels = models.data(8)
    both = np.concatenate([images, 1 - images]), np.tile(labels, 2)
    ibp.IntervalBounds()(model, *both, SEED, tf.constant(0))
    np.testing.assert_allclose(layer.moving_mean, [0.5], atol=1e-6)


def test_a_layer_without_bounds_is_named():
    encoder = keras.Sequential(
        [
            keras.Input(models.IMAGE_SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(6, activation="gelu"),
            keras.layers.LayerNormalization(),
        ]
    )
    made = models.build("deterministic")
    model = type(made)(encoder, made.bottleneck, models.NUM_CLASSES)
    model.build((None, *models.IMAGE_SHAPE))
    images, labels = models.data(8)
    with pytest.raises(UserError, match="gelu"):
        ibp.worst_logits(model, images, labels, EPSILON)
    encoder.layers[1].activation = keras.activations.relu
    with pytest.raises(UserError, match="LayerNormalization"):
        ibp.worst_logits(model, images, labels, EPSILON)


@pytest.mark.slow
def test_training_by_it_certifies_more():
    """On separable images; the standard objective is the comparison."""
    images, labels = models.data(256)
    schedule = {"kappa": 0.2, "warmup_epochs": 0.0, "ramp_epochs": 10.0}
    certified = {}
    for section in (
        {"name": "standard"},
        {"name": "ibp", "epsilon": 0.03, **schedule},
    ):
        keras.utils.set_random_seed(0)
        model = models.build("vib", objective=section)
        model.compile(keras.optimizers.Adam(1e-2))
        model.fit(images, labels, batch_size=64, epochs=30, verbose=0)
        worst = ibp.worst_logits(model, images, labels, 0.05)[0].numpy()
        worst[np.arange(256), labels] = -np.inf
        certified[section["name"]] = (worst.max(axis=1) < 0).mean()
    assert certified["ibp"] > certified["standard"] + 0.1
