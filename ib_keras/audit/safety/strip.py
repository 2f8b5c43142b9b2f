"""A copy of a SavedModel without its saver, which is all that gets loaded.

TensorFlow 2 reads variables by its own code, so the two functions that a
SavedModel holds for saving and restoring are never needed. Without them no
operation is left that reads or writes a file. The copy is written from what
was scanned, so nothing that another parser might see is in it.
"""

import os
import shutil

from tensorflow.core.protobuf import saved_model_pb2

from ib_keras.audit.safety import tree

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
            for value in node.attr.values():
                others |= _names(value)
    for item in graph.library.gradient:
        others |= {item.function_name, item.gradient_func}
    for item in meta_graph.object_graph_def.nodes:
        others |= set(item.function.concrete_functions)
        others.add(item.bare_concrete_function.concrete_function_name)
        others.add(item.captured_tensor.concrete_function)
    return set(nodes.values()) - others


def _names(value):
    functions = [value.func, *value.list.func]
    found = {function.name for function in functions}
    for function in functions:
        for below in function.attr.values():
            found |= _names(below)
    return found


def strip(proto: saved_model_pb2.SavedModel) -> bytes:
    """The serialised model without saver, collections and unknown fields."""
    clean = saved_model_pb2.SavedModel()
    clean.CopyFrom(proto)
    clean.DiscardUnknownFields()
    for meta_graph in clean.meta_graphs:
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
        meta_graph.ClearField("saver_def")
        meta_graph.ClearField("collection_def")
        meta_graph.meta_info_def.ClearField("any_info")
    return clean.SerializeToString(deterministic=True)


def _keep(repeated, is_kept):
    for index in reversed(range(len(repeated))):
        if not is_kept(repeated[index]):
            del repeated[index]


def write(
    proto: saved_model_pb2.SavedModel,
    source: str,
    names: list[str],
    target: str,
) -> None:
    """Writes the stripped copy: its own graph, links to the other files.

    Args:
        proto: The scanned model.
        source: Local folder of the model.
        names: Its files.
        target: An empty local folder.
    """
    with open(os.path.join(target, tree.GRAPH_FILE), "wb") as file:
        file.write(strip(proto))
    for name in names:
        # The fingerprint is of the graph as it was.
        if name in (tree.GRAPH_FILE, tree.FINGERPRINT_FILE):
            continue
        place = os.path.join(target, name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        try:
            os.link(os.path.join(source, name), place, follow_symlinks=False)
        except OSError:  # Another file system, or one without links.
            shutil.copyfile(
                os.path.join(source, name), place, follow_symlinks=False
            )


def digests(folder: str, source: str, names: list[str]) -> dict[str, str]:
    """SHA-256 of the copied files, and of the fingerprint, which is not."""
    others = [name for name in names if name != tree.GRAPH_FILE]
    return {
        name: tree.sha256(
            os.path.join(
                source if name == tree.FINGERPRINT_FILE else folder, name
            )
        )
        for name in others
    }
