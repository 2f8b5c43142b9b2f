"""What every part of `ib_keras.encoders` promises, tested for all of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ib_keras import plugins
from tests.support import models

_NAMES = plugins.names("encoders")
_IMAGE_SHAPE = (8, 8, 3)


def build(name, image_shape=_IMAGE_SHAPE):
    return plugins.build("encoders", {"name": name}, image_shape=image_shape)


def build_classifier(name, seed=17):
    return models.build(
        {"name": "vib", "latent_dim": 4},
        image_shape=_IMAGE_SHAPE,
        encoder={"name": name},
        seed=seed,
    )


@pytest.fixture(scope="module", params=_NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def images():
    """As the model hands them over: rescaled to [-1, 1]."""
    return 2 * models.data(6, _IMAGE_SHAPE)[0] - 1


@pytest.fixture(scope="module")
def encoder(name):
    keras.utils.set_random_seed(3)
    return build(name)


@pytest.fixture(scope="module")
def classifier(name):
    """A classifier around the part, after one step of `fit`."""
    model = build_classifier(name)
    start = models.weights_of(model)
    model.compile(keras.optimizers.SGD(0.1))
    history = model.fit(
        *models.data(6, _IMAGE_SHAPE), batch_size=6, verbose=0
    ).history
    return model, start, history


def test_the_parts_are_found_by_their_files():
    assert {"linear", "mlp", "preact_resnet18"} <= set(_NAMES)


def test_features_are_one_finite_row_per_image(encoder, images):
    features = encoder(images)
    assert features.dtype == tf.float32
    assert features.shape[0] == 6 and len(features.shape) == 2
    shape = encoder.compute_output_shape((None, *_IMAGE_SHAPE))
    assert tuple(shape) == (None, features.shape[1])
    assert np.isfinite(features).all()
    # Images are told apart.
    assert len(np.unique(features, axis=0)) == 6


def test_features_of_an_image_do_not_depend_on_the_batch(encoder, images):
    together = encoder(images, training=False).numpy()
    alone = encoder(images[4:5], training=False).numpy()
    scale = np.abs(together).max()
    np.testing.assert_allclose(alone[0], together[4], atol=1e-5 * scale)


def test_another_shape_of_images_works(name):
    for shape in ((5, 9, 1), [4, 4, 3]):
        features = build(name, shape)(np.zeros([2, *shape], np.float32))
        assert features.shape[0] == 2


def test_calling_adds_no_weights(encoder, images):
    count = len(encoder.weights)
    encoder(images)
    encoder(images[:2], training=True)
    assert len(encoder.weights) == count


def test_tf_function_changes_no_feature(encoder, images):
    eager = encoder(images, training=False).numpy()
    traced = tf.function(lambda x: encoder(x, training=False))(images)
    np.testing.assert_allclose(
        traced, eager, rtol=1e-4, atol=1e-5 * np.abs(eager).max()
    )


def test_gradients_reach_every_image(encoder, images):
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(encoder(x, training=False) ** 2)
    gradient = tape.gradient(total, x).numpy()
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max(axis=(1, 2, 3)).min() > 0


def test_the_initial_weights_are_a_function_of_the_seed(name, classifier):
    _, start, _ = classifier
    again = models.weights_of(build_classifier(name))
    other = models.weights_of(build_classifier(name, seed=18))
    assert len(again) == len(other) == len(start)
    for left, right, different in zip(start, again, other, strict=True):
        np.testing.assert_array_equal(left, right)
        # Biases and statistics start as constants.
        if left.ndim > 1:
            assert np.any(left != different)


def test_it_comes_back_from_its_config(encoder, images):
    config = keras.saving.serialize_keras_object(encoder)
    again = keras.saving.deserialize_keras_object(config)
    assert [w.shape for w in again.weights] == [
        w.shape for w in encoder.weights
    ]
    again.set_weights(encoder.get_weights())
    np.testing.assert_array_equal(again(images), encoder(images))


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
    for before, after in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy())
    images, _ = models.data(6, _IMAGE_SHAPE)
    np.testing.assert_array_equal(loaded(images), model(images))


def test_under_mixed_bfloat16_the_posterior_is_float32(name):
    with models.dtype_policy("mixed_bfloat16"):
        model = build_classifier(name)
    images, _ = models.data(6, _IMAGE_SHAPE)
    features = model.encoder(tf.constant(images))
    assert features.dtype == tf.bfloat16
    posterior = model.posterior(images)
    assert posterior.dtype == model(images).dtype == tf.float32
    exact = build_classifier(name).posterior(images).mean().numpy()
    # bfloat16 has 8 bits; errors of 18 layers add up to more than one's.
    np.testing.assert_allclose(
        posterior.mean(), exact, rtol=0, atol=0.1 * np.abs(exact).max()
    )
