"""Prepared folders: read once, described honestly, and clear when broken."""

import os
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from ib_keras.data import digits
from ib_keras.data import mnist
from ib_keras.data import prepared
from ib_keras.errors import UserError


@pytest.fixture
def builder(tmp_path):
    digits.build(data_dir=str(tmp_path))
    return prepared.open_builder("ib_digits", str(tmp_path), download=False)


def _rewrite_images(builder, encode):
    """Stores the training images in another encoding."""
    (path,) = builder.data_path.glob("*-train.tfrecord*")
    records = [r.numpy() for r in tf.data.TFRecordDataset(os.fspath(path))]
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for record in records:
            example = tf.train.Example.FromString(record)
            values = example.features.feature["image"].bytes_list.value
            values[0] = encode(values[0])
            writer.write(example.SerializeToString())


def test_a_split_is_decoded_once_in_a_process(builder, monkeypatch):
    calls = []
    original = type(builder).as_dataset

    def counting(self, *arguments, **keywords):
        calls.append(keywords["split"])
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(type(builder), "as_dataset", counting)
    first = prepared.load(builder, "test")
    again = prepared.load(
        prepared.open_builder("ib_digits", os.fspath(_root(builder))), "test"
    )
    assert first[0] is again[0] and calls == ["test"]
    prepared.forget()
    fresh = prepared.load(builder, "test")
    assert calls == ["test", "test"] and fresh[0] is not first[0]
    np.testing.assert_array_equal(fresh[0], first[0])


def _root(builder):
    return builder.data_path.parent.parent


def test_shared_arrays_cannot_be_written_to(builder):
    images, labels = prepared.load(builder, "test[:5]")
    for array in (images, labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_two_folders_do_not_share_their_splits(builder, tmp_path):
    other = digits.build(data_dir=str(tmp_path / "other"))
    assert other.load("test")[0] is not prepared.load(builder, "test")[0]


def test_images_that_tfds_prepared_itself_are_the_original(builder):
    assert prepared.describe(builder, "DIGITS") == "DIGITS"


@pytest.mark.parametrize(
    "encode, description",
    [
        (
            lambda png: tf.io.encode_jpeg(tf.io.decode_png(png)).numpy(),
            "DIGITS (JPEG re-encoded)",
        ),
        (lambda png: b"RIFF0000WEBP", "DIGITS (re-encoded)"),
    ],
)
def test_re_encoded_images_are_called_so(builder, encode, description):
    _rewrite_images(builder, encode)
    assert prepared.describe(builder, "DIGITS") == description


def test_an_unknown_split_is_a_user_error_that_lists_the_splits(builder):
    with pytest.raises(UserError) as error:
        prepared.load(builder, "validation")
    message = str(error.value)
    assert 'Received: "validation"' in message
    assert "train (1438)" in message and "test (359)" in message
    assert "Fix:" in message


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def _drop_records(path):
    records = [r.numpy() for r in tf.data.TFRecordDataset(os.fspath(path))]
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for record in records[:-10]:
            writer.write(record)


def _flip_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))


def _remove(path):
    path.unlink()


@pytest.mark.parametrize(
    "damage", [_truncate, _drop_records, _flip_byte, _remove]
)
def test_damaged_records_are_a_user_error_that_names_the_folder(
    builder, damage
):
    (path,) = builder.data_path.glob("*-train.tfrecord*")
    damage(path)
    with pytest.raises(UserError) as error:
        prepared.load(builder, "train")
    message = str(error.value)
    assert f"Received: in {builder.data_path}" in message
    assert "Expected:" in message
    assert "Fix: Remove that folder and prepare it again." in message


@pytest.mark.parametrize("content", [None, "{"])
def test_a_damaged_info_file_is_a_user_error(builder, content):
    path = builder.data_path / "dataset_info.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        opened = prepared.open_builder("ib_digits", _root(builder))
        prepared.load(opened, "train")
    message = str(error.value)
    assert f"Received: in {_root(builder)}" in message
    assert "Expected:" in message and "Fix: Remove th" in message


def test_a_failed_download_names_the_folder_the_reason_and_the_fix(
    tmp_path, monkeypatch
):
    def fail(self, urls):
        raise ConnectionError("Failed to resolve storage.googleapis.com")

    monkeypatch.setattr(
        tfds.download.DownloadManager, "download_and_extract", fail
    )
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        mnist.build(data_dir=str(tmp_path))
    assert time.monotonic() - start < 30
    message = str(error.value)
    assert f"Received: in {tmp_path}/mnist/3.0.1: ConnectionError" in message
    assert "Failed to resolve storage.googleapis.com" in message
    assert "Expected: a network" in message
    for word in ("Fix: Point data_dir", "TFDS_DATA_DIR", "where there is a"):
        assert word in message


def test_an_interrupt_is_not_turned_into_a_user_error(tmp_path, monkeypatch):
    def interrupt(self, dl_manager):
        raise KeyboardInterrupt

    monkeypatch.setattr(digits.IbDigits, "_split_generators", interrupt)
    with pytest.raises(KeyboardInterrupt):
        digits.build(data_dir=str(tmp_path))


def test_a_tilde_in_the_folder_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError) as error:
        mnist.build(data_dir="~/nothing", download=False)
    assert f"no folder {tmp_path}/nothing/mnist" in str(error.value)
