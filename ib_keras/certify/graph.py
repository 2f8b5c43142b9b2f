"""The graph of a classifier, as bounds see it.

`read` traces a function from images to logits for one image, puts the bodies
of its calls in place and its variables in as constants. What does not depend
on the pixels (weights, shapes, noise drawn by the seed) TensorFlow computes;
what is left are `Node`s, each one operation on tensors that do.
"""

import dataclasses
import inspect
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ib_keras import frozen as frozen_lib
from ib_keras.errors import UserError
from ib_keras.errors import reason
from ib_keras.types import LogitsFn

# What tells a tensor's shape or type, whatever its values are.
_SHAPES = (
    "OnesLike",
    "Rank",
    "Shape",
    "ShapeN",
    "Size",
    "ZerosLike",
)


class NotCovered(ValueError):
    """There are no bounds of this model; the text is a sentence that says why.

    It is no fault of the user's: a report says it and goes on without.
    """


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation on tensors that depend on the image.

    Attributes:
        name: Of the operation in the graph.
        op: Its type, such as "MatMul".
        inputs: Names of its operands, in order; those that are keys of
            `Graph.constants` do not depend on the image.
        outputs: Names of what it gives.
        attributes: As `tf.raw_ops` takes them.
        takes: How many of the inputs each argument of the operation takes;
            None for one that is no list.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    takes: tuple[tuple[str, int | None], ...]

    def run(self, operands: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Runs the operation on other operands, such as float64 ones."""
        rest, given = list(operands), {}
        for name, count in self.takes:
            given[name] = rest[: count or 1] if count else rest[0]
            del rest[: count or 1]
        result = getattr(tf.raw_ops, self.op)(**given, **self.attributes)
        if tf.is_tensor(result):
            return [result]
        return list(result)


@dataclasses.dataclass(frozen=True)
class Graph:
    """The part of a function that depends on the image.

    Attributes:
        image: Name of the images' tensor, of shape `[1, ...]`.
        output: Name of the logits.
        nodes: In an order in which operands come first.
        shapes: Shape of each tensor that depends on the image.
        constants: The operands that do not depend on it, floats in float64.
        drawn: Names of those constants that depend on the seed.
        draw: Gives these, `(seed int32 [2]) -> constants by name`.
    """

    image: str
    output: str
    nodes: tuple[Node, ...]
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, tf.Tensor]
    drawn: tuple[str, ...]
    draw: Callable[[tf.Tensor], dict[str, tf.Tensor]]

    @property
    def producers(self) -> dict[str, Node]:
        """The node that gives each tensor."""
        return {name: node for node in self.nodes for name in node.outputs}


def read(logits_fn: LogitsFn, image_shape: Sequence[int]) -> Graph:
    """Reads the graph of a classifier.

    Args:
        logits_fn: `(images, seed) -> logits`.
        image_shape: (height, width, channels).

    Returns:
        Its `Graph`, of one image.

    Raises:
        NotCovered: If TensorFlow cannot trace the function for one image or
            take its variables as constants, nothing depends on the image, or
            an answer depends on more than the image and the seed.
    """
    frozen = _freeze(logits_fn, image_shape)
    graph = frozen.graph
    images, seed = frozen.inputs[:2]
    output = frozen.outputs[0]
    depends = _downstream(graph, [images.op])
    needed = _upstream(output.op)
    _check_repeats(needed)
    live = needed & depends
    if not live:
        raise NotCovered("The logits do not depend on the image.")
    kept = [op for op in graph.get_operations() if op in live]
    nodes = [_node(op) for op in kept if op != images.op]
    operands = {
        tensor.name: tensor
        for op in kept
        for tensor in op.inputs
        if tensor.op not in depends
    }
    seeded = _downstream(graph, [seed.op])
    drawn = [name for name, t in operands.items() if t.op in seeded]
    fixed = [name for name in operands if name not in drawn]
    constants = _evaluate(frozen, [operands[n] for n in fixed])
    draw = _evaluate(frozen, [operands[n] for n in drawn])
    shapes = _shapes(frozen, kept)
    return Graph(
        images.name,
        output.name,
        tuple(nodes),
        shapes,
        constants(tf.zeros([2], tf.int32)),
        tuple(drawn),
        draw,
    )


def _freeze(logits_fn, image_shape):
    """The traced function, or the sentence that says why there is none."""
    try:
        return frozen_lib.freeze(logits_fn, image_shape)
    except UserError:
        raise
    except Exception as error:  # Anything may be wrong with anybody's code.
        raise NotCovered(
            "The graph of the model cannot be read for one image: "
            f"{reason(error)}"
        ) from error


def _downstream(graph, sources) -> set:
    """The operations whose values depend on some of `sources`."""
    found = set(sources)
    for op in graph.get_operations():  # In an order of their making.
        if op.type not in _SHAPES and any(t.op in found for t in op.inputs):
            found.add(op)
    return found


def _upstream(op) -> set:
    """The operations that one depends on, and itself."""
    found, waiting = set(), [op]
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            waiting += [tensor.op for tensor in op.inputs]
    return found


def _check_repeats(operations) -> None:
    """Refuses a graph whose answers its inputs do not determine.

    What such an operation gave once says nothing of the next call.
    """
    for op in operations:
        if op.op_def.is_stateful:
            raise NotCovered(
                f"The model depends on a state, or on noise that no seed "
                f"repeats ({op.type}, {op.name})."
            )


def _shapes(frozen, operations) -> dict[str, tuple[int, ...]]:
    """The shapes of what operations give, by running them where need be."""
    tensors = [tensor for op in operations for tensor in op.outputs]
    for tensor in tensors:
        if tensor.dtype in (tf.float16, tf.bfloat16):
            raise NotCovered(
                f"The model computes in {tensor.dtype.name} "
                f"({tensor.op.type}, {tensor.op.name}); the bounds are for "
                "float32 and float64."
            )
    unknown = [t for t in tensors if not t.shape.is_fully_defined()]
    seed = tf.zeros([2], tf.int32)
    ran = _evaluate(frozen, unknown)(seed)
    return {t.name: tuple(ran.get(t.name, t).shape) for t in tensors}


def _node(op) -> Node:
    """What a TensorFlow operation does, apart from its graph."""
    definition = op.op_def
    takes, inferred = [], set()
    for argument in definition.input_arg:
        count = None
        if argument.number_attr:
            count = op.get_attr(argument.number_attr)
        elif argument.type_list_attr:
            count = len(op.get_attr(argument.type_list_attr))
        takes.append((argument.name, count))
        inferred |= {
            argument.type_attr,
            argument.number_attr,
            argument.type_list_attr,
        }
    attributes = {
        attribute.name: op.get_attr(attribute.name)
        for attribute in definition.attr
        if attribute.name not in inferred
    }
    renamed = _renamed(op.type, [*dict(takes), *attributes])
    takes = [(renamed[name], count) for name, count in takes]
    attributes = {renamed[name]: x for name, x in attributes.items()}
    return Node(
        op.name,
        op.type,
        tuple(tensor.name for tensor in op.inputs),
        tuple(tensor.name for tensor in op.outputs),
        attributes,
        tuple(takes),
    )


def _renamed(op_type: str, names: Sequence[str]) -> dict[str, str]:
    """What `tf.raw_ops` calls the arguments of an operation."""
    function = getattr(tf.raw_ops, op_type, None)
    taken = list(inspect.signature(function).parameters) if function else []
    others = (x for x in taken if x not in (*names, "name"))
    return {x: x if x in taken else next(others, x) for x in names}


def _evaluate(frozen, tensors):
    """Makes `(seed) -> values by name` of tensors that depend on no image."""
    names = [tensor.name for tensor in tensors]
    definition = frozen.graph.as_graph_def()
    images, seed = frozen.inputs[:2]

    def load():
        tf.graph_util.import_graph_def(definition, name="")

    if not names:
        return lambda seed: {}
    wrapped = tf.compat.v1.wrap_function(load, [])
    run = wrapped.prune([images.name, seed.name], names)
    blank = tf.zeros(images.shape, images.dtype)

    def evaluate(seed):
        values = run(blank, tf.convert_to_tensor(seed, tf.int32))
        return {
            name: tf.cast(value, tf.float64)
            if value.dtype.is_floating
            else value
            for name, value in zip(names, values, strict=True)
        }

    return evaluate
