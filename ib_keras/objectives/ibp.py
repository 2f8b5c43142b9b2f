"""IBP: the cross-entropy of the worst logits that intervals allow in a ball.

References:
    Gowal et al., "On the effectiveness of interval bound propagation for
    training verifiably robust models", 2018, equations 6 to 12: the last linear
    layer folded into the differences of logits; kappa from 1 to 1/2 and epsilon
    from 0 grow linearly after a warm-up (MNIST: 2,000 steps of warm-up, 10,000
    of growth, 100 epochs in batches of 100).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from ib_keras import layers
from ib_keras import schedules
from ib_keras import seeds
from ib_keras.bottlenecks import base as bottlenecks
from ib_keras.errors import UserError
from ib_keras.objectives import base

# Purpose that the seed of a step is folded with for the noise of the bounds.
_NOISE = 0x1B9

# Functions that do not decrease, so that ends of intervals stay ends.
_RISING = frozenset(
    "elu leaky_relu linear relu selu sigmoid softplus softsign tanh".split()
)


@base.register
@dataclasses.dataclass(frozen=True)
class IntervalBounds(base.Objective):
    """kappa CE(x) + (1 - kappa) CE(worst of the ball) + weight * rate.

    The first cross-entropy and the rate are those of the standard objective,
    with noise. The second is of the largest logits of other classes, less that
    of the label, that interval bounds allow in the l_inf ball cut with [0, 1].
    In stochastic mode these are of each draw of z, whose noise is the same in
    the whole ball, and the cross-entropy is of their mean probability. It is
    logged as `ibp_cross_entropy`.
    Statistics of batch normalisation are those of inference in it. The bounds
    are in float32, without allowance for rounding: they train, and `certify`
    proves.

    Args:
        epsilon: Radius of the ball in the end, in pixel units of [0, 1].
        kappa: Share of the clean cross-entropy in the end; it begins as 1.
        warmup_steps: Steps with a ball of radius 0 and kappa 1.
        ramp_steps: Steps after them in which both go to their ends.
        mode: Of the classifier that is bounded: "mean" or "stochastic".

    Raises:
        UserError: If a value cannot be used, or when it is called the encoder
            has a layer without bounds; it is named.
    """

    metrics = ("ibp_cross_entropy",)

    epsilon: float = 0.1
    kappa: float = 0.5
    warmup_steps: int = 0
    ramp_steps: int = 0
    mode: str = "mean"

    def __call__(self, model, images, labels, seed, step, training=True):
        terms = model.terms(images, labels, seed, step, training)
        share = self.share(step)
        noise = self._noise(model, labels, seed)
        worst = worst_logits(model, images, labels, share * self.epsilon, noise)
        bound = _cross_entropy(worst, labels)
        kappa = 1.0 - share * (1.0 - self.kappa)
        moved = (1.0 - kappa) * (bound - terms.cross_entropy)
        return terms._replace(
            loss=terms.loss + moved, metrics={"ibp_cross_entropy": bound}
        )

    def _noise(self, model, labels, seed):
        """Float32 `[samples, batch, latent_dim]`, or None."""
        if self.mode == "mean" or not model.is_stochastic:
            return None
        like = tf.zeros([tf.shape(labels)[0], model.bottleneck.latent_dim])
        seed = seeds.fold(seed, _NOISE)
        return bottlenecks.noise(seed, model.num_samples, like)

    def share(self, step) -> tf.Tensor:
        """How far the schedules are at a step, float32 scalar from 0 to 1."""
        return schedules.anneal(
            tf.maximum(tf.cast(step, tf.int32) + 1 - self.warmup_steps, 0),
            start=0.0,
            end=1.0,
            num_steps=max(self.ramp_steps, 1),
        )


def _cross_entropy(worst: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """That of the mean probability of the label over draws, `[batch]`.

    Args:
        worst: float32 `[samples, batch, classes]`.
        labels: int32 `[batch]`.
    """
    samples = tf.shape(worst)[0]
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.tile(labels[None], [samples, 1]), worst
    )
    count = tf.math.log(tf.cast(samples, tf.float32))
    return count - tf.reduce_logsumexp(-each, axis=0)


def worst_logits(model, images, labels, epsilon, noise=None) -> tf.Tensor:
    """Upper bounds of the logits less that of the label, over l_inf balls.

    Args:
        model: An `IBClassifier`.
        images: float32 `[batch, height, width, channels]` in [0, 1].
        labels: int32 `[batch]`.
        epsilon: Radius, in pixel units; a float or a scalar tensor.
        noise: float32 `[samples, batch, latent_dim]`, the draws of z in units
            of its standard deviation; None for mean mode.

    Returns:
        float32 `[samples, batch, classes]`, one sample in mean mode; 0 for the
        label.

    Raises:
        UserError: If the encoder has a layer without bounds.
    """
    low = tf.maximum(images - epsilon, 0.0)
    high = tf.minimum(images + epsilon, 1.0)
    box = [(end - model.input_mean) / model.input_std for end in (low, high)]
    low, high = _through(model.encoder, *box)
    kernel, bias = _last_layers(model)
    found = _largest(low, high, _from_label(kernel, labels))
    found += bias[None] - tf.gather(bias, labels)[:, None]
    if noise is None:
        return found[None]
    ends = [noise * end for end in _scale(model, low, high)]
    decoder = _from_label(tf.convert_to_tensor(model.decoder.kernel), labels)
    return found + _largest(tf.minimum(*ends), tf.maximum(*ends), decoder)


def _from_label(kernel: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Each class's column less the label's, `[batch, features, classes]`."""
    own = tf.gather(kernel, labels, axis=1)
    return kernel[None] - tf.transpose(own)[:, :, None]


def _largest(low, high, kernel) -> tf.Tensor:
    """The most that `x @ kernel` can be for low <= x <= high.

    Args:
        low: float32 `[..., batch, features]`.
        high: Of the same shape.
        kernel: float32 `[batch, features, classes]`.
    """
    middle, radius = (high + low) / 2, (high - low) / 2
    product = "...bf,bfc->...bc"
    found = tf.einsum(product, middle, kernel)
    return found + tf.einsum(product, radius, tf.abs(kernel))


def _scale(model, low, high):
    """The interval of the standard deviation of z."""
    posterior = model.bottleneck.posterior
    if isinstance(posterior, layers.UnitGaussian):
        return (tf.ones([1, model.bottleneck.latent_dim]),) * 2
    if not isinstance(posterior, layers.DiagonalGaussian):
        raise UserError(
            "The objective ibp has no bounds of this noise",
            received=f"{type(posterior).__name__}",
            expected="DiagonalGaussian or UnitGaussian",
            fix='Set mode to "mean".',
        )
    count = model.bottleneck.latent_dim
    kernel = tf.convert_to_tensor(posterior.projection.kernel)[:, count:]
    bias = tf.convert_to_tensor(posterior.projection.bias)[count:]
    middle = (high + low) / 2 @ kernel + bias + posterior.scale_shift
    radius = (high - low) / 2 @ tf.abs(kernel)
    return tuple(tf.math.softplus(middle + by) for by in (-radius, radius))


def _last_layers(model) -> tuple[tf.Tensor, tf.Tensor]:
    """The linear map from features to logits in mean mode, as one layer."""
    kernel = tf.convert_to_tensor(model.decoder.kernel)
    bias = tf.convert_to_tensor(model.decoder.bias)
    projection = getattr(model.bottleneck.posterior, "projection", None)
    if projection is None:  # The latents are the features.
        return kernel, bias
    # What follows the mean, if anything, is for the scale.
    count = model.bottleneck.latent_dim
    first = tf.convert_to_tensor(projection.kernel)[:, :count]
    shift = tf.convert_to_tensor(projection.bias)[:count]
    return first @ kernel, tf.linalg.matvec(kernel, shift, True) + bias


def _through(layer, low, high):
    """The interval of what a layer gives, of the interval of what it takes."""
    if type(layer) is keras.Sequential:
        for each in layer.layers:
            low, high = _through(each, low, high)
        return low, high
    rule = _RULES.get(type(layer))
    if rule is None:
        known = ", ".join(sorted(kind.__name__ for kind in _RULES))
        raise UserError(
            "The objective ibp has no bounds of a layer",
            received=f"{type(layer).__name__} {layer.name}",
            expected=f"keras.Sequential of {known}",
            fix="Take another encoder, such as small_cnn, or pgd_at.",
        )
    return rule(layer, low, high)


def _dense(layer, low, high):
    kernel = tf.cast(layer.kernel, tf.float32)
    return _linear(layer, low, high, kernel, tf.matmul)


def _convolution(layer, low, high):
    kernel = tf.cast(layer.kernel, tf.float32)

    def convolve(x, kernel):
        return keras.ops.conv(
            x,
            kernel,
            strides=layer.strides,
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )

    if layer.data_format != "channels_last":
        raise UserError(
            "The objective ibp has bounds of channels_last alone",
            received=f"{layer.name} with {layer.data_format}",
            expected="channels_last",
            fix="Set data_format of the layer.",
        )
    return _linear(layer, low, high, kernel, convolve)


def _linear(layer, low, high, kernel, product: Callable):
    """By the middle and half the width, which cost two products."""
    middle = product((high + low) / 2, kernel)
    radius = product((high - low) / 2, tf.abs(kernel))
    if layer.use_bias:
        middle += tf.cast(layer.bias, tf.float32)
    return _activate(layer, middle - radius, middle + radius)


def _activate(layer, low, high):
    function: Any = getattr(layer, "activation", None)
    name = getattr(function, "__name__", "")
    is_own = function is getattr(keras.activations, name, None)
    if not is_own or name not in _RISING:
        raise UserError(
            "The objective ibp has no bounds of an activation",
            received=f"{name or function} in {layer.name}",
            expected=f"one of {', '.join(sorted(_RISING))}",
            fix="Take another activation.",
        )
    return function(low), function(high)


def _normalise(layer, low, high):
    """Batch normalisation by the statistics of inference."""
    factor = 1.0 / tf.sqrt(layer.moving_variance + layer.epsilon)
    if layer.scale:
        factor *= layer.gamma
    shift = -layer.moving_mean * factor
    if layer.center:
        shift += layer.beta
    shape = [1] * low.shape.rank
    shape[layer.axis] = -1
    factor, shift = (tf.reshape(x, shape) for x in (factor, shift))
    ends = low * factor + shift, high * factor + shift
    return tf.minimum(*ends), tf.maximum(*ends)


def _rising(layer, low, high):
    """Layers that rise with each input: moves, averages and maxima."""
    return layer(low, training=False), layer(high, training=False)


_RULES = {
    keras.layers.Activation: _activate,
    keras.layers.AveragePooling2D: _rising,
    keras.layers.BatchNormalization: _normalise,
    keras.layers.Conv2D: _convolution,
    keras.layers.Dense: _dense,
    keras.layers.Dropout: _rising,
    keras.layers.Flatten: _rising,
    keras.layers.GlobalAveragePooling2D: _rising,
    keras.layers.InputLayer: _rising,
    keras.layers.LeakyReLU: _rising,
    keras.layers.MaxPooling2D: _rising,
    keras.layers.ReLU: _rising,
    keras.layers.Reshape: _rising,
    keras.layers.ZeroPadding2D: _rising,
}


def build(
    epsilon=0.1,
    kappa=0.5,
    warmup_epochs=1.0,
    ramp_epochs=10.0,
    mode="mean",
    steps_per_epoch=None,
) -> IntervalBounds:
    """Builds an `IntervalBounds`.

    Args:
        epsilon: As `IntervalBounds`.
        kappa: As `IntervalBounds`.
        warmup_epochs: Epochs with a ball of radius 0.
        ramp_epochs: Epochs after them in which it grows.
        mode: As `IntervalBounds`.
        steps_per_epoch: Turns epochs into steps.

    Raises:
        UserError: If a value cannot be used.
    """
    steps = steps_per_epoch or 0
    return IntervalBounds(
        epsilon,
        kappa,
        round(warmup_epochs * steps),
        round(ramp_epochs * steps),
        mode,
    )
