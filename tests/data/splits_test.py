"""Split strings against Python's own slices."""

import numpy as np
import pytest

from ib_keras.data import splits
from ib_keras.errors import UserError

_SIZES = {"train": 200, "test": 50}


def _examples(split):
    return np.concatenate(
        [
            np.arange(_SIZES[name])[start:stop] + 1000 * (name == "test")
            for name, start, stop in splits.resolve(split, _SIZES)
        ]
    ).tolist()


_TRAIN = list(range(200))
_TEST = list(range(1000, 1050))


@pytest.mark.parametrize(
    "split, expected",
    [
        ("train", _TRAIN),
        ("test", _TEST),
        ("test[:8]", _TEST[:8]),
        ("test[8:]", _TEST[8:]),
        ("test[-8:]", _TEST[-8:]),
        ("train[10:20]", _TRAIN[10:20]),
        ("train[:90%]", _TRAIN[:180]),
        ("train[90%:]", _TRAIN[180:]),
        ("train[-10%:]", _TRAIN[-20:]),
        ("train[5:7]+test[:2]", _TRAIN[5:7] + _TEST[:2]),
        ("test[49:50]", _TEST[49:]),
    ],
)
def test_split_strings_mean_what_slices_mean(split, expected):
    assert _examples(split) == expected


@pytest.mark.parametrize(
    "split, what",
    [
        ("validation", "no such split"),
        ("", "no such split"),
        ("test[::2]", "no such split"),
        ("test[abc]", "no such split"),
        ("test[:51]", "no such split"),
        ("test[:101%]", "no such split"),
        ("test[:0]", "empty"),
        ("test[20:10]", "empty"),
    ],
)
def test_what_is_not_a_split_is_a_user_error_that_lists_the_splits(split, what):
    with pytest.raises(UserError) as error:
        splits.resolve(split, _SIZES)
    message = str(error.value)
    assert what in message
    assert f'Received: "{split}"' in message
    assert "Expected:" in message and "train (200), test (50)" in message
    assert 'Fix: Write it as "train"' in message
