"""Arrays and tf.data of a program's own are a data set, or refused."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras.data import arrays
from tests.support import own_files
from tests.support import runs

IMAGES, LABELS = own_files.images("test", 10)


def test_each_split_is_what_was_given():
    train = own_files.images("train", 24)
    source = arrays.make("mine", train=train, test=(IMAGES, LABELS))
    assert source.name == source.description == "mine"
    assert source.image_shape == own_files.SHAPE
    assert source.class_names == tuple("0123")
    images, labels = source.load("test[2:5]+train[:1]")
    np.testing.assert_array_equal(images[:3], IMAGES[2:5])
    np.testing.assert_array_equal(images[3:], train[0][:1])
    assert labels.tolist() == [2, 3, 0, 0] and labels.dtype == np.int32


@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_dataset_of_tensorflow_is_taken_whole(batch_size):
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))
    if batch_size:
        dataset = dataset.batch(batch_size)
    source = arrays.make("mine", test=dataset, class_names=own_files.NAMES)
    assert source.class_names == own_files.NAMES
    images, labels = source.load("test")
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


PAIRS = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))
WRONG = {
    "no splits": ({}, "splits []"),
    "images alone": ({"test": IMAGES}, "a ndarray for the split test"),
    "a dataset of images": (
        {"test": PAIRS.map(lambda image, label: image)},
        "single tensors",
    ),
    "an infinite dataset": ({"test": PAIRS.repeat()}, "infinite"),
    "two shapes": (
        {"train": (IMAGES, LABELS), "test": (IMAGES[..., :1], LABELS)},
        "(6, 5, 1)",
    ),
    "too few names": (
        {"test": (IMAGES, LABELS), "class_names": "ab"},
        "labels up to 3",
    ),
    "negative labels": ({"test": (IMAGES, LABELS - 1)}, "-1"),
    "words": ({"test": (IMAGES, LABELS.astype(str))}, "dtype <U"),
    "objects": ({"test": (IMAGES, LABELS.astype(object))}, "dtype object"),
    "NaN": ({"test": (IMAGES, LABELS * np.nan)}, "dtype float64"),
    "unequal images": ({"test": ([[1.0], [1.0, 0.0]], [0, 1])}, "unequal"),
    "triples": ({"test": PAIRS.map(lambda x, y: (x, y, y))}, "other elements"),
    "an empty dataset": ({"test": PAIRS.take(0)}, "empty"),
    "images of two sizes": (
        {"test": PAIRS.concatenate(PAIRS.map(lambda x, y: (x[:4], y)))},
        "(4, 5, 3), (6, 5, 3)",
    ),
}


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("axes", [0, 1], ids=["[n]", "[n, 1]"])
def test_a_dataset_of_gray_images_needs_no_channel(batch_size, axes):
    gray = IMAGES[..., 0]
    labels = LABELS.reshape(-1, *[1] * axes)
    dataset = tf.data.Dataset.from_tensor_slices((gray, labels))
    if batch_size:
        dataset = dataset.batch(batch_size)
    images, found = arrays.make("mine", test=dataset).load("test")
    np.testing.assert_array_equal(images, gray[..., np.newaxis])
    np.testing.assert_array_equal(found, LABELS)


def test_names_of_classes_can_be_an_array():
    given = {"test": (IMAGES, LABELS), "class_names": np.array(list("abcd"))}
    assert arrays.make("mine", **given).class_names == tuple("abcd")


@pytest.mark.parametrize(("given", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_data_set_is_refused(given, said):
    error = runs.refused(arrays.make, "mine", **given)
    assert said in error.received
