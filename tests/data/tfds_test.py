"""Data sets of TFDS by name: what TFDS itself gives, or a clear no."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from ib_keras import plugins
from ib_keras.data import digits
from ib_keras.data import prepared
from ib_keras.data import source as sources
from ib_keras.data import tfds as part
from tests.support import runs


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder where scikit-learn's digits are prepared; read only."""
    folder = str(tmp_path_factory.mktemp("tfds"))
    digits.build(folder)
    return folder


def build(data_dir, **more):
    return part.build("ib_digits", data_dir=data_dir, download=False, **more)


def of_tfds(data_dir, split):
    """Images and labels as `tfds.load` gives them."""
    pairs = tfds.load(
        "ib_digits", split=split, data_dir=data_dir, as_supervised=True
    )
    images, labels = zip(*pairs.as_numpy_iterator(), strict=True)
    return np.stack(images), np.stack(labels)


def test_a_split_is_what_tfds_gives(data_dir):
    source = build(data_dir)
    assert source.name == "tfds:ib_digits"
    assert source.description == "ib_digits (TFDS 1.0.0)"
    assert source.image_shape == (8, 8, 1)
    assert source.class_names == tuple("0123456789")
    for split in ("test", "train[-20%:]"):
        images, labels = sources.read(source, split)
        expected = of_tfds(data_dir, split)
        np.testing.assert_array_equal(images, expected[0])
        np.testing.assert_array_equal(labels, expected[1])
    assert "test (359)" in runs.refused(source.load, "validation").expected


def test_size_and_colour_are_what_is_asked_for(data_dir):
    source = build(data_dir, image_size=(5, 12), color_mode="rgb")
    assert source.image_shape == (5, 12, 3)
    images, _ = source.load("test[:40]")
    given, _ = of_tfds(data_dir, "test[:40]")
    expected = np.round(tf.image.resize(given, (5, 12)))
    np.testing.assert_array_equal(images, np.repeat(expected, 3, axis=-1))


def test_the_short_form_is_the_part_and_its_name(data_dir):
    section = {"name": "tfds:ib_digits", "data_dir": data_dir}
    full = {"name": "tfds", "tfds_name": "ib_digits", "data_dir": data_dir}
    assert plugins.expand("data", section) == full
    one, two = (plugins.build("data", s).load("test") for s in (section, full))
    np.testing.assert_array_equal(one[0], two[0])


def test_other_features_are_images_and_labels_by_key():
    """The pet of a photograph, or its species."""
    with tfds.testing.mock_data(num_examples=5):
        for key, count in (("species", 2), (None, 37)):
            source = part.build("oxford_iiit_pet", label_key=key, image_size=16)
            assert source.image_shape == (16, 16, 3)
            assert source.num_classes == count
            images, labels = sources.read(source, "test")
            assert images.shape == (5, 16, 16, 3)
            assert labels.shape == (5,)


WRONG = {
    "an unknown name": (("fashion_mnits", {}), "such as fashion_mnist"),
    "a name like no other": (("zzzz", {}), "such as fashion_mnist, kmnist"),
    "an unknown version": (("mnist:9.0.0", {}), "NAME:VERSION"),
    "an unknown config": (("emnist/greek", {}), "NAME/CONFIG"),
    "texts": (("glue", {}), "a data set of labelled images"),
    "no classes": (("celeb_a", {}), "a data set of labelled images"),
    "another key": (
        ("oxford_iiit_pet", {"image_key": "photo", "image_size": 8}),
        "one of image, segmentation_mask",
    ),
    "a key of something else": (
        ("oxford_iiit_pet", {"label_key": "image", "image_size": 8}),
        "one of label, species",
    ),
    "several sizes": (("imagenette", {}), "one height, width"),
    "an unknown color": (("mnist", {"color_mode": "blue"}), "grayscale, rgb"),
    "alpha of none": (("mnist", {"color_mode": "rgba"}), "that are either"),
    "not there": (("kmnist", {"download": False}), "a folder prepared by"),
}


@pytest.mark.parametrize(("given", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said_first(tmp_path, given, said):
    """By `check`, and by `build` before it downloads."""
    name, more = given
    for function in (part.check, part.build):
        error = runs.refused(function, name, data_dir=str(tmp_path), **more)
        assert said in error.expected
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_folder_is_not_an_unknown_name(data_dir, tmp_path):
    prepared.forget()
    root = tmp_path / "ib_digits" / "1.0.0"
    root.mkdir(parents=True)
    (root / "dataset_info.json").write_text("{")
    error = runs.refused(part.check, "ib_digits", data_dir=str(tmp_path))
    assert "cannot be read" in error.what
