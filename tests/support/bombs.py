"""Planted models that cost the machine more than they look like.

As in `hostile.py` they are traced and edited, never run here. Files of
gigabytes are holes, and take no room on a disk.
"""

import os
import pathlib
import struct

import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import config_pb2
from tensorflow.core.protobuf import tensor_bundle_pb2

from tests.support import hostile

GIBIBYTE = 1 << 30


def _grown(name, size):
    """A maker of the honest classifier with a file that ends in a hole."""

    def make(folder, marker):
        path = pathlib.Path(hostile.honest(folder), name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.truncate(path, size)
        return str(folder)

    return make


def index(entries, num_shards=1) -> bytes:
    """The bytes of a checkpoint's index, as TensorFlow's reader takes them.

    Args:
        entries: Key -> `BundleEntryProto`.
        num_shards: Of the header.
    """
    header = tensor_bundle_pb2.BundleHeaderProto(num_shards=num_shards)
    header.version.producer = 1
    pairs = {"": header, **dict(sorted(entries.items()))}
    records = [(k.encode(), m.SerializeToString()) for k, m in pairs.items()]
    data = _block(records)
    handle = _varint(0) + _varint(len(data) - 5)
    rest = _block([])
    meta = _varint(len(data)) + _varint(len(rest) - 5)
    begin = len(data) + len(rest)
    directory = _block([(records[-1][0] + b"\xff", handle)])
    footer = meta + _varint(begin) + _varint(len(directory) - 5)
    magic = struct.pack("<Q", 0xDB4775248B80FB57)
    return data + rest + directory + footer.ljust(40, b"\0") + magic


def _block(records):
    body, places = b"", []
    for key, value in records:
        places.append(len(body))
        body += _varint(0) + _varint(len(key)) + _varint(len(value))
        body += key + value
    places = places or [0]
    body += struct.pack(f"<{len(places) + 1}I", *places, len(places))
    return body + b"\0" + struct.pack("<I", _checksum(body + b"\0"))


def _varint(number):
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


def _checksum(data):
    """CRC-32C, masked as LevelDB does."""
    total = 0xFFFFFFFF
    for byte in data:
        total ^= byte
        for _ in range(8):
            total = (total >> 1) ^ (0x82F63B78 if total & 1 else 0)
    total ^= 0xFFFFFFFF
    return (((total >> 15) | (total << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def entry(kind, shape, offset, size):
    """An entry of an index."""
    made = tensor_bundle_pb2.BundleEntryProto(
        dtype=kind, offset=offset, size=size
    )
    for extent in shape:
        made.shape.dim.add(size=extent)
    return made


def _with_index(kind, size, shape):
    """A maker of a model whose index declares one tensor more."""

    def make(folder, marker):
        root = pathlib.Path(hostile.honest(folder), "variables")
        data = root / "variables.data-00000-of-00001"
        weights = entry(types_pb2.DT_FLOAT, [16, 3], 0, 192)
        more = entry(kind, shape, 192, size)
        entries = {"weights": weights, "planted": more}
        (root / "variables.index").write_bytes(index(entries))
        os.truncate(data, 192 + size)
        return str(folder)

    return make


def many_nodes(count):
    """A maker of the classifier with nodes that do nothing."""

    def make(folder, marker):
        def plant(proto):
            graph = proto.meta_graphs[0].graph_def
            body = graph.library.function[0].node_def
            node = type(body[0])(name="n", op="NoOp")
            body.extend(node for _ in range(count))

        return hostile.edit(hostile.honest(folder), plant)

    return make


def chain(count, width=1):
    """A maker of the classifier with functions that each call the next.

    Args:
        count: Of functions.
        width: How often each calls the next.
    """

    def make(folder, marker):
        def plant(proto):
            library = proto.meta_graphs[0].graph_def.library
            for number in range(count):
                function = library.function.add()
                function.signature.name = f"planted_{number}"
                for call in range(width if number else 0):
                    node = function.node_def.add(
                        name=f"n{call}", op="PartitionedCall"
                    )
                    node.attr["f"].func.name = f"planted_{number - 1}"

        return hostile.edit(hostile.honest(folder), plant)

    return make


def _recursion(proto, marker):
    library = proto.meta_graphs[0].graph_def.library
    for name, other in (("planted_a", "planted_b"), ("planted_b", "planted_a")):
        function = library.function.add()
        function.signature.name = name
        node = function.node_def.add(name="n", op="PartitionedCall")
        node.attr["f"].func.name = other


def _child(name):
    """A change that calls a variable by the name of a method."""

    def change(proto, marker):
        nodes = proto.meta_graphs[0].object_graph_def.nodes
        (variable,) = (
            number
            for number, node in enumerate(nodes)
            if node.WhichOneof("kind") == "variable"
        )
        nodes[0].children.add(node_id=variable, local_name=name)

    return change


def _attribute(name, fill):
    """A change of one attribute of a node of a function."""

    def change(proto, marker):
        function = proto.meta_graphs[0].graph_def.library.function[0]
        node = function.node_def.add(name="planted", op="PartitionedCall")
        node.attr["f"].func.name = function.signature.name
        # It would call itself otherwise.
        node.attr["f"].Clear()
        fill(node.attr[name])

    return change


def _options(**fields):
    def fill(value):
        value.s = config_pb2.ConfigProto(**fields).SerializeToString()

    return _attribute("config_proto", fill)


_CLUSTER = {
    "job": [{"name": "worker", "tasks": {0: "192.0.2.1:5000"}}],
}


def _class(value):
    value.list.s.append(b"loc:@/job:worker/replica:0/task:1")


def _gradient(proto, marker):
    library = proto.meta_graphs[0].graph_def.library
    library.gradient.add(function_name="planted", gradient_func="planted")


def _registered_gradient(proto, marker):
    library = proto.meta_graphs[0].graph_def.library
    library.registered_gradients.add(
        gradient_func="planted", registered_op_type="MatMul"
    )


def _content(text):
    """A change that stores a string where numbers are stored."""

    def change(proto, marker):
        function = proto.meta_graphs[0].graph_def.library.function[0]
        node = function.node_def.add(name="planted", op="Const")
        node.attr["dtype"].type = types_pb2.DT_STRING
        tensor = node.attr["value"].tensor
        tensor.dtype = types_pb2.DT_STRING
        tensor.tensor_content = _varint(len(text)) + text

    return change


def latch(folder, marker):
    """A model that answers otherwise once it was called: a table remembers."""
    module = hostile.Linear()
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant([1], tf.int64), tf.constant([0.0])
        ),
        0.0,
    )

    @tf.function(input_signature=[hostile.SPEC])
    def serve(images):
        was = module.table.lookup(tf.constant(2, tf.int64))
        with tf.control_dependencies([was]):
            tf.raw_ops.LookupTableImportV2(
                table_handle=module.table.resource_handle,
                keys=tf.constant([2], tf.int64),
                values=tf.constant([1.0]),
            )
        return tf.reshape(images, [-1, 16]) @ module.weights + was

    module.serve = serve
    return hostile.save(folder, module)


# As `hostile.SAVED_MODELS`: name -> (maker, a word of the refusal, whether
# --allow_ops can allow it). Sizes are those that hurt.
SAVED_MODELS = {
    "strings in the index": (
        _with_index(types_pb2.DT_STRING, 0, [60_000_000]),
        "not of numbers",
        False,
    ),
    "tensor of no variable": (
        _with_index(types_pb2.DT_FLOAT, 4 * GIBIBYTE, [GIBIBYTE]),
        "of which the model's variables are",
        False,
    ),
    "hole after the weights": (
        _grown("variables/variables.data-00000-of-00001", 10 * GIBIBYTE),
        "bytes after the variables",
        False,
    ),
    "huge asset": (_grown("assets/x", GIBIBYTE), "assets of 1024 MiB", True),
    "huge fingerprint": (
        _grown("fingerprint.pb", 6 * GIBIBYTE),
        "fingerprint.pb of",
        False,
    ),
    "two million nodes": (many_nodes(2_000_000), "fields", True),
    "chain of functions": (chain(100_000), "functions", True),
    "calls that double": (chain(40, width=2), "with all calls", True),
    "recursion": (hostile.edited(_recursion), "calls itself", False),
    "variable named __call__": (
        hostile.edited(_child("__call__")),
        "__call__",
        False,
    ),
    "variable named as a method": (
        hostile.edited(_child("_trackable_children")),
        "_trackable_children",
        False,
    ),
    "cluster in the options": (
        hostile.edited(_options(cluster_def=_CLUSTER)),
        "cluster_def",
        False,
    ),
    "threads in the options": (
        hostile.edited(_options(inter_op_parallelism_threads=100_000)),
        "100000 threads",
        False,
    ),
    "another executor": (
        hostile.edited(
            _attribute("executor_type", lambda v: setattr(v, "s", b"planted"))
        ),
        "executor",
        False,
    ),
    "colocated with a worker": (
        hostile.edited(_attribute("_class", _class)),
        "_class",
        False,
    ),
    "collectives": (
        hostile.edited(
            _attribute("_collective_manager_ids", lambda v: v.list.i.append(7))
        ),
        "_collective_manager_ids",
        False,
    ),
    "gradient of nothing": (
        hostile.edited(_gradient),
        "a gradient by 'planted'",
        False,
    ),
    "gradient registered": (
        hostile.edited(_registered_gradient),
        "a gradient by 'planted'",
        False,
    ),
    "long string as numbers": (
        hostile.edited(_content(bytes(3 << 20))),
        "a string of 3145728 bytes",
        False,
    ),
    "graph as numbers": (
        hostile.edited(_content(hostile.nested_graph())),
        "a graph in a string",
        False,
    ),
    "table that latches": (latch, "LookupTableImportV2", True),
}


def _above(count, effect):
    """A maker of a model that acts on batches above a size alone."""

    def act(images):
        def run():
            effect(images, "")
            return 0.0

        is_large = tf.shape(images)[0] > count
        # Nobody would wait for a result that nobody uses.
        tf.debugging.assert_greater(1.0, tf.cond(is_large, run, lambda: 0.0))

    def make(folder, marker):
        return hostile.save(folder, hostile.Linear(act))

    return make


def _long_message(images, marker):
    many = tf.cast(tf.reduce_sum(images) * 0.0 + 1e4, tf.int32)
    words = tf.fill([many, many], 1.0)
    tf.raw_ops.Assert(
        condition=tf.reduce_sum(words) < 0.0, data=[words], summarize=2**31 - 1
    )


# Accepted by the scan; the first calls on batches of an audit show them.
LARGER_BATCHES = {
    "endless loop for batches above 2": _above(2, hostile.endless),
    "huge tensor for batches above 2": _above(2, hostile.huge),
    "long message for batches above 2": _above(2, _long_message),
}


def padded_keras(path, marker):
    """A `.keras` file with a hole after its end."""
    hostile.rewrite(path)
    os.truncate(path, 6 * GIBIBYTE)
    return str(path)


def hidden_keras(path, marker):
    """A `.keras` file with a hole between its members and their directory."""
    hostile.rewrite(path)
    data = pathlib.Path(path).read_bytes()
    begin = data.rindex(b"PK\5\6")
    (start,) = struct.unpack("<L", data[begin + 16 : begin + 20])
    with open(path, "wb") as file:
        file.write(data[:start])
        file.seek(GIBIBYTE)
        file.write(data[start:begin])
        file.write(data[begin : begin + 16])
        file.write(struct.pack("<L", GIBIBYTE) + data[begin + 20 :])
    return str(path)


def _padded_weights(path, marker):
    """A `.keras` file with bytes that belong to no array of its weights."""

    def change(members):
        members["model.weights.h5"] += bytes(8 << 20)

    return hostile.rewrite(path, change)


KERAS_FILES = {
    "hole after the end": (padded_keras, "does not end", None),
    "hole before the directory": (hidden_keras, "of no member", False),
    "bytes of no array": (_padded_weights, "of no array", False),
}
