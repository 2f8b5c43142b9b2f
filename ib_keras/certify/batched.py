"""The bounds of one image, made into those of a batch of images.

`bounds.py` is written for one image; TensorFlow vectorises it over images and,
inside, over the linear functions that are asked for.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras.certify.bounds import Bounds
from ib_keras.certify.bounds import Interval
from ib_keras.certify.graph import Node
from ib_keras.certify.head import Head
from ib_keras.certify.values import Value

Known = Mapping[str, Interval]


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
        self._traced: dict[Any, Any] = {}

    def nothing_known(self, count: int) -> dict[str, Interval]:
        """No interval yet of any curve's argument, for a batch."""
        found = {}
        for curve in self._bounds.curves:
            name = self._bounds.argument(curve)
            shape = (count, *self._bounds.shapes[name])
            found[name] = (np.full(shape, -np.inf), np.full(shape, np.inf))
        return found

    def margins(self, balls: Balls, known: Known, drawn):
        """Lower bounds of the label's score less each other, by intervals.

        Args:
            balls: The batch.
            known: Intervals by name.
            drawn: What a seed drew.

        Returns:
            float64 `[batch, draws, classes]`, infinite at the label.
        """

        def one(values, label, drawn):
            return self.margins_of(values, label, drawn, ())

        return self._call("margins", one, balls, known, drawn).numpy()

    def impact(self, balls: Balls, known: Known, drawn):
        """CROWN's margins, and what each neuron takes off them.

        Returns:
            As `margins`; and by curve float64 `[batch, neurons]`: how far its
            two lines are apart, times the coefficients of the margins that are
            not yet above 0.
        """

        def one(values, label, drawn):
            weights = {}
            margins = self.margins_of(
                values, label, drawn, self.curve_names, weights=weights
            )
            is_open = tf.cast(tf.reshape(margins, [-1]) <= 0, tf.float64)
            felt = {}
            for curve in self._bounds.curves:
                gap = tf.reshape(self._bounds.gap(curve, values, drawn), [-1])
                felt[curve.name] = tf.zeros_like(gap)
                if curve.name in weights:  # Not behind an interval alone.
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

        def one(values, label, drawn, indices):
            def end(index_and_sign):
                index, sign = index_and_sign
                row = tf.one_hot(index, int(np.prod(shape)), dtype=tf.float64)
                return self._bounds.backward(
                    values,
                    name,
                    sign * tf.reshape(row, shape),
                    self.curve_names,
                    drawn,
                )

            both = tf.concat([indices, indices], axis=0)
            half = tf.ones_like(indices, tf.float64)
            signs = tf.concat([half, -half], axis=0)
            ends = tf.vectorized_map(end, (both, signs))
            low, high = tf.split(ends, 2)
            return low, -high

        key, extra = ("tighten", curve.name), (tf.constant(indices),)
        found = self._call(key, one, balls, known, drawn, extra)
        return [part.numpy() for part in found]

    @functools.cached_property
    def curve_names(self) -> tuple[str, ...]:
        """Names of all curves."""
        return tuple(curve.name for curve in self._bounds.curves)

    def margins_of(
        self, values, label, drawn, lines, slopes=None, weights=None
    ) -> tf.Tensor:
        """The margins of one image.

        Args:
            values: Its forward pass.
            label: int32 scalar.
            drawn: What a seed drew.
            lines: Names of the curves through which lines are chosen.
            slopes: By curve, of each margin: `[draws * classes, ...]`.
            weights: Takes the sizes of the coefficients by curve, if given.

        Returns:
            float64 `[draws, classes]`, infinite at the label.
        """
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
        return tf.where(is_own, infinite, tf.reshape(found, [draws, classes]))

    def vectorise(self, one):
        """Makes of a question about one image that about a batch.

        Args:
            one: `(values, label, drawn, *extra) -> answer`.

        Returns:
            `(balls, known, drawn, extra) -> answers`, where all but `drawn`
            have the batch as first axis.
        """

        def each(balls, known, drawn, extra):
            def of_image(given):
                (at, low, high, label), known, extra = given
                image = Value(low, high, at)
                values = self._bounds.forward(image, known, drawn)
                return one(values, label, drawn, *extra)

            return tf.vectorized_map(of_image, (tuple(balls), known, extra))

        return each

    def _call(self, key, one, balls: Balls, known: Known, drawn, extra=()):
        """Calls what is traced for a kind of question, or traces it."""
        given = (*tensors(balls, known), drawn, extra)
        if key not in self._traced:
            self._traced[key] = tf.function(
                self.vectorise(one),
                input_signature=free_batch(*given),
                autograph=False,
            )
        return self._traced[key](*given)


def tensors(balls: Balls, known: Known):
    """Arrays as tensors."""
    return tf.nest.map_structure(tf.constant, (balls, dict(known)))


def free_batch(balls, known, drawn, *others):
    """The signature of such arguments with any size of the batch.

    So a kind of question is traced once. The second axis of places of neurons
    is free, too.
    """

    def spec(tensor):
        is_places = tensor.dtype == tf.int32 and tensor.shape.rank == 2
        rest = [None] if is_places else tensor.shape[1:]
        return tf.TensorSpec([None, *rest], tensor.dtype)

    return (
        *tf.nest.map_structure(spec, (balls, known)),
        tf.nest.map_structure(tf.TensorSpec.from_tensor, drawn),
        *tf.nest.map_structure(spec, others),
    )
