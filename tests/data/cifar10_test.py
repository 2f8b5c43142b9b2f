"""CIFAR-10: the real copy, where it is, and TFDS's stand-in elsewhere."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from ib_keras.data import cifar10
from ib_keras.errors import UserError

_TFDS = pathlib.Path(__file__).resolve().parents[3] / "shared" / "tfds"
needs_cifar10 = pytest.mark.skipif(
    not (_TFDS / "cifar10").exists(), reason=f"no CIFAR-10 in {_TFDS}"
)


def _is_jpeg():
    """Reads the first record without TFDS."""
    (path,) = _TFDS.glob("cifar10/*/cifar10-train.tfrecord-00000-*")
    record = next(iter(tf.data.TFRecordDataset(str(path))))
    example = tf.train.Example.FromString(record.numpy())
    image = example.features.feature["image"].bytes_list.value[0]
    return bool(tf.io.is_jpeg(image))


@needs_cifar10
def test_the_description_tells_a_jpeg_copy_from_the_original():
    data = cifar10.build(data_dir=str(_TFDS), download=False)
    if _is_jpeg():
        assert data.description == "CIFAR-10 (JPEG re-encoded)"
    else:
        assert data.description == "CIFAR-10"


@needs_cifar10
def test_the_real_splits_are_balanced():
    data = cifar10.build(data_dir=str(_TFDS), download=False)
    images, labels = data.load("test")
    assert images.shape == (10000, 32, 32, 3) and images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [1000] * 10
    _, labels = data.load("train[:20%]")
    counts = np.bincount(labels)
    assert counts.sum() == 10000 and abs(counts - 1000).max() < 150


@needs_cifar10
def test_class_names_fit_the_real_images():
    """Ships and airplanes have more blue than frogs and deer."""
    data = cifar10.build(data_dir=str(_TFDS), download=False)
    images, labels = data.load("test")
    blue = images[..., 2].mean((1, 2)) - images.mean((1, 2, 3))
    of = {
        name: blue[labels == label].mean()
        for label, name in enumerate(data.class_names)
    }
    assert min(of["ship"], of["airplane"]) > max(of["frog"], of["deer"])


def test_mock_data_is_served_without_any_files(tmp_path):
    with tfds.testing.mock_data(num_examples=5):
        data = cifar10.build(data_dir=str(tmp_path))
        images, labels = data.load("train")
    assert data.description == "CIFAR-10"
    assert images.shape == (5, 32, 32, 3) and images.dtype == np.uint8
    assert labels.dtype == np.int32 and data.num_classes == 10


def test_augmentation_shifts_by_four_pixels_at_most(tmp_path):
    with tfds.testing.mock_data(num_examples=1):
        data = cifar10.build(data_dir=str(tmp_path))
    images = np.zeros([1000, 32, 32, 3], np.uint8)
    images[:, 10, 10] = 255
    results = data.augment(images, tf.constant([1, 2])).numpy()
    rows, columns = np.nonzero(results.max((0, 3)))
    assert (rows.min(), rows.max()) == (6, 14)
    # A column is 6 to 14, or mirrored 17 to 25.
    assert set(columns.tolist()) == {*range(6, 15), *range(17, 26)}


def test_an_absent_data_set_names_the_folder_and_the_fix(tmp_path):
    with pytest.raises(UserError) as error:
        cifar10.build(data_dir=str(tmp_path), download=False)
    message = str(error.value)
    assert f"Received: no folder {tmp_path}/cifar10/3.0.2" in message
    assert "Expected:" in message and "Fix: Point data_dir" in message
