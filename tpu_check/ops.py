"""Operations of a traced graph that have no TPU kernel.

The table `ops_tf220.json` lists, for TensorFlow 2.20's TPU build, each
operation with a kernel and the types that its attributes may have. It was read
from that build's own registry of kernels (device XLA_TPU_JIT).
"""

import functools
import json
import pathlib

import tensorflow as tf

_TABLE = pathlib.Path(__file__).parent / "ops_tf220.json"

# Structure, which the compiler takes apart before it looks for kernels.
_STRUCTURE = frozenset(
    {
        "Case",
        "If",
        "NoOp",
        "PartitionedCall",
        "Placeholder",
        "StatefulPartitionedCall",
        "StatelessCase",
        "StatelessIf",
        "StatelessWhile",
        "TPUCompilationResult",
        "TPUReplicateMetadata",
        "TPUReplicatedInput",
        "TPUReplicatedOutput",
        "VarHandleOp",
        "While",
        "_Arg",
    }
)


@functools.cache
def _kernels() -> dict[str, list[dict[str, list[str]]]]:
    return json.loads(_TABLE.read_text(encoding="utf-8"))["ops"]


def _types(node) -> dict[str, str]:
    """The types among a node's attributes."""
    return {
        name: tf.as_dtype(value.type).name
        for name, value in node.attr.items()
        if value.WhichOneof("value") == "type" and value.type
    }


def _has_kernel(node) -> bool:
    types = _types(node)
    return any(
        all(types.get(name) in (None, *allowed) for name, allowed in k.items())
        for k in _kernels().get(node.op, ())
    )


def _called(node) -> list[str]:
    names = []
    for value in node.attr.values():
        names += [value.func.name] if value.HasField("func") else []
        names += [function.name for function in value.list.func]
    return [name for name in names if name]


def unsupported(graph) -> list[str]:
    """Lists what of a graph no TPU can run.

    Args:
        graph: A `tf.Graph`, such as `concrete_function.graph`; functions that
            it calls are looked into.

    Returns:
        One line for each operation with its types and where it is, sorted;
        empty where all have kernels.
    """
    definition = graph.as_graph_def()
    library = {f.signature.name: f for f in definition.library.function}
    waiting = [("the graph", definition.node)]
    seen, found = set(), {}
    while waiting:
        where, nodes = waiting.pop()
        for node in nodes:
            if node.op not in _STRUCTURE and not _has_kernel(node):
                types = ", ".join(f"{k} {v}" for k, v in _types(node).items())
                line = f"{node.op} ({types})" if types else node.op
                found.setdefault(line, f"{node.name} of {where}")
            for name in _called(node):
                if name in library and name not in seen:
                    seen.add(name)
                    waiting.append((name, library[name].node_def))
    return [f"{line}: {found[line]}" for line in sorted(found)]
