"""Features become images and come back as they were."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import seeds
from ib_keras.data import features
from ib_keras.errors import UserError

_SEEDS = seeds.fold(seeds.from_int(5), tf.range(500))


@pytest.mark.parametrize("bound", [1.0, 8.0, 16.0])
def test_the_way_to_images_and_back_is_exact_on_the_grid(bound):
    step = features.grid(bound)
    assert step == 2 * bound / 2**24
    random = np.random.default_rng(3)
    whole = random.integers(-(2**23), 2**23, [200, 5], endpoint=True)
    whole[0] = [-(2**23), 2**23, 0, 1, -1]
    values = (whole * step).astype(np.float32)
    images = features.to_images(tf.constant(values), bound).numpy()
    assert images.shape == (200, 1, 5, 1) and images.dtype == np.float32
    assert images.min() == 0.0 and images.max() == 1.0
    back = (images[:, 0, :, 0] - np.float32(0.5)) / np.float32(1 / (2 * bound))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, values)


def test_a_value_between_is_rounded_and_one_beyond_is_cut():
    values = tf.constant([[np.pi, -np.pi, 9.0, -9.0]], tf.float32)
    pixels = features.to_images(values, 8.0).numpy().ravel()
    back = (np.float64(pixels) - 0.5) * 16
    assert np.abs(back[:2] - [np.pi, -np.pi]).max() <= features.grid(8.0)
    np.testing.assert_array_equal(pixels[2:], [1.0, 0.0])
    np.testing.assert_array_equal(pixels * 2**24 % 1, np.zeros(4))


def make(num_examples=500, seed=0):
    def alternate(example_seeds):
        units = seeds.uniform(example_seeds, (3,))
        y = features.signs(units[:, 0])
        return y[:, None] * units, y

    return features.make_source(
        "alternate",
        "a data set of three features",
        num_features=3,
        bound=2.0,
        draws={
            "train": (0, alternate),
            "test": (1, alternate),
            "again": (1, alternate),
        },
        num_examples=num_examples,
        seed=seed,
    )


def test_the_class_of_minus_one_is_zero():
    images, labels = make().load("test")
    assert images.shape == (500, 1, 3, 1) and labels.dtype == np.int32
    np.testing.assert_array_equal(labels, (images[:, 0, 2, 0] > 0.5) * 1)


def test_splits_of_one_number_share_their_seeds_and_others_do_not():
    made = make()
    test, again, train = (made.load(s)[0] for s in ("test", "again", "train"))
    np.testing.assert_array_equal(test, again)
    assert (test != train).mean() > 0.99
    assert (test != make(seed=1).load("test")[0]).mean() > 0.99


def test_a_slice_is_that_part_of_the_whole():
    made = make(num_examples=37)
    whole = made.load("test")
    for split, part in (
        ("test[:5]", slice(5)),
        ("test[11:]", slice(11, None)),
        ("test[-3:]", slice(-3, None)),
    ):
        for ours, all_of in zip(made.load(split), whole, strict=True):
            np.testing.assert_array_equal(ours, all_of[part])


def test_what_is_drawn_is_a_split_s_example_of_that_seed():
    made = make()
    purpose = seeds.fold(seeds.from_int(0), 0)
    images, labels = made.draw(seeds.fold(purpose, tf.range(500)))
    np.testing.assert_array_equal(images, made.load("train")[0])
    np.testing.assert_array_equal(labels, made.load("train")[1])
    again = tf.function(made.draw)(seeds.fold(purpose, tf.range(500)))
    np.testing.assert_array_equal(images, again[0])


def test_signs_come_with_their_probability():
    units = seeds.uniform(_SEEDS, (200,))
    for probability in (0.0, 0.5, 0.95, 1.0):
        values = features.signs(units, probability).numpy()
        assert set(np.unique(values)) <= {-1.0, 1.0}
        # Five standard errors of a share of 100,000 draws.
        error = 5 * np.sqrt(probability * (1 - probability) / values.size)
        assert abs((values > 0).mean() - probability) <= error


@pytest.mark.parametrize("size", [0, -3, 2.5, "many"])
def test_impossible_sizes_are_user_errors(size):
    with pytest.raises(UserError) as error:
        make(num_examples=size)
    for word in (f"num_examples={size!r}", "Expected: a whole", "Fix:"):
        assert word in str(error.value)
