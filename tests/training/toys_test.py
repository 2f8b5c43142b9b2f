"""The toy problems: trained on fresh batches, evaluated on further splits."""

import importlib
import os

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import files
from ib_keras import plugins
from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras.audit import runner
from ib_keras.data import batches
from ib_keras.errors import Interrupted
from ib_keras.training import loop
from tests.support import marks
from tests.support import runs

BOUND = {"toy_overlap": 16.0, "toy_tsipras": 8.0}
TOYS = list(BOUND)


def toy_config(data, model="vib", preset="", **changes):
    changes = {k.replace("__", "."): value for k, value in changes.items()}
    module = importlib.import_module(f"configs.{data}_{model}")
    return runs.plain(module.get_config(preset), changes)


def short(data, model="vib", **changes):
    """Twenty steps of 64 examples, evaluated on 200."""
    changes = {
        "num_epochs": 20,
        "train__batch_size": 64,
        "train__log_every_steps": 10,
        "data__num_examples": 200,
        "eval__batch_size": 100,
        **changes,
    }
    return toy_config(data, model, **changes)


def train(config, workdir, **more):
    return loop.train(config, str(workdir), quiet=True, **more)


def exported(workdir):
    """The variables of the SavedModel."""
    loaded = tf.saved_model.load(os.path.join(workdir, loop.SAVED_MODEL))
    return [variable.numpy() for variable in loaded._model_variables]


def features_of(data, images):
    """The paper's features, float64 `[n, k]`."""
    return (np.float64(images[:, 0, :, 0]) - 0.5) * 2 * BOUND[data]


def softmax(logits):
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def by_hand(data, batch_size, num_steps, seed):
    """Logistic regression by SGD with Nesterov momentum, in float64."""
    draw = plugins.build("data", {"name": data}).draw
    served = batches.fresh_batches(
        draw,
        batch_size=batch_size,
        seed=seeds.fold(seeds.from_int(seed), loop._DATA),
        start_step=0,
        num_steps=num_steps,
    )
    weights = velocity = None
    for images, labels in served.as_numpy_iterator():
        x = features_of(data, images)
        x = np.concatenate([x, np.ones([len(x), 1])], axis=1)
        if weights is None:
            weights = np.zeros([x.shape[1], 2])
            velocity = np.zeros_like(weights)
        error = softmax(x @ weights) - np.eye(2)[labels]
        gradient = x.T @ error / len(x)
        velocity = 0.9 * velocity + gradient
        weights = weights - 0.003 * (gradient + 0.9 * velocity)
    return weights[:-1], weights[-1]


@pytest.mark.parametrize("data", TOYS)
def test_the_linear_classifier_is_the_one_trained_by_hand(data, tmp_path):
    """On the very same batches, from zero; accuracies by hand too."""
    config = toy_config(
        data, "linear", num_epochs=150, train__batch_size=256, seed=7
    )
    result = train(config, tmp_path)
    kernel, bias = by_hand(data, 256, 150, seed=7)
    ours = exported(tmp_path)
    assert [array.shape for array in ours] == [kernel.shape, bias.shape]
    scale = np.abs(kernel).max()
    assert scale > 0.1
    for array, expected in zip(ours, (kernel, bias), strict=True):
        np.testing.assert_allclose(array, expected, rtol=0, atol=1e-5 * scale)
    source = plugins.build("data", {"name": data})
    for split, key in (
        ("test", "accuracy"),
        ("adversarial", "adversarial/accuracy"),
    ):
        images, labels = source.load(split)
        logits = features_of(data, images) @ ours[0] + ours[1]
        margin = logits[:, 1] - logits[:, 0]
        right = ((margin > 0) == labels).mean()
        # An example whose margin is within rounding may be either.
        unsure = (np.abs(margin) < 1e-5).mean()
        assert abs(result[key] - right) <= unsure + 1e-9
    assert result["num_train_examples"] == 150 * 256
    assert result["num_eval_examples"] == 10_000


@pytest.mark.slow
def test_a_stopped_run_ends_like_one_that_was_not(tmp_path):
    config = short("toy_tsipras", steps_per_call=3, checkpoint__every_steps=7)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, whole)
    with pytest.raises(Interrupted, match="step 9 of 20"):
        train(config, parts, should_stop=runs.Clock(4))
    train(config, parts)
    runs.assert_equal_arrays(runs.checkpoint(parts), runs.checkpoint(whole))
    assert runs.metrics(parts) == runs.metrics(whole)
    results = [files.read_json(path / "result.json") for path in (whole, parts)]
    assert results[0] == results[1]


@pytest.mark.slow
def test_two_devices_train_like_one(tmp_path):
    config = short("toy_tsipras")
    results = {}
    for name in ("one_device", "mirrored"):
        strategy = strategies.get(name)
        results[name] = train(config, tmp_path / name, strategy=strategy)
    ours, theirs = (exported(tmp_path / name) for name in results)
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    one, two = results.values()
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-5)
    assert one["adversarial/loss"] == pytest.approx(
        two["adversarial/loss"], abs=1e-5
    )


def test_other_splits_are_evaluated_once_after_training(tmp_path):
    config = short("toy_overlap", eval__every_epochs=8)
    result = train(config, tmp_path)
    rows = [row for row in runs.metrics(tmp_path) if row["kind"] == "eval"]
    assert [row["step"] for row in rows] == [8, 16, 20]
    names = {f"adversarial/{name}" for name in loop._EVAL_VALUES}
    for row in rows[:-1]:
        assert not names & set(row)
    assert names <= set(rows[-1]) and names <= set(result)
    for name in (*names, *loop._EVAL_VALUES):
        assert rows[-1][name] == result[name]
    saved = tf.saved_model.load(str(tmp_path / "saved_model"))
    source = plugins.build("data", config["data"])
    for split, prefix in (("test", ""), ("adversarial", "adversarial/")):
        images, labels = source.load(split)
        right = saved.mean(images).numpy().argmax(-1) == labels
        assert result[f"{prefix}accuracy"] == pytest.approx(right.mean())


def test_a_deterministic_model_has_one_mode_on_other_splits_too(tmp_path):
    result = train(short("toy_overlap", "linear"), tmp_path)
    assert "adversarial/accuracy" in result
    assert not [name for name in result if "stochastic" in name]


def test_a_part_of_the_train_split_is_trained_on_as_it_is(tmp_path):
    config = short("toy_overlap", train__split="train[:50%]", num_epochs=2)
    result = train(config, tmp_path)
    assert result["num_train_examples"] == 100
    assert result["step"] == 2  # One batch of 64 an epoch, twice.


@pytest.mark.parametrize(
    ("splits", "received"),
    [
        ("adversarial", "eval.other_splits='adversarial'"),
        (3, "eval.other_splits=3"),
        (["adversarial", 3], "eval.other_splits[1]=3"),
        (["advers"], '"advers"'),
    ],
)
def test_unknown_splits_are_refused(tmp_path, splits, received):
    config = short("toy_overlap", eval__other_splits=splits)
    error = runs.refused(train, config, tmp_path / "workdir")
    assert received in str(error.received)
    assert not (tmp_path / "workdir").exists()


def test_a_batch_that_the_devices_cannot_share_is_refused(tmp_path):
    config = short("toy_overlap", train__batch_size=63)
    strategy = strategies.get("mirrored")
    error = runs.refused(train, config, tmp_path / "w", strategy=strategy)
    assert "batch size 63 on 2 replicas" in str(error.received)


@pytest.mark.parametrize("data", marks.others_slow(TOYS, ("toy_overlap",)))
def test_an_audit_loads_the_toy_by_its_name(data, tmp_path):
    """FGS on a linear classifier has a closed form: margin against radius.

    In pixel units the weights are 2 bound times as large, and a step of
    epsilon lowers the margin by epsilon times the sum of their sizes.
    """
    config = short(data, "linear", data__num_examples=300)
    train(config, tmp_path / "run")
    kernel, bias = (np.float64(w) for w in exported(tmp_path / "run"))
    images, labels = plugins.build("data", config["data"]).load("test")
    weights, offset = kernel[:, 1] - kernel[:, 0], bias[1] - bias[0]
    margin = features_of(data, images) @ weights + offset
    margin *= 2 * labels - 1
    epsilon = 0.02
    loss = epsilon * 2 * BOUND[data] * np.abs(weights).sum()
    assert np.abs(margin - loss).min() > 1e-4  # None is on the edge.
    audit = runs.audit_config(
        "fgs_epsilons", num_examples=300, threat_model__epsilon=epsilon
    )
    summary = runner.audit(
        audit,
        str(tmp_path / "run" / "saved_model"),
        str(tmp_path / "audit"),
        quiet=True,
    )
    assert summary["dataset"]["name"] == data
    assert summary["clean_accuracy"] == pytest.approx((margin > 0).mean())
    expected = (margin > loss).mean()
    assert 0 < expected < 1
    assert summary["robust_accuracy"] == pytest.approx(expected)


def test_a_workdir_from_before_a_new_field_resumes(tmp_path):
    """What another version began has no `other_splits` in its config."""
    config = runs.smoke_config()
    with pytest.raises(Interrupted):
        train(config, tmp_path, should_stop=runs.Clock(1))
    path = tmp_path / "config.json"
    before = files.read_json(path)
    del before["eval"]["other_splits"]
    files.write_json(path, before)
    assert train(config, tmp_path)["step"] == 8
    config["eval"]["other_splits"] = ["train"]
    error = runs.refused(train, config, tmp_path)
    assert "eval.other_splits" in error.received
