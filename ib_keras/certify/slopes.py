"""Better lines through curves, sought by gradient: alpha-CROWN.

A line is sound whatever its slope is, so the slopes that give the largest lower
bound of each margin may be sought by any means: here by Adam, from CROWN's own,
on the final margins with the intervals as they are.

References:
    Xu et al., "Fast and complete: enabling complete neural network
    verification with rapid and massively parallel incomplete verifiers",
    ICLR 2021.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras.certify.batched import Balls
from ib_keras.certify.batched import Batched
from ib_keras.certify.batched import free_batch
from ib_keras.certify.batched import tensors
from ib_keras.certify.bounds import Bounds
from ib_keras.certify.head import Head

_STEPS = 24
_RATE = 0.15
_DECAY = 0.92
_MOMENTS = (0.9, 0.999)
_TINY = 1e-12


class SlopeSearch:
    """Searches the slopes of all margins of a batch.

    Args:
        bounds: Of the graph up to the scores.
        head: The end of the graph.
        batched: The same for batches.
    """

    def __init__(self, bounds: Bounds, head: Head, batched: Batched):
        self._bounds = bounds
        self._head = head
        self._batched = batched
        self._traced: Any = None

    def __call__(self, balls: Balls, known, drawn) -> np.ndarray:
        """The best margins that were found.

        Args:
            balls: The batch.
            known: Intervals by name.
            drawn: What a seed drew.

        Returns:
            float64 `[batch, draws, classes]`, infinite at the label.
        """
        given = (*tensors(balls, known), drawn)
        if self._traced is None:
            self._traced = tf.function(
                self._search,
                input_signature=free_batch(*given),
                autograph=False,
            )
        return self._traced(*given).numpy()

    def _search(self, balls, known, drawn):
        given = (balls, known, drawn)
        slopes, ends = self._batched.vectorise(self._first)(*given, ())
        zeros = {name: tf.zeros_like(x) for name, x in slopes.items()}
        first, slopes, moments = self._improve(
            *given, slopes, ends, (zeros, zeros), tf.zeros([], tf.float64)
        )

        def improve(step, best, slopes, moments):
            found, slopes, moments = self._improve(
                *given, slopes, ends, moments, step
            )
            # Of what is not a number the other one is taken.
            best = tf.where(
                tf.ensure_shape(found, best.shape) > best, found, best
            )
            return step + 1, best, slopes, moments

        return tf.while_loop(
            lambda step, *_: step < _STEPS,
            improve,
            (tf.ones([], tf.float64), first, slopes, moments),
        )[1]

    def _first(self, values, label, drawn):
        """CROWN's slopes of one image, and the ends that they stay between."""
        del label
        slopes, ends = {}, {}
        count = math.prod(self._head.shape)
        for curve in self._bounds.curves:
            function, x = self._bounds.curve(curve, values, drawn)
            lower, upper = function.slopes(x.low, x.high)
            least, most = function.steepness(x.low, x.high)
            both = tf.stack([lower, upper])
            slopes[curve.name] = tf.repeat(both[None], count, axis=0)
            free = (function.is_lower_free, function.is_upper_free)
            sides = list(zip(free, (lower, upper), strict=True))
            ends[curve.name] = tuple(
                tf.stack([end if is_free else own for is_free, own in sides])
                for end in (least, most)
            )
        return slopes, ends

    def _improve(self, balls, known, drawn, slopes, ends, moments, step):
        """The margins by some slopes, and one step of Adam from these."""

        def margins(values, label, drawn, slopes):
            return self._batched.margins_of(
                values, label, drawn, self._batched.curve_names, slopes
            )

        with tf.GradientTape() as tape:
            tape.watch(slopes)
            ask = self._batched.vectorise(margins)
            found = ask(balls, known, drawn, (slopes,))
            # Each margin has slopes of its own, so their sum serves all.
            total = tf.reduce_sum(
                tf.where(tf.math.is_finite(found), found, 0.0)
            )
        zero = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(total, slopes, unconnected_gradients=zero)
        moved, firsts, seconds = {}, {}, {}
        for name, slope in slopes.items():
            gradient = tf.convert_to_tensor(gradients[name])
            gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
            first, second = (part[name] for part in moments)
            first += (1 - _MOMENTS[0]) * (gradient - first)
            second += (1 - _MOMENTS[1]) * (gradient**2 - second)
            mean = first / (1 - _MOMENTS[0] ** (step + 1))
            size = tf.sqrt(second / (1 - _MOMENTS[1] ** (step + 1)))
            slope += _RATE * _DECAY**step * mean / (size + _TINY)
            low, high = (end[:, None] for end in ends[name])
            slope = tf.clip_by_value(slope, low, high)
            shape = slopes[name].shape
            for made, new in zip(
                (moved, firsts, seconds), (slope, first, second), strict=True
            ):
                made[name] = tf.ensure_shape(new, shape)
        return found, moved, (firsts, seconds)
