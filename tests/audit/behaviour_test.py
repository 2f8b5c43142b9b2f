"""What a few calls show of a model, on planted faults of each kind."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras.audit import audited_model
from ib_keras.audit.audited_model import behaviour
from tests.support import foreign


def observe(path, **options):
    options = audited_model.Options(input_range=(0.0, 1.0), **options)
    model = audited_model.load(path, options=options)
    state = model.state_hash()
    images, labels = foreign.data()
    model = model.infer_io(images, labels)
    return behaviour.observe(
        model, model.logits_fn("mean"), images, labels, state=state
    )


@pytest.fixture(scope="module")
def honest():
    return observe(foreign.module())


def test_an_honest_model_has_no_findings(honest):
    images, labels = foreign.data()
    right = foreign.expected(images).argmax(1) == labels
    assert honest.num_correct == (right[:64].sum(),) * 5
    assert honest.accuracy == pytest.approx(right.mean())
    assert not honest.is_random
    assert honest.max_distance == 0
    assert honest.batch_difference < 1e-5
    assert honest.changed_variables == ()
    assert honest.augmentation == honest.random_ops == honest.assign_ops == ()
    assert honest.gradient == "present"
    assert honest.zero_gradient_share == honest.nonfinite_share == 0
    assert honest.order is None
    assert honest.notes() == []


def test_augmentation_left_on_by_model_export_is_known_by_its_layers():
    import keras

    layers = [
        keras.layers.RandomFlip(seed=1),
        keras.layers.RandomRotation(0.1, seed=2),
    ]
    seen = observe(foreign.export(foreign.keras_model(*layers)))
    assert seen.is_random
    assert seen.augmentation == ("random_flip", "random_rotation")
    assert len(seen.changed_variables) == 2
    assert "training=False" in seen.notes()[0]


def test_augmentation_that_is_off_does_not_matter():
    import keras

    model = foreign.keras_model(keras.layers.RandomFlip(seed=1))
    seen = observe(foreign.export_archive(model))
    assert not seen.is_random
    assert seen.changed_variables == ()


def wrong_at_times(images):
    logits = foreign.logits(images)
    draws = tf.random.uniform([tf.shape(images)[0], 1])
    return tf.where(draws < 0.05, -logits, logits)


def test_a_model_that_is_wrong_by_chance():
    tf.random.set_seed(0)
    seen = observe(foreign.module(wrong_at_times))
    assert seen.is_random
    assert len(set(seen.num_correct)) > 1
    assert seen.random_ops == ("RandomUniform",)
    assert seen.augmentation == ()
    assert seen.batch_difference is None
    assert "no seed repeats them" in seen.notes()[0]


def test_a_counter_is_detected_early():
    """It answers otherwise only after a million calls."""
    count = tf.Variable(0.0, name="count")

    def counted(images):
        count.assign_add(1.0)
        return tf.where(count > 1e6, 0.0, 1.0) * foreign.logits(images)

    seen = observe(foreign.module(counted, variables=[count]))
    assert not seen.is_random
    assert len(seen.changed_variables) == 1
    assert seen.assign_ops == ("AssignAddVariableOp",)
    assert "changes its own variables" in seen.notes()[0]


def test_statistics_of_the_batch():
    seen = observe(
        foreign.module(
            lambda x: foreign.logits(x - tf.reduce_mean(x, 0, keepdims=True))
        )
    )
    assert not seen.is_random
    assert seen.batch_difference > 0.1
    assert seen.batch_size_differing == "batches of 1"


def test_an_answer_that_depends_on_the_place_in_the_batch():
    def by_place(images):
        first = tf.cast(tf.range(tf.shape(images)[0]) == 0, tf.float32)
        return foreign.logits(images) + 10 * first[:, None] * tf.eye(10)[0]

    assert observe(foreign.module(by_place)).batch_difference > 0.1


def gradient_of(function):
    seen = observe(foreign.module(function))
    return seen.gradient, seen.zero_gradient_share


def test_gradients_that_are_there_or_not():
    def half_dark(images):
        """Without a gradient where the first 8 pixels are 0, or nearly."""
        stopped = foreign.logits(tf.stop_gradient(images))
        is_few = tf.reduce_sum(images, [1, 2, 3]) < 20.0
        return tf.where(is_few[:, None], stopped, foreign.logits(images))

    def flat(images):
        logits = foreign.logits(tf.stop_gradient(images))
        return logits + 0.0 * tf.reduce_sum(images)

    assert gradient_of(lambda x: foreign.logits(tf.round(x * 16) / 16)) == (
        "none",
        0.0,
    )
    assert gradient_of(flat) == ("zero", 1.0)
    images = foreign.data()[0][:16]
    share = np.mean(images.sum((1, 2, 3)) < 20)
    assert 0 < share < 1
    assert gradient_of(half_dark) == ("present", pytest.approx(share))


def test_numbers_that_are_not_finite():
    def bad_if_bright(images):
        is_bright = tf.reduce_sum(images, [1, 2, 3]) > 20.0
        return tf.where(is_bright[:, None], np.nan, foreign.logits(images))

    seen = observe(foreign.module(bad_if_bright))
    images = foreign.data()[0]
    share = np.mean(images[:64].sum((1, 2, 3)) > 20)
    assert seen.nonfinite_share == pytest.approx(share)
    assert not seen.is_random


def test_permuted_labels_are_named_with_their_order():
    seen = observe(
        foreign.module(lambda x: tf.roll(foreign.logits(x), 3, axis=1))
    )
    assert seen.accuracy < 0.05
    assert seen.order == (7, 8, 9, 0, 1, 2, 3, 4, 5, 6)
    assert seen.order_accuracy > 0.9
    assert "another order" in seen.notes()[0]


def test_chance_is_not_taken_for_a_permutation():
    seen = observe(
        foreign.module(lambda x: tf.reshape(x, [-1, 64])[:, 20:30]),
        outputs="logits",
    )
    assert seen.accuracy < 0.3
    assert seen.order is None


def test_changed_names_what_differs():
    assert behaviour.changed({"0:a": "x", "1:b": "y"}, {"0:a": "x"}) == ()
    now = {"0:a": "z", "1:b": "y"}
    assert behaviour.changed({"0:a": "x", "1:b": "y"}, now) == ("a",)
