"""The toy problem of equation 4 has the distribution of the paper."""

import math

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import seeds
from ib_keras.data import toy_tsipras

SIZE = 10_000
LARGE = 40_000
D, ETA, P = 100, 0.3, 0.95


def normal_below(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


# Of sign(x2 + ... + x101), whose sum is N(d eta y, d).
BY_THE_MEAN = normal_below(ETA * math.sqrt(D))


def features_of(images):
    return (np.float64(images[:, 0, :, 0]) - 0.5) * 16


@pytest.fixture(scope="module")
def splits():
    """Split -> features float64 `[n, 101]` and y, -1 or +1."""
    made = toy_tsipras.build()
    loaded = {s: made.load(s) for s in ("train", "test", "adversarial")}
    return {
        split: (features_of(images), 2 * labels - 1)
        for split, (images, labels) in loaded.items()
    }


def assert_share(share, probability, count):
    """To five standard errors of a share of so many draws."""
    error = 5 * math.sqrt(probability * (1 - probability) / count)
    assert abs(share - probability) < error


def test_each_split_has_ten_thousand_examples(splits):
    made = toy_tsipras.build()
    assert made.image_shape == (1, 101, 1)
    assert made.class_names == ("-1", "+1")
    assert made.feature_range == (-8.0, 8.0)
    for x, y in splits.values():
        assert x.shape == (SIZE, 101) and y.shape == (SIZE,)


@pytest.mark.parametrize("split", ["train", "test", "adversarial"])
def test_the_first_feature_is_right_with_probability_p(splits, split):
    x, y = splits[split]
    assert set(np.unique(x[:, 0])) == {-1.0, 1.0}
    assert_share((x[:, 0] == y).mean(), P, SIZE)
    assert_share((y > 0).mean(), 0.5, SIZE)


@pytest.mark.parametrize(
    ("split", "sign"), [("train", 1), ("test", 1), ("adversarial", -1)]
)
def test_the_others_are_normal_around_eta_times_the_label(splits, split, sign):
    x, y = splits[split]
    noise = x[:, 1:] - sign * ETA * y[:, None]
    # The largest of 100 means: six standard errors of each.
    assert np.abs(noise.mean(0)).max() < 6 / math.sqrt(SIZE)
    assert np.abs(noise.var(0) - 1).max() < 6 * math.sqrt(2 / SIZE)
    for size in (0.5, 1.0, 2.0, 3.0):
        inside = 2 * normal_below(size) - 1
        assert_share((np.abs(noise) < size).mean(), inside, noise.size)


def test_the_others_are_independent(splits):
    x, y = splits["test"]
    noise = x - ETA * y[:, None]
    noise[:, 0] = x[:, 0] * y
    correlations = np.corrcoef(np.concatenate([noise.T, [y]]))
    np.fill_diagonal(correlations, 0)
    # The largest of 5,151: six standard errors.
    assert np.abs(correlations).max() < 6 / math.sqrt(SIZE)


def test_the_mean_feature_is_as_right_as_its_closed_form_says(splits):
    assert pytest.approx(0.99865, abs=1e-5) == BY_THE_MEAN
    for split, expected in (
        ("test", BY_THE_MEAN),
        ("adversarial", 1 - BY_THE_MEAN),
    ):
        x, y = splits[split]
        right = np.sign(x[:, 1:].sum(1)) == y
        assert_share(right.mean(), expected, SIZE)


def test_the_attack_shifts_the_test_examples_by_two_eta(splits):
    x, y = splits["test"]
    attacked, same = splits["adversarial"]
    np.testing.assert_array_equal(y, same)
    np.testing.assert_array_equal(x[:, 0], attacked[:, 0])
    shift = attacked[:, 1:] - x[:, 1:]
    # Both ends are rounded, to float32 and to the grid of 2^-20.
    expected = np.broadcast_to(-2 * ETA * y[:, None], shift.shape)
    np.testing.assert_allclose(shift, expected, rtol=0, atol=2**-19)


def test_nothing_is_cut_off():
    """Of 24 bits no normal number is above sqrt(2 log 2^24)."""
    assert math.sqrt(2 * 24 * math.log(2)) + ETA < 8
    draw = tf.function(toy_tsipras.build().draw)
    images, _ = draw(seeds.fold(seeds.from_int(2), tf.range(LARGE)))
    assert 0.1 < images.numpy().min() and images.numpy().max() < 0.9


def test_the_seed_of_the_data_section_fixes_them():
    def load(seed):
        return toy_tsipras.build(seed=seed).load("test")[0]

    np.testing.assert_array_equal(load(3), load(3))
    assert (load(3) != load(4))[:, 0, 1:].mean() > 0.99
