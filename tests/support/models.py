"""Small classifiers, data for them, and their arithmetic in NumPy."""

import contextlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ib_keras import classifier
from ib_keras.classifier import IBClassifier

IMAGE_SHAPE = (4, 4, 1)
NUM_CLASSES = 3

# The bottleneck sections that the tests of formulas go through. Noise of about
# the size of the means, or a wrong deviation would hardly show.
BOTTLENECKS = {
    "vib": {"name": "vib", "latent_dim": 5, "scale_shift": 0.0, "beta": 0.3},
    "ceb": {"name": "ceb", "latent_dim": 5, "rho": 0.7},
    "deterministic": {"name": "deterministic", "latent_dim": 5},
}


def config(bottleneck="vib", **changes) -> dict[str, Any]:
    """A training config's model sections, for a network of a few weights."""
    if isinstance(bottleneck, str):
        bottleneck = BOTTLENECKS[bottleneck]
    return {
        "encoder": {"name": "mlp", "hidden_units": (8, 6)},
        "bottleneck": dict(bottleneck),
        "decoder": {"initializer": "glorot_uniform"},
        "input": {"normalisation": "minus_one_one"},
        "num_samples": 4,
        "seed": 17,
        **changes,
    }


def build(bottleneck="vib", image_shape=IMAGE_SHAPE, **changes) -> IBClassifier:
    """Builds a small classifier by `classifier.build`."""
    return classifier.build(
        config(bottleneck, **changes),
        image_shape=image_shape,
        num_classes=NUM_CLASSES,
        steps_per_epoch=10,
    )


def two_class_linear(image_shape) -> IBClassifier:
    """A linear map of pixels to two logits, whose worst cases are known."""
    model = classifier.build(
        config("deterministic", encoder={"name": "linear"}),
        image_shape=image_shape,
        num_classes=2,
        steps_per_epoch=10,
    )
    return randomise(model, scale=0.4)


def randomise(model, seed=0, scale=0.5):
    """Gives every weight, biases too, a value that a bug cannot hide behind."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(scale * rng.normal(size=weight.shape))
    return model


def data(num_examples=64, image_shape=IMAGE_SHAPE, seed=0):
    """Random images with classes that a linear map of them decides."""
    rng = np.random.default_rng(seed)
    images = rng.random((num_examples, *image_shape), np.float32)
    flat = images.reshape(num_examples, -1)
    scores = (flat - 0.5) @ rng.normal(size=(flat.shape[1], NUM_CLASSES))
    return images, scores.argmax(-1).astype(np.int32)


@contextlib.contextmanager
def dtype_policy(name: str):
    """Sets Keras' global dtype policy for a while."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def two_devices() -> tf.distribute.Strategy:
    """A strategy with two replicas, on the logical CPUs of conftest.py."""
    # Collective operations are numbered from the same number for each new
    # strategy, and a process that reuses a number for another shape stops.
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def weights_of(model) -> list[np.ndarray]:
    return [weight.numpy() for weight in model.weights]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def dense(layer, inputs: np.ndarray) -> np.ndarray:
    kernel, bias = (w.numpy().astype(np.float64) for w in layer.weights)
    return inputs @ kernel + bias


def numpy_posterior(model, images) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of p(z|x) of an MLP classifier, in float64."""
    x = (np.float64(images) - model.input_mean) / model.input_std
    x = x.reshape(len(x), -1)
    for layer in model.encoder.layers:
        if isinstance(layer, keras.layers.Dense):
            x = np.maximum(dense(layer, x), 0)
    bottleneck = model.bottleneck
    out = dense(bottleneck.posterior.projection, x)
    name = type(bottleneck).__name__
    if name == "VIB":
        loc, raw = np.split(out, 2, axis=-1)
        return loc, np.log1p(np.exp(raw + bottleneck.scale_shift))
    return out, np.full_like(out, {"CEB": 1.0, "Deterministic": 0.0}[name])


def numpy_marginal_mean(model, labels) -> np.ndarray | float:
    """Mean of q(z), or of q(z|y); the deviation is 1 either way."""
    if type(model.bottleneck).__name__ == "CEB":
        means = model.bottleneck.marginal.class_means.numpy()
        return np.float64(means)[labels]
    return 0.0


def gaussian_log_density(z, loc, scale) -> np.ndarray:
    """log N(z; loc, diag(scale^2)), summed over the last axis."""
    terms = (
        -0.5 * ((z - loc) / scale) ** 2
        - np.log(scale)
        - 0.5 * np.log(2 * np.pi)
    )
    return terms.sum(-1)


def gaussian_kl(loc, scale, other_loc) -> np.ndarray:
    """KL from N(loc, diag(scale^2)) to N(other_loc, I), in nats."""
    terms = scale**2 + (loc - other_loc) ** 2 - 1 - 2 * np.log(scale)
    return 0.5 * terms.sum(-1)


def assert_uniform(moved, norm) -> None:
    """That moves `[examples, ...]` are uniform in the ball of radius 1."""
    away = np.reshape(moved, [len(moved), -1])
    unit = np.abs(away)
    if norm == "l2":  # Shares of volume.
        unit = np.linalg.norm(away, axis=1) ** away.shape[1]
    assert abs(unit.mean() - 0.5) < 4 / np.sqrt(12 * unit.size)
    assert np.abs(away.mean(axis=0)).max() < 0.1
