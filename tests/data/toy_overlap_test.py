"""The toy problem of section 3.3 has the distribution of the paper."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import seeds
from ib_keras.data import toy_overlap

SIZE = 10_000
LARGE = 200_000


def features_of(images):
    return (np.float64(images[:, 0, :, 0]) - 0.5) * 32


def load(split, **arguments):
    """Features float64 `[n, 2]` and y, -1 or +1."""
    images, labels = toy_overlap.build(**arguments).load(split)
    return features_of(images), 2 * labels - 1


@pytest.fixture(scope="module")
def drawn():
    """Many examples as training draws them: features, and y."""
    draw = tf.function(toy_overlap.build().draw)
    images, labels = draw(seeds.fold(seeds.from_int(11), tf.range(LARGE)))
    return features_of(images.numpy()), 2 * labels.numpy() - 1


def test_each_split_has_ten_thousand_examples_of_two_features():
    made = toy_overlap.build()
    assert made.image_shape == (1, 2, 1)
    assert made.class_names == ("-1", "+1")
    assert made.feature_range == (-16.0, 16.0)
    for split in ("train", "test", "adversarial"):
        assert len(made.load(split)[1]) == SIZE


@pytest.mark.parametrize("split", ["train", "test", "adversarial"])
def test_the_sign_of_the_first_feature_is_always_right(split):
    x, y = load(split)
    np.testing.assert_array_equal(np.sign(x[:, 0]), y)


def test_the_sign_of_the_second_is_right_in_nine_of_ten_cases():
    """The best that it alone can do; five standard errors of 10,000."""
    x, y = load("test")
    error = 5 * np.sqrt(0.9 * 0.1 / SIZE)
    assert abs((np.sign(x[:, 1]) == y).mean() - 0.9) < error


def test_the_sign_of_the_second_is_always_wrong_where_it_is_attacked():
    x, y = load("adversarial")
    np.testing.assert_array_equal(np.sign(x[:, 1]), -y)


def test_adversarial_examples_are_others_than_those_of_the_test():
    rows = {tuple(row) for row in load("test")[0]}
    assert not any(tuple(row) in rows for row in load("adversarial")[0])


def assert_uniform(values, low, high):
    """By the Kolmogorov-Smirnov distance; 1.95 / sqrt(n) is p = 0.001."""
    values = np.sort((values - low) / (high - low))
    assert 0 <= values[0] and values[-1] <= 1
    steps = np.arange(len(values) + 1) / len(values)
    distance = max(
        np.abs(values - steps[1:]).max(), np.abs(values - steps[:-1]).max()
    )
    assert distance < 1.95 / np.sqrt(len(values))


def test_the_distribution_is_that_of_the_paper(drawn):
    x, y = drawn
    x1, x2 = (x * y[:, None]).T
    assert abs((y > 0).mean() - 0.5) < 5 * 0.5 / np.sqrt(LARGE)
    agrees = x2 > 0
    assert abs(agrees.mean() - 0.9) < 5 * 0.3 / np.sqrt(LARGE)
    for chosen in (y > 0, y < 0):
        assert_uniform(x1[chosen], 0, 10)
        assert_uniform(x2[chosen & agrees], 0, 1)
        assert_uniform(x2[chosen & ~agrees], -1, 0)
    assert x1.max() <= 10 and np.abs(x2).max() <= 1
    assert np.abs(x).min() > 0


def test_the_features_are_independent_given_the_label(drawn):
    x, y = drawn
    x1, x2 = (x * y[:, None]).T
    for first in (x1, y):
        for second in (np.abs(x2), x2 > 0):
            correlation = np.corrcoef(first, second)[0, 1]
            assert abs(correlation) < 5 / np.sqrt(LARGE)


def test_low_density_regions_are_filled_evenly():
    x, y = load("adversarial")
    assert_uniform(x[:, 0] * y, 0, 10)
    assert_uniform(x[:, 1] * y, -1, 0)


def test_the_seed_of_the_data_section_fixes_them():
    first, again, other = (load("test", seed=s)[0] for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.99
