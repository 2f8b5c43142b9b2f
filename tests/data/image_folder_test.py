"""Folders of images give what Keras reads of them, or say what is wrong."""

import pathlib
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from ib_keras.data import image_folder
from tests.support import own_files
from tests.support import runs


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folders `train` and `test` with images of four classes; read only."""
    return own_files.image_folder(tmp_path_factory.mktemp("split"))


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """60 images in a folder for each class; read only."""
    folder = tmp_path_factory.mktemp("flat")
    return own_files.image_folder(folder, has_splits=False)


def of_keras(path, **more):
    """Images and labels as Keras reads them, sorted by the bytes."""
    dataset = keras.utils.image_dataset_from_directory(
        path, shuffle=False, batch_size=1000, verbose=False, **more
    )
    images, labels = next(dataset.as_numpy_iterator())
    return dataset.class_names, sort(images, labels)


def sort(images, labels):
    rows = [
        (image.astype(np.float32).tobytes(), int(label))
        for image, label in zip(np.round(images), labels, strict=True)
    ]
    return sorted(rows)


FORMS = {
    "as they are": {"image_size": (6, 5)},
    "gray": {"image_size": (6, 5), "color_mode": "grayscale"},
    "with alpha": {"image_size": (6, 5), "color_mode": "rgba"},
    "larger": {"image_size": (9, 13)},
    "smaller": {"image_size": (3, 4), "interpolation": "bicubic"},
    "by area": {"image_size": (4, 4), "interpolation": "area"},
    "cut": {"image_size": (4, 4), "crop_to_aspect_ratio": True},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_the_pixels_are_those_of_keras(photos, form):
    source = image_folder.build(photos, **form)
    images, labels = source.load("test")
    names, expected = of_keras(f"{photos}/test", **form)
    assert source.class_names == tuple(names) == own_files.NAMES
    assert images.shape[1:] == source.image_shape
    if form.get("interpolation") == "bicubic":  # It leaves 0..255, a byte not.
        expected = [
            (np.clip(np.frombuffer(b, np.float32), 0, 255).tobytes(), n)
            for b, n in expected
        ]
        expected.sort()
    assert sort(images, labels) == expected


def test_the_size_is_that_of_the_images_where_none_is_given(photos):
    source = image_folder.build(photos)
    assert source.image_shape == own_files.SHAPE
    images, labels = source.load("train")
    _, expected = of_keras(f"{photos}/train", image_size=(6, 5))
    assert sort(images, labels) == expected
    assert source.description == "photos"


# `printf bird/0.png | sha256sum` and so on for all 60, sorted.
FIRST = (
    "frog/7.png",
    "cat/49.png",
    "cat/29.png",
    "frog/43.png",
    "bird/44.png",
    "cat/41.png",
)


def test_the_order_mixes_classes_and_is_that_of_every_machine(photos, tmp_path):
    images, _ = image_folder.build(photos).load("test")
    for image, name in zip(images, FIRST, strict=False):
        expected = np.asarray(Image.open(f"{photos}/test/{name}"))
        np.testing.assert_array_equal(image, expected)
    copy = shutil.copytree(photos, tmp_path / "elsewhere")
    again, _ = image_folder.build(copy).load("test")
    np.testing.assert_array_equal(images, again)


def test_a_folder_without_splits_is_a_test(flat):
    source = image_folder.build(flat)
    images, labels = source.load("test")
    _, expected = of_keras(flat, image_size=(6, 5))
    assert sort(images, labels) == expected
    assert "test (60)" in runs.refused(source.load, "train").expected


def test_a_fraction_of_each_class_is_held_out(flat, tmp_path):
    source = image_folder.build(flat, test_fraction=0.2)
    train, test = source.load("train"), source.load("test")
    assert np.bincount(test[1]).tolist() == [3, 3, 3, 3]
    assert np.bincount(train[1]).tolist() == [12, 12, 12, 12]
    everything = np.concatenate([train[0], test[0]])
    labels = np.concatenate([train[1], test[1]])
    _, expected = of_keras(flat, image_size=(6, 5))
    assert sort(everything, labels) == expected
    # A file more in one class moves none of the others.
    copy = shutil.copytree(flat, tmp_path / "flat")
    shutil.copy(copy / "cat" / "1.png", copy / "cat" / "new.png")
    images, labels = image_folder.build(copy, test_fraction=0.2).load("test")
    np.testing.assert_array_equal(images[labels != 1], test[0][test[1] != 1])


def test_named_classes_keep_the_labels_of_a_larger_model(photos):
    names = ("frog", "horse", "bird")
    source = image_folder.build(photos, class_names=names)
    assert source.class_names == names
    images, labels = source.load("test")
    assert sorted(set(labels.tolist())) == [0, 2]
    _, expected = of_keras(
        f"{photos}/test", image_size=(6, 5), class_names=["frog", "bird"]
    )
    expected = [(pixels, 2 * label) for pixels, label in expected]
    assert sort(images, labels) == sorted(expected)


def no_class(path):
    shutil.rmtree(path / "test")
    for name in own_files.NAMES[1:]:
        shutil.rmtree(path / "train" / name)
    shutil.move(path / "train" / "bird", path / "bird")
    shutil.rmtree(path / "train")


def another_class(path):
    shutil.move(path / "test" / "cat", path / "test" / "cow")


def no_images(path):
    for file in (path / "test").rglob("*.png"):
        file.unlink()


def damage(path):
    (path / "test" / "cat" / "1.png").write_bytes(b"\x89PNG and no more")


def another_size(path):
    Image.new("RGB", (7, 7)).save(path / "test" / "cat" / "1.png")


def nothing(path):
    del path


WRONG = {
    "no folders": (no_class, {}, "bird"),
    "classes that differ": (another_class, {"class_names": None}, None),
    "no images": (no_images, {}, "of test"),
    "a name without a folder": (
        nothing,
        {"class_names": ["cow", "horse"]},
        "cow, horse",
    ),
    "a fraction of splits": (nothing, {"test_fraction": 0.5}, "train, test"),
    "a damaged image": (damage, {}, "cat/1.png"),
    "an image of another size": (another_size, {}, "(7, 7, 3)"),
    "an unknown color": (nothing, {"color_mode": "gray"}, "gray"),
    "a size of three": (nothing, {"image_size": [1, 2, 3]}, "[1, 2, 3]"),
    "a size below 1": (nothing, {"image_size": 0}, "0"),
    "an unknown interpolation": (nothing, {"interpolation": "fine"}, "fine"),
    "a text for a truth": (nothing, {"crop_to_aspect_ratio": "no"}, "'no'"),
}


@pytest.mark.parametrize(
    ("spoil", "more", "said"), WRONG.values(), ids=WRONG.keys()
)
def test_what_is_wrong_is_said(photos, tmp_path, spoil, more, said):
    copy = pathlib.Path(shutil.copytree(photos, tmp_path / "photos"))
    spoil(copy)

    def read():
        return image_folder.build(str(copy), **more).load("test")

    error = runs.refused(read)
    assert (said or "train: 4; test: 4") in error.received


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.01, "half", 1])
def test_a_fraction_holds_out_some_and_leaves_some(flat, fraction):
    error = runs.refused(image_folder.build, flat, test_fraction=fraction)
    assert f"test_fraction={fraction!r}" in error.received


def test_a_split_larger_than_the_memory_is_refused(photos):
    source = image_folder.build(photos, image_size=(1_000_000, 1_000_000))
    error = runs.refused(source.load, "test")
    assert "60 images" in error.received and "test[:5000]" in error.fix


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "val")])
def test_splits_of_other_names_are_no_classes(photos, tmp_path, names):
    for name in names:
        shutil.copytree(pathlib.Path(photos, "train"), tmp_path / name)
    error = runs.refused(image_folder.build, str(tmp_path))
    assert names[0] in error.received and "train, test" in error.fix
    said = image_folder.build(str(tmp_path), class_names=names)
    assert said.class_names == names


@pytest.mark.parametrize("names", [["a", "a"], "a", []])
def test_classes_are_two_or_more_each_named_once(flat, names):
    error = runs.refused(image_folder.build, flat, class_names=names)
    assert "the classes" in error.received


def test_a_name_on_disk_need_not_be_text(flat, tmp_path):
    folder = shutil.copytree(flat, tmp_path / "copy")
    some = next(folder.rglob("*.png"))
    some.rename(bytes(some.parent).decode() + "/" + "\udcff.png")
    before, after = (
        image_folder.build(str(place)).load("test") for place in (flat, folder)
    )
    assert sort(*before) == sort(*after)


def test_why_a_file_cannot_be_read_is_said(flat, tmp_path):
    folder = shutil.copytree(flat, tmp_path / "copy")
    some = next(folder.rglob("*.png"))
    with Image.open(some) as image:
        image.convert("RGB").save(some.with_suffix(".bmp"))
    source = image_folder.build(str(folder), color_mode="grayscale")
    error = runs.refused(source.load, "test")
    assert "channels" in error.received and "{{" not in error.received


def test_a_size_that_is_no_whole_number_is_refused(flat):
    error = runs.refused(image_folder.build, flat, image_size=8.0)
    assert "8.0" in error.received
