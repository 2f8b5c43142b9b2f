"""The bounds of one image, made into those of a batch of images.

`bounds.py` is written for one image; TensorFlow vectorises it over images and,
inside, over the linear functions that are asked for. A batch has a fixed size,
so that each kind of question is traced once.
"""

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras.certify import operations
from ib_keras.certify.bounds import Bounds
from ib_keras.certify.bounds import Interval
from ib_keras.certify.graph import Node
from ib_keras.certify.head import Head
from ib_keras.certify.operations import Value

Known = Mapping[str, Interval]
Slopes = Mapping[str, Interval]


class Balls(NamedTuple):
    """Sets of images, one an example, and the examples' labels.

    Attributes:
        at: float64 `[batch, 1, height, width, channels]`, the clean images.
        low: Likewise, the least of each pixel.
        high: Likewise, the largest.
        labels: int32 `[batch]`.
    """

    at: np.ndarray
    low: np.ndarray
    high: np.ndarray
    labels: np.ndarray

    def rows(self, rows) -> "Balls":
        """Some of them."""
        return Balls(*(part[rows] for part in self))


class Batched:
    """Bounds of batches.

    Args:
        bounds: Of the graph up to the scores.
        head: The end of the graph.
    """

    def __init__(self, bounds: Bounds, head: Head):
        self._bounds = bounds
        self._head = head
        self._traced = {}

    def nothing_known(self, count: int) -> dict[str, Interval]:
        """No interval yet of any curve's argument, for a batch."""
        found = {}
        for curve in self._bounds.curves:
            name = self._bounds.argument(curve)
            shape = (count, *self._bounds.shapes[name])
            found[name] = (np.full(shape, -np.inf), np.full(shape, np.inf))
        return found

    def margins(self, balls: Balls, known: Known, drawn, lines: bool):
        """Lower bounds of the label's score less each other.

        Args:
            balls: The batch.
            known: Intervals by name.
            drawn: What a seed drew.
            lines: Whether lines are chosen through curves: CROWN; else their
                intervals are used alone.

        Returns:
            float64 `[batch, draws, classes]`, infinite at the label.
        """
        names = self._curve_names if lines else ()

        def one(values, label, drawn):
            return self._margins(values, label, drawn, names)

        return self._call(("margins", lines), one, balls, known, drawn).numpy()

    def impact(self, balls: Balls, known: Known, drawn):
        """CROWN's margins, and what each neuron takes off them.

        Returns:
            As `margins`; and by curve float64 `[batch, neurons]`: how far its
            two lines are apart, times the coefficients of the margins that are
            not yet above 0.
        """

        def one(values, label, drawn):
            weights = {}
            margins = self._margins(
                values, label, drawn, self._curve_names, weights=weights
            )
            is_open = tf.cast(tf.reshape(margins, [-1]) <= 0, tf.float64)
            felt = {}
            for curve in self._bounds.curves:
                gap = tf.reshape(self._bounds.gap(curve, values, drawn), [-1])
                each = tf.reshape(
                    weights[curve.name], [math.prod(self._head.shape), -1]
                )
                felt[curve.name] = gap * tf.linalg.matvec(
                    each, is_open, transpose_a=True
                )
            return margins, felt

        found = self._call("impact", one, balls, known, drawn)
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), found)

    def tighten(self, curve: Node, indices, balls, known: Known, drawn):
        """CROWN's intervals of some neurons of a curve's argument.

        Args:
            curve: The curve.
            indices: int32 `[batch, neurons]`, places in the flat argument.
            balls: The batch.
            known: Intervals by name.
            drawn: What a seed drew.

        Returns:
            `(low, high)`, float64 `[batch, neurons]`.
        """
        name = self._bounds.argument(curve)
        shape = self._bounds.shapes[name]

        def one(values, extra, drawn):
            def end(index_and_sign):
                index, sign = index_and_sign
                row = tf.one_hot(index, int(np.prod(shape)), dtype=tf.float64)
                return self._bounds.backward(
                    values,
                    name,
                    sign * tf.reshape(row, shape),
                    self._curve_names,
                    drawn,
                )

            both = tf.concat([extra, extra], axis=0)
            signs = tf.concat([tf.ones_like(extra), -tf.ones_like(extra)], 0)
            ends = tf.vectorized_map(end, (both, tf.cast(signs, tf.float64)))
            low, high = tf.split(ends, 2)
            return low, -high

        balls = balls._replace(labels=indices)
        found = self._call(("tighten", curve.name), one, balls, known, drawn)
        return [part.numpy() for part in found]

    @functools.cached_property
    def _curve_names(self) -> tuple[str, ...]:
        return tuple(curve.name for curve in self._bounds.curves)

    def _margins(self, values, label, drawn, lines, slopes=None, weights=None):
        """Of one image: float64 `[draws, classes]`."""
        draws, classes = self._head.shape
        shape = self._bounds.shapes[self._head.scores]

        def one(given):
            place, slopes = given
            own = place // classes * classes + label
            size = draws * classes
            row = tf.one_hot(own, size, dtype=tf.float64)
            row -= tf.one_hot(place, size, dtype=tf.float64)
            felt = {}
            bound = self._bounds.backward(
                values,
                self._head.scores,
                tf.reshape(row, shape),
                lines,
                drawn,
                slopes,
                felt,
            )
            return bound, felt if weights is not None else {}

        places = tf.range(draws * classes)
        found, felt = tf.vectorized_map(one, (places, slopes or {}))
        if weights is not None:
            weights.update(felt)
        is_own = tf.one_hot(label, classes, on_value=True, off_value=False)
        infinite = tf.fill([classes], tf.constant(np.inf, tf.float64))
        return tf.where(
            is_own, infinite, tf.reshape(found, [draws, classes])
        )

    def values(self, at, low, high, known, drawn) -> dict[str, Value]:
        """The forward pass of one image."""
        return self._bounds.forward(Value(low, high, at), known, drawn)

    def _call(self, key, one, balls: Balls, known: Known, drawn):
        """Calls what is traced for a kind of question, or traces it."""
        if key not in self._traced:

            def batch(balls, known, drawn):
                def each(given):
                    (at, low, high, label), known = given
                    values = self.values(at, low, high, known, drawn)
                    return one(values, label, drawn)

                return tf.vectorized_map(each, (tuple(balls), known))

            self._traced[key] = tf.function(batch, autograph=False)
        tensors = tf.nest.map_structure(tf.constant, (balls, dict(known)))
        return self._traced[key](*tensors, drawn)
