"""Models as other people export them: trained on digits in a second.

All are made of one linear softmax classifier, since what differs here is the
wrapping. `linear` gives its weights, so that a test can compute in NumPy what
an audited function must return.
"""

import atexit
import functools
import shutil
import tempfile
import warnings

import keras
import numpy as np
import tensorflow as tf

from ib_keras.data import digits

CLASSES = 10
SHAPE = (8, 8, 1)


@functools.cache
def data(split="test") -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1] and labels."""
    with tf.init_scope():  # It may be called first while tracing.
        images, labels = digits.build().load(split)
    return images.astype(np.float32) / 255, labels


@functools.cache
def linear() -> tuple[np.ndarray, np.ndarray]:
    """Kernel `[64, 10]` and bias `[10]` of a regression on the digits."""
    images, labels = data("train")
    flat = images.reshape(len(images), -1).astype(np.float64)
    kernel, bias = np.zeros([64, CLASSES]), np.zeros(CLASSES)
    one_hot = np.eye(CLASSES)[labels]
    for _ in range(300):
        logits = flat @ kernel + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        gap = p / p.sum(1, keepdims=True) - one_hot
        kernel -= 2.0 * flat.T @ gap / len(flat)
        bias -= 2.0 * gap.mean(0)
    return kernel.astype(np.float32), bias.astype(np.float32)


def logits(images) -> tf.Tensor:
    """The classifier in TensorFlow, of images in [0, 1]."""
    kernel, bias = linear()
    flat = tf.reshape(images, [-1, 64])
    return tf.matmul(flat, tf.constant(kernel)) + bias


def expected(images) -> np.ndarray:
    """The same in NumPy."""
    kernel, bias = linear()
    return np.reshape(images, [-1, 64]) @ kernel + bias


@functools.cache
def folder() -> str:
    """A folder for models that lasts as long as the tests."""
    path = tempfile.mkdtemp(prefix="ib_keras_tests_")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _path(name) -> str:
    return tempfile.mkdtemp(prefix=f"{name}_", dir=folder())


def keras_model(*before, activation=None) -> keras.Model:
    """The classifier as a Keras 3 model, with layers before it."""
    dense = keras.layers.Dense(CLASSES, activation=activation)
    model = keras.Sequential(
        [keras.Input(SHAPE), *before, keras.layers.Flatten(), dense]
    )
    dense.set_weights(linear())
    return model


def export(model) -> str:
    """Exports a Keras 3 model as its users do."""
    path = _path("exported")
    model.export(path, verbose=False)
    return path


def export_archive(model) -> str:
    """Exports a Keras 3 model by hand, for inference."""
    path = _path("archive")
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        name="classify",
        fn=lambda images: model(images, training=False),
        input_signature=[tf.TensorSpec([None, *SHAPE], tf.float32)],
    )
    archive.write_out(path, verbose=False)
    return path


def keras_file(model) -> str:
    """Saves a Keras 3 model as a .keras file."""
    path = f"{_path('file')}/model.keras"
    model.save(path)
    return path


def keras2() -> str:
    """The classifier with a softmax, saved by Keras 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tf_keras

        layers = tf_keras.layers
        # By name: Keras counts layers over a whole process.
        dense = layers.Dense(CLASSES, activation="softmax", name="dense")
        model = tf_keras.Sequential(
            [layers.InputLayer(SHAPE), layers.Flatten(), dense]
        )
        dense.set_weights(linear())
        path = _path("keras2")
        model.save(path, save_format="tf")
    return path


def module(
    function=logits,
    shape=SHAPE,
    *,
    name="predict",
    batch=None,
    dtype=tf.float32,
    signatures=False,
    variables=(),
    **others,
) -> str:
    """Saves functions of images as a `tf.Module`.

    Args:
        function: The main one.
        shape: Of one image as the functions take it.
        name: What the main one is called.
        batch: Its batch size; None for a free one.
        dtype: Of the images.
        signatures: Whether they are saved as signatures, not as functions.
        variables: What the functions use.
        **others: More functions by name.
    """
    spec = tf.TensorSpec([batch, *shape], dtype, name="images")
    saved = tf.Module()
    saved.state = list(variables)
    functions = {
        key: tf.function(value, input_signature=[spec], autograph=False)
        for key, value in {name: function, **others}.items()
    }
    path = _path("module")
    if signatures:
        concrete = {
            key: value.get_concrete_function()
            for key, value in functions.items()
        }
        tf.saved_model.save(saved, path, signatures=concrete)
    else:
        for key, value in functions.items():
            setattr(saved, key, value)
        tf.saved_model.save(saved, path)
    return path
