"""Planted models that act on the machine, and honest ones to compare with.

What they would do is harmless: they write a marker, or read a file that is not
there. They are traced and edited, never run here.
"""

import functools
import io
import json
import os
import pathlib
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable

import h5py
import keras
import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

SHAPE = (4, 4, 1)
SPEC = tf.TensorSpec([None, *SHAPE], tf.float32, "images")


class Linear(tf.Module):
    """A linear classifier that does something on the side."""

    def __init__(self, effect=None):
        super().__init__()
        rng = np.random.default_rng(0)
        self.weights = tf.Variable(rng.normal(size=[16, 3]), dtype=tf.float32)

        @tf.function(input_signature=[SPEC])
        def serve(images):
            if effect is not None:
                effect(images)
            return tf.reshape(images, [-1, 16]) @ self.weights

        self.serve = serve


def save(folder, module) -> str:
    """Saves a module with its function `serve` as the signature."""
    folder = str(folder)
    # The trace is reused, so that nothing is called.
    signature = module.serve.get_concrete_function()
    tf.saved_model.save(module, folder, signatures=signature)
    return folder


def _serving(effect):
    """A maker of the classifier with an effect in its serving function."""

    def make(folder, marker):
        name = str(marker)
        return save(folder, Linear(lambda images: effect(images, name)))

    return make


def _write(images, marker):
    tf.raw_ops.WriteFile(filename=marker, contents="planted")


def _write_in_branch(images, marker):
    tf.cond(
        tf.reduce_sum(images) > 2.0,
        lambda: tf.raw_ops.WriteFile(filename=marker, contents="planted"),
        lambda: tf.no_op(),
    )


def _save(images, marker):
    tf.raw_ops.SaveV2(
        prefix=marker,
        tensor_names=["images"],
        shape_and_slices=[""],
        tensors=[images],
    )


def _restore(images, marker):
    tf.raw_ops.RestoreV2(
        prefix=marker,
        tensor_names=["images"],
        shape_and_slices=[""],
        dtypes=[tf.float32],
    )


def _print(images, marker):
    tf.raw_ops.PrintV2(input="planted", output_stream=f"file://{marker}")


def _debug(images, marker):
    tf.raw_ops.DebugIdentityV2(input=images, debug_urls=[f"file://{marker}"])


def _decode_proto(images, marker):
    tf.raw_ops.DecodeProtoV2(
        bytes=["planted"],
        message_type="planted.Message",
        field_names=[],
        output_types=[],
        descriptor_source=marker,
    )


def _data_service(images, marker):
    tf.raw_ops.DataServiceDatasetV2(
        dataset_id=0,
        processing_mode="parallel_epochs",
        address="grpc://192.0.2.1:5000",
        protocol="grpc",
        job_name="planted",
        consumer_index=-1,
        num_consumers=-1,
        max_outstanding_requests=1,
        iteration_counter=tf.raw_ops.DummyIterationCounter(),
        output_types=[tf.float32],
        output_shapes=[[]],
    )


def _custom_call(images, marker):
    gen_xla_ops.xla_call_module(
        args=[images],
        version=9,
        module=b"planted",
        Sout=[[3]],
        Tout=[tf.float32],
    )


def _text_lines(images, marker):
    tf.raw_ops.TextLineDataset(
        filenames=[marker], compression_type="", buffer_size=0
    )


def nested_graph() -> bytes:
    """A serialised graph that writes a file."""
    graph = graph_pb2.GraphDef()
    graph.node.add(name="a", op="Const")
    graph.node.add(name="b", op="WriteFile", input=["a", "a"])
    return graph.SerializeToString()


def _dataset_from_graph(images, marker):
    tf.raw_ops.DatasetFromGraph(graph_def=nested_graph())


def _graph_in_string(images, marker):
    tf.identity(tf.constant(nested_graph()))


def endless(images, marker):
    """A loop that never ends."""
    (last,) = tf.while_loop(
        lambda count: count >= 0.0,
        lambda count: [count + tf.reduce_sum(images)],
        [tf.constant(1.0)],
    )
    # Nothing would wait for an unused result.
    tf.debugging.assert_greater(last, 0.0)


def huge(images, marker):
    """A tensor of 7.2 GB."""
    # Not a constant to TensorFlow, which would compute it beforehand.
    many = tf.cast(tf.reduce_sum(images) * 0.0 + 3e4, tf.int32)
    filled = tf.fill([many, many, 2], 1.0)
    return tf.debugging.assert_greater(tf.reduce_sum(filled + 1.0), 0.0)


def _in_other_function(folder, marker):
    module = Linear()

    @tf.function(input_signature=[])
    def helper():
        tf.raw_ops.WriteFile(filename=str(marker), contents="planted")

    module.helper = helper
    return save(folder, module)


def edit(folder, change) -> str:
    """Changes the proto of a saved model in place."""
    path = pathlib.Path(folder, "saved_model.pb")
    proto = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    change(proto)
    path.write_bytes(proto.SerializeToString())
    return str(folder)


def functions(proto) -> dict:
    """The functions of the only graph, by name."""
    library = proto.meta_graphs[0].graph_def.library
    return {function.signature.name: function for function in library.function}


def _constant(nodes, name, value):
    node = nodes.add(name=name, op="Const")
    node.attr["dtype"].type = tf.string.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))


def _in_initializer(folder, marker):
    table_model(folder)

    def plant(proto):
        objects = proto.meta_graphs[0].object_graph_def.nodes
        (child,) = (
            child.node_id
            for node in objects
            for child in node.children
            if child.local_name == "_initialize"
        )
        (name,) = objects[child].function.concrete_functions
        function = functions(proto)[name]
        _constant(function.node_def, "where", str(marker))
        _constant(function.node_def, "what", "planted")
        function.node_def.add(
            name="planted",
            op="WriteFile",
            input=["where:output:0", "what:output:0"],
        )
        function.control_ret["planted"] = "planted"
        function.signature.control_output.append("planted")

    return edit(folder, plant)


def edited(change):
    """A maker of the honest classifier with a changed proto."""

    def make(folder, marker):
        return edit(honest(folder), lambda proto: change(proto, str(marker)))

    return make


def _asset_above(folder, marker):
    asset_model(folder)

    def climb(proto):
        proto.meta_graphs[0].asset_file_def[0].filename = "../../planted"

    return edit(folder, climb)


def _text_graph(folder, marker):
    path = pathlib.Path(honest(folder))
    (path / "saved_model.pbtxt").write_text("saved_model_schema_version: 1")
    return str(path)


def _symbolic_link(folder, marker):
    path = pathlib.Path(honest(folder))
    shutil.rmtree(path / "variables")
    (path / "variables").symlink_to("/")
    return str(path)


def _second_graph(proto, marker):
    other = proto.meta_graphs.add()
    other.CopyFrom(proto.meta_graphs[0])
    other.meta_info_def.tags[:] = ["train"]
    other.graph_def.node.add(name="planted", op="WriteFile")


def _huge_variable(proto, marker):
    for node in proto.meta_graphs[0].object_graph_def.nodes:
        if node.WhichOneof("kind") == "variable":
            node.variable.shape.dim[0].size = 900_000_000


def _registered_saver(proto, marker):
    node = proto.meta_graphs[0].object_graph_def.nodes[0]
    node.registered_saver = "planted.Saver"


def _registered_class(proto, marker):
    node = proto.meta_graphs[0].object_graph_def.nodes[0]
    node.registered_name = "planted.Class"


def _dunder(proto, marker):
    node = proto.meta_graphs[0].object_graph_def.nodes[0]
    node.children.add(node_id=0, local_name="__class__")


def _other_host(proto, marker):
    graph = proto.meta_graphs[0].graph_def
    graph.library.function[0].node_def[0].device = "/job:worker/task:1/CPU:0"


def _unknown_op(proto, marker):
    graph = proto.meta_graphs[0].graph_def
    graph.library.function[0].node_def.add(name="x", op="PlantedOp")


def _unknown_attribute(proto, marker):
    graph = proto.meta_graphs[0].graph_def
    node = graph.library.function[0].node_def[0]
    node.attr["_planted"].s = b"x"


def _missing_function(proto, marker):
    graph = proto.meta_graphs[0].graph_def
    node = graph.library.function[0].node_def.add(
        name="x", op="PartitionedCall"
    )
    node.attr["f"].func.name = "planted"


def _saver_with_write(proto, marker):
    graph = proto.meta_graphs[0].graph_def
    for function in graph.library.function:
        if any(node.op == "SaveV2" for node in function.node_def):
            function.node_def.add(name="x", op="WriteFile")


def _saver_as_signature(proto, marker):
    """The saver's own function, made one that an object can call."""
    meta_graph = proto.meta_graphs[0]
    for function in meta_graph.graph_def.library.function:
        if any(node.op == "SaveV2" for node in function.node_def):
            name = function.signature.name
            meta_graph.object_graph_def.concrete_functions[name].SetInParent()


def _no_objects(proto, marker):
    proto.meta_graphs[0].ClearField("object_graph_def")


def _huge_constant(proto, marker):
    graph = proto.meta_graphs[0].graph_def
    node = graph.library.function[0].node_def.add(name="x", op="Const")
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    tensor = tf.make_tensor_proto(0.0, shape=[1])
    tensor.tensor_shape.dim[0].size = 1 << 40
    node.attr["value"].tensor.CopyFrom(tensor)


def _unknown_field(folder, marker):
    path = pathlib.Path(honest(folder), "saved_model.pb")
    # Field 100, a varint, in the outermost message.
    path.write_bytes(path.read_bytes() + b"\xa0\x06\x01")
    return str(folder)


# Name -> (maker, a word that the refusal must have, whether --allow_ops can
# allow it). The numbers are of the list of bad inputs in docs/safety.md.
SAVED_MODELS: dict[str, tuple[Callable, str, bool]] = {
    "write in an initialiser": (_in_initializer, "WriteFile", True),
    "write in serving": (_serving(_write), "WriteFile", True),
    "write in a branch": (_serving(_write_in_branch), "WriteFile", True),
    "write in another function": (_in_other_function, "WriteFile", True),
    "save in serving": (_serving(_save), "SaveV2", True),
    "restore in serving": (_serving(_restore), "RestoreV2", True),
    "print to a file": (_serving(_print), "PrintV2", True),
    "debug to a file": (_serving(_debug), "DebugIdentityV2", True),
    "read a file": (
        _serving(lambda x, name: tf.raw_ops.ReadFile(filename=name)),
        "ReadFile",
        True,
    ),
    "match files": (
        _serving(lambda x, name: tf.raw_ops.MatchingFiles(pattern=name)),
        "MatchingFiles",
        True,
    ),
    "proto with a path": (_serving(_decode_proto), "DecodeProtoV2", True),
    "data set from a graph": (
        _serving(_dataset_from_graph),
        "a graph in a string",
        False,
    ),
    "graph in a string": (
        _serving(_graph_in_string),
        "a graph in a string",
        False,
    ),
    "data service": (_serving(_data_service), "DataServiceDatasetV2", True),
    "lines of a file": (_serving(_text_lines), "TextLineDataset", True),
    "Python function": (
        _serving(
            lambda x, name: tf.raw_ops.PyFunc(
                input=[x], token="planted", Tout=[tf.float32]
            )
        ),
        "PyFunc",
        True,
    ),
    "abort": (
        _serving(lambda x, name: tf.raw_ops.Abort(error_msg="planted")),
        "Abort",
        True,
    ),
    "custom call": (_serving(_custom_call), "XlaCallModule", True),
    "asset above the folder": (_asset_above, "../../planted", False),
    "text graph beside": (_text_graph, "saved_model.pbtxt", False),
    "symbolic link": (_symbolic_link, "symbolic link", False),
    "second graph": (edited(_second_graph), "2 graphs", False),
    "huge variable": (edited(_huge_variable), "variable", False),
    "huge constant": (edited(_huge_constant), "constants", False),
    "registered saver": (edited(_registered_saver), "planted.Saver", False),
    "registered class": (edited(_registered_class), "planted.Class", False),
    "attribute of objects": (edited(_dunder), "__class__", False),
    "other host": (edited(_other_host), "/job:worker", False),
    "unknown operation": (edited(_unknown_op), "PlantedOp", False),
    "unknown attribute": (edited(_unknown_attribute), "_planted", True),
    "unknown field": (_unknown_field, "fields unknown", False),
    "missing function": (edited(_missing_function), "planted", False),
    "saver that writes": (edited(_saver_with_write), "WriteFile", True),
    "saver as a function": (edited(_saver_as_signature), "SaveV2", True),
    "TensorFlow 1": (edited(_no_objects), "TensorFlow 1", False),
}

# These only compute, so that the scan accepts them; limits stop them.
BOMBS: dict[str, Callable] = {
    "endless loop": _serving(endless),
    "huge tensor": _serving(huge),
}


@functools.cache
def _honest_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(save(os.path.join(folder, "m"), Linear()))
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }


def honest(folder) -> str:
    """The linear classifier without a side."""
    for name, data in _honest_files().items():
        path = pathlib.Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(folder)


def table_model(folder) -> str:
    """An honest model with a table made from constants."""
    module = Linear()
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant([1, 2], tf.int64), tf.constant([0.5, 0.25])
        ),
        0.0,
    )

    @tf.function(input_signature=[SPEC])
    def serve(images):
        scale = module.table.lookup(tf.constant(1, tf.int64))
        return tf.reshape(images, [-1, 16]) @ module.weights * scale

    module.serve = serve
    return save(folder, module)


def asset_model(folder) -> str:
    """A model with a table from a text file, which it brings as an asset."""
    with tempfile.TemporaryDirectory() as scratch:
        names = os.path.join(scratch, "names.txt")
        pathlib.Path(names).write_text("zero\none\ntwo\n")
        module = Linear()
        module.table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                names,
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            ),
            -1,
        )
        return save(folder, module)


def keras_model() -> keras.Model:
    """A small Keras classifier with layers of several kinds."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Rescaling(2.0, offset=-1.0),
            layers.RandomFlip(seed=3),
            layers.Conv2D(2, 3, activation="relu", padding="same"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(3, kernel_regularizer="l2"),
        ]
    )


def rewrite(path, change=None, extra=(), compression=zipfile.ZIP_STORED) -> str:
    """Writes a `.keras` file of the small classifier, changed.

    Args:
        path: Where.
        change: Called with the members, name -> bytes, to change in place.
        extra: (name, bytes) of further members, which may repeat names.
        compression: Of the further members.
    """
    members = dict(_keras_members())
    if change is not None:
        change(members)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # Of names that are there already.
        for name, data in members.items():
            archive.writestr(name, data)
        for name, data in extra:
            archive.writestr(name, data, compress_type=compression)
    return str(path)


@functools.cache
def _keras_members() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "m.keras")
        keras_model().save(path)
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


def _with_layer(module, name, **config):
    """A maker of a `.keras` file with one more layer."""

    def change(members):
        whole = json.loads(members["config.json"])
        whole["config"]["layers"].append(
            {
                "module": module,
                "class_name": name,
                "config": {"name": "planted", **config},
                "registered_name": None,
            }
        )
        members["config.json"] = json.dumps(whole).encode()

    return lambda path, marker: rewrite(path, change)


def with_weights(plant):
    """A maker of a `.keras` file with a changed file of weights."""

    def change(members):
        buffer = io.BytesIO(members["model.weights.h5"])
        with h5py.File(buffer, "r+") as file:
            plant(file)
        members["model.weights.h5"] = buffer.getvalue()

    return lambda path, marker: rewrite(path, change)


def _function(module, name):
    return {
        "module": module,
        "class_name": "function",
        "config": name,
        "registered_name": name,
    }


def _external_link(file):
    file["planted"] = h5py.ExternalLink("/etc/hostname", "/")


def _external_storage(file):
    file.create_dataset(
        "planted", (4,), "u1", external=[("/etc/hostname", 0, 4)]
    )


def _declared_weights(file):
    file.create_dataset("planted", (1 << 34,), "f4", chunks=(1 << 10,))


_TFSM = {
    "module": "keras.layers",
    "class_name": "TFSMLayer",
    "config": {"filepath": "/nowhere"},
    "registered_name": None,
}
_LAMBDA = {
    "class_name": "__lambda__",
    "config": {"value": ["4wEA", None, None]},
}

# As SAVED_MODELS.
KERAS_FILES: dict[str, tuple[Callable, str, bool]] = {
    "TFSMLayer": (
        _with_layer("keras.layers", "TFSMLayer", filepath="/nowhere"),
        "TFSMLayer",
        False,
    ),
    "TFSMLayer in a wrapper": (
        _with_layer("keras.layers", "TimeDistributed", layer=_TFSM),
        "TFSMLayer",
        False,
    ),
    "TFSMLayer under another module": (
        _with_layer("keras.src.export.tfsm_layer", "TFSMLayer"),
        "TFSMLayer",
        False,
    ),
    "Lambda": (
        _with_layer("keras.layers", "Lambda", function=_LAMBDA),
        "Lambda",
        False,
    ),
    "Lambda of a plain function": (
        _with_layer(
            "keras.layers", "Lambda", function=_function("keras.ops", "abs")
        ),
        "Lambda",
        False,
    ),
    "gadget of Python": (
        _with_layer(
            "keras.layers", "Activation", activation=_function("os", "system")
        ),
        "os.system",
        False,
    ),
    "gadget of Keras": (
        _with_layer(
            "keras.layers",
            "Activation",
            activation=_function("keras.utils", "get_file"),
        ),
        "keras.utils.get_file",
        False,
    ),
    "other class": (_with_layer("subprocess", "Popen"), "subprocess", True),
    "class without a module": (
        _with_layer(
            "keras.layers", "Dense", units=3, x={"class_name": "Popen"}
        ),
        "Popen",
        False,
    ),
    "vocabulary file": (
        _with_layer("keras.layers", "StringLookup", vocabulary="/etc/hostname"),
        "StringLookup",
        True,
    ),
    "decompression bomb": (
        lambda path, marker: rewrite(
            path,
            lambda members: members.pop("metadata.json"),
            [("metadata.json", bytes(50 << 20))],
            zipfile.ZIP_DEFLATED,
        ),
        "bomb",
        False,
    ),
    "config twice": (
        lambda path, marker: rewrite(path, None, [("config.json", b"{}")]),
        "2 members",
        False,
    ),
    "member above": (
        lambda path, marker: rewrite(path, None, [("../planted", b"x")]),
        "../planted",
        False,
    ),
    "external link": (with_weights(_external_link), "ExternalLink", False),
    "external storage": (
        with_weights(_external_storage),
        "another file",
        False,
    ),
    "huge weights": (with_weights(_declared_weights), "declare", False),
}
