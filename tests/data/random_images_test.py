"""The synthetic source is a pure function, and its classes can be learnt."""

import numpy as np
import pytest

from ib_keras.data import random_images
from ib_keras.errors import UserError


def test_same_arguments_same_images_other_seed_other_images():
    arguments = {"image_shape": (5, 4, 3), "num_train": 40, "num_test": 20}
    first = random_images.build(seed=3, **arguments).load("train")
    again = random_images.build(seed=3, **arguments).load("train")
    other = random_images.build(seed=4, **arguments).load("train")
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).mean() > 0.9


def test_more_images_do_not_change_the_earlier_ones():
    few = random_images.build(num_train=300).load("train")
    many = random_images.build(num_train=600).load("train")
    assert len(few[0]) == 300 and len(many[0]) == 600
    np.testing.assert_array_equal(few[0], many[0][:300])
    np.testing.assert_array_equal(few[1], many[1][:300])


@pytest.mark.parametrize(
    "split, part",
    [
        ("test[:64]", slice(0, 64)),
        ("test[25%:50%]", slice(32, 64)),
        ("test[-5:]", slice(-5, None)),
    ],
)
def test_a_slice_is_that_part_of_the_whole(split, part):
    source = random_images.build(image_shape=(4, 4, 1))
    images, labels = source.load("test")
    sliced_images, sliced_labels = source.load(split)
    np.testing.assert_array_equal(sliced_images, images[part])
    np.testing.assert_array_equal(sliced_labels, labels[part])


def test_splits_share_no_image():
    source = random_images.build(image_shape=(8, 8, 1))
    both = np.concatenate([source.load("train")[0], source.load("test")[0]])
    assert len(np.unique(both.reshape(len(both), -1), axis=0)) == 640


def test_classes_are_visible_in_whole_images_and_weak_in_a_pixel():
    source = random_images.build()
    images, labels = source.load("train")
    test_images, test_labels = source.load("test")
    images = images.reshape(len(images), -1) / 255.0
    means = np.stack([images[labels == k].mean(0) for k in range(10)])
    scores = test_images.reshape(len(test_images), -1) / 255.0 @ means.T
    scores -= (means**2).sum(1) / 2
    assert (scores.argmax(1) == test_labels).mean() > 0.9
    share = means.var(0) / images.var(0)
    assert 0.05 < share.mean() < 0.2


def test_pixels_use_the_whole_range():
    images, _ = random_images.build().load("train")
    assert images.min() < 8 and images.max() > 247


@pytest.mark.parametrize(
    "arguments",
    [
        {"image_shape": (28, 28)},
        {"image_shape": (28, 0, 1)},
        {"num_classes": 0},
        {"num_train": -1},
        {"num_test": 2.5},
    ],
)
def test_impossible_sizes_are_user_errors(arguments):
    with pytest.raises(UserError) as error:
        random_images.build(**arguments)
    ((name, value),) = arguments.items()
    message = str(error.value)
    assert f"{name} {value}" in message.split("Expected:")[0]
    assert "whole numbers above 0" in message and "Fix:" in message


def test_an_unknown_split_is_a_user_error():
    with pytest.raises(UserError, match="train .512., test .128."):
        random_images.build().load("validation")
