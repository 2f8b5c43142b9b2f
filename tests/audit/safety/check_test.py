"""The static pass: planted models are refused by name, honest ones are not."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from ib_keras.audit import safety
from ib_keras.audit.safety import bundle
from ib_keras.audit.safety import ops
from ib_keras.audit.safety import strip
from ib_keras.audit.safety import wire
from ib_keras.bottlenecks import layer
from ib_keras.errors import UnsafeError
from ib_keras.errors import UserError
from tests.support import bombs
from tests.support import honest
from tests.support import hostile
from tests.support import models
from tests.support import runs


def check(path, **more):
    return safety.check(str(path), probe=False, **more)


def assert_refused(path, word, is_allowable, **more):
    error = runs.refused(check, path, **more)
    assert isinstance(error, UnsafeError)
    assert error.exit_status == 3
    assert word in error.received
    assert str(path) in error.received
    assert str(error).isprintable()
    assert ("--allow_ops=" in error.fix) == is_allowable
    return error


def allowed_by(error) -> list[str]:
    return re.search(r"--allow_ops=(\S+)", error.fix)[1].split(",")


# Small enough to be made in a test, under limits that are as much lower.
_BOMBS = {
    "two million nodes": (bombs.many_nodes(2_000), "nodes", True),
    "chain of functions": (bombs.chain(200), "200 functions deep", True),
}
_LIMITS = safety.Limits(max_nodes=1_000, max_asset_mb=1.0)


@pytest.mark.parametrize("name", bombs.SAVED_MODELS)
def test_a_bomb_is_refused_by_name(tmp_path, name):
    make, word, is_allowable = (bombs.SAVED_MODELS | _BOMBS)[name]
    path = make(tmp_path / "model", tmp_path / "marker")
    assert_refused(path, word, is_allowable, limits=_LIMITS)


@pytest.mark.parametrize("name", bombs.KERAS_FILES)
def test_a_padded_keras_file_is_refused(tmp_path, name):
    make, word, _ = bombs.KERAS_FILES[name]
    path = make(tmp_path / "model.keras", tmp_path / "marker")
    assert word in runs.refused(check, path).received


def test_a_limit_is_raised_by_the_text_of_its_refusal(tmp_path):
    path = bombs.many_nodes(2_000)(tmp_path / "model", None)
    error = runs.refused(check, path, limits=_LIMITS)
    (token,) = allowed_by(error)
    assert token.startswith("max_nodes=2")
    report = check(path, limits=_LIMITS, allow_ops=[token])
    assert report.exceptions == [token]
    assert report.status == "accepted with exceptions"
    wrong = runs.refused(check, path, allow_ops=["max_noodles=3"])
    assert "max_nodes" in wrong.expected


@pytest.mark.parametrize("name", hostile.SAVED_MODELS)
def test_a_planted_saved_model_is_refused_by_name(tmp_path, name):
    make, word, is_allowable = hostile.SAVED_MODELS[name]
    marker = tmp_path / "marker"
    path = make(tmp_path / "model", marker)
    error = assert_refused(path, word, is_allowable)
    if is_allowable:
        # The text of the refusal is what allows it.
        report = check(path, allow_ops=allowed_by(error))
        assert report.exceptions == allowed_by(error)
        assert report.status == "accepted with exceptions"
    assert not marker.exists()


@pytest.mark.parametrize("name", hostile.KERAS_FILES)
def test_a_planted_keras_file_is_refused_by_name(tmp_path, name):
    make, word, is_allowable = hostile.KERAS_FILES[name]
    path = make(tmp_path / "model.keras", tmp_path / "marker")
    error = assert_refused(path, word, is_allowable)
    if is_allowable:
        report = check(path, allow_ops=allowed_by(error))
        assert report.exceptions == allowed_by(error)


@pytest.mark.parametrize(
    "name", ["write in an initialiser", "write in serving", "print to a file"]
)
def test_a_planted_model_would_have_run(tmp_path, name):
    make, _, _ = hostile.SAVED_MODELS[name]
    marker = tmp_path / "marker"
    loaded = tf.saved_model.load(make(tmp_path / "model", marker))
    if "initialiser" not in name:
        assert not marker.exists()
        loaded.serve(tf.zeros([1, *hostile.SHAPE]))
    assert "planted" in marker.read_text()


def test_all_refused_operations_are_named_at_once(tmp_path):
    def effects(images):
        tf.raw_ops.ReadFile(filename="a")
        tf.raw_ops.Abort()

    path = hostile.save(tmp_path / "model", hostile.Linear(effects))
    error = assert_refused(path, "ReadFile", True)
    assert "Abort" in error.received
    assert allowed_by(error) == ["Abort", "ReadFile"]
    # Half of it is not enough, and the rest is named.
    error = assert_refused(path, "Abort", True, allow_ops=["ReadFile"])
    assert allowed_by(error) == ["Abort"]


def test_a_variable_that_a_function_makes_is_refused(tmp_path):
    """No loader lists it, so no check would see the model change."""

    def count(images):
        handle = tf.raw_ops.VarHandleOp(
            dtype=tf.float32, shape=[], shared_name="hidden"
        )
        tf.raw_ops.AssignVariableOp(resource=handle, value=1.0)

    path = hostile.save(tmp_path / "model", hostile.Linear(count))
    assert_refused(path, "VarHandleOp (makes a variable of its own)", True)
    report = check(path, allow_ops=["VarHandleOp"])
    assert report.exceptions == ["VarHandleOp"]


def test_the_function_and_the_node_are_named(tmp_path):
    make, _, _ = hostile.SAVED_MODELS["write in serving"]
    error = runs.refused(check, make(tmp_path / "model", tmp_path / "marker"))
    assert "node 'WriteFile' of function '__inference_serve_" in error.received
    assert "(writes files)" in error.received


def test_names_in_a_model_cannot_forge_a_message(tmp_path):
    def forge(proto):
        function = proto.meta_graphs[0].graph_def.library.function[0]
        node = function.node_def.add(op="WriteFile")
        node.name = "x\n\x1b[2J\u202e" + 1000 * "y"

    path = hostile.edit(hostile.honest(tmp_path / "model"), forge)
    error = assert_refused(path, "x\\n\\x1b[2J\\u202e", True)
    assert len(str(error)) < 1000


@pytest.mark.parametrize("name", honest.MODELS)
@pytest.mark.filterwarnings("ignore")
def test_an_honest_model_is_accepted_and_loads_as_it_was(tmp_path, name):
    path = str(tmp_path / "model")
    honest.MODELS[name](path)
    report = check(path)
    assert report.status == "accepted"
    assert report.exceptions == []
    assert report.notes == []
    images = tf.random.stateless_uniform([5, *hostile.SHAPE], seed=[1, 2])
    with safety.loadable(path, report) as folder:
        stripped = tf.saved_model.load(folder)
    assert not pathlib.Path(folder).exists()
    if name == "Keras 3 export":
        return  # Its augmentation is on: no two calls are equal.
    whole = tf.saved_model.load(path)
    expected = whole.signatures["serving_default"]
    received = stripped.signatures["serving_default"]
    (argument,) = expected.structured_input_signature[1]
    for key, value in expected(**{argument: images}).items():
        np.testing.assert_array_equal(
            received(**{argument: images})[key], value
        )


def test_an_honest_keras_file_is_accepted_and_loads_as_it_was(tmp_path):
    model = hostile.keras_model()
    model.compile("adam", "mse")
    path = str(tmp_path / "model.keras")
    model.save(path)
    report = check(path)
    assert report.status == "accepted"
    with safety.loadable(path, report) as copy:
        loaded = keras.saving.load_model(copy, compile=False)
    images = np.random.default_rng(0).random((5, *hostile.SHAPE), np.float32)
    np.testing.assert_array_equal(loaded(images), model(images))


def test_our_classifier_in_a_keras_file_is_accepted(tmp_path):
    model = models.build("vib")
    images, _ = models.data(4)
    expected = model(images, training=False, mode="mean")
    path = str(tmp_path / "model.keras")
    model.save(path)
    report = check(path)
    with safety.loadable(path, report) as copy:
        loaded = keras.saving.load_model(copy, compile=False)
    received = loaded(images, training=False, mode="mean")
    np.testing.assert_array_equal(received, expected)


def test_how_a_model_inside_was_compiled_is_neither_judged_nor_run(tmp_path):
    """A trained network in another: its optimizer, and anything there.

    Keras compiles models inside of the loaded one, compile=False or not.
    """
    inner = hostile.keras_model()
    inner.compile("adam", "mse")
    inner.fit(np.ones([2, *hostile.SHAPE]), np.ones([2, 3]), verbose=0)
    outer = keras.Sequential([keras.Input(hostile.SHAPE), inner])
    path = str(tmp_path / "model.keras")
    outer.save(path)
    report = check(path)
    assert not any("optimizers" in name for name in report.ops["classes"])
    with safety.loadable(path, report) as copy:
        loaded = keras.saving.load_model(copy, compile=False)
    images = np.random.default_rng(0).random((5, *hostile.SHAPE), np.float32)
    answers = (m(images, training=False) for m in (loaded, outer))
    np.testing.assert_array_equal(*answers)
    assert not loaded.layers[0].compiled


@pytest.mark.commands
def test_a_bottleneck_layer_needs_no_import_to_be_loaded(tmp_path):
    """In a process that never heard of it."""
    model = keras.Sequential([keras.Input((6,)), layer.VIBLayer(3)])
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "expected.npy", model(np.ones([2, 6])))
    program = (
        "import sys, numpy as np; from ib_keras.audit import audited_model\n"
        "assert 'ib_keras.bottlenecks.layer' not in sys.modules\n"
        "found = audited_model.load('model.keras', probe=True)\n"
        "assert found.is_stochastic\n"
        "answer = found.endpoint.call(np.ones([2, 6], np.float32))\n"
        "np.testing.assert_array_equal(answer, np.load('expected.npy'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(runs.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_copy_that_is_loaded_has_no_saver(tmp_path):
    path = hostile.honest(tmp_path / "model")

    def operations(folder):
        data = pathlib.Path(folder, "saved_model.pb").read_bytes()
        graph = saved_model_pb2.SavedModel.FromString(data).meta_graphs[0]
        bodies = [f.node_def for f in graph.graph_def.library.function]
        nodes = [node for body in bodies for node in body]
        return {node.op for node in [*nodes, *graph.graph_def.node]}

    report = check(path)
    assert report.ops["saver, not loaded"] == sorted(ops.SAVER_OPS)
    assert ops.SAVER_OPS <= operations(path)
    with safety.loadable(path, report) as folder:
        assert ops.SAVER_OPS.isdisjoint(operations(folder))
        names = {p.name for p in pathlib.Path(folder).rglob("*") if p.is_file()}
    assert names == {
        "saved_model.pb",
        "variables.index",
        "variables.data-00000-of-00001",
    }


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.data-00000-of-00001"]
)
def test_a_model_that_changed_after_its_check_is_not_loaded(tmp_path, name):
    path = hostile.honest(tmp_path / "model")
    report = check(path)
    file = pathlib.Path(path, name)
    file.write_bytes(file.read_bytes() + b"\x00")
    with pytest.raises(UserError, match=r"changed|damaged"):
        with safety.loadable(path, report):
            pass


def test_who_writes_to_the_model_does_not_write_to_the_copy(tmp_path):
    path = hostile.honest(tmp_path / "model")
    report = check(path)
    name = "variables/variables.data-00000-of-00001"
    with safety.loadable(path, report) as folder:
        copied = pathlib.Path(folder, name).read_bytes()
        with open(pathlib.Path(path, name), "r+b") as file:
            file.write(bytes(192))
        assert pathlib.Path(folder, name).read_bytes() == copied != bytes(192)


def test_a_large_file_is_linked_and_hashed_once_more(tmp_path, monkeypatch):
    monkeypatch.setattr(strip, "MAX_COPIED_BYTES", 100)
    path = hostile.honest(tmp_path / "model")
    report = check(path)
    name = "variables/variables.data-00000-of-00001"
    with pytest.raises(UserError, match="changed since it was checked"):
        with safety.loadable(path, report) as folder:
            assert pathlib.Path(folder, name).stat().st_nlink == 2
            with open(pathlib.Path(path, name), "r+b") as file:
                file.write(bytes(192))


def test_the_copy_has_no_options_of_calls(tmp_path):
    path = hostile.honest(tmp_path / "model")

    def options(folder):
        data = pathlib.Path(folder, "saved_model.pb").read_bytes()
        graph = saved_model_pb2.SavedModel.FromString(data).meta_graphs[0]
        bodies = [f.node_def for f in graph.graph_def.library.function]
        nodes = [n for body in (graph.graph_def.node, *bodies) for n in body]
        return {
            n.attr["config_proto"].s for n in nodes if n.attr["f"].func.name
        }

    assert options(path) != {b""}
    with safety.loadable(path, check(path)) as folder:
        assert options(folder) == {b""}


def test_fields_are_counted_before_they_become_objects(tmp_path):
    """Against a walk through what the parser makes of them."""
    data = pathlib.Path(hostile.honest(tmp_path), "saved_model.pb").read_bytes()
    message = saved_model_pb2.SavedModel.FromString(data)

    def count(message):
        total = 0
        for field, value in message.ListFields():
            values = value if field.is_repeated else [value]
            if field.message_type is None:
                total += len(values) if field.type in (9, 12) else 1
                continue
            if field.message_type.GetOptions().map_entry:
                # An entry has a key and a value, each a field.
                inside = field.message_type.fields_by_name["value"].message_type
                total += sum(
                    3 + (count(value[key]) if inside else 0) for key in value
                )
                continue
            total += sum(1 + count(part) for part in values)
        return total

    assert wire.count(data, message.DESCRIPTOR, 1e6) == count(message)
    assert wire.count(data, message.DESCRIPTOR, 100) == 101
    for end in range(0, len(data), 997):  # Cut bytes end a count, too.
        wire.count(data[:end], message.DESCRIPTOR, 1e6)


def test_the_index_is_read_as_tensorflow_reads_it(tmp_path):
    path = hostile.honest(tmp_path / "model")
    data = pathlib.Path(path, "variables", "variables.index").read_bytes()
    found = bundle.parse(data).tensors
    reader = tf.train.load_checkpoint(f"{path}/variables/variables")
    shapes = {
        name: [dim.size for dim in entry.shape.dim]
        for name, entry in found.items()
    }
    assert shapes == reader.get_variable_to_shape_map()
    for end in range(len(data)):
        with pytest.raises(bundle.NotAnIndex):
            bundle.parse(data[:end])


def test_a_table_from_a_file_needs_the_flag_of_its_refusal(tmp_path):
    path = hostile.asset_model(tmp_path / "model")
    error = assert_refused(path, "InitializeTableFromTextFileV2", True)
    report = check(path, allow_ops=allowed_by(error))
    with safety.loadable(path, report) as folder:
        loaded = tf.saved_model.load(folder)
        images = tf.zeros([2, *hostile.SHAPE])
        assert loaded.serve(images).shape == [2, 3]


def test_the_report_says_what_was_found(tmp_path):
    path = hostile.table_model(tmp_path / "model")
    report = check(path, allow_ops=["ReadFile"])
    assert report.ops["tables"] == [
        "HashTableV2",
        "LookupTableFindV2",
        "LookupTableImportV2",
    ]
    assert report.notes == [
        "--allow_ops names ReadFile, which the model does not need."
    ]
    value = report.to_json()
    assert value["status"] == "accepted"
    assert value["rules_version"] == safety.RULES_VERSION
    assert set(value["files"]) == {
        "fingerprint.pb",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    }
    assert safety.Report.from_json(value) == report


def test_a_remote_model_is_checked_and_loaded_from_a_copy(tmp_path):
    source = pathlib.Path(hostile.honest(tmp_path / "model"))
    for file in source.rglob("*"):
        if file.is_file():
            target = f"ram://safety/{file.relative_to(source).as_posix()}"
            tf.io.gfile.makedirs(target.rpartition("/")[0])
            tf.io.gfile.copy(str(file), target, overwrite=True)
    report = check("ram://safety")
    assert report.files == check(source).files
    with safety.loadable("ram://safety", report) as folder:
        assert "://" not in folder
        tf.saved_model.load(folder)


def test_an_operation_that_does_not_exist_cannot_be_allowed(tmp_path):
    path = hostile.honest(tmp_path / "model")
    error = runs.refused(check, path, allow_ops=["WriteFyle"])
    assert error.exit_status == 2
    assert 'Did you mean "WriteFile"?' in error.fix


def test_a_model_over_the_size_limit_is_refused(tmp_path):
    path = hostile.honest(tmp_path / "model")
    limits = safety.Limits(max_model_gb=1e-6)
    assert "GiB" in runs.refused(check, path, limits=limits).received


@pytest.mark.parametrize("name", ["m.h5", "m.hdf5", "m.keras", "m"])
def test_an_h5_model_is_refused_under_any_name(tmp_path, name):
    path = tmp_path / "whole.h5"
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.save_weights(tmp_path / "m.weights.h5")
    shutil.move(tmp_path / "m.weights.h5", path)
    path = path.rename(tmp_path / name)
    error = runs.refused(check, path)
    assert isinstance(error, UnsafeError)
    assert ".h5" in error.what
    assert "model.save" in error.fix


@pytest.mark.parametrize("name", ["model.zip", "model.pb"])
def test_another_file_is_no_model(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"planted")
    assert runs.refused(check, path).exit_status == 2


def test_a_path_without_a_model_is_said(tmp_path):
    assert "no model" in runs.refused(check, tmp_path / "nothing").what
    assert "saved_model.pb" in runs.refused(check, tmp_path).received
