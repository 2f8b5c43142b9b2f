"""Intervals forwards and linear bounds backwards through one graph.

Everything here is of one image; `certifier.py` has TensorFlow make of it the
same for a batch. A backward pass that chooses no lines stops at the last layer
of curves, which is interval propagation with the last linear layer folded into
what is asked for.

References:
    Gowal et al., "On the effectiveness of interval bound propagation for
    training verifiably robust models", 2018;
    Zhang et al. (CROWN), NeurIPS 2018.
"""

import collections
import functools
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any
from typing import cast

import tensorflow as tf

from ib_keras.certify import operations
from ib_keras.certify.graph import Graph
from ib_keras.certify.graph import Node
from ib_keras.certify.graph import NotCovered
from ib_keras.certify.kinds import Curve
from ib_keras.certify.values import Value
from ib_keras.certify.values import concrete
from ib_keras.certify.values import dot

Interval = tuple[tf.Tensor, tf.Tensor]


class Bounds:
    """The abstract operations of a graph up to one of its tensors.

    Args:
        graph: The classifier.
        target: Name of the tensor whose bounds are asked for.

    Raises:
        NotCovered: If an operation on the way has no bounds.
    """

    def __init__(self, graph: Graph, target: str):
        self._graph = graph
        self.target = target
        self.nodes = self.before(target)
        for node in self.nodes:
            operations.of(node)
        self._work = self._count()

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each tensor."""
        return self._graph.shapes

    @property
    def curves(self) -> list[Node]:
        """The nodes through which lines are chosen, in order."""
        return [n for n in self.nodes if operations.of(n).is_curve]

    def argument(self, curve: Node) -> str:
        """Name of the tensor that a curve is of."""
        return next(x for x in curve.inputs if x in self._graph.shapes)

    def before(self, name: str) -> list[Node]:
        """The nodes that a tensor depends on, in order."""
        producers = self._graph.producers
        needed, waiting = set(), [name]
        while waiting:
            node = producers.get(waiting.pop())
            if node is not None and node.name not in needed:
                needed.add(node.name)
                waiting += node.inputs
        return [n for n in self._graph.nodes if n.name in needed]

    def work(self, name: str) -> int:
        """Multiplications of one backward pass from a tensor, about."""
        return sum(self._work[node.name] for node in self.before(name))

    def _count(self) -> dict[str, int]:
        """The work of each node, by a forward pass that is only traced."""
        work: dict[str, int] = {}
        shape = self._graph.shapes[self._graph.image]

        @tf.function(autograph=False)
        def trace(image):
            self.forward(Value(image, image, image), {}, work=work)

        trace.get_concrete_function(tf.TensorSpec(shape, tf.float64))
        return work

    def forward(
        self,
        image: Value,
        known: Mapping[str, Interval],
        drawn: Mapping[str, tf.Tensor] | None = None,
        work: dict[str, int] | None = None,
    ) -> dict[str, Value]:
        """Propagates intervals.

        Args:
            image: The ball and its centre, `[1, ...]`.
            known: Intervals of tensors that are found already, by name.
            drawn: Constants that a seed draws; None for those of any seed.
            work: Takes the multiplications of each node, if given.

        Returns:
            The value of each tensor on the way to the target.
        """
        if drawn is None:
            drawn = self._graph.draw(tf.zeros([2], tf.int32))
        values = {self._graph.image: image}
        for node in self.nodes:
            operation = operations.of(node)
            operands = self._operands(node, values, drawn)
            results = operation.forward(node, operands)
            for name, value in zip(node.outputs, results, strict=True):
                if value is not None:
                    values[name] = _tighter(value, known.get(name))
            if work is not None:
                made = [r for r in results if r is not None]
                work[node.name] = operation.work(node, operands, made)
        return values

    def backward(
        self,
        values: Mapping[str, Value],
        name: str,
        coefficients: tf.Tensor,
        lines: Collection[str],
        drawn: Mapping[str, tf.Tensor],
        slopes: Mapping[str, tf.Tensor] | None = None,
        weights: dict[str, tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """Bounds a linear function of a tensor from below.

        Args:
            values: What `forward` gave.
            name: Of the tensor.
            coefficients: float64 of its shape.
            lines: Names of the curves through which lines are chosen; of the
                others intervals alone are used.
            drawn: As of `forward`.
            slopes: Of the lower and the upper lines by curve, `[2, ...]`;
                CROWN's own where there are none.
            weights: Takes the sizes of the coefficients of each curve, if
                given: by how much the bound feels it.

        Returns:
            float64 scalar: at most sum(coefficients * y) for every image.
        """
        slopes = slopes or {}
        bound = dot(coefficients, values[name].at)
        pending = {name: coefficients}
        late: dict[str, Any] = {}
        for node in reversed(self.before(name)):
            upstream = [pending.pop(x, None) for x in node.outputs]
            if all(x is None for x in upstream):
                continue
            results = [values[x] for x in node.outputs if x in values]
            upstream = [
                tf.zeros_like(r.at) if x is None else x
                for x, r in zip(upstream, results, strict=False)
            ]
            operation = operations.of(node)
            if weights is not None and operation.is_curve:
                weights[node.name] = tf.abs(upstream[0])
            if operation.is_curve and node.name not in lines:
                extra = [late.pop(x, None) for x in node.outputs]
                bound += concrete(results, upstream) - _charge(extra, upstream)
                continue
            operands = self._operands(node, values, drawn)
            moving = [x for x in node.inputs if x in values]
            errors = [
                late.pop(x, r.error)
                for x, r in zip(node.outputs, results, strict=False)
            ]
            if self._is_one_way(node, operands, moving):
                # The same coefficients go on; the error is charged with them.
                late[moving[0]] = errors[0] + _error(values[moving[0]])
                pending[moving[0]] = upstream[0]
                continue
            pulled, constant = operation.pull(
                node, operands, results, upstream, slopes.get(node.name)
            )
            bound += constant - _charge(errors, upstream)
            for operand, new in zip(moving, pulled, strict=True):
                if new is not None:
                    old = pending.get(operand)
                    pending[operand] = new if old is None else old + new
        for image, rest in pending.items():
            bound += concrete([values[image]], [rest])
        return bound

    def gap(self, curve: Node, values, drawn) -> tf.Tensor:
        """How far apart the two lines of a curve are, of its shape."""
        operands = self._operands(curve, values, drawn)
        return self._curve_of(curve).gap(curve, operands)

    def curve(self, curve: Node, values, drawn):
        """The function of a curve, and the value that it is of."""
        operands = self._operands(curve, values, drawn)
        function = self._curve_of(curve).activation(curve, operands)
        return function, values[self.argument(curve)]

    def _curve_of(self, node: Node) -> Curve:
        return cast(Curve, operations.of(node))

    def _is_one_way(self, node, operands, moving) -> bool:
        """Whether a node shifts a tensor that nothing else takes."""
        is_shift = operations.of(node).is_shift(node, operands)
        # The image has no node at which it could be charged.
        is_made = moving[0] != self._graph.image
        return is_shift and is_made and self._num_uses[moving[0]] == 1

    @functools.cached_property
    def _num_uses(self) -> collections.Counter:
        return collections.Counter(x for n in self.nodes for x in n.inputs)

    def _operands(self, node, values, drawn):
        constants = self._graph.constants
        found = []
        for name in node.inputs:
            given = values.get(name, drawn.get(name, constants.get(name)))
            if given is None:
                raise NotCovered(
                    f"{node.op} ({node.name}) takes what has no bounds."
                )
            found.append(given)
        return found


def _tighter(value: Value, known: Interval | None) -> Value:
    if known is None:
        return value
    low, high = known
    return value._replace(
        low=tf.maximum(value.low, low), high=tf.minimum(value.high, high)
    )


def _error(value: Value) -> tf.Tensor:
    return 0.0 if value.error is None else value.error


def _charge(errors, upstream) -> tf.Tensor:
    """What rounding may take off a bound with these coefficients."""
    total = tf.zeros([], tf.float64)
    for error, coefficient in zip(errors, upstream, strict=True):
        if error is not None:
            total += dot(tf.abs(coefficient), error)
    return total
