"""The operations that have bounds, one entry of `TABLE` each.

A new operation is a new entry, of one of the kinds in `kinds.py`. All compute
in float64 on one image. `Value.low` and `Value.high` bound what the model
computes in float32, in whatever order it adds: a sum of n products is within
n u / (1 - n u) of the sum of their sizes, which is `Value.error`.

References:
    Higham, "Accuracy and stability of numerical algorithms", section 3.1.
"""

import functools
import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from ib_keras.certify import activations
from ib_keras.certify.activations import Activation
from ib_keras.certify.graph import Node
from ib_keras.certify.graph import NotCovered
from ib_keras.certify.kinds import Affine
from ib_keras.certify.kinds import Curve
from ib_keras.certify.kinds import Largest
from ib_keras.certify.kinds import Move
from ib_keras.certify.kinds import Operation
from ib_keras.certify.kinds import Product
from ib_keras.certify.kinds import Sum
from ib_keras.certify.kinds import first
from ib_keras.certify.values import Value
from ib_keras.certify.values import is_value
from ib_keras.certify.values import rounding

_FLOATS = (tf.float32, tf.float64)


def _spread_quotient(kind, node, distances, operands, is_size):
    del is_size
    first(node, operands)
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
                        # The square is 0 where the interval holds 0.
                        least = tf.maximum(tf.maximum(a, -b), 0.0) ** 2
                        ends = [least, tf.maximum(a**2, b**2)]
                    low -= functools.reduce(tf.maximum, ends)
                    high -= functools.reduce(tf.minimum, ends)
                    total += functools.reduce(tf.maximum, map(tf.abs, ends))
                error = rounding(total, j + 1)
                low, high = low - error, high + error
                if i == j:
                    low, high = tf.sqrt(low), tf.sqrt(high)  # NaN below 0.
                else:
                    a, b = entries[j, j]
                    ends = [low / a, low / b, high / a, high / b]
                    low = functools.reduce(tf.minimum, ends)
                    high = functools.reduce(tf.maximum, ends)
                error = rounding(tf.maximum(tf.abs(low), tf.abs(high)), 1)
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


def _same(node, operands):
    """What gives its operand back; its gradient may be another thing."""
    del node
    return [operands[0]]


def _batch_matmul(node, operands):
    """A product whose type is its operands'."""
    adjoint = {name: node.attributes[name] for name in ("adj_x", "adj_y")}
    x, y = operands
    return [tf.raw_ops.BatchMatMulV2(x=x, y=y, **adjoint)]


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
    sizes: dict[str, int] = {}
    for labels, x in zip(given.split(","), operands, strict=True):
        shape = x.at.shape if is_value(x) else x.shape
        sizes |= dict(zip(labels, shape, strict=True))
    return math.prod(n for label, n in sizes.items() if label not in wanted)


def _convolution_terms(node, operands) -> int:
    first(node, operands)
    return math.prod(operands[1].shape[:-1])


def _depthwise_terms(node, operands) -> int:
    first(node, operands)
    return math.prod(operands[1].shape[:2])


def _pool_terms(node, operands) -> int:
    return math.prod(node.attributes["ksize"]) + 1


def _reduced_terms(node, operands) -> int:
    x = operands[0]
    axes = np.reshape(tf.get_static_value(operands[1]), [-1])
    return math.prod(x.at.shape[axis] for axis in axes) + 1


_ADD = Sum(_spread_sum)
_BIAS = Sum(_spread_bias)
_MATMUL = Affine(_matmul_terms)
_CONVOLUTION = Affine(_convolution_terms)
_SUM = Affine(_reduced_terms, spread=_spread_move)
_LARGEST_OF = Largest()
_SAME = (
    "EnsureShape",
    "Identity",
    "PreventGradient",
    "Snapshot",
    "StopGradient",
)
_MOVES = (
    "BatchToSpaceND",
    "BroadcastTo",
    "ConcatV2",
    "DepthToSpace",
    "ExpandDims",
    "GatherV2",
    "IdentityN",
    "MatrixDiagPartV3",
    "MirrorPad",
    "Pack",
    "Pad",
    "PadV2",
    "Reshape",
    "ReverseV2",
    "Roll",
    "Slice",
    "SpaceToBatchND",
    "SpaceToDepth",
    "Split",
    "SplitV",
    "Squeeze",
    "StridedSlice",
    "Tile",
    "Transpose",
    "Unpack",
)


def _curve(activation: Activation) -> Curve:
    return Curve(lambda node, constants: activation)


TABLE: Mapping[str, Operation] = {
    **{name: Move() for name in _MOVES},
    **{name: Move(run=_same) for name in _SAME},
    "Cast": Affine(_one, run=_cast, spread=_spread_move),
    "Add": _ADD,
    "AddV2": _ADD,
    "AddN": _ADD,
    "Sub": _ADD,
    "Neg": Affine(_one, spread=_spread_move),
    "BiasAdd": _BIAS,
    "MatMul": _MATMUL,
    "BatchMatMulV2": _MATMUL,
    "BatchMatMulV3": Affine(_matmul_terms, run=_batch_matmul),
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
    "Selu": _curve(activations.SELU),
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
