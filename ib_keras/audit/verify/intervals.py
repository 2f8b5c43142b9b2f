"""Interval bounds in NumPy, which share no code with `ib_keras.certify`.

A frozen graph of one image is walked node by node, with an interval in float64
in place of each tensor that depends on the image. What follows the last
activation is linear, and is taken as one matrix, found by asking it about unit
vectors, so that differences of logits are bounded as a whole.

Nothing here rounds outward: the bounds are those of exact arithmetic, and a
certificate, which counts rounding, cannot be better than they are.
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import frozen as frozen_lib

# The largest last activation that is asked about by unit vectors.
_MOST_LAST = 4096

# What tells a tensor's shape or type, whatever its values are.
_SHAPES = ("OnesLike", "Shape", "ZerosLike")


class NotReadableError(ValueError):
    """The graph has what these bounds are not written for; the text says it."""


class Interval:
    """All tensors between two.

    Args:
        low: float64.
        high: float64 of the same shape, not below it.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray):
        self.low = low
        self.high = high

    def moved(self, move: Callable[[np.ndarray], np.ndarray]) -> "Interval":
        """What an order-preserving function makes of it."""
        return Interval(move(self.low), move(self.high))

    def linear(self, product: Callable, weights: np.ndarray) -> "Interval":
        """What `product(x, weights)` makes of it, linear in both."""
        up, down = np.maximum(weights, 0.0), np.minimum(weights, 0.0)
        return Interval(
            product(self.low, up) + product(self.high, down),
            product(self.high, up) + product(self.low, down),
        )


class Network:
    """A classifier whose graph these bounds can read.

    Args:
        logits_fn: `(images, seed) -> logits`.
        image_shape: (height, width, channels).

    Raises:
        NotReadableError: If an operation is another one, or gives what its
            inputs do not determine; it is named.
    """

    def __init__(self, logits_fn: Callable, image_shape: tuple[int, ...]):
        frozen = frozen_lib.freeze(logits_fn, image_shape)
        self._graph = frozen.graph
        self._images = frozen.inputs[0]
        self._logits = frozen.outputs[0]
        moving = _moving(self._graph, self._images.op)
        needed = _needed(self._logits.op)
        for op in needed:
            if op.op_def.is_stateful:
                raise NotReadableError(f"a state or noise ({op.type})")
        # Of what only a shape is asked for no interval is needed.
        needed = _needed(self._logits.op, stop=_SHAPES) & moving
        self._nodes = [
            op for op in self._graph.get_operations() if op in needed
        ]
        for op in self._nodes:
            if op is not self._images.op and op.type not in _RULES:
                raise NotReadableError(f"operation {op.type}")
        self._constants = _evaluate(frozen, self._nodes, moving)
        curves = [op for op in self._nodes if op.type in _CURVES]
        # Without curves the whole network is linear.
        self._last = (curves[-1] if curves else self._images.op).outputs[0]
        self._matrix, self._bias = self._tail()

    def _walk(self, values: dict[str, Any], nodes) -> dict[str, Any]:
        for op in nodes:
            if op.outputs[0].name in values:
                continue
            operands = [
                values[t.name] if t.name in values else self._constants[t.name]
                for t in op.inputs
            ]
            found = _RULES[op.type](op, *operands)
            for tensor, value in zip(
                op.outputs,
                found if isinstance(found, list) else [found],
                strict=True,
            ):
                values[tensor.name] = value
        return values

    def _tail(self) -> tuple[np.ndarray, np.ndarray]:
        """The linear map from the last activation to the logits."""
        shape = self._last.shape
        count = int(np.prod(shape))
        if count > _MOST_LAST:
            raise NotReadableError(f"a last activation of {count:,} numbers")
        nodes = self._nodes[self._nodes.index(self._last.op) + 1 :]

        def ask(flat):
            x = flat.reshape(shape)
            values = self._walk({self._last.name: Interval(x, x)}, nodes)
            return values[self._logits.name].low.reshape(-1)

        try:
            bias = ask(np.zeros(count))
            columns = [ask(row) - bias for row in np.eye(count)]
        except KeyError as error:
            raise NotReadableError(
                "a path around the last activation"
            ) from error
        return np.stack(columns, axis=1), bias

    def margins(
        self, image: np.ndarray, label: int, epsilon: float
    ) -> np.ndarray:
        """Lower bounds over a ball of the label's logit less each other one.

        Args:
            image: `[height, width, channels]` in [0, 1].
            label: Of it.
            epsilon: Radius of the l_inf ball, which is cut with [0, 1].

        Returns:
            float64 `[classes - 1]`.
        """
        x = image[None].astype(np.float64)
        ball = Interval(
            np.maximum(x - epsilon, 0.0), np.minimum(x + epsilon, 1.0)
        )
        values = self._walk({self._images.name: ball}, self._nodes)
        last = values[self._last.name]
        rows = self._matrix[label] - np.delete(self._matrix, label, axis=0)
        shift = self._bias[label] - np.delete(self._bias, label)
        found = last.moved(np.ravel).linear(lambda x, w: w @ x, rows)
        return found.low + shift


def _moving(graph, source) -> set:
    """The operations that depend on the image by more than its shape."""
    found = {source}
    for op in graph.get_operations():
        if op.type not in _SHAPES and any(t.op in found for t in op.inputs):
            found.add(op)
    return found


def _needed(op, stop=()) -> set:
    """The operations that one depends on, but for those below some types."""
    found, waiting = set(), [op]
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            if op.type not in stop:
                waiting += [tensor.op for tensor in op.inputs]
    return found


def _evaluate(frozen, nodes, moving) -> Mapping[str, np.ndarray]:
    """The operands that do not depend on the image, floats in float64."""
    tensors = {
        t.name: t for op in nodes for t in op.inputs if t.op not in moving
    }
    if not tensors:
        return {}
    definition = frozen.graph.as_graph_def()
    wrapped = tf.compat.v1.wrap_function(
        lambda: tf.graph_util.import_graph_def(definition, name=""), []
    )
    images, seed = frozen.inputs[:2]
    run = wrapped.prune([images.name, seed.name], list(tensors))
    values = run(tf.zeros(images.shape, images.dtype), tf.zeros([2], tf.int32))
    return {
        name: value.numpy().astype(np.float64)
        if value.dtype.is_floating
        else value.numpy()
        for name, value in zip(tensors, values, strict=True)
    }


# One rule an operation: `(op, *operands) -> Interval`, or a list of them.


def _scalar(combine):
    """A sum, product or the like of a tensor and a constant."""

    def rule(op, x, y):
        if isinstance(x, Interval) and isinstance(y, Interval):
            return _of_two(op, x, y)
        if isinstance(x, Interval):
            ends = combine(x.low, y), combine(x.high, y)
        else:
            ends = combine(x, y.low), combine(x, y.high)
        return Interval(np.minimum(*ends), np.maximum(*ends))

    return rule


def _of_two(op, x, y):
    if op.type in ("Add", "AddV2"):
        return Interval(x.low + y.low, x.high + y.high)
    if op.type == "Sub":
        return Interval(x.low - y.high, x.high - y.low)
    raise NotReadableError(f"{op.type} of two tensors")


def _divide(op, x, y):
    if isinstance(y, Interval):
        raise NotReadableError("a division by what depends on the image")
    return _scalar(np.divide)(op, x, y)


def _add_bias(op, x, bias):
    if op.get_attr("data_format") != b"NHWC":
        raise NotReadableError("a bias that is not NHWC")
    return _scalar(np.add)(op, x, bias)


def _matmul(op, x, w):
    if not isinstance(x, Interval) or isinstance(w, Interval):
        raise NotReadableError("a product of two tensors")
    if op.get_attr("transpose_a"):
        raise NotReadableError("a transposed product")
    w = w.T if op.get_attr("transpose_b") else w
    return x.linear(np.matmul, w)


def _convolution(op, x, w):
    if not isinstance(x, Interval) or isinstance(w, Interval):
        raise NotReadableError("a convolution of two tensors")
    if op.get_attr("data_format") != b"NHWC":
        raise NotReadableError("a convolution that is not NHWC")
    if set(op.get_attr("dilations")) != {1}:
        raise NotReadableError("a dilated convolution")
    strides = op.get_attr("strides")[1:3]
    pads = _pads(op, x.low.shape[1:3], w.shape[:2], strides)
    return x.moved(lambda t: np.pad(t, [(0, 0), *pads, (0, 0)])).linear(
        lambda t, kernel: _convolve(t, kernel, strides), w
    )


def _pads(op, size, window, strides):
    padding = op.get_attr("padding")
    if padding == b"VALID":
        return [(0, 0), (0, 0)]
    if padding == b"EXPLICIT":
        given = op.get_attr("explicit_paddings")
        return [tuple(given[2:4]), tuple(given[4:6])]
    total = [
        max((-(-n // s) - 1) * s + k - n, 0)
        for n, k, s in zip(size, window, strides, strict=True)
    ]
    return [(t // 2, t - t // 2) for t in total]


def _convolve(x, kernel, strides):
    windows = np.lib.stride_tricks.sliding_window_view(
        x, kernel.shape[:2], axis=(1, 2)
    )[:, :: strides[0], :: strides[1]]
    return np.einsum("bhwcij,ijco->bhwo", windows, kernel, optimize=True)


def _strided(op, x, begin, end, strides):
    masks = ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    on = {name: op.get_attr(f"{name}_mask") for name in masks}
    if on["ellipsis"] or on["new_axis"]:
        raise NotReadableError("a slice with an ellipsis or a new axis")
    where = []
    for axis, (first, last, step) in enumerate(
        zip(begin, end, strides, strict=True)
    ):
        bit = 1 << axis
        if on["shrink_axis"] & bit:
            where.append(int(first))
            continue
        where.append(
            slice(
                None if on["begin"] & bit else int(first),
                None if on["end"] & bit else int(last),
                int(step),
            )
        )
    return x.moved(lambda t: t[tuple(where)])


def _split(op, axis, x):
    count = op.get_attr("num_split")
    ends = (np.split(end, count, int(axis)) for end in (x.low, x.high))
    return [Interval(*pair) for pair in zip(*ends, strict=True)]


def _mean(op, x, axes):
    kept = bool(op.get_attr("keep_dims"))
    where = tuple(np.atleast_1d(axes).tolist())
    return x.moved(lambda t: t.mean(axis=where, keepdims=kept))


def _move(function):
    """A rearrangement of numbers."""
    return lambda op, x, *more: x.moved(lambda t: function(op, t, *more))


_RULES: Mapping[str, Callable[..., Any]] = {
    "Add": _scalar(np.add),
    "AddV2": _scalar(np.add),
    "BiasAdd": _add_bias,
    "BroadcastTo": _move(lambda op, t, shape: np.broadcast_to(t, shape)),
    "Conv2D": _convolution,
    "EnsureShape": _move(lambda op, t: t),
    "ExpandDims": _move(lambda op, t, axis: np.expand_dims(t, int(axis))),
    "Identity": _move(lambda op, t: t),
    "MatMul": _matmul,
    "Mean": _mean,
    "Mul": _scalar(np.multiply),
    "Pad": _move(lambda op, t, pads: np.pad(t, pads)),
    "RealDiv": _divide,
    "Relu": _move(lambda op, t: np.maximum(t, 0.0)),
    "Reshape": _move(lambda op, t, shape: t.reshape(shape)),
    "Split": _split,
    "Squeeze": _move(
        lambda op, t: np.squeeze(t, tuple(op.get_attr("squeeze_dims")) or None)
    ),
    "StridedSlice": _strided,
    "Sub": _scalar(np.subtract),
    "Transpose": _move(lambda op, t, axes: np.transpose(t, axes)),
}
_CURVES = ("Relu",)
