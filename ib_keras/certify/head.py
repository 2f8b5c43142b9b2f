"""The end of a classifier: from the classes' scores to its logits.

Probabilities depend on differences of scores, and so does which class is the
largest. So bounds are taken of the scores before a last softmax, of which the
differences are linear, and `decide` goes on from there.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from ib_keras.certify.graph import Graph
from ib_keras.certify.graph import Node

# Between the probabilities, or log-probabilities, of two classes: more than
# float32 loses in softmax, logarithm and mean.
_SLACK = 2.0**-16
# No larger constant may replace probabilities that are small.
_TINY = 1e-6

# Order-preserving ends, from the logits backwards.
_ENDS = (
    ("LogSoftmax",),
    ("Softmax",),
    ("Log", "Softmax"),
    ("LogSumExp", "LogSoftmax"),
    ("Mean", "Softmax"),
    ("Log", "Mean", "Softmax"),
)
_MOVES = ("EnsureShape", "ExpandDims", "Identity", "Reshape", "Squeeze")


@dataclasses.dataclass(frozen=True)
class Head:
    """How scores become logits.

    Attributes:
        scores: Name of the scores' tensor.
        shape: (draws, classes) of it, in this order.
        has_softmax: Whether a softmax follows, and the mean over the draws.
    """

    scores: str
    shape: tuple[int, int]
    has_softmax: bool = False


def find(graph: Graph) -> Head:
    """Finds the scores of a graph: the logits, if no softmax makes them."""
    producers, constants = graph.producers, graph.constants
    num_classes = graph.shapes[graph.output][-1]
    whole = Head(graph.output, (1, num_classes))
    name: str = graph.output
    path: list[str] = []
    while name in producers and tuple(path) not in _ENDS:
        node = producers[name]
        step = _step(node, producers, constants)
        if step is None:
            return whole
        name, op = step
        path += [op] if op else []
    if tuple(path) not in _ENDS:
        return whole
    shape = graph.shapes[name]
    draws = math.prod(shape) // num_classes
    is_mean = "LogSumExp" in path or "Mean" in path
    if shape[-1] != num_classes or (draws > 1 and not is_mean):
        return whole
    return Head(name, (draws, num_classes), has_softmax=True)


def _step(node: Node, producers, constants) -> tuple[str, str | None] | None:
    """What a node of the end makes its result of, and what it does to it."""
    if not node.inputs:
        return None
    first = node.inputs[0]
    others = [constants.get(name) for name in node.inputs[1:]]
    if node.op in _MOVES:
        return first, None
    if node.op in ("Log", "Softmax", "LogSoftmax"):
        return first, node.op
    is_scalar = all(x is not None and tf.size(x) == 1 for x in others)
    if node.op in ("Sub", "AddV2") and is_scalar:
        return first, None
    if node.op == "Maximum" and is_scalar and float(others[0]) < _TINY:
        return first, None
    if node.op == "Mean" and first not in constants:
        return first, "Mean"
    if node.op == "AddV2" and (found := _log_sum_exp(node, producers)):
        return found, "LogSumExp"
    return None


def _log_sum_exp(node, producers) -> str | None:
    """The x of log(sum(exp(x - m))) + m, which is the same for any m."""

    def behind(name, *ops):
        """What is there before a chain of operations, each of one operand."""
        for op in ops:
            found = producers.get(name)
            if found is None or found.op != op:
                return None
            name = found.inputs[0]
        return producers.get(name)

    difference = behind(node.inputs[0], "Log", "Sum", "Exp")
    if difference is None or difference.op != "Sub":
        return None
    inside, outside = difference.inputs[1], node.inputs[1]
    while outside != inside:
        moved = producers.get(outside)
        if moved is None or moved.op not in _MOVES:
            return None
        outside = moved.inputs[0]
    return difference.inputs[0]


def decide(head: Head, margins: np.ndarray) -> np.ndarray:
    """By how much an example is surely right.

    Args:
        head: Of the model.
        margins: float64 `[examples, draws, classes]`, lower bounds of the
            label's score less each class's; that of the label is ignored.

    Returns:
        float64 `[examples]`, above 0 where the example is proved robust: a
        lower bound of the label's score less the best other one, or where
        there are several draws, of the difference of mean probabilities.
    """
    if not head.has_softmax or head.shape[0] == 1:
        slack = _SLACK if head.has_softmax else 0.0
        return margins[:, 0].min(axis=-1) - slack
    # p_y - p_j = (1 - exp(h_j)) / (1 + sum_k exp(h_k)), h being the other
    # scores less the label's. It falls with each h where it is above 0; where
    # not, it is least with the other terms of the sum at 0.
    with np.errstate(over="ignore", invalid="ignore"):
        ratios = np.exp(-margins)
        total = 1.0 + ratios.sum(axis=-1, keepdims=True)
        differences = np.where(
            ratios <= 1.0,
            (1.0 - ratios) / total,
            -np.tanh(-margins / 2.0),
        )
    return differences.mean(axis=1).min(axis=-1) - _SLACK
