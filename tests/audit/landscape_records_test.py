"""Loss surfaces of a real model, against the model asked by other means."""

import json

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import plugins
from ib_keras.audit.landscape import records as landscapes
from tests.support import runs

EPSILON = 0.1


@pytest.fixture(scope="module")
def evaluated():
    """Model, spec, and what its evaluation gave."""
    model = runs.digits_model("vib")
    spec = {"epsilon": EPSILON, "num_images": 3, "grid": 13, "num_restarts": 2}
    return model, landscapes.evaluate(model, spec, runs.train_config())


def test_the_images_are_the_first_right_ones_of_other_classes(evaluated):
    model, found = evaluated
    images, labels = plugins.build("data", {"name": "digits"}).load("test[:32]")
    mean = tf.saved_model.load(model).signatures["mean"]
    (logits,) = mean(images=tf.constant(images / 255.0, tf.float32)).values()
    is_right = np.argmax(logits, axis=1) == labels
    expected = []
    for index in np.flatnonzero(is_right):
        if labels[index] not in labels[expected]:
            expected.append(int(index))
    assert [one["index"] for one in found] == expected[:3]
    for one in found:
        assert one["label"] == one["prediction"] == labels[one["index"]]
        assert one["class_name"] == str(one["label"])
        pixels = [list(bytes.fromhex(row)) for row in one["image"]]
        assert pixels == images[one["index"], :, :, 0].tolist()


def test_the_middle_of_a_surface_is_the_clean_loss(evaluated):
    model, found = evaluated
    images, labels = plugins.build("data", {"name": "digits"}).load("test[:32]")
    mean = tf.saved_model.load(model).signatures["mean"]
    for one in found:
        image = images[None, one["index"]] / 255.0
        (logits,) = mean(images=tf.constant(image, tf.float32)).values()
        loss = -tf.nn.log_softmax(logits)[0, labels[one["index"]]]
        assert one["us"][6] == one["vs"][6] == 0
        assert one["cross_entropy"][6][6] == pytest.approx(
            float(loss), rel=1e-3, abs=1e-6
        )


def test_the_attacks_image_is_on_the_first_axis(evaluated):
    _, found = evaluated
    at = 10  # Of 13 points from -1.5 to 1.5, that at 1.
    for one in found:
        assert one["us"][at] == 1.0
        assert one["attack_at"] == pytest.approx(1, abs=1e-4)
        # Rows follow the random direction, columns the attack's.
        assert one["cross_entropy"][6][at] == pytest.approx(
            one["attack_cross_entropy"], rel=1e-3
        )


def test_the_ball_is_inside_of_the_axes_and_holds_the_diamond(evaluated):
    _, found = evaluated
    for one in found:
        points = np.concatenate([np.array(line) for line in one["ball"]])
        # A point inside of the diamond is in the ball whatever is clipped.
        assert (np.abs(points).sum(1) > 0.97).all()
        assert np.abs(points).max() <= 1.5


def test_a_record_stays_small_and_is_json():
    spec = {"epsilon": EPSILON, "num_images": 3, "num_restarts": 1}
    found = landscapes.evaluate(
        runs.digits_model("vib"), spec, runs.train_config()
    )
    text = json.dumps(found, indent=2, allow_nan=False)
    # An image of 32x32x3 takes some 6,000 more.
    assert len(text) + 3 * 6500 < 200_000


def test_the_same_seed_gives_the_same_surfaces(evaluated):
    model, found = evaluated
    spec = {"epsilon": EPSILON, "num_images": 3, "grid": 13, "num_restarts": 2}
    assert landscapes.evaluate(model, spec, runs.train_config()) == found


def test_an_unknown_field_is_refused():
    error = runs.refused(
        landscapes.evaluate,
        "nowhere",
        {"epsilon": 0.1, "restarts": 3},
        runs.train_config(),
    )
    assert "num_restarts" in str(error)


def test_a_big_image_is_left_out():
    found = landscapes._picture(np.zeros((64, 64, 3), np.float32))
    assert found == {"image_shape": [64, 64, 3], "image": None}
