"""What loading would run, and which objects the loader would make.

`tf.saved_model.load` calls the initialisers of resources before the model is
called. Only those that fill a table from constants are allowed.
"""

import posixpath
import re

from tensorflow.python.trackable import autotrackable

from ib_keras.audit.safety import calls
from ib_keras.audit.safety import ops
from ib_keras.audit.safety.report import shown

# Called by the loader, or when an object is deleted.
_CALLED = ("_initialize", "_create_resource", "_destroy_resource")
# TensorFlow's own; others would be looked up in the classes of this process.
_CLASSES = ("", "tf.StaticHashTable", "tf.TrackableConstant")

# Parts of the loader's own objects.
_OWN = frozenset(dir(autotrackable.AutoTrackable))


def only(meta_graph, callees: dict[str, list[str]]) -> set[str]:
    """The functions that loading runs, and no call of the model.

    Args:
        meta_graph: A `MetaGraphDef`.
        callees: Function -> those that it calls.

    Returns:
        Their names.
    """
    nodes = meta_graph.object_graph_def.nodes
    at_load: set[str] = set()
    live: set[str] = set()
    for node in nodes:
        if node.WhichOneof("kind") == "function":
            continue  # Its children are its own traces, once more.
        for child in node.children:
            if 0 <= child.node_id < len(nodes):
                found = at_load if child.local_name in _CALLED else live
                found.update(_functions_of(nodes[child.node_id]))
    inside = calls.closure(at_load, callees)
    return inside - calls.closure(live | (set(callees) - inside), callees)


def check(meta_graph, allow_ops: frozenset[str], found) -> None:
    """Adds to `found` (a `Scan`) what must not happen while loading.

    Args:
        meta_graph: A `MetaGraphDef`.
        allow_ops: Operations that are accepted beyond the rules.
        found: Receives the problems.
    """
    objects = meta_graph.object_graph_def
    library = {
        function.signature.name: function
        for function in meta_graph.graph_def.library.function
    }
    _check_assets(meta_graph, found)
    for index, node in enumerate(objects.nodes):
        place = f"object {index}"
        if node.registered_saver:
            name = shown(node.registered_saver)
            found.refuse(f"the registered saver {name} at {place}")
        if node.registered_name not in _CLASSES:
            name = shown(node.registered_name)
            found.refuse(f"the registered class {name} at {place}")
        if node.HasField("serialized_user_proto"):
            found.refuse(f"a serialised object of a class at {place}")
        if node.saveable_objects:
            found.refuse(f"functions that save or restore at {place}")
        for child in node.children:
            name = child.local_name
            if not 0 <= child.node_id < len(objects.nodes):
                found.refuse(f"a child that is not there at {place}")
            elif name in _CALLED:
                for function in _functions_of(objects.nodes[child.node_id]):
                    _check_called(function, name, library, allow_ops, found)
            elif name == "__call__":
                if not _functions_of(objects.nodes[child.node_id]):
                    found.refuse(f"a __call__ that is no function at {place}")
            elif name in _OWN or re.fullmatch(r"__.*__", name):
                found.refuse(f"the attribute {shown(name)} set at {place}")


def _functions_of(node):
    """Names of the functions behind an object."""
    names = list(node.function.concrete_functions)
    bare = node.bare_concrete_function.concrete_function_name
    return [*names, bare] if bare else names


def _check_called(name, role, library, allow_ops, found):
    """All operations of a function must fill a table from constants."""
    pending, seen = [name], set()
    while pending:
        name = pending.pop()
        if name in seen or name not in library:
            continue
        seen.add(name)
        for node in library[name].node_def:
            pending += calls.of_nodes([node])
            if node.op in ops.LOAD_TIME_OPS:
                continue
            if node.op in allow_ops:
                found.used.add(node.op)
                continue
            found.refuse(
                f"operation {shown(node.op)} at node {shown(node.name)} of"
                f" function {shown(name)}, which loading alone would run as"
                f" {role}",
                node.op if ops.definition(node.op) else None,
            )


def _check_assets(meta_graph, found):
    for asset in meta_graph.asset_file_def:
        name = asset.filename
        is_plain = (
            name == posixpath.basename(name)
            and name not in ("", ".", "..")
            and "\\" not in name
            and name.isprintable()
        )
        if not is_plain:
            found.refuse(f"the asset file name {shown(name)}")
    count = len(meta_graph.asset_file_def)
    for index, node in enumerate(meta_graph.object_graph_def.nodes):
        if node.WhichOneof("kind") != "asset":
            continue
        if not 0 <= node.asset.asset_file_def_index < count:
            found.refuse(f"an asset that is not there at object {index}")
