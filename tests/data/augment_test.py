"""Crops and flips against a plain NumPy loop over all that can happen."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from ib_keras.data import augment


def _outcomes(image, pad):
    """All that a crop and flip can give: `(top, left, is_flipped)` -> image."""
    height, width, channels = image.shape
    padded = np.zeros(
        [height + 2 * pad, width + 2 * pad, channels], image.dtype
    )
    padded[pad : pad + height, pad : pad + width] = image
    places = range(2 * pad + 1)
    for top, left, is_flipped in itertools.product(places, places, (0, 1)):
        crop = padded[top : top + height, left : left + width]
        yield (top, left, is_flipped), crop[:, :: -1 if is_flipped else 1]


def _choices(images, results, pad):
    """Finds which outcome each result is; exactly one must fit."""
    found = []
    for image, result in zip(images, results, strict=True):
        fitting = [
            choice
            for choice, outcome in _outcomes(image, pad)
            if np.array_equal(outcome, result)
        ]
        assert len(fitting) == 1
        found += fitting
    return np.array(found)


def _images(count, seed=0, shape=(6, 9, 2)):
    random = np.random.default_rng(seed)
    return random.integers(1, 256, [count, *shape]).astype(np.uint8)


@pytest.mark.parametrize("pad", [0, 1, 2])
def test_every_result_is_one_crop_and_flip_of_its_own_image(pad):
    images = _images(64)
    results = augment.random_crop_and_flip(images, tf.constant([3, 4]), pad)
    assert results.dtype == tf.uint8 and results.shape == images.shape
    choices = _choices(images, results.numpy(), pad)
    assert len(np.unique(choices, axis=0)) > min(20, 2 * pad)


def test_all_outcomes_are_equally_likely_and_independent():
    pad, count = 1, 1800
    images = _images(count)
    results = augment.random_crop_and_flip(images, tf.constant([5, 6]), pad)
    top, left, is_flipped = _choices(images, results.numpy(), pad).T
    counts = np.bincount((top * 3 + left) * 2 + is_flipped, minlength=18)
    expected = count / 18
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 48  # Degrees of freedom 17, p = 1e-4.


def test_neighbours_in_a_batch_get_independent_choices():
    count = 2000
    images = _images(count)
    results = augment.random_crop_and_flip(images, tf.constant([7, 8]), 1)
    choices = _choices(images, results.numpy(), 1)
    for first, second in zip(choices[:-1].T, choices[1:].T, strict=True):
        correlation = np.corrcoef(first, second)[0, 1]
        assert abs(correlation) < 5 / np.sqrt(count)


def test_the_seed_alone_decides():
    images = _images(32)
    same = [
        augment.random_crop_and_flip(images, tf.constant([1, 2]))
        for _ in range(2)
    ]
    other = augment.random_crop_and_flip(images, tf.constant([1, 3]))
    np.testing.assert_array_equal(*same)
    assert not np.array_equal(same[0], other)


def test_eager_graph_and_pipeline_agree_and_keep_the_static_shape():
    images = _images(16)
    seed = tf.constant([9, 10])
    eager = augment.random_crop_and_flip(images, seed)
    graph = tf.function(augment.random_crop_and_flip)(images, seed)
    dataset = tf.data.Dataset.from_tensors((images, seed)).map(
        augment.random_crop_and_flip
    )
    assert dataset.element_spec == tf.TensorSpec([16, 6, 9, 2], tf.uint8)
    (pipeline,) = dataset
    np.testing.assert_array_equal(eager, graph)
    np.testing.assert_array_equal(eager, pipeline)


def test_floating_point_images_are_augmented_alike():
    images = _images(16)
    seed = tf.constant([9, 10])
    expected = augment.random_crop_and_flip(images, seed)
    result = augment.random_crop_and_flip(images.astype(np.float32), seed)
    assert result.dtype == tf.float32
    np.testing.assert_array_equal(result, expected)
