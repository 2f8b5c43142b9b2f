"""Digits need no network, and two processes may prepare them at once."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ib_keras.data import digits
from ib_keras.data import prepared
from ib_keras.errors import UserError

_REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

# Prepares the digits when all processes are ready, and says what they are.
_PROGRAM = """
import pathlib, sys, time
from ib_keras.data import digits
folder, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
(folder / f"ready_{sys.argv[3]}").touch()
for _ in range(6000):
    if len(list(folder.glob("ready_*"))) == count:
        break
    time.sleep(0.01)
images, labels = digits.build(download=False).load("train")
print("sums", images.shape, int(images.sum()), int(labels.sum()))
"""


@pytest.mark.slow
def test_two_processes_prepare_at_once_in_an_empty_home(tmp_path):
    """One finds the folder by its HOME and the other by TFDS_DATA_DIR."""
    (tmp_path / "home").mkdir()
    (tmp_path / "other").mkdir()
    root = tmp_path / "home" / "tensorflow_datasets"
    common = dict(os.environ, CUDA_VISIBLE_DEVICES="-1")
    common.pop("TFDS_DATA_DIR", None)
    environments = [
        common | {"HOME": str(tmp_path / "home")},
        common | {"HOME": str(tmp_path / "other"), "TFDS_DATA_DIR": str(root)},
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(tmp_path), "2", str(index)],
            cwd=_REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, environment in enumerate(environments)
    ]
    lines = []
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        lines += [x for x in output.splitlines() if x.startswith("sums")]
    assert len(lines) == 2 and lines[0] == lines[1]
    assert lines[0].startswith("sums (1438, 8, 8, 1)")
    assert os.listdir(root / "ib_digits") == ["1.0.0"]  # Nothing incomplete.
    assert not (tmp_path / "other" / "tensorflow_datasets").exists()


def test_losing_the_race_to_prepare_is_no_error(tmp_path, monkeypatch):
    original = digits.IbDigits._split_generators
    calls = []

    def slow(self, dl_manager):
        calls.append(self)
        if len(calls) == 1:  # Another one starts later and finishes first.
            digits.build(data_dir=str(tmp_path))
        return original(self, dl_manager)

    monkeypatch.setattr(digits.IbDigits, "_split_generators", slow)
    data = digits.build(data_dir=str(tmp_path))
    assert len(calls) == 2
    assert len(data.load("test")[0]) == 359


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    return digits.build(data_dir=str(folder), download=False)


def test_both_splits_together_are_all_digits_of_scikit_learn(data):
    original = load_digits()
    rows = {
        (image.astype(int).tobytes(), int(label))
        for image, label in zip(original.images, original.target, strict=True)
    }
    images = np.concatenate([data.load("train")[0], data.load("test")[0]])
    labels = np.concatenate([data.load("train")[1], data.load("test")[1]])
    assert images.max() == 255
    back = np.round(images[..., 0] / 255.0 * 16).astype(int)
    ours = {
        (image.tobytes(), int(label))
        for image, label in zip(back, labels, strict=True)
    }
    assert len(rows) == 1797 and ours == rows


def test_the_split_is_stratified_and_fixed(data):
    train, test = data.load("train")[1], data.load("test")[1]
    assert (len(train), len(test)) == (1438, 359)
    of_class = np.bincount(train) + np.bincount(test)
    np.testing.assert_array_equal(
        np.bincount(test), np.round(0.2 * of_class).astype(int)
    )
    chosen = np.flatnonzero(digits._is_test(load_digits().target))
    assert chosen[:8].tolist() == [0, 4, 5, 7, 25, 28, 35, 56]


def test_a_prepared_copy_is_used_again(data):
    opened = prepared.open_builder("ib_digits", _root(data))
    folder = pathlib.Path(opened.data_path)
    before = [(p.name, p.stat().st_mtime_ns) for p in folder.iterdir()]
    again = digits.build(data_dir=_root(data))
    np.testing.assert_array_equal(
        again.load("test[:9]")[0], data.load("test")[0][:9]
    )
    after = [(p.name, p.stat().st_mtime_ns) for p in folder.iterdir()]
    assert before == after


def _root(data):
    (builder,) = data.load.args
    return os.fspath(builder.data_path.parent.parent)


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path):
    place = tmp_path / "file"
    place.write_text("not a folder")
    with pytest.raises(UserError) as error:
        digits.build(data_dir=str(place))
    message = str(error.value)
    assert f"Received: in {place}" in message
    assert "Expected:" in message and "Fix:" in message
    assert "data_dir" in message
