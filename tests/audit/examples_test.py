"""The first examples of the split, in the library's units, or a clear no."""

import os
import types

import numpy as np
import pytest

from ib_keras import files
from ib_keras.audit import examples
from ib_keras.audit import subject
from ib_keras.audit import summary
from ib_keras.data import digits
from ib_keras.errors import UserError
from tests.support import runs

DIGITS = {
    "input_shape": [8, 8, 1],
    "num_classes": 10,
    "config": {"data": {"name": "digits", "data_dir": None, "download": True}},
}


def load(metadata=None, **changes):
    config = runs.audit_config(**changes)
    return examples.load(config, DIGITS if metadata is None else metadata)


@pytest.mark.parametrize("split", ["test", "train[100:200]"])
def test_they_are_the_first_of_the_split_in_order(split):
    found = load(dataset__split=split, num_examples=7)
    images, labels = digits.build().load(split)
    expected = images[:7].astype(np.float32) / 255
    np.testing.assert_array_equal(found.images, expected)
    assert found.images.dtype == np.float32
    np.testing.assert_array_equal(found.labels, labels[:7])
    assert found.labels.dtype == np.int32
    assert found.dataset == {
        "name": "digits",
        "split": split,
        "description": "scikit-learn digits",
    }


def test_a_config_that_names_no_data_set_takes_the_models_own():
    """By the arguments of the training: 48 images of two classes."""
    found = load(runs.random_model_metadata(), num_examples=48)
    assert found.images.shape == (48, 4, 4, 1)
    assert set(found.labels) == {0, 1}
    assert found.dataset["name"] == "random_images"
    named = load(
        runs.random_model_metadata(),
        num_examples=48,
        dataset__name="random_images",
    )
    np.testing.assert_array_equal(named.images, found.images)


def test_another_data_set_is_built_by_its_own_arguments():
    """MNIST's arguments do not go to random images."""
    metadata = {
        "input_shape": [28, 28, 1],
        "num_classes": 10,
        "config": {"data": {"name": "mnist", "data_dir": "/nowhere"}},
    }
    found = load(metadata, num_examples=3, dataset__name="random_images")
    assert found.images.shape == (3, 28, 28, 1)


def test_the_files_are_where_this_machine_has_them(tmp_path):
    """Not where the trainer's had them."""
    metadata = DIGITS | {
        "input_shape": [28, 28, 1],
        "config": {"data": {"name": "mnist", "data_dir": "/of/the/trainer"}},
    }
    changes = {
        "dataset.data_dir": str(tmp_path),
        "dataset.download": False,
    }
    error = runs.refused(load, metadata, **changes)
    assert "downloads are off" in error.what
    assert str(tmp_path) in error.received
    assert os.listdir(tmp_path) == []
    data = DIGITS["config"]["data"] | {"data_dir": "/proc/of/the/trainer"}
    found = load(DIGITS | {"config": {"data": data}}, num_examples=3)
    assert found.images.shape == (3, 8, 8, 1)


def test_a_model_that_names_no_data_set_needs_it_in_the_config():
    for metadata in (
        {"input_shape": [8, 8, 1], "num_classes": 10},
        DIGITS | {"config": None},
        DIGITS | {"config": {}},
        DIGITS | {"config": "of another kind"},
        DIGITS | {"config": {"data": ["digits"]}},
    ):
        error = runs.refused(load, metadata)
        assert error.fix == "Set --config.dataset.name."
        found = load(metadata, dataset__name="digits", num_examples=4)
        assert found.images.shape == (4, 8, 8, 1)


@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_a_number_of_examples_is_a_count(count):
    error = runs.refused(load, num_examples=count)
    assert error.received == repr(count)
    assert "num_examples" in error.what


def test_all_examples_may_be_asked_for_but_no_more():
    assert len(load(num_examples=359).labels) == 359
    error = runs.refused(load, num_examples=360)
    assert error.received == "num_examples=360"
    assert error.expected == "at most 359 in digits test"
    assert error.fix == "Set --config.num_examples=359."


REFUSED = {
    "an unknown data set": (
        {"dataset.name": "digit"},
        '"digit"',
        'Did you mean "digits"?',
    ),
    "an unknown argument": (
        {"dataset.downlod": True},
        '"downlod"',
        'Did you mean "download"?',
    ),
    "an unknown split": ({"dataset.split": "tset"}, '"tset"', "Write it as"),
    "an empty split": (
        {"dataset.split": "test[:0]"},
        "test[:0]",
        "Write it as",
    ),
    "images of another shape": (
        {"dataset.name": "random_images"},
        "random_images images of shape (28, 28, 1)",
        "Set dataset.name",
    ),
}


@pytest.mark.parametrize(
    ("changes", "received", "fix"), REFUSED.values(), ids=REFUSED.keys()
)
def test_data_that_cannot_be_used_are_refused(changes, received, fix):
    error = runs.refused(load, **changes)
    assert received in error.received
    assert fix in error.fix


OWN = {"name": "npz:a.npz", "class_names": ["cat", "dog"]}
SECTIONS = {
    "the model's own": ({}, OWN, {"path": "a.npz", **OWN, "name": "npz"}),
    "its name and its file": (
        {"name": "npz", "path": "a.npz"},
        OWN,
        {"path": "a.npz", **OWN, "name": "npz"},
    ),
    "its file elsewhere": (
        {"path": "b.npz"},
        OWN,
        {"path": "b.npz", **OWN, "name": "npz"},
    ),
    "another file": (
        {"name": "npz:b.npz"},
        OWN,
        {"name": "npz", "path": "b.npz"},
    ),
    "other classes": (
        {"class_names": ["a", "b"]},
        OWN,
        {"name": "npz", "path": "a.npz", "class_names": ["a", "b"]},
    ),
    "another data set of TFDS": (
        {"name": "tfds:kmnist", "data_dir": "x"},
        {"name": "tfds:mnist", "image_size": 8, "data_dir": "y"},
        {"name": "tfds", "tfds_name": "kmnist", "data_dir": "x"},
    ),
    "another part": (
        {"name": "digits", "download": False},
        OWN,
        {"name": "digits", "download": False},
    ),
    "a part without data_dir": (
        {"name": "npz:b.npz", "data_dir": "x", "download": True},
        None,
        {"name": "npz", "path": "b.npz"},
    ),
}


@pytest.mark.parametrize(
    ("said", "own", "expected"), SECTIONS.values(), ids=SECTIONS.keys()
)
def test_the_models_own_arguments_replace_what_is_not_given(
    said, own, expected
):
    nothing = dict.fromkeys(("name", "data_dir", "download"))
    metadata = {"config": {"data": own}} if own else {}
    found = examples.section({**nothing, "split": "test", **said}, metadata)
    assert found == expected


@pytest.mark.parametrize(
    ("wanted", "fixes"),
    [
        ((8, 8, 3), ["color_mode=rgb"]),
        ((9, 8, 1), ["image_size=9,8"]),
        ((32, 32, 3), ["color_mode=rgb", "image_size=32,32"]),
        ((None, None, 3), ["color_mode=rgb"]),
        ((3, 32, 32), []),
        ((784,), []),
    ],
)
def test_images_that_do_not_fit_name_the_expected_shape(wanted, fixes):
    error = examples.misfit((8, 8, 1), wanted)
    assert error.received == "images of shape (8, 8, 1)"
    assert str(wanted) in error.expected
    told = [word for word in error.fix.split() if word.startswith("--config")]
    assert [word.rstrip(",") for word in told] == [
        f"--config.dataset.{fix}" for fix in fixes
    ]


def test_fewer_classes_than_the_models_are_noted():
    few, many = (types.SimpleNamespace(num_classes=n) for n in (10, 1000))
    (note,) = subject._notes_on_classes(model=many, found=few)
    assert "10 classes and the model 1000" in note
    assert subject._notes_on_classes(model=few, found=few) == []


def planted():
    images = np.random.default_rng(0).random((20, 8, 8, 1), np.float32)
    return images, np.arange(20) % 10


PLANTED = {
    "an image above 1": (lambda i, y: (i * 1.01, y), "outside of [0, 1]"),
    "an image below 0": (lambda i, y: (i - 0.01, y), "outside of [0, 1]"),
    "a pixel that is NaN": (
        lambda i, y: (np.where(i == i[3, 0, 0, 0], np.nan, i), y),
        "not finite",
    ),
    "a label of an eleventh class": (
        lambda i, y: (i, y + 1),
        "Labels are out of range",
    ),
    "one-hot labels": (lambda i, y: (i, np.eye(10)[y]), "one-hot"),
}


@pytest.mark.parametrize(
    ("plant", "words"), PLANTED.values(), ids=PLANTED.keys()
)
def test_images_and_labels_of_other_units_are_refused(
    monkeypatch, plant, words
):
    images, labels = planted()
    section = runs.plant_data(monkeypatch, images, labels)
    changes = {"dataset.name": section["name"], "num_examples": 20}
    np.testing.assert_array_equal(load(**changes).images, images)
    runs.plant_data(monkeypatch, *plant(images, labels))
    error = runs.refused(load, **changes)
    assert words in error.what


def test_labels_of_a_larger_data_set_than_the_models_are_refused():
    error = runs.refused(load, DIGITS | {"num_classes": 9})
    assert error.received == "classes from 0 to 9"


def folder(path, metadata=DIGITS, **changes):
    """What is read of an audit folder to find its clean images."""
    files.make_folder(path)
    config = {"audit": runs.audit_config(**changes)}
    files.write_json(path / "config.json", config)
    return summary.Model(metadata=metadata)


def test_the_clean_images_of_a_finished_audit_are_found_again(tmp_path):
    model = folder(tmp_path, num_examples=5)
    found = examples.of_folder(str(tmp_path), model)
    np.testing.assert_array_equal(found, load(num_examples=5).images)


def test_a_finished_audit_whose_data_are_not_here_has_no_images(tmp_path):
    absent = {
        "dataset.name": "mnist",
        "dataset.data_dir": str(tmp_path),
        "dataset.download": False,
    }
    model = folder(tmp_path / "absent", **absent)
    assert examples.of_folder(str(tmp_path / "absent"), model) is None
    model = folder(tmp_path / "damaged")
    (tmp_path / "damaged" / "config.json").write_text("{")
    with pytest.raises(UserError, match="A file is damaged"):
        examples.of_folder(str(tmp_path / "damaged"), model)
    (tmp_path / "damaged" / "config.json").unlink()
    assert examples.of_folder(str(tmp_path / "damaged"), model) is None
