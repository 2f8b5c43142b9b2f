"""The kinds of operations: what each does to intervals and to linear bounds.

* `Move` gives its operands' values in other places: exact.
* `Affine` is linear in its operands but for constants; `spread` says what it
  does to distances, `terms` how many products it adds up.
* `Sum` is of tensors and constants.
* `Curve` is a function of one number, see `activations.py`.
* `Largest` is the largest of several values, such as max pooling.
* `Product` is of two tensors that both depend on the image.
* `Operation` is whatever has an interval of its results, and no better.
"""

import functools
import math

import tensorflow as tf

from ib_keras.certify.activations import Activation
from ib_keras.certify.graph import Node
from ib_keras.certify.graph import NotCovered
from ib_keras.certify.values import Value
from ib_keras.certify.values import at_of
from ib_keras.certify.values import concrete
from ib_keras.certify.values import dot
from ib_keras.certify.values import is_value
from ib_keras.certify.values import pull
from ib_keras.certify.values import rounding
from ib_keras.certify.values import select
from ib_keras.certify.values import split_signs

# For what float64 rounds here, where nothing else is said.
_OURS = 2.0**-40


class Operation:
    """What an operation does to intervals, and to linear bounds.

    Bounds go backwards as coefficients: where A y + c is at most some number
    for all images, `pull` gives coefficients B of the operands x so that
    B (x - x0) + constant is at most A (y - y0), x0 and y0 being `Value.at`.
    """

    # Whether lines through it can be chosen.
    is_curve = False

    def forward(self, node: Node, operands: list) -> list[Value]:
        """The results' values, of operands that are `Value`s or constants."""
        raise NotImplementedError

    def pull(self, node, operands, results, upstream, slopes=None):
        """Coefficients of the operands that are values, and the constant."""
        del node, slopes
        return [None for x in operands if is_value(x)], concrete(
            results, upstream
        )

    def is_shift(self, node: Node, operands: list) -> bool:
        """Whether it adds constants to one tensor, and no more."""
        del node, operands
        return False

    def work(self, node: Node, operands: list, results: list[Value]) -> int:
        """Multiplications that it takes, about."""
        del node, operands
        return sum(math.prod(r.at.shape) for r in results)


class _Linear(Operation):
    def pull(self, node, operands, results, upstream, slopes=None):
        del results, slopes
        moving = [x.at for x in operands if is_value(x)]

        def run(points):
            rest = iter(points)
            return self.run(
                node, [next(rest) if is_value(x) else x for x in operands]
            )

        return pull(run, moving, upstream), tf.zeros([], tf.float64)

    def run(self, node, operands):
        return node.run(operands)


class Move(_Linear):
    """Values in other places, and constants between them.

    Args:
        run: `(node, operands) -> results`, where TensorFlow's own operation
            does not do on float64.
    """

    def __init__(self, run=None):
        if run is not None:
            self.run = run

    def forward(self, node, operands):
        parts = [
            self.run(node, select(operands, part))
            for part in (lambda x: x.low, lambda x: x.high, at_of)
        ]
        terms = max(x.terms for x in operands if is_value(x))
        return [
            Value(low, high, at, None, terms)
            for low, high, at in zip(*parts, strict=True)
        ]


class Affine(_Linear):
    """Sums of products of operands and constants, and of constants.

    Args:
        terms: `(node, operands) -> int`, products in each sum.
        run: As of `Move`.
        spread: `(node, distances, is_size) -> results`: from distances
            of the operands, all above 0, and the constants, to those of the
            results; where `is_size` with the size of added constants.
    """

    def __init__(self, terms, run=None, spread=None):
        self._terms = terms
        self._spread = spread or spread_product
        if run is not None:
            self.run = run

    def forward(self, node, operands):
        terms = self._terms(node, operands)
        middle = select(operands, lambda x: (x.low + x.high) / 2)
        radius = select(operands, lambda x: (x.high - x.low) / 2)
        size = select(operands, lambda x: x.size)
        results = zip(
            self.run(node, middle),
            self._spread(self, node, radius, operands, False),
            self._spread(self, node, size, operands, True),
            self.run(node, select(operands, at_of)),
            strict=True,
        )
        values = []
        for middle, radius, size, at in results:
            error = rounding(size, terms)
            reach = radius + error
            values.append(
                Value(middle - reach, middle + reach, at, error, terms)
            )
        return values

    def work(self, node, operands, results):
        terms = self._terms(node, operands)
        return terms * sum(math.prod(r.at.shape) for r in results)


def spread_product(kind, node, distances, operands, is_size):
    """Of products with constants: distances times the sizes of these."""
    del is_size
    only(node, operands)
    given = [
        d if is_value(x) or not d.dtype.is_floating else tf.abs(d)
        for d, x in zip(distances, operands, strict=True)
    ]
    return kind.run(node, given)


class Curve(Operation):
    """A function of one number.

    Args:
        make: `(node, constant operands) -> Activation`.
    """

    is_curve = True

    def __init__(self, make):
        self._make = make

    def activation(self, node: Node, operands: list) -> Activation:
        """The function."""
        return self._make(node, [x for x in operands if not is_value(x)])

    def forward(self, node, operands):
        x = only(node, operands)
        f = self.activation(node, operands)
        low, high = f.range(x.low, x.high)
        if low.shape != x.low.shape:
            raise NotCovered(f"{node.op} ({node.name}) makes several of one.")
        size = tf.maximum(tf.abs(low), tf.abs(high))
        error = f.relative * size + f.absolute
        ours = _OURS * tf.maximum(size, x.size)
        # Its values are among the function's own where it is exact.
        low, high = low - error, high + error
        return [Value(low, high, f.value(x.at), error + ours)]

    def pull(self, node, operands, results, upstream, slopes=None):
        x, (y,), (above_below,) = only(node, operands), results, upstream
        f = self.activation(node, operands)
        own = f.slopes(x.low, x.high)
        lower, upper = own if slopes is None else tf.unstack(slopes)
        above, below = split_signs(above_below)
        least = f.offsets(lower, x.low, x.high)[0] + lower * x.at - y.at
        most = f.offsets(upper, x.low, x.high)[1] + upper * x.at - y.at
        coefficient = above * lower + below * upper
        return [coefficient], dot(above, least) + dot(below, most)

    def gap(self, node: Node, operands: list) -> tf.Tensor:
        """How far apart the two lines are at an operand's middle."""
        x = only(node, operands)
        f = self.activation(node, operands)
        lower, upper = f.slopes(x.low, x.high)
        middle = (x.low + x.high) / 2
        least = f.offsets(lower, x.low, x.high)[0] + lower * middle
        most = f.offsets(upper, x.low, x.high)[1] + upper * middle
        return most - least


def only(node, operands) -> Value:
    """The operand that depends on the image, which must be one."""
    values = [x for x in operands if is_value(x)]
    if len(values) != 1:
        raise NotCovered(
            f"{node.op} ({node.name}) of two tensors that depend on the image."
        )
    return values[0]


def first(node, operands) -> Value:
    """The first operand, which alone must depend on the image."""
    value = only(node, operands)
    if value is not operands[0]:
        raise NotCovered(
            f"{node.op} ({node.name}) by what depends on the image."
        )
    return value


class Largest(Operation):
    """The largest of several values: at least the one that is surely large."""

    def forward(self, node, operands):
        parts = [
            node.run(select(operands, part))[0]
            for part in (lambda x: x.low, lambda x: x.high, at_of)
        ]
        ours = _OURS * tf.maximum(tf.abs(parts[0]), tf.abs(parts[1]))
        return [Value(*parts, ours)]

    def pull(self, node, operands, results, upstream, slopes=None):
        del slopes
        x, (y,) = only(node, operands), results
        above, below = split_signs(upstream[0])
        # The gradient goes to one of the largest low ends, or is shared by
        # several: no mean of values is above the largest.
        pulled = pull(
            lambda points: node.run(
                [points[0] if is_value(o) else o for o in operands]
            ),
            [x.low],
            [above],
        )
        constant = dot(pulled[0], x.at) - dot(above, y.at)
        return pulled, constant + dot(below, y.high - y.at)


class Product(Operation):
    """x y of two tensors that depend on the image.

    References:
        McCormick, "Computability of global solutions to factorable nonconvex
        programs", Mathematical Programming 10, 1976.
    """

    def forward(self, node, operands):
        x, y = operands
        ends = [a * b for a in (x.low, x.high) for b in (y.low, y.high)]
        low = functools.reduce(tf.minimum, ends)
        high = functools.reduce(tf.maximum, ends)
        error = rounding(x.size * y.size, 1)
        return [Value(low - error, high + error, x.at * y.at, error)]

    def pull(self, node, operands, results, upstream, slopes=None):
        del slopes
        x, y = operands
        above, below = split_signs(upstream[0])
        of_x = above * y.low + below * y.low
        of_y = above * x.low + below * x.high
        # Each is pulled through the product by one, for operands that repeat.
        pulled = [
            pull(lambda p, other=other: [p[0] + 0.0 * other], [own.at], [up])
            for own, other, up in ((x, y.at, of_x), (y, x.at, of_y))
        ]
        constant = dot(below, (x.high - x.at) * (y.at - y.low))
        constant -= dot(above, (x.at - x.low) * (y.at - y.low))
        return [p[0] for p in pulled], constant


def added_terms(node, operands) -> int:
    """How many products may be in one sum where tensors are added."""
    del node
    # A kernel may start the sum of a product by what is added to it.
    values = [x.terms for x in operands if is_value(x)]
    return sum(values) + len(operands) - 1


class Sum(Affine):
    """A sum of tensors and constants.

    Args:
        spread: As of `Affine`.
    """

    def __init__(self, spread):
        super().__init__(added_terms, spread=spread)

    def is_shift(self, node, operands):
        values = [x for x in operands if is_value(x)]
        if len(values) != 1 or values[0] is not operands[0]:
            return False
        shapes = [x.shape for x in operands if not is_value(x)]
        shape = values[0].at.shape
        return all(tf.broadcast_static_shape(shape, s) == shape for s in shapes)
