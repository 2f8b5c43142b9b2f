"""What every part of `ib_keras.objectives` promises, tested for all of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ib_keras import plugins
from ib_keras import seeds
from ib_keras.errors import UserError
from ib_keras.objectives.base import Terms
from tests.support import models

_NAMES = plugins.names("objectives")
# What makes a quick run of those that have an adversary.
_QUICK = {
    "warmup_epochs": 0.0,
    "ramp_epochs": 0.0,
    "epsilon": 0.1,
    "num_steps": 2,
    "step_size": 0.05,
}
_SEED = seeds.from_int(3)
_STEP = tf.constant(2)


def section(name, **changes):
    quick = {k: v for k, v in _QUICK.items() if takes(name, k)}
    return {"name": name, **quick, **changes}


def takes(name, argument):
    return plugins.takes("objectives", name, argument)


def build(name, **changes):
    return plugins.build(
        "objectives", section(name, **changes), steps_per_epoch=10
    )


@pytest.fixture(scope="module", params=_NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def batch():
    images, labels = models.data(8)
    return tf.constant(images), tf.constant(labels)


def ask(name, model, batch, seed=_SEED, **changes) -> Terms:
    return build(name, **changes)(model, *batch, seed, _STEP)


def test_the_parts_are_found_by_their_files():
    papers = {"pgd_at", "n_fgsm", "trades", "cure", "llr"}
    assert {"standard", *papers} <= set(_NAMES)


@pytest.mark.parametrize("bottleneck", models.BOTTLENECKS)
def test_it_gives_terms_per_example_for_every_bottleneck(
    name, bottleneck, batch
):
    model = models.randomise(models.build(bottleneck))
    objective = build(name)
    terms = objective(model, *batch, _SEED, _STEP)
    assert set(terms.metrics) == set(objective.metrics)
    for values in (terms.loss, terms.cross_entropy, terms.rate):
        assert values.shape == (8,)
        assert np.isfinite(values).all()
    for values in terms.metrics.values():
        assert values.shape == (8,)
        assert (values.numpy() >= 0).all() and values.numpy().max() > 0
    assert terms.logits.shape == terms.mean_logits.shape == (8, 3)


def test_a_step_follows_from_its_seed_alone(name, batch):
    model = models.randomise(models.build("vib"))
    first, again = (ask(name, model, batch).loss.numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = ask(name, model, batch, seed=seeds.from_int(4)).loss.numpy()
    assert (first != other).any()


@pytest.mark.parametrize("rate_of", ["clean", "adversarial"])
def test_the_rate_is_of_the_images_asked_for(name, rate_of, batch):
    if not takes(name, "rate_of"):
        return
    model = models.randomise(models.build("vib"))
    terms = ask(name, model, batch, rate_of=rate_of)
    clean = model.terms(*batch, _SEED, _STEP).rate.numpy()
    is_clean = np.allclose(terms.rate, clean, rtol=1e-5)
    assert is_clean == (rate_of == "clean")
    rest = terms.loss - terms.cross_entropy - terms.weight * terms.rate
    metrics = [6.0 * terms.metrics[n] for n in ("divergence",) if terms.metrics]
    np.testing.assert_allclose(rest, sum(metrics, tf.zeros(8)), atol=2e-4)


@pytest.mark.parametrize("mode", ["mean", "stochastic"])
def test_both_modes_can_be_attacked(name, mode, batch):
    if not takes(name, "mode"):
        return
    model = models.randomise(models.build("vib"))
    terms = ask(name, model, batch, mode=mode)
    assert np.isfinite(terms.loss).all()
    other = ask(name, model, batch).loss.numpy()
    assert (terms.loss.numpy() == other).all() == (mode == "mean")


def test_an_adversary_does_not_update_batch_statistics(name, batch):
    """Only what is trained on does: once, or for each of two passes."""
    if name == "ibp":
        return  # It has no bounds of `_Centred`; see its own test.
    updates = {"trades": 2}.get(name, 1)
    model = _with_batch_normalization()
    layer = model.encoder.layers[-1]
    layer.moving_mean.assign(tf.ones_like(layer.moving_mean))
    layer.momentum = 0.5
    ask(name, model, batch)
    np.testing.assert_allclose(layer.moving_mean, 0.5**updates, rtol=1e-6)


class _Centred(keras.layers.Layer):
    """Features whose mean over a batch is zero, whatever the images."""

    def call(self, features):
        return features - tf.stop_gradient(
            tf.reduce_mean(features, axis=0, keepdims=True)
        )


def _with_batch_normalization():
    model = models.build("vib")
    encoder = keras.Sequential(
        [
            keras.Input(models.IMAGE_SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(6, activation="tanh"),
            _Centred(),
            keras.layers.BatchNormalization(),
        ]
    )
    found = type(model)(encoder, model.bottleneck, models.NUM_CLASSES)
    found.build((None, *models.IMAGE_SHAPE))
    return found


def test_fit_trains_by_it_and_keras_saves_it(name, tmp_path):
    """The metrics are of `fit` alone; the file has the objective."""
    model = models.build("vib", objective=section(name))
    start = models.weights_of(model)
    model.compile("sgd", run_eagerly=True)
    history = model.fit(*models.data(16), batch_size=8, verbose=0).history
    logs = model.evaluate(*models.data(16), verbose=0, return_dict=True)
    assert set(model.objective.metrics) <= set(history)
    assert not set(model.objective.metrics) & set(logs)
    assert (start[0] != models.weights_of(model)[0]).any()
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert loaded.objective == model.objective


def test_it_refuses_what_it_cannot_use(name):
    wrong = {
        "epsilon": (8.0, 0.0, -0.1),
        "num_steps": (0, 2.5),
        "step_size": (0.0,),
        "mode": ("sampled",),
        "loss": ("ce",),
        "rate_of": ("both",),
        "gamma": (0.0,),
        "beta": (-1.0,),
    }
    for argument, values in wrong.items():
        for value in values:
            if takes(name, argument):
                with pytest.raises(UserError):
                    build(name, **{argument: value})


@pytest.mark.parametrize("name", ["cure", "llr"])
def test_differences_of_gradients_are_not_taken_in_bfloat16(name, batch):
    model = models.build("vib", precision="bfloat16")
    with pytest.raises(UserError, match="16 bits"):
        ask(name, model, batch)
