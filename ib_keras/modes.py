"""The stochastic mode of Keras models: their noise drawn by a seed.

Exports and audits use it for an `IBClassifier` and for any Keras model with
bottleneck layers.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import outputs
from ib_keras.bottlenecks import layer as bottleneck_layers
from ib_keras.classifier import IBClassifier
from ib_keras.classifier import log_mean_probability
from ib_keras.errors import UserError

# Default of S: the paper's.
NUM_SAMPLES = 12


def bottlenecks(model: Any) -> list[bottleneck_layers.BottleneckLayer]:
    """The bottleneck layers of a Keras model, wherever they are in it."""
    if not isinstance(model, keras.layers.Layer):
        return []
    kind = bottleneck_layers.BottleneckLayer
    return [part for part in model._flatten_layers() if isinstance(part, kind)]


def is_stochastic(model: Any) -> bool:
    """Whether a model has a stochastic mode."""
    if isinstance(model, IBClassifier):
        return model.is_stochastic
    return bool(bottlenecks(model))


def sampling(model: IBClassifier) -> str:
    """How a stochastic classifier draws: "logits" where that is cheaper."""
    fewer = model.num_classes - 1 < model.bottleneck.latent_dim
    return "logits" if fewer else "latents"


def image_shape(model: Any) -> tuple[int, ...]:
    """The shape of one image that a built Keras model takes.

    Raises:
        UserError: If the model does not know it, or takes something else.
    """
    shape = getattr(model, "input_shape", None)
    if shape is None:  # A subclass may store the shape that it was built for.
        shape = (model.get_build_config() or {}).get("input_shape")
    shape = tuple(shape or ())
    is_known = len(shape) > 1 and all(isinstance(n, int) for n in shape[1:])
    if not is_known:
        raise UserError(
            "The shape of the model's images is not known",
            received=f"a model for inputs of shape {shape or 'unknown'}",
            expected="one input, a batch of images of one known shape",
            fix="Call the model on a batch of images first, or say "
            "image_shape=(height, width, channels).",
        )
    return shape[1:]


def mean(model: Any) -> Callable[[tf.Tensor], Any]:
    """The mean mode of a model: `(images) -> answer`, without a draw.

    Bottleneck layers that are set to be always stochastic use the mean, too.
    """

    def answer(images):
        with bottleneck_layers.drawing(None):
            return model(images, training=False)

    return answer


def stochastic(
    model: keras.Model,
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Any]:
    """The stochastic mode of a model.

    Args:
        model: Of which `is_stochastic` holds.

    Returns:
        A function `(images, seed int32 [2], num_samples) -> answer`, which has
        the structure of the model's own. Scores are those of the mean
        probability over the draws, of the same kind as the model's (logits or
        probabilities); other tensors are the mean over the draws.
    """
    if isinstance(model, IBClassifier):
        way = sampling(model)
        return lambda images, seed, num_samples: model(
            images,
            training=False,
            mode="stochastic",
            noise_seed=seed,
            num_samples=num_samples,
            sampling=way,
        )
    return _Stochastic(model)


class _Stochastic:
    """The stochastic mode of a model with bottleneck layers.

    Where everything after a bottleneck layer depends on its output alone, the
    draws are added to the batch axis there, and the layers before it run once.
    That is tested; where it fails the whole model runs on S copies of the
    images.
    """

    def __init__(self, model):
        self._model = model
        self._try = functools.cache(self._try_shape)

    def __call__(self, images, seed, num_samples):
        rows, kinds = self._try(tuple(images.shape[1:]))
        answer = rows(images, seed, num_samples)
        return tf.nest.map_structure(
            lambda tensor, kind: _average(tensor, kind, num_samples),
            answer,
            kinds,
        )

    def _try_shape(self, shape):
        """Which of the two ways is correct, and the kinds of the outputs."""
        with tf.init_scope():
            images, answer = outputs.trial(mean(self._model), shape)
            kinds = tf.nest.map_structure(_kind, answer)
            asked = (tf.constant(images[:2]), seeds.from_int(0), 3)
            safe = self._copies(*asked)
            try:
                quick = self._draws(*asked)
            except (ValueError, tf.errors.InvalidArgumentError):
                return self._copies, kinds  # Shapes that do not fit.
            is_same = all(map(_are_close, *map(tf.nest.flatten, (quick, safe))))
            return (self._draws if is_same else self._copies), kinds

    def _draws(self, images, seed, num_samples):
        with bottleneck_layers.drawing(seed, num_samples):
            return self._model(images, training=False)

    def _copies(self, images, seed, num_samples):
        """As `_draws`: all images for the first draw, then for the second."""
        counts = [num_samples, *[1] * (len(images.shape) - 1)]
        with bottleneck_layers.drawing(seed):
            return self._model(tf.tile(images, counts), training=False)


def _are_close(first, second) -> bool:
    return first.shape == second.shape and np.allclose(
        tf.cast(first, tf.float32),
        tf.cast(second, tf.float32),
        rtol=1e-2 if first.dtype.size < 4 else 1e-4,
        atol=1e-2 if first.dtype.size < 4 else 1e-5,
        equal_nan=True,
    )


def _kind(tensor) -> str | None:
    """One of `types.KINDS`; None if it is not one row of scores per image."""
    if any(extent != 1 for extent in tensor.shape[1:-1]):
        return None
    return outputs.kind_of_trial(tensor)


def _average(tensor, kind, num_samples):
    """From rows of draws `[S * batch, ...]` to `[batch, ...]`."""
    if tensor.shape.rank == 1:
        return _average(tensor[:, None], kind, num_samples)[:, 0]
    shape = tf.concat([[num_samples, -1], tf.shape(tensor)[1:]], axis=0)
    stacked = tf.reshape(tf.cast(tensor, tf.float32), shape)
    if kind in (None, "probabilities"):
        mean = tf.reduce_mean(stacked, axis=0)
    elif kind == "log_probabilities":
        total = tf.reduce_logsumexp(stacked, axis=0)
        mean = total - tf.math.log(tf.cast(num_samples, tf.float32))
    elif tensor.shape[-1] == 1:  # One logit, of the second of two classes.
        both = tf.concat([tf.zeros_like(stacked), stacked], axis=-1)
        log_p = log_mean_probability(both)
        mean = log_p[..., 1:] - log_p[..., :1]
    else:
        mean = log_mean_probability(stacked)
    return tf.ensure_shape(mean, [None, *tensor.shape[1:]])
