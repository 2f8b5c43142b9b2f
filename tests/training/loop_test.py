"""Training learns, resumes bit for bit, and refuses what it cannot use."""

import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import mnist_vib
from ib_keras import classifier
from ib_keras import files
from ib_keras import plugins
from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras.errors import Interrupted
from ib_keras.training import loop
from tests.support import fast_runs
from tests.support import models
from tests.support import runs

NUM_STEPS = 8  # Of a smoke run: 2 epochs of 4.


def train(config, workdir, **more):
    return loop.train(config, str(workdir), quiet=True, **more)


def rows_of(workdir, kind):
    return [row for row in runs.metrics(workdir) if row["kind"] == kind]


def saved_variables(workdir):
    """The variables of the exported model, in the classifier's order."""
    loaded = tf.saved_model.load(os.path.join(workdir, loop.SAVED_MODEL))
    return [variable.numpy() for variable in loaded._model_variables]


def assert_same_run(workdir, reference):
    """Weights, averages, log, result and model, bit for bit."""
    runs.assert_equal_arrays(
        runs.checkpoint(workdir), runs.checkpoint(reference)
    )
    assert runs.metrics(workdir) == runs.metrics(reference)
    for name in ("result.json", "config.json"):
        ours, theirs = (os.path.join(w, name) for w in (workdir, reference))
        assert files.read_json(ours) == files.read_json(theirs)
    both = (saved_variables(path) for path in (workdir, reference))
    for ours, theirs in zip(*both, strict=True):
        assert ours.tobytes() == theirs.tobytes()


# What a run on the digits leaves.


def test_the_loss_falls_and_the_digits_are_learnt():
    workdir = runs.digits_run("vib")
    rows = rows_of(workdir, "train")
    assert [row["step"] for row in rows] == list(range(22, 111, 22))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert rows[-1]["loss"] == min(row["loss"] for row in rows) < 0.6
    result = files.read_json(os.path.join(workdir, "result.json"))
    assert result["accuracy"] > 0.85
    assert result["accuracy_stochastic"] > 0.85


def test_a_run_leaves_what_the_readme_names():
    workdir = runs.digits_run("vib")
    assert sorted(os.listdir(workdir)) == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "result.json",
        "saved_model",
        "tensorboard",
    ]
    path = os.path.join(workdir, "config.json")
    assert files.read_json(path) == runs.train_config("vib")
    result = files.read_json(os.path.join(workdir, "result.json"))
    assert result["num_train_examples"] == 1438
    assert result["num_eval_examples"] == 359
    assert result["step"] == 5 * 22
    (last,) = [row for row in rows_of(workdir, "eval") if row["step"] == 110]
    for name in ("loss", "cross_entropy", "rate", "accuracy"):
        assert last[name] == result[name]


def test_a_finished_run_has_nothing_left_to_do(monkeypatch, capsys, tmp_path):
    workdir = runs.digits_run("vib")
    before = runs.snapshot(workdir)

    def never(*_, **__):
        raise AssertionError("the data are not needed any more")

    monkeypatch.setattr(loop.sources, "make", never)
    result = loop.train(runs.train_config("vib"), workdir)
    assert "Nothing left to do" in capsys.readouterr().out
    assert result == files.read_json(os.path.join(workdir, "result.json"))
    assert runs.snapshot(workdir) == before


# A run of eight steps, looked at closely.

CLOSE = {
    "averaging.decay": 0.8,
    "bottleneck.anneal_epochs": 1.5,
    "bottleneck.rate_estimator": "closed_form",
    "optim.decay_factor": 0.5,
    "optim.decay_every_epochs": 1,
    "steps_per_call": 1,
    "train.log_every_steps": 1,
    "eval.every_epochs": 0.25,
    "checkpoint.every_steps": 1,
    "checkpoint.keep": 100,
}


@pytest.fixture(scope="module")
def close(tmp_path_factory):
    """A VIB run that logs and saves every step; its workdir."""
    workdir = tmp_path_factory.mktemp("close")
    train(runs.smoke_config("vib", **CLOSE), workdir)
    return workdir


def test_learning_rate_and_beta_follow_their_schedules(close):
    rows = rows_of(close, "train")
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    for row in rows:
        step = row["step"]
        assert row["learning_rate"] == pytest.approx(1e-3 * 0.5 ** (step // 4))
        part = min(step / 6, 1.0)
        beta = 1e-8 + (0.01 - 1e-8) * part
        assert row["beta"] == pytest.approx(beta, rel=1e-6)
        assert row["epoch"] == step / 4


def test_the_loss_weighs_the_rate_by_the_annealed_beta(close):
    before = 1e-8
    for row in rows_of(close, "train"):
        expected = row["cross_entropy"] + before * row["rate"]
        assert row["loss"] == pytest.approx(expected, rel=1e-6)
        before = row["beta"]


def test_rho_is_logged_by_its_schedule(tmp_path):
    config = runs.smoke_config("ceb", **{"bottleneck.anneal_epochs": 1.0})
    run = loop._Run(config, str(tmp_path), strategies.get(), quiet=True)
    for step, rho in ((0, 100.0), (1, 75.75), (3, 27.25), (4, 3.0), (9, 3.0)):
        assert run.controls(step)["rho"] == pytest.approx(rho, rel=1e-6)


def raw_and_averages(checkpoint):
    """The trainable weights of a linear VIB, and their Polyak averages."""
    values = list(checkpoint.items())
    averages = [v for name, v in values if name.endswith("_average")]
    raw = [v for _, v in values[: len(averages)]]
    assert len(raw) == 4 and [v.shape for v in raw] == [
        v.shape for v in averages
    ]
    return raw, averages


def averages_by_hand(workdir, decay):
    """The exponential average of the weights after each step."""
    average = None
    for step in range(1, NUM_STEPS + 1):
        raw, _ = raw_and_averages(runs.checkpoint(workdir, step))
        raw = [np.float64(w) for w in raw]
        if average is None:
            average = raw
        average = [
            decay * a + (1 - decay) * w
            for a, w in zip(average, raw, strict=True)
        ]
    return average


def test_the_averages_are_those_computed_by_hand(close):
    expected = averages_by_hand(close, 0.8)
    raw, averages = raw_and_averages(runs.checkpoint(close))
    for average, by_hand in zip(averages, expected, strict=True):
        np.testing.assert_allclose(average, by_hand, rtol=1e-5, atol=1e-7)
    assert np.abs(raw[0] - averages[0]).max() > 1e-4


def test_the_averages_are_exported(close):
    _, averages = raw_and_averages(runs.checkpoint(close))
    exported = saved_variables(close)
    assert len(exported) == len(averages)
    for variable, average in zip(exported, averages, strict=True):
        np.testing.assert_array_equal(variable, average)


def test_the_averages_are_evaluated(close):
    """Accuracy and rate by NumPy: of the averages, not of the weights."""
    data = runs.smoke_config("vib")["data"]
    images, labels = plugins.build("data", data).load("test")
    inputs = (np.float64(images) / 255 - 0.5) / 0.5
    inputs = inputs.reshape(len(inputs), -1)

    def accuracy_and_rate(weights):
        kernel, bias, decoder, decoder_bias = map(np.float64, weights)
        loc, raw = np.split(inputs @ kernel + bias, 2, axis=-1)
        scale = np.log1p(np.exp(raw - 5))
        predictions = (loc @ decoder + decoder_bias).argmax(-1)
        rate = models.gaussian_kl(loc, scale, 0.0).mean()
        return np.mean(predictions == labels), rate

    for row in rows_of(close, "eval"):
        raw, averages = raw_and_averages(runs.checkpoint(close, row["step"]))
        accuracy, rate = accuracy_and_rate(averages)
        assert row["accuracy"] == pytest.approx(accuracy, abs=1e-6)
        assert row["rate"] == pytest.approx(rate, rel=1e-5)
        if row["step"] > 1:
            assert row["rate"] != pytest.approx(accuracy_and_rate(raw)[1], 1e-5)
    steps = [row["step"] for row in rows_of(close, "eval")]
    assert steps == list(range(1, NUM_STEPS + 1))


def built(averaging_decay):
    model = models.build("deterministic")
    section = runs.smoke_config()["optim"]
    optimizer = loop.build_optimizer(section, averaging_decay, 10)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def test_averages_are_removed_again_after_an_error_too():
    model, optimizer = built(0.9)
    raw = [w.numpy() for w in model.trainable_variables]
    for average in optimizer._model_variables_moving_average:
        average.assign(tf.fill(average.shape, 7.0))
    with pytest.raises(RuntimeError, match="planted"):
        with loop.averaged_weights(model, optimizer):
            for weight in model.trainable_variables:
                assert (weight.numpy() == 7.0).all()
            raise RuntimeError("planted")
    for weight, value in zip(model.trainable_variables, raw, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_without_averaging_the_weights_are_the_trained_ones():
    model, optimizer = built(0.0)
    raw = [w.numpy() for w in model.trainable_variables]
    with loop.averaged_weights(model, optimizer):
        for weight, value in zip(model.trainable_variables, raw, strict=True):
            np.testing.assert_array_equal(weight.numpy(), value)


# Numbers that are not finite.


@pytest.mark.parametrize("steps_per_call", [1, 100])
def test_the_step_of_a_loss_that_is_not_finite_is_named(
    tmp_path, steps_per_call
):
    """From step 4 on the learning rate is 1e32, and step 5 sees its weights."""
    changes = {
        "optim.decay_factor": 1e35,
        "optim.decay_every_epochs": 1,
        "steps_per_call": steps_per_call,
    }
    config = runs.smoke_config(**changes)
    error = runs.refused(train, config, tmp_path)
    assert error.received == "NaN or infinity at step 5"
    assert os.listdir(tmp_path / "checkpoints") == ["step-0000000004.npz"]
    for array in runs.checkpoint(tmp_path).values():
        assert np.isfinite(array).all()
    assert not (tmp_path / "saved_model").exists()
    assert not (tmp_path / "result.json").exists()


def test_a_model_broken_by_its_last_step_is_not_exported(tmp_path):
    changes = {
        "optim.decay_factor": 1e35,
        "optim.decay_every_epochs": 1,
        "num_epochs": 1.25,
        "averaging.decay": 0.0,
    }
    error = runs.refused(train, runs.smoke_config(**changes), tmp_path)
    assert error.what == "The evaluation is not finite"
    assert "at step 5" in error.received
    assert not (tmp_path / "saved_model").exists()
    assert not (tmp_path / "result.json").exists()


# Resuming.

UNEVEN = CLOSE | fast_runs.UNEVEN  # The same training as the CLOSE one.


class RecordedSteps(loop.Steps):
    """Keeps the last one made, to look at its traces."""

    last = None

    def __init__(self, *arguments):
        super().__init__(*arguments)
        RecordedSteps.last = self

    def num_traces(self):
        functions = {
            name: getattr(self, name)
            for name in ("train", "evaluate_batch", "_train_step", "_eval_step")
        }
        return {
            name: function.experimental_get_tracing_count()
            for name, function in functions.items()
        }


ONE_TRACE = {"train": 1, "evaluate_batch": 1, "_train_step": 1, "_eval_step": 1}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run that nothing stops; its workdir and its traces."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Steps", RecordedSteps)
        train(runs.smoke_config("vib", **UNEVEN), workdir)
    return workdir, RecordedSteps.last.num_traces()


def test_each_function_is_traced_once_in_a_run(undisturbed):
    """In calls of 1 and 2 steps, and evaluations half-way and at the end."""
    workdir, num_traces = undisturbed
    assert num_traces == ONE_TRACE
    assert [row["step"] for row in rows_of(workdir, "train")] == [3, 6, 8]
    assert [row["step"] for row in rows_of(workdir, "eval")] == [4, 8]


def test_frequent_evaluation_does_not_change_the_training(close, undisturbed):
    """Evaluated, logged and saved at every step: the same weights."""
    for step in (5, 8):
        runs.assert_equal_arrays(
            runs.checkpoint(undisturbed[0], step), runs.checkpoint(close, step)
        )


def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    tmp_path, undisturbed
):
    """Inside of a row of the log, after an evaluation."""
    config = runs.smoke_config("vib", **UNEVEN)
    with pytest.raises(Interrupted, match="Stopped at step 4 of 8"):
        train(config, tmp_path, should_stop=runs.Clock(3))
    assert os.listdir(tmp_path / "checkpoints") == ["step-0000000004.npz"]
    assert not (tmp_path / "result.json").exists()
    train(config, tmp_path)
    assert_same_run(tmp_path, undisturbed[0])


@pytest.fixture
def fast(monkeypatch):
    """Runs of a tenth of a second, whose files are written like any other's."""
    fast_runs.install(monkeypatch)


def test_a_run_may_be_stopped_at_any_question(fast, tmp_path):
    config = runs.smoke_config("vib", **UNEVEN)
    train(config, tmp_path / "reference")
    for question, step in enumerate((2, 3, 4, 5, 6), start=1):
        workdir = tmp_path / str(question)
        with pytest.raises(Interrupted, match=f"Stopped at step {step} of 8"):
            train(config, workdir, should_stop=runs.Clock(question))
        train(config, workdir)
        ours, theirs = (
            fast_runs.outcome(workdir),
            fast_runs.outcome(tmp_path / "reference"),
        )
        # The stop itself saved one; the last is the same.
        assert ours.pop("checkpoints")[-1] == theirs.pop("checkpoints")[-1]
        assert ours == theirs
    # The work is done then: to stop would be to do nothing.
    train(config, tmp_path / "6", should_stop=runs.Clock(6))


def test_a_truncated_newest_checkpoint_is_skipped_with_a_message(
    fast, tmp_path, capsys
):
    config = runs.smoke_config("vib", **UNEVEN)
    train(config, tmp_path / "reference")
    workdir = tmp_path / "run"
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(config, workdir, should_stop=runs.Clock(1))
    newest = workdir / "checkpoints" / "step-0000000003.npz"
    newest.write_bytes(newest.read_bytes()[:-100])
    capsys.readouterr()
    loop.train(config, str(workdir))
    said = capsys.readouterr().out
    assert "Checkpoint of step 3 is skipped: A file is damaged" in said
    assert "Resuming at step 2" in said
    assert fast_runs.outcome(workdir) == fast_runs.outcome(
        tmp_path / "reference"
    )


def test_a_run_without_a_valid_checkpoint_is_not_restarted(fast, tmp_path):
    config = runs.smoke_config("vib", **UNEVEN)
    with pytest.raises(Interrupted):
        train(config, tmp_path, should_stop=runs.Clock(4))
    folder = tmp_path / "checkpoints"
    assert len(os.listdir(folder)) == 1
    for name in os.listdir(folder):
        (folder / name).write_bytes(b"PK")
    before = runs.snapshot(tmp_path)
    error = runs.refused(train, config, tmp_path)
    assert error.what == "No checkpoint can be restored"
    assert runs.snapshot(tmp_path) == before


@pytest.mark.commands
def test_a_real_run_survives_sigterm_and_sigkill(tmp_path):
    """Through the command itself; the end is that of a run without signals."""
    changes = {
        "num_epochs": 45,
        "num_samples": 1,
        "bottleneck.latent_dim": 8,
        "steps_per_call": 10,
        "checkpoint.every_steps": 30,
    }
    workdir = tmp_path / "run"

    def start(workdir=workdir):
        return runs.Process(
            "--config=configs/digits_vib.py",
            *(f"--config.{name}={value}" for name, value in changes.items()),
            f"--workdir={workdir}",
            module="launch.train",
        )

    def newest():
        names = sorted(p.name for p in workdir.glob("checkpoints/step-*.npz"))
        return int(names[-1][5:15]) if names else 0

    first = start()
    first.wait_for(lambda: newest() > 0)
    first.send(signal.SIGTERM)
    assert first.wait() == 75
    stopped = newest()
    # Between two calls: they end at every 10 steps and at every epoch of 22.
    assert any(stopped % steps == 0 for steps in (10, 22))
    assert first.read("errors") == (
        f"Stopped at step {stopped} of 990; the same command resumes from "
        "there.\n"
    )
    second = start()
    second.wait_for(lambda: newest() > stopped)
    second.send(signal.SIGKILL)
    assert second.wait() == -signal.SIGKILL
    assert f"Resuming at step {stopped}" in second.read("output")
    assert not (workdir / "result.json").exists()
    third = start()
    assert third.wait() == 0, third.read("errors")
    assert "Step 990: accuracy 0." in third.read("output")
    reference = tmp_path / "reference"
    undisturbed = start(reference)
    assert undisturbed.wait() == 0, undisturbed.read("errors")
    assert_same_run(workdir, reference)


# Devices.


@pytest.mark.parametrize("name", ["one_device", "mirrored"])
def test_every_example_is_evaluated_once(name):
    """Means over 32 examples, by NumPy, whatever the batches."""
    config = runs.smoke_config()
    source = plugins.build("data", config["data"])
    images, labels = source.load("test")
    strategy = strategies.get(name)
    assert strategy.num_replicas_in_sync == (2 if name == "mirrored" else 1)
    with strategy.scope():
        model = classifier.build(
            config,
            image_shape=source.image_shape,
            num_classes=10,
            steps_per_epoch=4,
        )
        optimizer = loop.build_optimizer(config["optim"], 0.0, 4)
        optimizer.build(model.trainable_variables)
    kernel, bias, decoder, decoder_bias = (
        np.float64(w.numpy()) for w in model.trainable_variables
    )
    inputs = (np.float64(images) / 255 - 0.5) / 0.5
    logits = (inputs.reshape(32, -1) @ kernel + bias) @ decoder + decoder_bias
    losses = -models.log_softmax(logits)[np.arange(32), labels]
    accuracy = (logits.argmax(-1) == labels).mean()
    steps = RecordedSteps(model, optimizer, strategy, seeds.from_int(0), 16)
    for count, batch_size in enumerate((13, 50), start=1):
        for _ in range(2):
            values = steps.evaluate(images, labels, batch_size)
        assert values["loss"] == pytest.approx(losses.mean(), rel=1e-5)
        assert values["accuracy"] == pytest.approx(accuracy, abs=1e-6)
        assert values["rate"] == 0
        assert steps.num_traces()["evaluate_batch"] == count


def test_sums_over_devices_of_two_runs_do_not_meet():
    """TensorFlow numbers them by strategy, from the same start."""
    for size in (3, 5):
        strategy = strategies.get("mirrored")

        @tf.function
        def total(strategy=strategy, size=size):
            def replica():
                context = tf.distribute.get_replica_context()
                return context.all_reduce("SUM", tf.ones([size]))

            return strategy.experimental_local_results(strategy.run(replica))

        for result in total():
            np.testing.assert_array_equal(result, np.full(size, 2.0))


def test_two_devices_train_like_one(tmp_path, monkeypatch):
    """20 steps of the deterministic model: the same losses to 1e-5.

    The run on two devices is stopped after 11 of them, and goes on.
    """
    monkeypatch.setattr(loop, "Steps", RecordedSteps)
    changes = {
        "num_epochs": 20 / 22,
        "train.log_every_steps": 1,
        "steps_per_call": 7,
        "eval.every_epochs": 0.5,
    }
    config = runs.train_config("deterministic", **changes)
    one, two = tmp_path / "one_device", tmp_path / "mirrored"
    train(config, one, strategy=strategies.get("one_device"))
    strategy = strategies.get("mirrored")
    with pytest.raises(Interrupted, match="step 11 of 20"):
        train(config, two, strategy=strategy, should_stop=runs.Clock(11))
    assert RecordedSteps.last.num_traces()["train"] == 1
    assert RecordedSteps.last.num_traces()["evaluate_batch"] == 1
    train(config, two, strategy=strategy)
    rows = {path: rows_of(path, "train") for path in (one, two)}
    for path in (one, two):
        assert [row["step"] for row in rows[path]] == list(range(1, 21))
    losses, others = (
        [row["loss"] for row in rows[path]] for path in (one, two)
    )
    np.testing.assert_allclose(others, losses, rtol=0, atol=1e-5)
    assert losses[-1] < losses[0] - 0.1
    for ours, theirs in zip(
        saved_variables(one), saved_variables(two), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    results = [files.read_json(path / "result.json") for path in (one, two)]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], abs=1e-5)


# What is refused, before anything is written.

CHANGES = {
    "an unknown field": ({"sed": 1}, "sed", 'Did you mean "seed"?'),
    "an unknown field of a section": (
        {"train.batch_sise": 1},
        "train.batch_sise",
        'Did you mean "train.batch_size"?',
    ),
    "an unknown encoder": (
        {"encoder": {"name": "mpl"}},
        '"mpl"',
        'Did you mean "mlp"?',
    ),
    "an unknown argument of an encoder": (
        {"encoder": {"name": "mlp", "hidden_unit": [3]}},
        '"hidden_unit"',
        'Did you mean "hidden_units"?',
    ),
    "an unknown bottleneck": (
        {"bottleneck.name": "viib"},
        '"viib"',
        'Did you mean "vib"?',
    ),
    "an unknown argument of a bottleneck": (
        {"bottleneck.betta": 0.1},
        '"betta"',
        'Did you mean "beta"?',
    ),
    "an unknown data set": (
        {"data": {"name": "mnis"}},
        '"mnis"',
        'Did you mean "mnist"?',
    ),
    "an unknown optimizer": (
        {"optim.name": "adan"},
        '"adan"',
        'Did you mean "adam"?',
    ),
    "an unknown argument of the optimizer": (
        {"optim.beta1": 0.9},
        '"beta1"',
        'Did you mean "beta_1"?',
    ),
    "an unknown normalisation": (
        {"input.normalisation": "minus_one"},
        '"minus_one"',
        'Did you mean "minus_one_one"?',
    ),
    "a section that is none": ({"train": 3}, "train=3", "configs/"),
    "no batch": ({"train.batch_size": 0}, "train.batch_size=0", "Set "),
    "half a step a call": ({"steps_per_call": 0.5}, "0.5", "Set "),
    "no length": ({"num_epochs": 0}, "num_epochs=0", "Set "),
    "no number": ({"num_epochs": float("nan")}, "nan", "Set "),
    "no period of rows": ({"train.log_every_steps": 0}, "=0", "Set "),
    "no checkpoint to keep": ({"checkpoint.keep": 0}, "=0", "Set "),
    "a text for a count": ({"eval.batch_size": "x"}, "'x'", "Set "),
    "a batch larger than the data": (
        {"train.batch_size": 65},
        "65",
        "Set batch_size to 64",
    ),
    "a decay that is none": ({"averaging.decay": 1.5}, "=1.5", "averaging"),
    "a weight below 0": ({"bottleneck.beta": -1.0}, "beta=-1.0", "beta"),
    "no dimensions": (
        {"bottleneck.latent_dim": 0},
        "latent_dim=0",
        "latent_dim",
    ),
    "annealing for less than nothing": (
        {"bottleneck.anneal_epochs": -1.0},
        "anneal_epochs=-1.0",
        "anneal_epochs",
    ),
    "a layer without units": (
        {"encoder": {"name": "mlp", "hidden_units": [0]}},
        "hidden_units=[0]",
        "Correct hidden_units",
    ),
    "an unknown initializer": (
        {"decoder.initializer": "glorot"},
        '"glorot"',
        'Did you mean "glorot_',
    ),
    "a decay after no epoch": (
        {"optim.decay_every_epochs": 0},
        "optim.decay_every_epochs=0",
        "Correct optim.decay_every_epochs",
    ),
    "a split that is none": ({"train.split": "tran"}, '"tran"', "train"),
}


@pytest.mark.parametrize(
    ("changes", "received", "fix"), CHANGES.values(), ids=CHANGES.keys()
)
def test_a_config_that_cannot_be_used_is_refused(
    tmp_path, changes, received, fix
):
    workdir = tmp_path / "workdir"
    config = runs.smoke_config("vib", **changes)
    error = runs.refused(train, config, workdir)
    assert received in str(error.received)
    assert fix in error.fix
    assert error.exit_status == 2
    assert not workdir.exists()


@pytest.mark.parametrize("field", ["seed", "train", "checkpoint", "optim"])
def test_a_config_without_a_field_is_refused(tmp_path, field):
    config = runs.smoke_config()
    del config[field]
    error = runs.refused(train, config, tmp_path / "workdir")
    assert error.expected == f"also {field}"
    assert not (tmp_path / "workdir").exists()


def test_every_unknown_field_lists_the_valid_ones(tmp_path):
    config = runs.smoke_config(**{"checkpoint.every": 3})
    error = runs.refused(train, config, tmp_path / "workdir")
    assert error.expected == "one of checkpoint.every_steps, checkpoint.keep"


def test_an_absent_data_set_is_refused_where_downloads_are_off(tmp_path):
    data = {"name": "mnist", "data_dir": str(tmp_path), "download": False}
    config = runs.smoke_config(data=data)
    error = runs.refused(train, config, tmp_path / "workdir")
    assert "mnist" in error.what and "downloads are off" in error.what
    assert os.listdir(tmp_path) == []


def planted(**changes):
    """64 float images of the digits' shape and labels, with some planted."""
    images = np.random.default_rng(0).random((64, 8, 8, 1), np.float32)
    labels = np.arange(64, dtype=np.int32) % 10
    return {"images": images, "labels": labels, **changes}


PLANTED = {
    "an image above 1": ("images", lambda a: a * 1.5, "outside of [0, 1]"),
    "an image below 0": ("images", lambda a: a - 0.1, "outside of [0, 1]"),
    "8-bit floats": ("images", lambda a: a * 255, "outside of [0, 1]"),
    "a pixel that is NaN": (
        "images",
        lambda a: np.where(a == a[5, 2, 2, 0], np.nan, a),
        "not finite",
    ),
    "a label too large": (
        "labels",
        lambda a: np.where(a == 9, 10, a),
        "Labels are out of range",
    ),
    "a label below 0": ("labels", lambda a: a - 1, "Labels are out of range"),
    "one-hot labels": ("labels", lambda a: np.eye(10)[a], "one-hot"),
    "labels of too few examples": (
        "labels",
        lambda a: a[:-1],
        "not one integer class per image",
    ),
    "labels that are floats": (
        "labels",
        lambda a: a.astype(np.float32),
        "not one integer class per image",
    ),
}


@pytest.mark.parametrize(
    ("name", "plant", "words"), PLANTED.values(), ids=PLANTED.keys()
)
def test_images_and_labels_of_other_units_are_refused(
    tmp_path, monkeypatch, name, plant, words
):
    data = planted()
    data[name] = plant(data[name])
    section = runs.plant_data(monkeypatch, data["images"], data["labels"])
    config = runs.smoke_config(data=section)
    error = runs.refused(train, config, tmp_path / "workdir")
    assert words in error.what
    assert not (tmp_path / "workdir").exists()


def test_a_data_set_of_ones_own_is_trained_on(tmp_path, monkeypatch, fast):
    """The planted faults alone are what the test before it sees."""
    section = runs.plant_data(monkeypatch, **planted())
    result = train(runs.smoke_config(data=section), tmp_path)
    assert result["step"] == NUM_STEPS
    assert result["dataset"]["name"] == "planted"


def test_a_workdir_of_another_config_is_refused(tmp_path, fast):
    train(runs.smoke_config("vib"), tmp_path)
    before = runs.snapshot(tmp_path)
    config = runs.smoke_config("vib", **{"bottleneck.beta": 0.5})
    error = runs.refused(train, config, tmp_path)
    assert error.received == "bottleneck.beta=0.5"
    assert error.expected.startswith("bottleneck.beta=0.01, as in ")
    assert runs.snapshot(tmp_path) == before


def test_a_workdir_may_be_continued_with_other_periods(tmp_path, fast):
    """What decides when files are written, or where data lie, is no other."""
    config = runs.smoke_config("vib")
    with pytest.raises(Interrupted):
        train(config, tmp_path, should_stop=runs.Clock(1))
    changes = {
        "checkpoint.every_steps": 3,
        "checkpoint.keep": 7,
        "steps_per_call": 1,
    }
    result = train(runs.smoke_config("vib", **changes), tmp_path)
    assert result["step"] == NUM_STEPS


@pytest.mark.parametrize("kind", ["other files", "a file", "no name"])
def test_a_workdir_that_is_not_ours_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir = tmp_path / "workdir"
    if kind == "other files":
        workdir.mkdir()
        (workdir / "thesis.tex").write_text("irreplaceable")
    else:
        workdir.write_text("irreplaceable")
    before = runs.snapshot(tmp_path)
    path = "" if kind == "no name" else str(workdir)
    error = runs.refused(loop.train, runs.smoke_config(), path)
    assert ("thesis.tex" in error.received) == (kind == "other files")
    assert runs.snapshot(tmp_path) == before


def test_an_optimizer_is_built_with_all_arguments():
    section = {
        "name": "sgd",
        "learning_rate": 0.5,
        "decay_factor": 0.1,
        "decay_every_epochs": 2,
        "momentum": 0.25,
    }
    optimizer = loop.build_optimizer(section, 0.0, steps_per_epoch=3)
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert optimizer.momentum == 0.25
    assert not optimizer.use_ema
    for step, expected in ((0, 0.5), (5, 0.5), (6, 0.05), (12, 0.005)):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(expected)


def test_the_learning_rate_falls_at_the_epochs_of_a_list():
    section = {
        "name": "sgd",
        "learning_rate": 0.5,
        "decay_factor": 0.1,
        "decay_at_epochs": [1, 4],
    }
    optimizer = loop.build_optimizer(section, 0.0, steps_per_epoch=3)
    for step, expected in ((2, 0.5), (3, 0.05), (11, 0.05), (12, 0.005)):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(expected)
    both = section | {"decay_every_epochs": 2}
    error = runs.refused(loop.build_optimizer, both, 0.0, 3)
    assert "decay_every_epochs" in error.received


# The real MNIST.


@pytest.mark.slow
def test_a_quarter_of_an_epoch_teaches_mnist(tmp_path, shared_folder):
    changes = {
        "num_epochs": 0.25,
        "data.data_dir": str(shared_folder / "tfds"),
        "data.download": False,
        "averaging.decay": 0.9,
        "eval.split": "test[:2000]",
    }
    config = runs.plain(mnist_vib.get_config(), changes)
    result = train(config, tmp_path)
    assert result["num_train_examples"] == 60000
    assert result["step"] == 150
    assert result["accuracy"] > 0.85
    assert result["accuracy_stochastic"] > 0.85
    assert result["rate"] > 0
