"""Prepared folders read directly, against TFDS example by example."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from ib_keras.data import digits
from ib_keras.data import prepared
from ib_keras.data import records
from tests.support import runs


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("tfds"))
    digits.build(data_dir=root)
    return prepared.open_builder("ib_digits", root)


@pytest.fixture
def folder(builder):
    root = str(builder.data_path.parent.parent)
    found = records.find("ib_digits", "1.0.0", root)
    assert found == str(builder.data_path)
    return found


@pytest.mark.parametrize(
    "split", ["test", "train", "test[:50]", "test[7:9]", "test[350:]"]
)
def test_examples_are_those_of_tfds(builder, folder, split):
    images, labels = records.read(folder, split)
    expected = prepared.load(builder, split)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(images, expected[0])
    np.testing.assert_array_equal(labels, expected[1])
    assert records.first_bytes(folder) == b"\x89PNG"


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_the_real_ones_are_those_of_tfds(shared_folder, name):
    if not (shared_folder / "tfds" / name).is_dir():
        pytest.skip(f"there is no {name}")
    root = str(shared_folder / "tfds")
    builder = prepared.open_builder(name, root, download=False)
    images, labels = records.read(str(builder.data_path), "test[:300]")
    expected = prepared.load(builder, "test[:300]")
    np.testing.assert_array_equal(images, expected[0])
    np.testing.assert_array_equal(labels, expected[1])


@pytest.mark.parametrize(
    "split", ["test[:10%]", "train+test", "test[-5:]", "test[:999]", "other"]
)
def test_other_splits_are_left_to_tfds(folder, split):
    assert records.read(folder, split) is None


def copied(builder, to):
    for path in builder.data_path.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def other(path, *keys, value):
    whole = part = json.loads(path.read_text())
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(whole))


def test_other_folders_are_left_to_tfds(builder, tmp_path):
    folder = copied(builder, tmp_path)
    assert records.read(str(folder), "test") is not None
    info = folder / "dataset_info.json"
    other(info, "fileFormat", value="riegeli")
    assert records.read(str(folder), "test") is None
    copied(builder, tmp_path)
    for row in (0, 1):
        other(info, "splits", row, "shardLengths", value=["1", "2"])
    assert records.read(str(folder), "test") is None
    copied(builder, tmp_path)
    inside = ("featuresDict", "features", "image", "image", "dtype")
    other(folder / "features.json", *inside, value="float32")
    assert records.read(str(folder), "test") is None
    copied(builder, tmp_path)
    (path,) = pathlib.Path(folder).glob("*-test.tfrecord*")
    path.write_bytes(path.read_bytes()[:-30])
    assert records.read(str(folder), "test") is None
    path.unlink()
    assert records.read(str(folder), "test") is None


def test_two_versions_are_left_to_tfds(tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    assert records.find("mnist", "3.0.1", str(tmp_path))
    (tmp_path / "mnist" / "3.0.0").mkdir()
    assert records.find("mnist", "3.0.1", str(tmp_path)) is None
    assert records.find("cifar10", "3.0.2", str(tmp_path)) is None


def test_a_prepared_data_set_needs_no_tfds(shared_folder):
    root = str(shared_folder / "tfds")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from ib_keras import lazy; lazy.tensorflow();"
            " from ib_keras.data import mnist;"
            f" data = mnist.build({root!r}, download=False);"
            " images, _ = data.load('test[:9]');"
            " assert data.description == 'MNIST' and len(images) == 9;"
            " assert data.load('test[:9]')[0] is images;"
            " assert 'tensorflow_datasets' not in sys.modules;"
            " assert len(data.load('test[:1%]')[0]) == 100",
        ],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_images_of_another_shape_are_left_to_tfds(builder, tmp_path):
    folder = copied(builder, tmp_path)
    inside = ("featuresDict", "features", "image", "image", "shape")
    value = {"dimensions": ["8", "9", "1"]}
    other(folder / "features.json", *inside, value=value)
    assert records.read(str(folder), "test") is None
