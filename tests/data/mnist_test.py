"""MNIST: the real copy, where it is, and TFDS's stand-in elsewhere."""

import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ib_keras.data import mnist
from ib_keras.data import source
from ib_keras.errors import UserError

_TFDS = pathlib.Path(__file__).resolve().parents[3] / "shared" / "tfds"
needs_mnist = pytest.mark.skipif(
    not (_TFDS / "mnist").exists(), reason=f"no MNIST in {_TFDS}"
)


@needs_mnist
@pytest.mark.slow
def test_the_real_train_split_has_the_published_statistics():
    data = mnist.build(data_dir=str(_TFDS), download=False)
    assert data.description == "MNIST"
    images, labels = data.load("train")
    assert images.shape == (60000, 28, 28, 1) and images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [
        *(5923, 6742, 5958, 6131, 5842),
        *(5421, 5918, 6265, 5851, 5949),
    ]
    (mean,), (deviation,) = source.channel_statistics(images)
    assert mean == pytest.approx(0.1307, abs=5e-5)
    assert deviation == pytest.approx(0.3081, abs=5e-5)


@needs_mnist
def test_a_slice_of_the_real_test_split_is_its_beginning():
    data = mnist.build(data_dir=str(_TFDS), download=False)
    images, labels = data.load("test")
    assert len(images) == 10000 and labels.dtype == np.int32
    few_images, few_labels = data.load("test[:64]")
    np.testing.assert_array_equal(few_images, images[:64])
    np.testing.assert_array_equal(few_labels, labels[:64])


def test_mock_data_is_served_without_any_files(tmp_path):
    with tfds.testing.mock_data(num_examples=7):
        data = mnist.build(data_dir=str(tmp_path))
        images, labels = data.load("train")
    assert data.description == "MNIST" and data.augment is None
    assert images.shape == (7, 28, 28, 1) and images.dtype == np.uint8
    assert labels.shape == (7,) and labels.dtype == np.int32
    assert data.class_names == tuple("0123456789")


def test_an_absent_data_set_names_the_folder_and_the_fix(tmp_path):
    with pytest.raises(UserError) as error:
        mnist.build(data_dir=str(tmp_path), download=False)
    message = str(error.value)
    assert f"Received: no folder {tmp_path}/mnist/3.0.1" in message
    assert "Expected:" in message
    for word in ("Fix:", "data_dir", "TFDS_DATA_DIR", "download=True"):
        assert word in message
