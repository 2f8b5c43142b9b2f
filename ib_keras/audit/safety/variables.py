"""The variables' files: are they whole, and what the graph says they are."""

import collections
import os

import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import trackable_object_graph_pb2

from ib_keras.audit.safety import tree
from ib_keras.audit.safety.report import Limits
from ib_keras.audit.safety.report import Problem
from ib_keras.audit.safety.report import damaged
from ib_keras.audit.safety.report import reason
from ib_keras.audit.safety.report import refuse
from ib_keras.audit.safety.report import shown

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_MAX_INDEX_BYTES = 64 << 20


def check(
    folder: str, names: list[str], meta_graph, path: str, limits: Limits
) -> None:
    """Reads all variables once, so that their checksums are checked.

    Args:
        folder: Local folder of the SavedModel.
        names: Its files.
        meta_graph: The `MetaGraphDef`.
        path: What messages call the model.
        limits: On what variables declare.

    Raises:
        UserError: If a file is missing or damaged.
        UnsafeError: If the graph declares other variables than are stored, or
            too large ones.
    """
    declared = _declared(meta_graph, path, limits)
    data = [name for name in names if name.startswith(tree.VARIABLES + ".data")]
    if tree.INDEX_FILE not in names or not data:
        if declared or data or tree.INDEX_FILE in names:
            missing = f"{tree.VARIABLES}.data-*" if not data else None
            raise damaged(path, f"there is no {missing or tree.INDEX_FILE}")
        return
    tree.read(folder, tree.INDEX_FILE, _MAX_INDEX_BYTES)
    try:
        reader = tf.train.load_checkpoint(os.path.join(folder, tree.VARIABLES))
        shapes = reader.get_variable_to_shape_map()
        kinds = reader.get_variable_to_dtype_map()
    except Exception as error:  # TensorFlow has several kinds for one fault.
        raise damaged(path, f"{tree.INDEX_FILE}: {reason(error)}") from error
    room = sum(os.path.getsize(os.path.join(folder, name)) for name in data)
    _check_stored(shapes, kinds, room, path)
    stored = collections.Counter(
        (kinds[name].as_datatype_enum, tuple(shape))
        for name, shape in shapes.items()
    )
    if missing := declared - stored:
        kind, shape = next(iter(missing))
        raise refuse(
            path,
            [
                Problem(
                    f"a variable of type {tf.as_dtype(kind).name} and shape"
                    f" {list(shape)}, which {tree.VARIABLES}.* does not hold"
                )
            ],
        )
    for name in sorted(shapes):
        try:
            value = reader.get_tensor(name)
        except Exception as error:  # As above.
            place = f"{tree.VARIABLES}.data-*, {shown(name)}"
            raise damaged(path, f"{place}: {reason(error)}") from error
        if name == _OBJECT_GRAPH:
            _check_object_graph(value, path)


def _declared(meta_graph, path, limits):
    """The variables of the object graph: (type, shape) -> how many."""
    counts, total = collections.Counter(), 0
    for node in meta_graph.object_graph_def.nodes:
        if node.WhichOneof("kind") != "variable":
            continue
        variable = node.variable
        shape = tuple(dim.size for dim in variable.shape.dim)
        if variable.shape.unknown_rank or any(size < 0 for size in shape):
            continue
        counts[variable.dtype, shape] += 1
        total += _bytes(variable.dtype, shape)
    limit = limits.max_model_bytes()
    if total > limit:
        raise refuse(
            path,
            [
                Problem(
                    f"variables of {total / 2**30:.1f} GiB by their declared"
                    f" shapes, where {limit / 2**30:.1f} GiB is the limit"
                )
            ],
        )
    return counts


def _bytes(kind, shape):
    try:
        size = tf.as_dtype(kind).size or 1
    except TypeError:
        size = 1
    for extent in shape:
        size *= extent
    return size


def _check_stored(shapes, kinds, room, path):
    total = sum(
        _bytes(kinds[name].as_datatype_enum, shape)
        for name, shape in shapes.items()
        if kinds[name].as_datatype_enum != types_pb2.DT_STRING
    )
    if total > room:
        raise damaged(
            path,
            f"{tree.VARIABLES}.data-* have {room} bytes, where"
            f" {tree.INDEX_FILE} names {total}",
        )


def _check_object_graph(value, path):
    """The checkpoint has objects of its own, which could name savers."""
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    try:
        graph.ParseFromString(value)
    except Exception as error:  # Of protobuf, or of a value that is no string.
        raise damaged(path, f"{_OBJECT_GRAPH}: {reason(error)}") from error
    for node in graph.nodes:
        if node.HasField("registered_saver"):
            name = shown(node.registered_saver.name)
            raise refuse(path, [Problem(f"the registered saver {name}")])
