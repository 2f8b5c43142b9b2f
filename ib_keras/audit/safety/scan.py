"""The static pass over `saved_model.pb`: it is read as data, nothing runs.

Every node of every function is looked at, whether it can be reached or not:
what is reachable is for the loader to decide, and it may decide otherwise.
"""

import dataclasses
import re
from collections.abc import Iterator

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from tensorflow.core.framework import graph_pb2
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import dtypes

from ib_keras.audit.safety import load_time
from ib_keras.audit.safety import ops
from ib_keras.audit.safety import strip
from ib_keras.audit.safety.report import Limits
from ib_keras.audit.safety.report import Problem
from ib_keras.audit.safety.report import damaged
from ib_keras.audit.safety.report import reason
from ib_keras.audit.safety.report import shown

_MAX_STRING = 1 << 20
_MAX_NESTING = 100
# Host, replica and task that a graph of one machine names.
_DEVICE = re.compile(
    r"(/job:localhost)?(/replica:0)?(/task:0)?"
    r"(/(device:)?[A-Za-z_]+:(\d{1,4}|\*))?"
)


@dataclasses.dataclass
class Scan:
    """What the pass over one SavedModel found.

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
        """Adds a problem."""
        self.problems.append(Problem(what, token))


def parse(data: bytes, path: str) -> saved_model_pb2.SavedModel:
    """Parses the bytes of `saved_model.pb`.

    Raises:
        UserError: If they are no SavedModel of TensorFlow 2.
    """
    proto = saved_model_pb2.SavedModel()
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
    """Looks for all that is not allowed in a SavedModel.

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
        _scan_graph(meta_graph, allow_ops, found)
        load_time.check(meta_graph, allow_ops, found)
    limit = limits.max_model_bytes()
    if found.declared_bytes > limit:
        found.refuse(
            f"constants that declare {found.declared_bytes / 2**30:.1f} GiB and"
            f" do not hold them, where {limit / 2**30:.1f} GiB is the limit"
        )
    return found


def _scan_graph(meta_graph, allow_ops, found):
    saver = strip.saver_functions(meta_graph)
    library = meta_graph.graph_def.library
    functions = {function.signature.name for function in library.function}
    if len(functions) < len(library.function):
        found.refuse("two functions of the same name")
    for node in meta_graph.graph_def.node:
        found.main_ops.add(node.op)
        _scan_node(node, "the main graph", False, functions, allow_ops, found)
    for function in library.function:
        name = function.signature.name
        place = f"function {shown(name)}"
        arguments = function.arg_attr.values()
        for attributes in (function.attr, *(a.attr for a in arguments)):
            for attribute, value in attributes.items():
                if attribute.startswith("_"):
                    _check_hidden(attribute, place, allow_ops, found)
                _scan_value(value, place, functions, found)
        for node in function.node_def:
            if name not in saver:
                found.ops.add(node.op)
                _check_own_variable(node.op, place, allow_ops, found)
            _scan_node(node, place, name in saver, functions, allow_ops, found)


def _scan_node(node, place, is_saver, functions, allow_ops, found):
    place = f"node {shown(node.name)} of {place}"
    _check_op(node.op, place, is_saver, allow_ops, found)
    if not _DEVICE.fullmatch(node.device):
        found.refuse(f"the device {shown(node.device)} at {place}")
    definition = ops.definition(node.op)
    known = {a.name for a in definition.attr} if definition else set()
    for attribute, value in node.attr.items():
        if attribute not in known:
            _check_hidden(attribute, place, allow_ops, found)
        _scan_value(value, place, functions, found)


def _check_own_variable(op, place, allow_ops, found):
    """A variable that a function makes is in no list of the model's state."""
    if op not in ops.VARIABLE_OPS:
        return
    if op in allow_ops:
        found.used.add(op)
        return
    found.refuse(f"operation {op} (makes a variable of its own) in {place}", op)


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
    """Looks at one `AttrValue`: strings, tensors, names of functions."""
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
    for text in tensor.string_val:
        _check_bytes(text, place, found)
    if tensor.dtype == types_pb2.DT_VARIANT or tensor.variant_val:
        found.refuse(f"a constant of type variant at {place}")
        return
    if tensor.dtype == types_pb2.DT_RESOURCE or tensor.resource_handle_val:
        found.refuse(f"a constant of type resource at {place}")
        return
    if any(dim.size < 0 for dim in tensor.tensor_shape.dim):
        found.refuse(f"a constant of unknown shape at {place}")
        return
    declared = size_of(tensor.dtype)
    for dim in tensor.tensor_shape.dim:
        declared *= dim.size
    if declared > 100 * tensor.ByteSize():
        found.declared_bytes += declared


def size_of(dtype: int) -> int:
    """Bytes of one number of a type; 1 where that is not fixed."""
    try:
        return dtypes.as_dtype(dtype).size or 1
    except TypeError:
        return 1


def _check_unknown_fields(proto, found):
    """Refuses fields that this parser does not know: another one might."""
    clean = type(proto)()
    clean.CopyFrom(proto)
    clean.DiscardUnknownFields()
    if clean.ByteSize() == proto.ByteSize():
        return
    where = next(_unknown_fields(proto, "saved_model"), "saved_model")
    found.refuse(
        f"fields unknown to this version of TensorFlow, in {where} (made by a"
        " newer one?)"
    )


def _unknown_fields(message, place) -> Iterator[str]:
    if len(UnknownFieldSet(message)):
        yield place
    for field, value in message.ListFields():
        if field.type != field.TYPE_MESSAGE:
            continue
        below = f"{place}.{field.name}"
        is_map = field.message_type.GetOptions().map_entry
        if is_map:
            kind = field.message_type.fields_by_name["value"].type
            parts = value.values() if kind == field.TYPE_MESSAGE else ()
        else:
            parts = value if field.is_repeated else (value,)
        for part in parts:
            yield from _unknown_fields(part, below)
