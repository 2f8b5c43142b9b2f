"""Attributes that make a runtime do more than the operation.

The attributes of graphs of one process and one machine are known; everything
else is refused: clusters, workers, other executors, thousands of threads.
"""

import re
from collections.abc import Iterator

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2

# Options of a call that TensorFlow writes: devices, memory of GPUs, threads of
# its own machine. The copy that is loaded has none of them.
_OPTIONS = frozenset(
    {
        "allow_soft_placement",
        "device_count",
        "experimental",
        "gpu_options",
        "graph_options",
        "inter_op_parallelism_threads",
        "intra_op_parallelism_threads",
        "log_device_placement",
        "pluggable_device_options",
    }
)
_NOT_IN_EXPERIMENTAL = frozenset(
    {"collective_group_leader", "coordination_config", "executor_type"}
)
_MAX_THREADS = 1024
_COLOCATED = re.compile(rb"loc:@[\w.>/-]{1,1000}")
_WORKER = re.compile(rb"/?(job|task|replica|host):", re.IGNORECASE)
_NAME = re.compile(rb"[\w.>/-]{0,1000}")
# Attributes that are a name: of a function, or of a kind of gradient.
_NAMES = frozenset(
    {
        "_construction_context",
        "_gradient_op_type",
        "_original_func_name",
        "backward_function_name",
        "forward_function_name",
    }
)
CONFIG = "config_proto"


def problems(name: str, value) -> Iterator[str]:
    """The problems of an attribute of a node or function.

    Args:
        name: Of the attribute.
        value: Its `AttrValue`.

    Yields:
        Phrases; none if it is as TensorFlow writes it.
    """
    if name == CONFIG:
        yield from _options(value.s)
    elif name == "executor_type":
        if value.s not in (b"", b"DEFAULT"):
            yield "an executor of its own"
    elif name == "_class":
        if not all(
            _COLOCATED.fullmatch(text) and not _WORKER.search(text)
            for text in (*value.list.s, *([value.s] if value.s else []))
        ):
            yield "a colocation (_class) with something that is no node"
    elif name == "_collective_manager_ids":
        if value.list.i or value.i:
            yield "collectives (_collective_manager_ids)"
    elif name in _NAMES and not _NAME.fullmatch(value.s):
        yield f"{name}, which is no name"


def _options(data):
    """The problems of serialised options of a call."""
    options = config_pb2.ConfigProto()
    try:
        options.ParseFromString(data)
    except DecodeError:
        yield f"{CONFIG} that cannot be read"
        return
    for field, value in options.ListFields():
        if field.name not in _OPTIONS:
            yield f"{CONFIG} with {field.name}"
        elif "threads" in field.name and not 0 <= value <= _MAX_THREADS:
            yield f"{CONFIG} with {value} threads"
    for field, _ in options.experimental.ListFields():
        if field.name in _NOT_IN_EXPERIMENTAL:
            yield f"{CONFIG} with {field.name}"
    for device, count in options.device_count.items():
        if not 0 <= count <= _MAX_THREADS:
            yield f"{CONFIG} with {count} devices {device[:20]!a}"
    if options.graph_options.rewrite_options.custom_optimizers:
        yield f"{CONFIG} with custom_optimizers"


def missing_functions(library, functions: set[str]) -> Iterator[str]:
    """Names in gradients that are not in the library of functions.

    Args:
        library: A `FunctionDefLibrary`.
        functions: Names of its functions.

    Yields:
        Names.
    """
    for item in library.gradient:
        yield from {item.function_name, item.gradient_func} - functions
    for item in library.registered_gradients:
        if item.gradient_func not in functions:
            yield item.gradient_func
