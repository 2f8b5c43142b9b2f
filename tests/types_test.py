import numpy as np
import pytest
import tensorflow as tf

from ib_keras import types
from ib_keras.errors import UserError

IMAGES = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 2, 2, 1)


def message(function, *arguments) -> str:
    with pytest.raises(UserError) as error:
        function(*arguments)
    text = str(error.value)
    assert "Received:" in text and "Expected:" in text and "Fix:" in text
    return text


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", 0), ("linf", 8 / 255), ("l2", 3.0)]
)
def test_a_threat_model_keeps_its_radius_exactly(norm, epsilon):
    threat_model = types.ThreatModel(norm, epsilon)
    assert (threat_model.norm, threat_model.epsilon) == (norm, epsilon)


def test_a_radius_may_be_a_tensor():
    epsilon = tf.constant(0.3)
    assert types.ThreatModel("linf", epsilon).epsilon is epsilon


@pytest.mark.parametrize(
    "epsilon", [-0.1, float("nan"), float("inf"), None, "wide"]
)
def test_what_is_no_radius_is_refused(epsilon):
    text = message(types.ThreatModel, "l2", epsilon)
    assert f"Received: {epsilon}" in text


def test_a_radius_in_8_bit_units_is_refused_with_its_translation():
    text = message(types.ThreatModel, "linf", 8)
    assert "0.0313725" in text


def test_an_unknown_norm_suggests_the_nearest():
    text = message(types.ThreatModel, "l_inf", 0.1)
    assert "one of l2, linf" in text and 'Did you mean "linf"' in text


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_images_become_float32_and_keep_their_values(dtype):
    images = types.check_images(IMAGES.astype(dtype))
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, IMAGES.astype(dtype))


def test_no_images_are_images():
    assert types.check_images(np.zeros([0, 2, 2, 1])).shape == (0, 2, 2, 1)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (IMAGES[..., 0], "shape (3, 2, 2)"),
        ((255 * IMAGES).astype(np.uint8), "dtype uint8"),
        (255 * IMAGES, "values from 0.0 to 255.0"),
        (2 * IMAGES - 1, "values from -1.0 to 1.0"),
        (np.where(IMAGES == 1, np.nan, IMAGES), "nan"),
        (np.where(IMAGES == 1, np.inf, IMAGES), "inf"),
    ],
    ids=["rank", "bytes", "0 to 255", "-1 to 1", "NaN", "infinity"],
)
def test_what_is_no_image_batch_is_refused(images, says):
    assert says in message(types.check_images, images)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_labels_become_int32(dtype):
    labels = types.check_labels(np.array([0, 9, 3], dtype), 3, 10)
    assert labels.dtype == np.int32
    assert labels.tolist() == [0, 9, 3]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.eye(3), "Labels are one-hot"),
        ([0, 1], "shape (2,)"),
        ([0.0, 1.0, 2.0], "dtype float64"),
        ([0, 1, 3], "classes from 0 to 3"),
        ([0, -1, 2], "classes from -1 to 2"),
        ([[0], [1], [2]], "shape (3, 1)"),
    ],
)
def test_what_is_not_one_class_per_image_is_refused(labels, says):
    assert says in message(types.check_labels, labels, 3, 3)


def test_one_hot_labels_get_the_call_that_converts_them():
    assert "argmax(axis=-1)" in message(types.check_labels, np.eye(3), 3, 3)
