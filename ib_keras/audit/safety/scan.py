"""The static pass over `saved_model.pb`: it is read as data, nothing runs.

Every node of every function is checked, reachable or not: the loader decides
what is reachable, and may decide differently.
"""

import dataclasses
import math
import re

from google.protobuf.message import DecodeError
from tensorflow.core.framework import graph_pb2
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import dtypes

from ib_keras.audit.safety import attributes
from ib_keras.audit.safety import bundle
from ib_keras.audit.safety import calls
from ib_keras.audit.safety import load_time
from ib_keras.audit.safety import ops
from ib_keras.audit.safety import strip
from ib_keras.audit.safety import wire
from ib_keras.audit.safety.report import Limits
from ib_keras.audit.safety.report import Problem
from ib_keras.audit.safety.report import damaged
from ib_keras.audit.safety.report import over
from ib_keras.audit.safety.report import reason
from ib_keras.audit.safety.report import refuse
from ib_keras.audit.safety.report import shown

_MAX_STRING = 1 << 20
_MAX_NESTING = 100
_MAX_PROBLEMS = 100
# What a string in memory takes before its bytes.
_STRING_BYTES = 24
# Host, replica and task that a graph of one machine names.
_DEVICE = re.compile(
    r"(/job:localhost)?(/replica:0)?(/task:0)?"
    r"(/(device:)?[A-Za-z_]+:(\d{1,4}|\*))?"
)


@dataclasses.dataclass
class Scan:
    """The findings of the pass over one SavedModel.

    Attributes:
        problems: What is not allowed.
        ops: Names of the operations of functions but the saver's.
        main_ops: Those of the main graph, which a loader does not run.
        saver_ops: Those of the saver's functions.
        used: What `allow_ops` was needed for.
        declared_bytes: That constants declare and do not hold.
    """

    problems: list[Problem] = dataclasses.field(default_factory=list)
    ops: set[str] = dataclasses.field(default_factory=set)
    main_ops: set[str] = dataclasses.field(default_factory=set)
    used: set[str] = dataclasses.field(default_factory=set)
    declared_bytes: int = 0
    saver_ops: set[str] = dataclasses.field(default_factory=set)

    def refuse(self, what: str, token: str | None = None) -> None:
        """Adds a problem, up to a number."""
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(Problem(what, token))


def parse(data: bytes, path: str, limits: Limits) -> saved_model_pb2.SavedModel:
    """Parses the bytes of `saved_model.pb`.

    Raises:
        UserError: If they are not a SavedModel of TensorFlow 2.
        UnsafeError: If they would become more objects than the limits let.
    """
    proto = saved_model_pb2.SavedModel()
    if len(data) > wire.SMALL:
        most = limits.max_fields
        count = wire.count(data, proto.DESCRIPTOR, most)
        if count > most:
            what = f"more than {most:g} fields in saved_model.pb"
            # The excess is not known; the hint doubles the limit.
            raise refuse(path, [Problem(what, f"max_fields={2 * most:g}")])
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise damaged(path, f"saved_model.pb: {reason(error)}") from error
    if not proto.meta_graphs:
        raise damaged(path, "saved_model.pb holds no graph")
    return proto


def scan(
    proto: saved_model_pb2.SavedModel, allow_ops: frozenset[str], limits: Limits
) -> Scan:
    """Finds everything that is not allowed in a SavedModel.

    Args:
        proto: The parsed `saved_model.pb`.
        allow_ops: Names that are accepted beyond the rules.
        limits: Of what constants declare.

    Returns:
        A `Scan`.
    """
    found = Scan()
    _check_unknown_fields(proto, found)
    if len(proto.meta_graphs) > 1:
        tags = [sorted(g.meta_info_def.tags) for g in proto.meta_graphs]
        found.refuse(
            f"{len(proto.meta_graphs)} graphs, with the tags {shown(tags)}"
        )
    for meta_graph in proto.meta_graphs:
        if list(meta_graph.meta_info_def.tags) != ["serve"]:
            tags = list(meta_graph.meta_info_def.tags)
            found.refuse(f'the tags {shown(tags)} in place of "serve"')
        if not meta_graph.HasField("object_graph_def"):
            found.refuse(
                "a graph without objects, as TensorFlow 1 wrote it (to load it"
                " runs its own initialisers)"
            )
        problems = _size_problems(meta_graph.graph_def, limits)
        found.problems += problems
        if not problems:  # It is small enough to be checked.
            _scan_graph(meta_graph, allow_ops, limits, found)
            load_time.check(meta_graph, allow_ops, found)
    limit = limits.memory_bytes() // 2
    if found.declared_bytes > limit:
        found.refuse(
            f"constants that declare {found.declared_bytes / 2**30:.1f} GiB and"
            f" do not hold them, where {limit / 2**30:.1f} GiB is the limit"
        )
    return found


def _size_problems(graph, limits):
    functions = graph.library.function
    nodes = len(graph.node) + sum(len(f.node_def) for f in functions)
    count = len(functions)
    return [
        *over("max_nodes", nodes, f"{nodes} nodes", limits),
        *over("max_functions", count, f"{count} functions", limits),
    ]


def _scan_graph(meta_graph, allow_ops, limits, found):
    saver = strip.saver_functions(meta_graph)
    library = meta_graph.graph_def.library
    callees = {
        f.signature.name: calls.of_nodes(f.node_def) for f in library.function
    }
    if len(callees) < len(library.function):
        found.refuse("two functions of the same name")
    sizes = {f.signature.name: len(f.node_def) for f in library.function}
    found.problems += calls.check(callees, sizes, limits)
    functions = set(callees)
    for name in attributes.missing_functions(library, functions):
        found.refuse(f"a gradient by {shown(name)}, which is not in the model")
    at_load = load_time.only(meta_graph, callees)
    for node in meta_graph.graph_def.node:
        found.main_ops.add(node.op)
        _scan_node(node, "the main graph", False, functions, allow_ops, found)
    for function in library.function:
        name = function.signature.name
        place = f"function {shown(name)}"
        arguments = function.arg_attr.values()
        for values in (function.attr, *(a.attr for a in arguments)):
            known = {a for a in values if not a.startswith("_")}
            _scan_values(values, known, place, functions, allow_ops, found)
        for node in function.node_def:
            if name not in saver:
                found.ops.add(node.op)
                _check_state(node.op, place, name in at_load, allow_ops, found)
            _scan_node(node, place, name in saver, functions, allow_ops, found)


def _scan_node(node, place, is_saver, functions, allow_ops, found):
    place = f"node {shown(node.name)} of {place}"
    _check_op(node.op, place, is_saver, allow_ops, found)
    if not _DEVICE.fullmatch(node.device):
        found.refuse(f"the device {shown(node.device)} at {place}")
    definition = ops.definition(node.op)
    known = {a.name for a in definition.attr} if definition else set()
    _scan_values(node.attr, known, place, functions, allow_ops, found)


def _scan_values(values, known, place, functions, allow_ops, found):
    """Checks the attributes of one node or function."""
    for attribute, value in values.items():
        if attribute not in known:
            _check_hidden(attribute, place, allow_ops, found)
        for problem in attributes.problems(attribute, value):
            found.refuse(f"{problem} at {place}")
        _scan_value(value, place, functions, found)


def _check_state(op, place, is_at_load, allow_ops, found):
    """Refuses state that is not in the model's list of variables."""
    if op in ops.VARIABLE_OPS:
        what = "makes a variable of its own"
    elif op in ops.TABLE_WRITERS and not is_at_load:
        what = "writes to a table whenever it is called"
    else:
        return
    if op in allow_ops:
        found.used.add(op)
        return
    found.refuse(f"operation {op} ({what}) in {place}", op)


def _check_op(op, place, is_saver, allow_ops, found):
    if is_saver and op in ops.SAVER_OPS:
        found.saver_ops.add(op)
        return
    if op in ops.allowed():
        return
    if ops.definition(op) is None:
        what = f"{shown(op)} ({ops.why_refused(op)}) at {place}"
        found.refuse(f"operation {what}")
    elif op in allow_ops:
        found.used.add(op)
    else:
        what = f"operation {op} ({ops.why_refused(op)}) at {place}"
        found.refuse(what, op)


def _check_hidden(attribute, place, allow_ops, found):
    if attribute in ops.HIDDEN_ATTRIBUTES:
        return
    if attribute in allow_ops:
        found.used.add(attribute)
        return
    is_plain = re.fullmatch(r"[A-Za-z0-9_]{1,80}", attribute)
    found.refuse(
        f"the unknown attribute {shown(attribute)} at {place}",
        attribute if is_plain else None,
    )


def _scan_value(value, place, functions, found, depth=0):
    """Checks one `AttrValue`: strings, tensors, names of functions."""
    if depth > _MAX_NESTING:
        found.refuse(f"attributes nested deeper than {_MAX_NESTING} at {place}")
        return
    kind = value.WhichOneof("value")
    if kind == "s":
        _check_bytes(value.s, place, found)
    elif kind == "tensor":
        _check_tensor(value.tensor, place, found)
    elif kind == "func":
        _check_function(value.func, place, functions, found, depth)
    elif kind == "list":
        for text in value.list.s:
            _check_bytes(text, place, found)
        for tensor in value.list.tensor:
            _check_tensor(tensor, place, found)
        for function in value.list.func:
            _check_function(function, place, functions, found, depth)


def _check_function(function, place, functions, found, depth):
    if function.name and function.name not in functions:
        found.refuse(
            f"a call of {shown(function.name)}, which is not in the model, at"
            f" {place}"
        )
    for value in function.attr.values():
        _scan_value(value, place, functions, found, depth + 1)


def _check_bytes(text, place, found):
    if len(text) > _MAX_STRING:
        found.refuse(f"a string of {len(text)} bytes at {place}")
    elif len(text) > 16 and _is_graph(text):
        found.refuse(f"a graph in a string at {place}")


def _is_graph(text: bytes) -> bool:
    """Whether bytes are a serialised graph or SavedModel."""
    for kind in (graph_pb2.GraphDef, saved_model_pb2.SavedModel):
        message = kind()
        try:
            message.ParseFromString(text)
        except DecodeError:
            continue
        graphs = [message]
        if kind is saved_model_pb2.SavedModel:
            graphs = [g.graph_def for g in message.meta_graphs]
        for graph in graphs:
            bodies = [f.node_def for f in graph.library.function]
            for nodes in (graph.node, *bodies):
                if any(ops.definition(node.op) for node in nodes):
                    return True
    return False


def _check_tensor(tensor, place, found):
    if tensor.dtype == types_pb2.DT_VARIANT or tensor.variant_val:
        found.refuse(f"a constant of type variant at {place}")
        return
    if tensor.dtype == types_pb2.DT_RESOURCE or tensor.resource_handle_val:
        found.refuse(f"a constant of type resource at {place}")
        return
    if any(dim.size < 0 for dim in tensor.tensor_shape.dim):
        found.refuse(f"a constant of unknown shape at {place}")
        return
    count = math.prod(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.dtype == types_pb2.DT_STRING:
        for text in _strings(tensor, count, place, found):
            _check_bytes(text, place, found)
    declared = count * size_of(tensor.dtype)
    if declared > 100 * tensor.ByteSize():
        found.declared_bytes += declared


def _strings(tensor, count, place, found):
    """The strings of a constant, in either form of storage."""
    yield from tensor.string_val
    content = tensor.tensor_content
    if not content:
        return
    # First all lengths, then all bytes.
    lengths, at = [], 0
    try:
        while len(lengths) < count:
            length, at = bundle.varint(content, at)
            lengths.append(length)
    except (IndexError, bundle.NotAnIndex):
        lengths = [len(content) + 1]
    if at + sum(lengths) != len(content):
        found.refuse(f"strings that cannot be read at {place}")
        return
    for length in lengths:
        yield content[at : at + length]
        at += length


def size_of(dtype: int) -> int:
    """Bytes of one number or string of a type; 1 where that is not fixed."""
    if dtype == types_pb2.DT_STRING:
        return _STRING_BYTES
    try:
        return dtypes.as_dtype(dtype).size or 1
    except TypeError:
        return 1


def _check_unknown_fields(proto, found):
    """Removes fields that this parser does not know, as another one might."""
    before = proto.ByteSize()
    proto.DiscardUnknownFields()
    if proto.ByteSize() != before:
        found.refuse(
            "fields unknown to this version of TensorFlow (made by a newer"
            " one?)"
        )
