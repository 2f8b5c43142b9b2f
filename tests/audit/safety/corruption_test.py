"""Damaged models: one clear line, whatever the bytes."""

import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from ib_keras.audit import safety
from ib_keras.errors import UserError
from tests.support import hostile
from tests.support import runs

DATA = "variables/variables.data-00000-of-00001"
INDEX = "variables/variables.index"
GRAPH = "saved_model.pb"


def check(path):
    return safety.check(str(path), probe=False)


def random_bytes(data: bytes) -> bytes:
    return np.random.default_rng(0).bytes(len(data))


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (GRAPH, lambda data: data[: len(data) // 2]),
        (GRAPH, lambda data: b""),
        (GRAPH, random_bytes),
        (INDEX, lambda data: data[: len(data) // 2]),
        (INDEX, lambda data: b""),
        (INDEX, random_bytes),
        (DATA, lambda data: data[: len(data) // 2]),
        (DATA, lambda data: b""),
        (DATA, flip),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, name, change):
    path = pathlib.Path(hostile.honest(tmp_path / "model"))
    (path / name).write_bytes(change((path / name).read_bytes()))
    error = runs.refused(check, path)
    assert error.exit_status == 2
    assert name.partition("-")[0] in error.received
    assert "again" in error.fix


@pytest.mark.parametrize("name", [INDEX, DATA])
def test_a_missing_file_is_named(tmp_path, name):
    path = pathlib.Path(hostile.honest(tmp_path / "model"))
    (path / name).unlink()
    error = runs.refused(check, path)
    assert error.exit_status == 2
    assert name.partition("-")[0] in error.received


def test_a_missing_asset_is_named(tmp_path):
    path = pathlib.Path(hostile.asset_model(tmp_path / "model"))
    shutil.rmtree(path / "assets")
    error = runs.refused(
        safety.check,
        str(path),
        allow_ops=["InitializeTableFromTextFileV2"],
        probe=False,
    )
    assert "assets/names.txt" in error.received


def test_a_graph_that_is_not_the_fingerprinted_one_is_noted(tmp_path):
    def rename(proto):
        node = proto.meta_graphs[0].object_graph_def.nodes[0]
        node.children[0].local_name = "renamed"

    path = hostile.honest(tmp_path / "model")
    assert check(path).notes == []
    (note,) = check(hostile.edit(path, rename)).notes
    assert "fingerprint.pb is of another graph" in note


def test_a_missing_or_damaged_fingerprint_is_noted(tmp_path):
    path = pathlib.Path(hostile.honest(tmp_path / "model"))
    (path / "fingerprint.pb").write_bytes(b"\xff")
    assert "damaged" in check(path).notes[0]
    (path / "fingerprint.pb").unlink()
    assert "no fingerprint" in check(path).notes[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        random_bytes,
        flip,
        lambda data: data[:-30],
    ],
)
def test_a_damaged_keras_file_is_said_in_one_line(tmp_path, change):
    path = pathlib.Path(hostile.rewrite(tmp_path / "model.keras"))
    path.write_bytes(change(path.read_bytes()))
    assert runs.refused(check, path).exit_status == 2


@pytest.mark.parametrize("config", [b"", b"[]", b"{", b"\xff", b"[" * 10**5])
def test_a_config_that_is_no_json_object_is_said(tmp_path, config):
    path = hostile.rewrite(
        tmp_path / "model.keras",
        lambda members: members.update({"config.json": config}),
    )
    assert "config.json" in runs.refused(check, path).received


def test_no_bit_flip_of_a_graph_changes_an_answer_unnoticed(tmp_path):
    """An error of ours, a note by the fingerprint, or the same answers.

    TensorFlow's fingerprint leaves parts out that nothing is computed from,
    such as the version that wrote the graph.
    """
    path = pathlib.Path(hostile.honest(tmp_path / "model"))
    whole = (path / GRAPH).read_bytes()
    rng = np.random.default_rng(0)
    images = tf.constant(rng.random((2, 4, 4, 1)), tf.float32)
    loaded = tf.saved_model.load(path)
    right = loaded.serve(images)
    counts = {"refused": 0, "noted": 0}
    for position in rng.integers(0, 8 * len(whole), 100):
        data = bytearray(whole)
        data[position // 8] ^= 1 << (position % 8)
        (path / GRAPH).write_bytes(data)
        try:
            report = check(path)
        except UserError as error:
            assert str(error).isprintable()
            counts["refused"] += 1
            continue
        if report.notes:
            counts["noted"] += 1
        else:
            loaded = tf.saved_model.load(path)
            said = loaded.serve(images)
            np.testing.assert_array_equal(said, right)
    assert counts["refused"] > 0
    assert counts["noted"] > 0
