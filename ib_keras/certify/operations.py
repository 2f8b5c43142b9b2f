"""The operations that have bounds, one entry of `TABLE` each.

A new operation is a new entry, of one of these kinds:

    Move         gives its operands' values in other places: exact
    Affine       linear in its operands but for constants; `spread` says what it
                 does to distances, `terms` how many products it adds up
    Curve        a function of one number, see `activations.py`
    Largest      the largest of several values, such as max pooling
    Product      of two tensors that both depend on the image
    Operation    whatever has an interval of its results, and no better

All compute in float64 on one image. `Value.low` and `Value.high` bound what the
model computes in float32, in whatever order it adds: a sum of n products is
within n u / (1 - n u) of the sum of their sizes (Higham, "Accuracy and
stability of numerical algorithms", section 3.1), which is `Value.error`.
"""

import functools
import math
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras.certify import activations
from ib_keras.certify.activations import UNIT
from ib_keras.certify.activations import Activation
from ib_keras.certify.graph import Node
from ib_keras.certify.graph import NotCovered

_LARGEST = float(np.finfo(np.float32).max)
# Below it TensorFlow's kernels may put zero.
_SMALLEST = float(np.finfo(np.float32).tiny)
# What rewriting may add to a sum: a bias, a division made a product, a scale
# multiplied into the weights.
_REWRITING = 8
# For what float64 rounds here, where nothing else is said.
_OURS = 2.0**-40
_FLOATS = (tf.float32, tf.float64)


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


def _rounding(size: tf.Tensor, terms: int) -> tf.Tensor:
    """The error of sums of `terms` products whose sizes come to `size`."""
    count = terms + _REWRITING
    if count * UNIT > 0.01:
        raise NotCovered(f"A sum of {terms} terms is too long for float32.")
    share = 1.001 * count * UNIT / (1.0 - count * UNIT)
    error = share * size + count * _SMALLEST
    return tf.where(size < _LARGEST, error, math.inf)


def _select(operands, part: Callable[[Value], tf.Tensor]) -> list[tf.Tensor]:
    return [part(x) if is_value(x) else x for x in operands]


def _at(value: Value) -> tf.Tensor:
    return value.at


def dot(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """The sum of products of two tensors of one shape, in one pass."""
    row, column = tf.reshape(first, [1, -1]), tf.reshape(second, [-1, 1])
    return tf.reshape(tf.matmul(row, column), [])


def _split_signs(tensor):
    return tf.maximum(tensor, 0.0), tf.minimum(tensor, 0.0)


def _pull(function, points, upstream) -> list[tf.Tensor]:
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


def concrete(values: list[Value], coefficients) -> tf.Tensor:
    """The least of A (y - y0), where only intervals are known of y."""
    total = tf.zeros([], tf.float64)
    for value, coefficient in zip(values, coefficients, strict=True):
        above, below = _split_signs(coefficient)
        total += dot(above, value.low - value.at)
        total += dot(below, value.high - value.at)
    return total


class _Linear(Operation):
    def pull(self, node, operands, results, upstream, slopes=None):
        del results, slopes
        moving = [x.at for x in operands if is_value(x)]

        def run(points):
            rest = iter(points)
            return self.run(
                node, [next(rest) if is_value(x) else x for x in operands]
            )

        return _pull(run, moving, upstream), tf.zeros([], tf.float64)

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
            self.run(node, _select(operands, part))
            for part in (lambda x: x.low, lambda x: x.high, _at)
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
        self._spread = spread or _spread_product
        if run is not None:
            self.run = run

    def forward(self, node, operands):
        terms = self._terms(node, operands)
        middle = _select(operands, lambda x: (x.low + x.high) / 2)
        radius = _select(operands, lambda x: (x.high - x.low) / 2)
        size = _select(operands, lambda x: x.size)
        results = zip(
            self.run(node, middle),
            self._spread(self, node, radius, operands, False),
            self._spread(self, node, size, operands, True),
            self.run(node, _select(operands, _at)),
            strict=True,
        )
        values = []
        for middle, radius, size, at in results:
            error = _rounding(size, terms)
            reach = radius + error
            values.append(
                Value(middle - reach, middle + reach, at, error, terms)
            )
        return values

    def work(self, node, operands, results):
        terms = self._terms(node, operands)
        return terms * sum(math.prod(r.at.shape) for r in results)


def _spread_product(kind, node, distances, operands, is_size):
    """Of products with constants: distances times the sizes of these."""
    del is_size
    _only(node, operands)
    given = [
        d if is_value(x) or not d.dtype.is_floating else tf.abs(d)
        for d, x in zip(distances, operands, strict=True)
    ]
    return kind.run(node, given)


def _spread_quotient(kind, node, distances, operands, is_size):
    del is_size
    _first(node, operands)
    return [distances[0] / tf.abs(distances[1])]


def _spread_sum(kind, node, distances, operands, is_size):
    """Of sums, differences too: distances add up."""
    del kind, node
    given = [
        d if is_value(x) else tf.abs(d) if is_size else tf.zeros_like(d)
        for d, x in zip(distances, operands, strict=True)
    ]
    return [functools.reduce(tf.add, given)]


def _spread_bias(kind, node, distances, operands, is_size):
    del operands
    scale = 1.0 if is_size else 0.0
    return kind.run(node, [distances[0], scale * tf.abs(distances[1])])


def _spread_move(kind, node, distances, operands, is_size):
    del operands, is_size
    return [tf.abs(r) for r in kind.run(node, distances)]


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
        x = _only(node, operands)
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
        x, (y,), (above_below,) = _only(node, operands), results, upstream
        f = self.activation(node, operands)
        own = f.slopes(x.low, x.high)
        lower, upper = own if slopes is None else tf.unstack(slopes)
        above, below = _split_signs(above_below)
        least = f.offsets(lower, x.low, x.high)[0] + lower * x.at - y.at
        most = f.offsets(upper, x.low, x.high)[1] + upper * x.at - y.at
        coefficient = above * lower + below * upper
        return [coefficient], dot(above, least) + dot(below, most)

    def gap(self, node: Node, operands: list) -> tf.Tensor:
        """How far apart the two lines are at an operand's middle."""
        x = _only(node, operands)
        f = self.activation(node, operands)
        lower, upper = f.slopes(x.low, x.high)
        middle = (x.low + x.high) / 2
        least = f.offsets(lower, x.low, x.high)[0] + lower * middle
        most = f.offsets(upper, x.low, x.high)[1] + upper * middle
        return most - least


def _only(node, operands) -> Value:
    """The operand that depends on the image, which must be one."""
    values = [x for x in operands if is_value(x)]
    if len(values) != 1:
        raise NotCovered(
            f"{node.op} ({node.name}) of two tensors that depend on the image."
        )
    return values[0]


def _first(node, operands) -> Value:
    """The first operand, which alone must depend on the image."""
    value = _only(node, operands)
    if value is not operands[0]:
        raise NotCovered(f"{node.op} ({node.name}) by what depends on the image.")
    return value


class Largest(Operation):
    """The largest of several values: at least the one that is surely large."""

    def forward(self, node, operands):
        parts = [
            node.run(_select(operands, part))[0]
            for part in (lambda x: x.low, lambda x: x.high, _at)
        ]
        ours = _OURS * tf.maximum(tf.abs(parts[0]), tf.abs(parts[1]))
        return [Value(*parts, ours)]

    def pull(self, node, operands, results, upstream, slopes=None):
        del slopes
        x, (y,) = _only(node, operands), results
        above, below = _split_signs(upstream[0])
        # The gradient goes to one of the largest low ends, or is shared by
        # several: no mean of values is above the largest.
        pulled = _pull(
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
        error = _rounding(x.size * y.size, 1)
        return [Value(low - error, high + error, x.at * y.at, error)]

    def pull(self, node, operands, results, upstream, slopes=None):
        del slopes
        x, y = operands
        above, below = _split_signs(upstream[0])
        of_x = above * y.low + below * y.low
        of_y = above * x.low + below * x.high
        # Each is pulled through the product by one, for operands that repeat.
        pulled = [
            _pull(lambda p, other=other: [p[0] + 0.0 * other], [own.at], [up])
            for own, other, up in ((x, y.at, of_x), (y, x.at, of_y))
        ]
        constant = dot(below, (x.high - x.at) * (y.at - y.low))
        constant -= dot(above, (x.at - x.low) * (y.at - y.low))
        return [p[0] for p in pulled], constant


class _Multiply(Operation):
    """A product by a constant, or of two tensors."""

    def __init__(self):
        self._scaled, self._both = Affine(_one), Product()

    def _of(self, operands):
        return self._both if all(map(is_value, operands)) else self._scaled

    def forward(self, node, operands):
        return self._of(operands).forward(node, operands)

    def pull(self, node, operands, results, upstream, slopes=None):
        of = self._of(operands)
        return of.pull(node, operands, results, upstream, slopes)


class Cholesky(Operation):
    """The triangular factor of a covariance, by the recurrence on intervals.

    L[i, j] is a sum of products of entries that come before it, divided by
    L[j, j]; the intervals of these give its own. Where the square of a
    diagonal entry may be 0 there is no bound.
    """

    def forward(self, node, operands):
        x = operands[0]
        size = x.low.shape[-1]
        entries = {}
        for j in range(size):
            for i in range(j, size):
                low, high = x.low[..., i, j], x.high[..., i, j]
                total = tf.maximum(tf.abs(low), tf.abs(high))
                for k in range(j):
                    (a, b), (c, d) = entries[i, k], entries[j, k]
                    ends = [a * c, a * d, b * c, b * d]
                    if i == j:
                        least = tf.where(a * b <= 0, 0.0, tf.minimum(a**2, b**2))
                        ends = [least, tf.maximum(a**2, b**2)]
                    low -= functools.reduce(tf.maximum, ends)
                    high -= functools.reduce(tf.minimum, ends)
                    total += functools.reduce(tf.maximum, map(tf.abs, ends))
                error = _rounding(total, j + 1)
                low, high = low - error, high + error
                if i == j:
                    low, high = tf.sqrt(low), tf.sqrt(high)  # NaN below 0.
                else:
                    a, b = entries[j, j]
                    ends = [low / a, low / b, high / a, high / b]
                    low = functools.reduce(tf.minimum, ends)
                    high = functools.reduce(tf.maximum, ends)
                error = _rounding(tf.maximum(tf.abs(low), tf.abs(high)), 1)
                entries[i, j] = low - error, high + error
        low, high = (
            _triangle(entries, size, end, x.low.shape) for end in (0, 1)
        )
        return [Value(low, high, tf.linalg.cholesky(x.at))]


def _triangle(entries, size, end, shape):
    zero = tf.zeros(shape[:-2], tf.float64)
    rows = [
        tf.stack(
            [entries[i, j][end] if j <= i else zero for j in range(size)], -1
        )
        for i in range(size)
    ]
    return tf.stack(rows, -2)


def _batch_norm(node, operands):
    """Batch normalisation by stored statistics: scale and shift."""
    x, scale, offset, mean, variance = operands
    factor = scale / tf.sqrt(variance + node.attributes["epsilon"])
    return [x * factor + (offset - mean * factor)]


def _spread_batch_norm(kind, node, distances, operands, is_size):
    del kind, operands
    x, scale, offset, mean, variance = distances
    factor = tf.abs(scale) / tf.sqrt(variance + node.attributes["epsilon"])
    if not is_size:
        return [x * factor]
    return [x * factor + tf.abs(offset) + tf.abs(mean) * factor]


class Sum(Affine):
    """A sum of tensors and constants.

    Args:
        spread: As of `Affine`.
    """

    def __init__(self, spread):
        super().__init__(_added_terms, spread=spread)

    def is_shift(self, node, operands):
        values = [x for x in operands if is_value(x)]
        if len(values) != 1 or values[0] is not operands[0]:
            return False
        shapes = [x.shape for x in operands if not is_value(x)]
        shape = values[0].at.shape
        return all(tf.broadcast_static_shape(shape, s) == shape for s in shapes)


class BatchNorm(Affine):
    """Batch normalisation in inference."""

    def __init__(self):
        super().__init__(
            lambda *_: 4, run=_batch_norm, spread=_spread_batch_norm
        )

    def forward(self, node, operands):
        if node.attributes["is_training"]:
            raise NotCovered(
                f"{node.op} ({node.name}) normalises by the batch's statistics."
            )
        if node.attributes["data_format"] != b"NHWC":
            raise NotCovered(f"{node.op} ({node.name}) with channels first.")
        unused = len(node.outputs) - 1
        return super().forward(node, operands) + [None] * unused

    def pull(self, node, operands, results, upstream, slopes=None):
        return super().pull(node, operands, results, upstream[:1], slopes)


def _cast(node, operands):
    target = node.attributes["DstT"]
    if target not in _FLOATS:
        raise NotCovered(f"Cast ({node.name}) to {target.name}.")
    return [operands[0]]


def _one(*_) -> int:
    return 1


def _matmul_terms(node, operands) -> int:
    of = 0 if is_value(operands[0]) else 1
    is_across = node.attributes.get("transpose_a") or node.attributes.get(
        "adj_x"
    )
    if of:
        is_across = not (
            node.attributes.get("transpose_b") or node.attributes.get("adj_y")
        )
    shape = operands[of].at.shape
    return int(shape[-2] if is_across else shape[-1])


def _einsum_terms(node, operands) -> int:
    equation = node.attributes["equation"].decode()
    given, wanted = equation.split("->")
    if "." in equation:
        raise NotCovered(f"{node.op} ({node.name}) with an ellipsis.")
    sizes = {}
    for labels, x in zip(given.split(","), operands, strict=True):
        shape = x.at.shape if is_value(x) else x.shape
        sizes |= dict(zip(labels, shape, strict=True))
    return math.prod(n for label, n in sizes.items() if label not in wanted)


def _convolution_terms(node, operands) -> int:
    _first(node, operands)
    return math.prod(operands[1].shape[:-1])


def _depthwise_terms(node, operands) -> int:
    _first(node, operands)
    return math.prod(operands[1].shape[:2])


def _pool_terms(node, operands) -> int:
    return math.prod(node.attributes["ksize"]) + 1


def _reduced_terms(node, operands) -> int:
    x = operands[0]
    axes = np.reshape(tf.get_static_value(operands[1]), [-1])
    return math.prod(x.at.shape[axis] for axis in axes) + 1


def _added_terms(node, operands) -> int:
    # A kernel may start the sum of a product by what is added to it.
    values = [x.terms for x in operands if is_value(x)]
    return sum(values) + len(operands) - 1


_ADD = Sum(_spread_sum)
_BIAS = Sum(_spread_bias)
_MATMUL = Affine(_matmul_terms)
_CONVOLUTION = Affine(_convolution_terms)
_SUM = Affine(_reduced_terms, spread=_spread_move)
_LARGEST_OF = Largest()
_MOVES = (
    "BatchToSpaceND",
    "BroadcastTo",
    "ConcatV2",
    "DepthToSpace",
    "EnsureShape",
    "ExpandDims",
    "GatherV2",
    "Identity",
    "IdentityN",
    "MatrixDiagPartV3",
    "MirrorPad",
    "Pack",
    "Pad",
    "PadV2",
    "PreventGradient",
    "Reshape",
    "ReverseV2",
    "Roll",
    "Slice",
    "Snapshot",
    "SpaceToBatchND",
    "SpaceToDepth",
    "Split",
    "SplitV",
    "Squeeze",
    "StopGradient",
    "StridedSlice",
    "Tile",
    "Transpose",
    "Unpack",
)


def _curve(activation: Activation) -> Curve:
    return Curve(lambda node, constants: activation)


TABLE: Mapping[str, Operation] = {
    **{name: Move() for name in _MOVES},
    "Cast": Affine(_one, run=_cast, spread=_spread_move),
    "Add": _ADD,
    "AddV2": _ADD,
    "AddN": _ADD,
    "Sub": _ADD,
    "Neg": Affine(_one, spread=_spread_move),
    "BiasAdd": _BIAS,
    "MatMul": _MATMUL,
    "BatchMatMulV2": _MATMUL,
    "BatchMatMulV3": _MATMUL,
    "Einsum": Affine(_einsum_terms),
    "Conv2D": _CONVOLUTION,
    "DepthwiseConv2dNative": Affine(_depthwise_terms),
    "RealDiv": Affine(_one, spread=_spread_quotient),
    "Mul": _Multiply(),
    "Mean": _SUM,
    "Sum": _SUM,
    "AvgPool": Affine(_pool_terms, spread=_spread_move),
    "FusedBatchNormV3": BatchNorm(),
    "MaxPool": _LARGEST_OF,
    "Max": _LARGEST_OF,
    "Cholesky": Cholesky(),
    "Relu": _curve(activations.relu()),
    "Relu6": Curve(lambda *_: activations.RELU6),
    "LeakyRelu": Curve(
        lambda node, _: activations.relu(node.attributes["alpha"])
    ),
    "Maximum": Curve(lambda _, constants: activations.maximum(constants[0])),
    "Minimum": Curve(lambda _, constants: activations.minimum(constants[0])),
    "Elu": _curve(activations.elu()),
    "Selu": _curve(activations.elu(1.0507009873554805, 1.6732632423543772)),
    "Sigmoid": _curve(activations.SIGMOID),
    "Tanh": _curve(activations.TANH),
    "Softplus": _curve(activations.SOFTPLUS),
    "Exp": _curve(activations.EXP),
    "Log": _curve(activations.LOG),
    "Sqrt": _curve(activations.SQRT),
    "Square": _curve(activations.SQUARE),
    "Abs": _curve(activations.ABSOLUTE),
}


def of(node: Node) -> Operation:
    """The table's entry for an operation.

    Raises:
        NotCovered: If there is none.
    """
    if node.op not in TABLE:
        raise NotCovered(
            f"There are no bounds of the operation {node.op} ({node.name})."
        )
    return TABLE[node.op]
