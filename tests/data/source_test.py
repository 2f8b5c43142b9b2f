"""Units, channel statistics and the noun `DataSource`."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf

from ib_keras.data import source
from ib_keras.errors import UserError


def test_to_float_divides_every_byte_by_255():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    result = source.to_float(images)
    assert result.dtype == tf.float32
    expected = images.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(result, expected)
    assert result.numpy().min() == 0.0 and result.numpy().max() == 1.0


@pytest.mark.parametrize("jit_compile", [False, True])
def test_to_float_gives_the_same_bits_in_compiled_code(jit_compile):
    images = tf.constant(np.arange(256, dtype=np.uint8))
    compiled = tf.function(source.to_float, jit_compile=jit_compile)
    np.testing.assert_array_equal(compiled(images), source.to_float(images))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_to_float_passes_floating_point_through(dtype):
    images = np.array([0.0, 0.25, 1.0], dtype)
    result = source.to_float(images)
    assert result.dtype == tf.as_dtype(dtype)
    np.testing.assert_array_equal(result, images)


def test_to_float_refuses_integers_of_unknown_units():
    with pytest.raises(UserError) as error:
        source.to_float(np.zeros([1, 2, 2, 1], np.int32))
    message = str(error.value)
    for word in ("Received: dtype int32", "Expected: uint8", "Fix:"):
        assert word in message


@pytest.mark.parametrize("count", [1, 127, 128, 300])
def test_channel_statistics_match_numpy(count):
    random = np.random.default_rng(count)
    images = random.integers(0, 256, [count, 5, 4, 3]).astype(np.uint8)
    images[..., 1] //= 3  # Channels that differ.
    mean, deviation = source.channel_statistics(images)
    unit = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, unit.mean((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(deviation, unit.std((0, 1, 2)), rtol=1e-13)
    assert all(type(value) is float for value in mean + deviation)


def test_channel_statistics_of_floats_are_in_their_own_units():
    images = np.random.default_rng(0).random([50, 3, 3, 2], np.float32)
    mean, deviation = source.channel_statistics(images)
    unit = images.astype(np.float64)
    np.testing.assert_allclose(mean, unit.mean((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(deviation, unit.std((0, 1, 2)), rtol=1e-13)


def test_channel_statistics_of_a_constant_channel_have_no_deviation():
    images = np.full([200, 2, 2, 1], 51, np.uint8)
    mean, deviation = source.channel_statistics(images)
    assert mean == pytest.approx((0.2,)) and deviation == (0.0,)


def test_channel_statistics_need_little_memory():
    images = np.zeros([4000, 32, 32, 3], np.uint8)  # 98 MB in float64.
    tracemalloc.start()
    try:
        source.channel_statistics(images)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize("shape", [(0, 2, 2, 1), (4, 2, 2)])
def test_channel_statistics_refuse_what_is_not_images(shape):
    with pytest.raises(UserError) as error:
        source.channel_statistics(np.zeros(shape, np.uint8))
    message = str(error.value)
    for word in (f"Received: shape {shape}", "Expected: [n, height", "Fix:"):
        assert word in message


def test_a_source_counts_its_classes_and_is_frozen():
    made = source.DataSource(
        name="a",
        description="A",
        image_shape=(2, 2, 1),
        class_names=("x", "y", "z"),
        load=lambda split: split,
    )
    assert made.num_classes == 3
    assert made.augment is made.draw is made.feature_range is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "b"
