"""Strategies by name, and what several replicas have in common."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras.encoders import preact_resnet18
from ib_keras.errors import UserError
from ib_keras.training import loop
from tests.support import models
from tests.support import runs


def test_an_unknown_name_is_refused():
    error = runs.refused(strategies.get, "mirored")
    assert 'Did you mean "mirrored"' in error.fix


def test_multi_worker_without_a_cluster_is_refused(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    error = runs.refused(strategies.get, "multi_worker")
    assert "TF_CONFIG" in error.what


@pytest.mark.parametrize("tpu", [None, "local", "no-such-node"])
def test_a_tpu_that_is_not_there_is_refused(tpu):
    error = runs.refused(strategies.get, "tpu", tpu=tpu)
    assert error.what == "There is no TPU to use"
    assert f'"{tpu or "local"}"' in error.received


def test_an_address_without_a_tpu_is_refused_in_time():
    error = runs.refused(
        strategies.get, "tpu", tpu="grpc://127.0.0.1:1", timeout=0.3
    )
    assert "127.0.0.1:1 within 0.3 seconds" in error.received


def test_a_tpu_and_another_strategy_are_refused():
    runs.refused(strategies.get, "mirrored", tpu="local")


@pytest.mark.parametrize("name", ["one_device", "mirrored"])
def test_one_process_is_the_chief_and_agrees_with_itself(name):
    strategy = strategies.get(name)
    assert strategies.is_chief(strategy)
    assert strategies.sum_over_workers(strategy, 3) == 3.0
    strategies.check_agreement(strategy, 3, "step", "folder")
    assert not strategies.is_compiling(strategy)


def test_errors_of_one_process_are_its_own():
    strategy = strategies.get("one_device")
    with pytest.raises(tf.errors.InternalError):
        with strategies.watched(strategy):
            raise tf.errors.InternalError(None, None, "not a worker")


def test_a_global_batch_that_replicas_cannot_share_is_refused():
    error = runs.refused(
        strategies.check_global_batch, strategies.get("mirrored"), 13
    )
    assert "13 on 2 replicas" in error.received


def train_losses(tmp_path, name, config):
    workdir = tmp_path / name
    strategy = strategies.get(name)
    result = loop.train(config, str(workdir), strategy=strategy, quiet=True)
    rows = runs.metrics(workdir)
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    return losses, result


def test_two_replicas_draw_the_noise_of_one(tmp_path):
    """Losses of training and evaluation in both modes, to 1e-5."""
    # Of the 32 examples 4 remain for the last batch, which is filled up.
    config = runs.smoke_config(
        "vib", train__log_every_steps=1, eval__batch_size=14
    )
    one, one_result = train_losses(tmp_path, "one_device", config)
    two, two_result = train_losses(tmp_path, "mirrored", config)
    assert len(one) == 8
    assert two == pytest.approx(one, rel=1e-5)
    for name in ("loss", "rate", "accuracy", "accuracy_stochastic"):
        assert two_result[name] == pytest.approx(one_result[name], rel=1e-5)


def test_replicas_draw_different_noise():
    strategy = models.two_devices()
    with strategy.scope():
        model = models.build("ceb")

    @tf.function
    def sample():
        posterior = model.posterior(tf.zeros([3, *models.IMAGE_SHAPE]))
        return model.bottleneck.sample(posterior, 2, seeds.from_int(1))

    first, second = strategy.experimental_local_results(strategy.run(sample))
    assert np.abs(first.numpy() - second.numpy()).min() > 0


def test_batch_statistics_are_those_of_the_global_batch():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 5, 5, 3)).astype(np.float32)
    images[2:] += 3.0

    def encoded(strategy):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            encoder = preact_resnet18.build((5, 5, 3), hidden_units=())
        halves = np.split(images, strategy.num_replicas_in_sync)

        @tf.function
        def run(x):
            return encoder(x, training=True)

        x = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(
                halves[context.replica_id_in_sync_group]
            )
        )
        results = strategy.experimental_local_results(strategy.run(run, [x]))
        moving = [w.numpy() for w in encoder.non_trainable_weights]
        return np.concatenate([r.numpy() for r in results]), moving

    one, one_moving = encoded(strategies.get("one_device"))
    two, two_moving = encoded(strategies.get("mirrored"))
    np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(two_moving, one_moving, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


# bfloat16.


def test_bfloat16_is_the_encoders_alone():
    model = models.build("vib", precision="bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    dense = model.encoder.layers[-1]
    assert dense.compute_dtype == "bfloat16"
    assert {weight.dtype for weight in model.weights} == {"float32"}
    images, labels = models.data(4)
    assert model.encoder(images).dtype == tf.bfloat16
    posterior = model.posterior(images)
    assert posterior.mean().dtype == posterior.stddev().dtype == tf.float32
    terms = model.terms(
        images, labels, seeds.from_int(0), tf.constant(0, tf.int32)
    )
    assert {value.dtype for value in tf.nest.flatten(terms)} == {tf.float32}
    assert model(images).dtype == tf.float32
    exact = models.build("vib")
    for ours, theirs in zip(model.weights, exact.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    np.testing.assert_allclose(model(images), exact(images), atol=0.05)


def test_training_in_bfloat16_lowers_the_loss(tmp_path):
    config = runs.smoke_config(
        "deterministic",
        precision="bfloat16",
        encoder={"name": "mlp", "hidden_units": [32]},
        num_epochs=20,
        train__log_every_steps=4,
        optim__learning_rate=1e-2,
    )
    losses, _ = train_losses(tmp_path, "one_device", config)
    assert losses[-1] < 0.5 * losses[0]


def test_an_unknown_precision_is_refused():
    with pytest.raises(UserError, match="No precision has this name"):
        models.build("vib", precision="float16")
