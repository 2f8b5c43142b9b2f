"""The bounds are the formulas', and training goes on as without them."""

import keras
import numpy as np
import pytest

from ib_keras.training.callback import RateCallback
from tests.support import models
from tests.support import runs

CLOSED = models.BOTTLENECKS["vib"] | {"rate_estimator": "closed_form"}


def fit(model, callback=None, epochs=1, rate=0.0):
    images, labels = models.data(40)
    model.compile(keras.optimizers.SGD(rate))
    callbacks = [] if callback is None else [callback]
    return model.fit(
        images,
        labels,
        batch_size=20,
        epochs=epochs,
        verbose=0,
        callbacks=callbacks,
    ).history


def test_the_rate_is_the_divergence_from_the_marginal():
    images, labels = models.data(300)
    model = models.randomise(models.build(CLOSED))
    found = fit(model, RateCallback(images, labels))
    posterior = model.posterior(images)
    mean, scale = posterior.mean().numpy(), posterior.stddev().numpy()
    nats = 0.5 * (mean**2 + scale**2 - 1) - np.log(scale)
    (said,) = found["information_images"]
    assert said == pytest.approx(nats.sum(axis=1).mean(), rel=1e-4)


def test_a_decoder_that_guesses_has_the_entropy_of_the_labels():
    images, _ = models.data(12)
    labels = np.resize([0, 0, 1], 12)
    model = models.build()
    for weight in model.decoder.weights:
        weight.assign(0.0 * weight)
    (said,) = fit(model, RateCallback(images, labels))["information_labels"]
    entropy = -(2 * np.log(2 / 3) + np.log(1 / 3)) / 3
    assert said == pytest.approx(entropy - np.log(3), abs=1e-6)


def test_bounds_come_every_so_many_epochs_and_change_no_training():
    images, labels = models.data(30)
    weights = []
    for callback in (None, RateCallback(images, labels, every_epochs=2)):
        keras.utils.set_random_seed(0)
        model = models.build("ceb")
        found = fit(model, callback, epochs=4, rate=0.1)
        weights.append([w.numpy() for w in model.weights])
    assert len(found["information_images"]) == 2
    assert np.isfinite(found["information_labels"]).all()
    for without, beside in zip(*weights, strict=True):
        np.testing.assert_array_equal(without, beside)


def test_what_has_no_rate_is_refused():
    images, labels = models.data(12)
    callback = RateCallback(images, labels)
    error = runs.refused(fit, models.build("deterministic"), callback)
    assert error.what == "The model has no rate"
    runs.refused(RateCallback, images, labels, every_epochs=0)
    runs.refused(RateCallback, images * 255, labels)
