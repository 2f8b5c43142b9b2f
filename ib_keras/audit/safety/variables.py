"""Checks that the variables' files are complete and agree with the graph."""

import collections
import os

import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import trackable_object_graph_pb2

from ib_keras.audit.safety import bundle
from ib_keras.audit.safety import tree
from ib_keras.audit.safety import wire
from ib_keras.audit.safety.report import Limits
from ib_keras.audit.safety.report import Problem
from ib_keras.audit.safety.report import damaged
from ib_keras.audit.safety.report import reason
from ib_keras.audit.safety.report import refuse
from ib_keras.audit.safety.report import shown

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_MAX_INDEX_BYTES = 16 << 20
_MAX_OBJECT_GRAPH_BYTES = 16 << 20
# Between the length of a string and the string.
_CHECKSUM = 4


def check(
    folder: str, names: list[str], meta_graph, path: str, limits: Limits
) -> int:
    """Compares stored with declared variables, before they are read.

    Args:
        folder: Local folder of the SavedModel.
        names: Its files.
        meta_graph: The `MetaGraphDef`.
        path: In messages.
        limits: On what variables declare.

    Returns:
        Bytes of the largest variable, which `read` needs as memory.

    Raises:
        UserError: If a file is missing or damaged.
        UnsafeError: If the graph declares other variables than are stored, or
            too large ones, or the data files hold more than the index names.
    """
    declared, is_whole = _declared(meta_graph, path, limits)
    data = [name for name in names if name.startswith(tree.VARIABLES + ".data")]
    if tree.INDEX_FILE not in names or not data:
        if declared or data or tree.INDEX_FILE in names:
            missing = f"{tree.VARIABLES}.data-*" if not data else None
            raise damaged(path, f"there is no {missing or tree.INDEX_FILE}")
        return 0
    index = _index(folder, path)
    _check_entries(index.tensors, path)
    _check_places(folder, data, index, path)
    _check_object_graph(folder, index, path)
    if is_whole:
        _check_none_more(declared, index.tensors, path)
    stored = collections.Counter(
        (entry.dtype, tuple(dim.size for dim in entry.shape.dim))
        for entry in index.tensors.values()
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
    return max((entry.size for entry in index.tensors.values()), default=0)


def read(folder: str, names: list[str], path: str) -> None:
    """Reads all variables once, so that their checksums are checked.

    Args:
        folder: Local folder of a SavedModel that `check` has passed.
        names: Its files.
        path: In messages.

    Raises:
        UserError: If a file is damaged.
    """
    if tree.INDEX_FILE not in names:
        return
    try:
        reader = tf.train.load_checkpoint(os.path.join(folder, tree.VARIABLES))
        shapes = reader.get_variable_to_shape_map()
    except Exception as error:
        # TensorFlow has several kinds of errors for one fault.
        raise damaged(path, f"{tree.INDEX_FILE}: {reason(error)}") from error
    for name in sorted(shapes):
        try:
            reader.get_tensor(name)
        except Exception as error:  # As above.
            place = f"{tree.VARIABLES}.data-*, {shown(name)}"
            raise damaged(path, f"{place}: {reason(error)}") from error


def _index(folder, path):
    data = tree.read(folder, tree.INDEX_FILE, _MAX_INDEX_BYTES)
    try:
        return bundle.parse(data)
    except bundle.NotAnIndex as error:
        raise damaged(path, f"{tree.INDEX_FILE}: {error}") from error


def _declared(meta_graph, path, limits):
    """The variables of the object graph: (type, shape) -> how many.

    And whether these are all: some have no shape.
    """
    counts, total, is_whole = collections.Counter(), 0, True
    for node in meta_graph.object_graph_def.nodes:
        if node.WhichOneof("kind") != "variable":
            continue
        variable = node.variable
        shape = tuple(dim.size for dim in variable.shape.dim)
        if variable.shape.unknown_rank or any(size < 0 for size in shape):
            is_whole = False
            continue
        counts[variable.dtype, shape] += 1
        total += _bytes(variable.dtype, shape) or 0
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
    return counts, is_whole


def _bytes(kind, shape):
    """Bytes of numbers of a type and shape; None for other types."""
    try:
        size = tf.as_dtype(kind).size
    except TypeError:
        return None
    if not size or kind in (types_pb2.DT_STRING, types_pb2.DT_VARIANT):
        return None
    for extent in shape:
        size *= max(extent, 0)
    return size


def _check_entries(tensors, path):
    """Each entry has as many bytes as its type and shape need."""
    for key, entry in tensors.items():
        name = shown(key)
        if entry.slices:
            what = f"the variable {name}, which is stored in slices"
            raise refuse(path, [Problem(what)])
        if key == _OBJECT_GRAPH:
            continue
        size = _bytes(entry.dtype, [dim.size for dim in entry.shape.dim])
        if size is None:
            what = f"the variable {name}, which is not of numbers"
            raise refuse(path, [Problem(what)])
        if size != entry.size:
            raise damaged(
                path,
                f"{tree.INDEX_FILE} gives {name} {entry.size} bytes, where its"
                f" shape needs {size}",
            )


def _check_places(folder, data, index, path):
    """The tensors fill the data files without gaps, overlaps or padding."""
    count = index.num_shards
    wanted = [
        f"{tree.VARIABLES}.data-{shard:05d}-of-{count:05d}"
        for shard in range(min(count, len(data) + 1))
    ]
    if sorted(data) != wanted:
        raise damaged(
            path, f"{tree.INDEX_FILE} names {count} data files, not {len(data)}"
        )
    places = sorted(
        (entry.shard_id, entry.offset, entry.size)
        for entry in index.tensors.values()
    )
    ends = dict.fromkeys(range(count), 0)
    for shard, offset, size in places:
        if ends.get(shard) != offset or size < 0:
            raise damaged(path, f"{tree.INDEX_FILE} leaves gaps or overlaps")
        ends[shard] += size
    for shard, name in enumerate(wanted):
        size = os.path.getsize(os.path.join(folder, name))
        if size < ends[shard]:
            raise damaged(
                path,
                f"{name} has {size} bytes, where {tree.INDEX_FILE} names"
                f" {ends[shard]}",
            )
        if size > ends[shard]:
            what = f"{size - ends[shard]} bytes after the variables in {name}"
            raise refuse(path, [Problem(what)])


def _check_none_more(declared, tensors, path):
    """Memory limits follow from the stored bytes, so all must be used."""
    used = sum((_bytes(*key) or 0) * count for key, count in declared.items())
    stored = sum(entry.size for entry in tensors.values())
    if stored > used + _MAX_OBJECT_GRAPH_BYTES:
        what = (
            f"{stored} bytes in {tree.VARIABLES}.*, of which the model's"
            f" variables are {used}"
        )
        raise refuse(path, [Problem(what)])


def _check_object_graph(folder, index, path):
    """The checkpoint has objects of its own, which could name savers.

    Its one string is read here and not by TensorFlow, which would allocate any
    declared length.
    """
    entry = index.tensors.get(_OBJECT_GRAPH)
    if entry is None:
        return
    if entry.dtype != types_pb2.DT_STRING or entry.shape.dim:
        raise damaged(path, f"{tree.INDEX_FILE}: the objects are no string")
    if entry.size > _MAX_OBJECT_GRAPH_BYTES:
        what = f"objects of {entry.size} bytes in {tree.VARIABLES}.*"
        raise refuse(path, [Problem(what)])
    name = f"{tree.VARIABLES}.data-{entry.shard_id:05d}"
    name += f"-of-{index.num_shards:05d}"
    with open(os.path.join(folder, name), "rb") as file:
        file.seek(entry.offset)
        data = file.read(entry.size)
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    try:
        length, at = bundle.varint(data, 0)
        if length != len(data) - at - _CHECKSUM:
            raise ValueError(f"a string of {length} bytes in {len(data)}")
        value = data[at + _CHECKSUM :]
        if wire.count(value, graph.DESCRIPTOR, 1e6) > 1e6:
            raise ValueError("over a million fields")
        graph.ParseFromString(value)
    except Exception as error:  # Of protobuf, and those above.
        place = f"{tree.VARIABLES}.data-*, {_OBJECT_GRAPH}"
        raise damaged(path, f"{place}: {reason(error)}") from error
    for node in graph.nodes:
        if node.HasField("registered_saver"):
            name = shown(node.registered_saver.name)
            raise refuse(path, [Problem(f"the registered saver {name}")])
