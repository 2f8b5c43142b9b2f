"""What is known of a tensor, and how float32 rounds what it is made of."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras.certify.activations import UNIT
from ib_keras.certify.graph import NotCovered

_LARGEST = float(np.finfo(np.float32).max)
# Below it TensorFlow's kernels may put zero.
_SMALLEST = float(np.finfo(np.float32).tiny)
# What rewriting may add to a sum: a division made a product, a scale multiplied
# into the weights.
_REWRITING = 8


class Value(NamedTuple):
    """What is known of a tensor that depends on the image.

    Attributes:
        low: float64, at most what the model computes, for every image of the
            ball.
        high: Likewise, at least.
        at: What exact arithmetic makes of the clean image.
        error: float64, by how much the model's rounding can change it, given
            its operands; None for nothing.
        terms: Products in the sum that it is.
    """

    low: tf.Tensor
    high: tf.Tensor
    at: tf.Tensor
    error: tf.Tensor | None = None
    terms: int = 1

    @property
    def size(self) -> tf.Tensor:
        """The largest size of any of its values."""
        return tf.maximum(tf.abs(self.low), tf.abs(self.high))


def is_value(operand) -> bool:
    """Whether an operand depends on the image."""
    return isinstance(operand, Value)


def rounding(size: tf.Tensor, terms: int) -> tf.Tensor:
    """The error of sums of `terms` products whose sizes come to `size`."""
    count = terms + _REWRITING
    if count * UNIT > 0.01:
        raise NotCovered(f"A sum of {terms} terms is too long for float32.")
    share = 1.001 * count * UNIT / (1.0 - count * UNIT)
    error = share * size + count * _SMALLEST
    return tf.where(size < _LARGEST, error, math.inf)


def select(operands, part: Callable[[Value], tf.Tensor]) -> list[tf.Tensor]:
    """A part of each operand that depends on the image; constants as such."""
    return [part(x) if is_value(x) else x for x in operands]


def at_of(value: Value) -> tf.Tensor:
    """The exact result of the clean image."""
    return value.at


def dot(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """The sum of products of two tensors of one shape, in one pass."""
    row, column = tf.reshape(first, [1, -1]), tf.reshape(second, [-1, 1])
    return tf.reshape(tf.matmul(row, column), [])


def split_signs(tensor: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Two tensors whose sum it is, none of the first below 0."""
    return tf.maximum(tensor, 0.0), tf.minimum(tensor, 0.0)


def pull(function, points, upstream) -> list[tf.Tensor]:
    """The derivative's transpose of a function, on `upstream`."""
    points = [tf.identity(p) for p in points]  # One tensor may come twice.
    with tf.GradientTape() as tape:
        tape.watch(points)
        results = function(points)
    zero = tf.UnconnectedGradients.ZERO
    pulled = tape.gradient(
        results, points, upstream, unconnected_gradients=zero
    )
    return [tf.convert_to_tensor(p) for p in pulled]  # A gather's is sparse.


def concrete(values: list[Value], coefficients) -> tf.Tensor:
    """The least of A (y - y0), where only intervals are known of y."""
    total = tf.zeros([], tf.float64)
    for value, coefficient in zip(values, coefficients, strict=True):
        above, below = split_signs(coefficient)
        total += dot(above, value.low - value.at)
        total += dot(below, value.high - value.at)
    return total
