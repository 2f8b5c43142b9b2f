"""Makes the copy of a SavedModel that is loaded: without its saver.

TensorFlow 2 reads variables by its own code, so the two functions that a
SavedModel holds for saving and restoring are never needed. Without them no
operation is left that reads or writes a file. The copy is written from the
scanned message, so it holds nothing that another parser could find.
"""

import contextlib
import os

from tensorflow.core.protobuf import saved_model_pb2

from ib_keras.audit.safety import attributes
from ib_keras.audit.safety import calls
from ib_keras.audit.safety import tree

MAX_COPIED_BYTES = 1 << 30
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def _saver_nodes(meta_graph):
    """The nodes of the main graph that call the saver: name -> function."""
    saver = meta_graph.saver_def
    names = {saver.save_tensor_name.split(":")[0], saver.restore_op_name}
    return {
        node.name: node.attr["f"].func.name
        for node in meta_graph.graph_def.node
        if node.name and node.name in names and node.op in _CALLS
    }


def saver_functions(meta_graph) -> set[str]:
    """Names of the functions that only the saver can call.

    They are called by the nodes that `saver_def` names, by no other node, and
    no object of the model knows them.
    """
    nodes = _saver_nodes(meta_graph)
    others = set(meta_graph.object_graph_def.concrete_functions)
    graph = meta_graph.graph_def
    bodies = [function.node_def for function in graph.library.function]
    for body in (graph.node, *bodies):
        is_main = body is graph.node
        for node in body:
            if is_main and node.name in nodes:
                continue
            others.update(calls.of_nodes([node]))
    for item in graph.library.gradient:
        others |= {item.function_name, item.gradient_func}
    for item in meta_graph.object_graph_def.nodes:
        others |= set(item.function.concrete_functions)
        others.add(item.bare_concrete_function.concrete_function_name)
        others.add(item.captured_tensor.concrete_function)
    return set(nodes.values()) - others


def strip(proto: saved_model_pb2.SavedModel) -> bytes:
    """The serialised model without unneeded parts, which are removed.

    That is the saver, collections, unknown fields, and options of calls.
    """
    proto.DiscardUnknownFields()
    for meta_graph in proto.meta_graphs:
        functions = saver_functions(meta_graph)
        dropped = {
            name
            for name, function in _saver_nodes(meta_graph).items()
            if function in functions
        }
        graph = meta_graph.graph_def
        _keep(graph.node, lambda n, dropped=dropped: n.name not in dropped)
        _keep(
            graph.library.function,
            lambda f, functions=functions: f.signature.name not in functions,
        )
        for body in (graph.node, *(f.node_def for f in graph.library.function)):
            for node in body:
                if attributes.CONFIG in node.attr:
                    node.attr[attributes.CONFIG].s = b""
        meta_graph.ClearField("saver_def")
        meta_graph.ClearField("collection_def")
        meta_graph.meta_info_def.ClearField("any_info")
    return proto.SerializeToString(deterministic=True)


def _keep(repeated, is_kept):
    for index in reversed(range(len(repeated))):
        if not is_kept(repeated[index]):
            del repeated[index]


def write(
    proto: saved_model_pb2.SavedModel,
    source: str,
    names: list[str],
    target: str,
) -> dict[str, str]:
    """Writes the stripped copy: its own graph, copies of the other files.

    A copy, since others who can write to the model could change it between
    hashing and loading. Files of more than 1 GiB are linked nevertheless, and
    hashed again after loading.

    Args:
        proto: The scanned model, which is stripped.
        source: Local folder of the model.
        names: Its files.
        target: An empty local folder.

    Returns:
        SHA-256 of the copied files, by name, except for the graph.
    """
    with open(os.path.join(target, tree.GRAPH_FILE), "wb") as file:
        file.write(strip(proto))
    found = {}
    for name in names:
        origin = os.path.join(source, name)
        if name == tree.FINGERPRINT_FILE:  # It is of the original graph.
            found[name] = tree.sha256(origin)
        elif name != tree.GRAPH_FILE:
            place = os.path.join(target, name)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            found[name] = _copy(origin, place)
    return found


def _copy(source, target):
    if os.path.getsize(source) > MAX_COPIED_BYTES:
        with contextlib.suppress(OSError):  # Another file system.
            os.link(source, target, follow_symlinks=False)
            return tree.sha256(target)
    return tree.copy(source, target)


def linked(folder: str, names: list[str]) -> list[str]:
    """The files of a copy that are links."""
    places = {name: os.path.join(folder, name) for name in names}
    return [
        name
        for name, place in places.items()
        if os.path.exists(place) and os.stat(place).st_nlink > 1
    ]
