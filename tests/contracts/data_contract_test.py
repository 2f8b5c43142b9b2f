"""What every part of `ib_keras.data` promises, tested for all that exist."""

import inspect
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import plugins
from ib_keras import seeds
from ib_keras.data import batches
from ib_keras.data import digits
from ib_keras.data import prepared
from ib_keras.data.source import DataSource
from ib_keras.errors import UserError
from tests.support import own_files

_TFDS = pathlib.Path(__file__).resolve().parents[3] / "shared" / "tfds"
_TRAIN = "train[:20%]"
_NAMES = plugins.names("data")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder with links to the prepared data sets, where others can write."""
    folder = tmp_path_factory.mktemp("tfds")
    for path in _TFDS.iterdir() if _TFDS.exists() else ():
        (folder / path.name).symlink_to(path, target_is_directory=True)
    return folder


@pytest.fixture(scope="module", params=_NAMES)
def source(request, data_dir):
    """Each part in turn; skipped where its data is not there."""
    section = {"name": request.param}
    if plugins.takes("data", request.param, "data_dir"):
        section |= {"data_dir": str(data_dir), "download": False}
    if request.param in _ARGUMENTS:
        section |= _ARGUMENTS[request.param](data_dir)
    try:
        plugins.check("data", section)
        return plugins.build("data", section)
    except UserError as error:
        if "is not there" not in str(error):
            raise
        pytest.skip(f"{error.what}: {error.received}")


def _prepared(data_dir):
    digits.build(str(data_dir))
    return {"tfds_name": "ib_digits"}


# What a part cannot be built without.
_ARGUMENTS = {
    "image_folder": lambda folder: {"path": own_files.image_folder(folder)},
    "npz": lambda folder: {"path": own_files.npz(folder)},
    "tfds": _prepared,
}


@pytest.fixture(scope="module")
def splits(source):
    """The loaded splits of a part, `{split: (images, labels)}`."""
    return {split: source.load(split) for split in (_TRAIN, "test")}


def test_the_parts_are_found_by_their_files():
    assert {"cifar10", "digits", "mnist", "random_images"} <= set(_NAMES)
    assert {"toy_overlap", "toy_tsipras"} <= set(_NAMES)
    assert not {"augment", "batches", "features", "source"} & set(_NAMES)


@pytest.mark.parametrize("name", _NAMES)
def test_what_is_built_can_be_checked(name):
    """The `check` of a part, where it has one, takes what `build` takes."""
    module = plugins.load("data", name)
    if not hasattr(module, "check"):
        pytest.skip("this data set has nothing to refuse early")
    arguments = inspect.signature(module.build).parameters
    inspect.signature(module.check).bind(**dict.fromkeys(arguments))


def test_splits_that_are_listed_are_there(source):
    """So that a wrong one can be refused before the data are loaded."""
    name = source.name.partition(":")[0]
    listed = plugins.constant("data", name, "SPLITS")
    if listed is None:
        pytest.skip("its splits are not known beforehand")
    for split in listed:
        images, _ = source.load(f"{split}[:2]")
        assert len(images) == 2


def test_a_part_says_what_it_is(source, request):
    assert isinstance(source, DataSource)
    name = source.name.partition(":")[0]
    assert name in request.node.callspec.params.values()
    assert source.description
    height, width, channels = source.image_shape
    assert height > 0 and width > 0 and channels > 0
    assert source.num_classes == len(set(source.class_names)) > 1
    assert all(type(name) is str for name in source.class_names)


@pytest.mark.parametrize("split", [_TRAIN, "test"])
def test_images_use_the_range_of_their_units(source, splits, split):
    images, _ = splits[split]
    assert type(images) is np.ndarray
    assert images.dtype in (np.uint8, np.float32)
    largest = 255 if images.dtype == np.uint8 else 1.0
    assert images.shape[1:] == tuple(source.image_shape)
    assert len(images) > 0
    assert 0 <= images.min() < largest / 4
    assert largest * 3 / 4 < images.max() <= largest


@pytest.mark.parametrize("split", [_TRAIN, "test"])
def test_there_is_one_label_in_range_for_each_image(source, splits, split):
    images, labels = splits[split]
    assert type(labels) is np.ndarray and labels.dtype == np.int32
    assert labels.shape == (len(images),)
    assert labels.min() >= 0 and labels.max() < source.num_classes


def test_every_class_occurs(source, splits):
    _, labels = splits["test"]
    assert len(np.unique(labels)) == source.num_classes


def test_loading_twice_gives_the_same(source, splits):
    prepared.forget()
    again = source.load("test")
    assert again[0] is not splits["test"][0]
    np.testing.assert_array_equal(again[0], splits["test"][0])
    np.testing.assert_array_equal(again[1], splits["test"][1])


def test_a_slice_is_the_beginning_of_the_split(source, splits):
    images, labels = source.load("test[:16]")
    assert len(images) == 16
    np.testing.assert_array_equal(images, splits["test"][0][:16])
    np.testing.assert_array_equal(labels, splits["test"][1][:16])


def test_train_and_test_are_disjoint(source, splits):
    if source.name in ("mnist", "cifar10"):
        pytest.skip("the originals are published as they are")
    train = source.load("train")[0]
    test = splits["test"][0]
    rows = {image.tobytes() for image in train}
    assert len(rows) == len(train)
    assert not rows & {image.tobytes() for image in test}


def test_an_unknown_split_is_a_user_error(source):
    with pytest.raises(UserError) as error:
        source.load("no_such_split")
    for word in ("Received:", "no_such_split", "Expected:", "train", "Fix:"):
        assert word in str(error.value)


def test_evaluation_counts_every_example_once(source, splits):
    images, labels = splits["test"]
    batch_size = 7 * len(labels) // 20 + 1  # Never divides the split.
    # Sums of bytes, or of pixels on a grid of 2^-24, are exact in float64.
    seen = [
        (batch.astype(np.float64).sum(), batch_labels[mask])
        for batch, batch_labels, mask in batches.eval_batches(
            images, labels, batch_size
        ).as_numpy_iterator()
    ]
    assert len(seen) * batch_size > len(labels)
    np.testing.assert_array_equal(
        np.concatenate([batch_labels for _, batch_labels in seen]), labels
    )
    assert sum(total for total, _ in seen) == images.astype(np.float64).sum()


def test_what_is_drawn_is_a_function_of_each_seed(source, splits):
    if source.draw is None:
        pytest.skip("the examples of this data set are given")
    images, labels = splits["test"]
    one, two = seeds.from_int(1), seeds.from_int(2)
    first, again, other = (
        source.draw(seeds.fold(seed, tf.range(64))) for seed in (one, one, two)
    )
    for ours, theirs in zip(first, (images, labels), strict=True):
        assert ours.shape == (64, *theirs.shape[1:])
        assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    rows = {image.tobytes() for image in np.concatenate([first[0], other[0]])}
    assert len(rows) == 128
    moved = source.draw(seeds.fold(one, tf.range(63, -1, -1)))
    np.testing.assert_allclose(moved[0][::-1], first[0], rtol=0, atol=1e-6)
    compiled = tf.function(source.draw)(seeds.fold(one, tf.range(64)))
    np.testing.assert_array_equal(first[0], compiled[0])


def test_features_of_its_own_have_a_range_around_the_pixels(source):
    if source.feature_range is None:
        pytest.skip("this data set has no units but its pixels'")
    low, high = source.feature_range
    assert low < high


def test_augmentation_is_a_function_of_the_seed(source, splits):
    if source.augment is None:
        pytest.skip("this data set is not augmented")
    images = splits["test"][0][:8]
    results = [
        source.augment(tf.constant(images), tf.constant(seed))
        for seed in ([1, 2], [1, 2], [1, 3])
    ]
    for result in results:
        assert result.shape == images.shape and result.dtype == tf.uint8
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], images)
