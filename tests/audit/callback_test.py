"""Tests for the callback: what it adds, and that training does not notice."""

import functools
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from ib_keras.audit.callback import AuditCallback
from tests.support import models
from tests.support import runs


@functools.cache
def digits():
    found = load_digits()
    images = (found.images / 16.0).astype(np.float32)[..., np.newaxis]
    return images, found.target.astype(np.int32)


def network(outputs="logits"):
    """With all that a call could change: averages, dropout, its generator."""
    keras.utils.set_random_seed(1)
    last = "softmax" if outputs == "probabilities" else None
    model = keras.Sequential(
        [
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10, activation=last),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=outputs == "logits"
    )
    model.compile("adam", loss)
    return model


def fit(model, *callbacks, epochs=4):
    images, labels = digits()
    return model.fit(
        images[:600],
        labels[:600],
        epochs=epochs,
        verbose=0,
        callbacks=list(callbacks),
    ).history


def audit(**changes):
    images, labels = digits()
    arguments = {"epsilon": 0.1, "batch_size": 32, **changes}
    return AuditCallback(images[600:632], labels[600:632], **arguments)


class Watch(keras.callbacks.Callback):
    """Notes the logs and how often the attack was compiled."""

    def __init__(self, audit):
        super().__init__()
        self.audit = audit
        self.logs = []
        self.traces = []

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))
        if self.audit._runner is not None:
            engines = self.audit._runner._engines
            self.traces.append([engine.num_traces() for engine in engines])


@functools.cache
def trained():
    """One training with an audit every second epoch, and all it left."""
    callback = audit(protocol="pgd", every_epochs=2)
    watch = Watch(callback)
    model = network()
    states = [random.getstate(), np.random.get_state()[1].tolist()]
    history = fit(model, callback, watch)
    after = [random.getstate(), np.random.get_state()[1].tolist()]
    return model, history, watch, states, after


def test_training_does_not_notice():
    model, history, *_ = trained()
    alone = network()
    assert fit(alone)["loss"] == history["loss"]
    for received, expected in zip(
        model.variables, alone.variables, strict=True
    ):
        np.testing.assert_array_equal(received.numpy(), expected.numpy())


def test_global_generators_are_left_alone():
    quiet = network()
    states = [random.getstate(), np.random.get_state()[1].tolist()]
    fit(quiet, epochs=1)
    alone = [random.getstate() == states[0]]
    *_, before, after = trained()
    assert [before[0] == after[0]] == alone
    assert before[1] == after[1]


def test_the_logs_have_the_numbers_of_the_epochs_with_an_audit():
    _, history, watch, *_ = trained()
    names = ("robust_accuracy", "clean_accuracy", "gradient_evaluations")
    for name in names:
        assert len(history[name]) == 2
        assert [name in logs for logs in watch.logs] == [False, True] * 2
    for robust, clean in zip(*(history[n] for n in names[:2]), strict=True):
        assert 0 <= robust <= clean <= 1


def test_the_attack_is_compiled_once_for_each_size_of_batch():
    *_, watch, _, _ = trained()
    assert len(watch.traces) == 3  # None before the first audit.
    for found in watch.traces[-1]:
        assert set(found.values()) == {1}


def test_a_stronger_attack_can_be_given_as_configs_have_it():
    stages = {
        "first": {"attack": {"name": "fgs"}},
        "second": {"num_restarts": 2, "attack": {"name": "fgs"}},
    }
    callback = audit(protocol=stages)
    assert [stage.num_restarts for stage in callback.stages] == [1, 2]


def fast_gradient_sign(model, images, labels, epsilon):
    """Which are robust to one step on the log of the probabilities."""
    pixels = tf.Variable(images)
    with tf.GradientTape() as tape:
        log_p = tf.math.log(model(pixels, training=False))
        loss = -tf.reduce_sum(tf.one_hot(labels, 10) * log_p)
    step = epsilon * np.sign(tape.gradient(loss, pixels).numpy())
    attacked = np.clip(images + step, 0, 1)
    right = [
        model(x, training=False).numpy().argmax(-1) == labels
        for x in (images, attacked)
    ]
    return (right[0] & right[1]).mean(), right[0].mean()


def test_probabilities_are_seen_and_early_stopping_sees_the_result():
    images, labels = digits()
    model = network("probabilities")
    # A score that cannot be reached; Keras never stops after the first epoch.
    stop = keras.callbacks.EarlyStopping(
        monitor="robust_accuracy", mode="max", patience=1, baseline=2.0
    )
    history = fit(model, audit(), stop, epochs=9)
    assert len(history["robust_accuracy"]) == 2
    robust, clean = fast_gradient_sign(
        model, images[600:632], labels[600:632], 0.1
    )
    assert history["clean_accuracy"][-1] == pytest.approx(clean)
    assert history["robust_accuracy"][-1] == pytest.approx(robust)
    assert robust < clean


def test_a_bottleneck_is_audited_in_mean_mode():
    images, labels = models.data(48)
    model = models.build("vib")
    model.compile("adam")
    callback = AuditCallback(images, labels, epsilon=0.05)
    history = model.fit(images, labels, verbose=0, callbacks=[callback]).history
    predicted = model(images, mode="mean").numpy().argmax(-1)
    expected = (predicted == labels).mean()
    assert history["clean_accuracy"] == [pytest.approx(expected)]


WRONG = {
    "an unknown protocol": ({"protocol": "pdg"}, 'Did you mean "pgd"?'),
    "an epsilon of bytes": ({"epsilon": 8}, "8/255"),
    "no epochs": ({"every_epochs": 0}, "every_epochs"),
    "unknown outputs": ({"outputs": "logit"}, 'Did you mean "logits"?'),
    "an unknown norm": ({"norm": "l3"}, "l3"),
}


@pytest.mark.parametrize(("changes", "words"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments_are_refused_at_once(changes, words):
    assert words in str(runs.refused(audit, **changes))


def test_images_in_bytes_are_refused_at_once():
    images, labels = digits()
    runs.refused(AuditCallback, images * 255, labels, epsilon=0.1)


@pytest.mark.parametrize(
    ("labels", "units"), [(np.full(4, 10), 10), (np.zeros(3), 10), ([2] * 4, 1)]
)
def test_what_does_not_fit_is_refused_before_the_first_step(labels, units):
    images = digits()[0][:4]
    model = keras.Sequential(
        [keras.layers.Flatten(), keras.layers.Dense(units)]
    )
    model.compile("sgd", "mse")
    model.build((None, 8, 8, 1))
    before = [weight.numpy() for weight in model.weights]
    callback = AuditCallback(images, labels, epsilon=0.1)
    targets = np.zeros([4, units])
    runs.refused(model.fit, images, targets, verbose=0, callbacks=[callback])
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
