"""Robust accuracy while a model trains, and the alarm of a collapse."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import export
from ib_keras import files
from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras.errors import DivergedError
from ib_keras.training import loop
from ib_keras.training import settings
from ib_keras.training.monitor import Monitor
from ib_keras.training.monitor import best_step
from tests.support import models
from tests.support import runs

SECTION = {
    "split": "test",
    "epsilon": 0.1,
    "step_size": 0.05,
    "num_steps": 4,
    "gap": 0.25,
    "action": "warn",
}
PGD_AT = {
    "name": "pgd_at",
    "epsilon": 0.1,
    "step_size": 0.05,
    "num_steps": 2,
}


def monitor(model, data, **changes):
    return Monitor(
        SECTION | changes,
        model,
        strategies.get(),
        seeds.from_int(0),
        data,
        batch_size=8,
    )


def test_both_accuracies_of_a_linear_model_are_its_margin_over_its_norm():
    """In batches of 8 of 20 images, the last of which is padded."""
    model = models.two_class_linear((3, 3, 1))
    rng = np.random.default_rng(0)
    images = rng.uniform(0.2, 0.8, (20, 3, 3, 1)).astype(np.float32)
    with tf.GradientTape() as tape:
        x = tf.constant(images)
        tape.watch(x)
        logits = model(x)
        difference = logits[:, 1] - logits[:, 0]
    reach = 0.1 * np.abs(tape.gradient(difference, x)).sum(axis=(1, 2, 3))
    labels = (difference.numpy() > 0).astype(np.int32)
    expected = float((np.abs(difference) > reach).mean())
    assert 0 < expected < 1
    found = monitor(model, (images, labels)).measure()
    assert found == {"accuracy_fgs": expected, "accuracy_pgd": expected}


def row(step, many):
    return {"step": step, "accuracy_pgd": many}


@pytest.mark.parametrize("action", settings.arguments.ACTIONS)
def test_the_alarm_is_of_a_difference_that_does_not_mend(action):
    watched = monitor(None, None, action=action)
    rows = [row(1, 0.5), {"step": 2, "loss": 1.0}, row(3, 0.1)]
    near = {"accuracy_fgs": 0.6, "accuracy_pgd": 0.4}
    assert watched.alarm(3, near, rows) is None
    far = {"accuracy_fgs": 0.9, "accuracy_pgd": 0.1}
    if action == "warn":
        assert "collapsed" in watched.alarm(3, far, rows)
        return
    with pytest.raises(DivergedError, match="90.0% against FGS, 10.0%"):
        watched.alarm(3, far, rows)


@pytest.mark.parametrize(
    ("before", "many", "is_alarm"),
    [
        ([], 0.0, True),
        ([], 0.04, False),
        # As measured while the radius of pgd_at grew on MNIST.
        ([0.0, 0.004], 0.039, False),
        ([0.0, 0.004, 0.039], 0.136, False),
        ([0.0, 0.004], 0.006, True),
        ([0.3, 0.0], 0.2, True),
    ],
)
def test_no_alarm_while_accuracy_against_pgd_grows(before, many, is_alarm):
    watched = monitor(None, None, action="warn")
    rows = [row(step, value) for step, value in enumerate([*before, many])]
    values = {"accuracy_fgs": 0.6, "accuracy_pgd": many}
    said = watched.alarm(len(before), values, rows)
    assert (said is not None) == is_alarm


def test_the_best_step_is_the_first_of_the_highest_by_pgd():
    rows = [
        {"step": step, "accuracy_pgd": value}
        for step, value in ((1, 0.1), (2, 0.5), (3, 0.5), (4, 0.2))
    ]
    assert best_step([{"step": 0}, *rows]) == 2
    assert best_step([{"step": 0, "loss": 1.0}]) is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose accuracy against PGD is best before its end."""
    workdir = str(tmp_path_factory.mktemp("monitored"))
    values = iter([0.25, 0.75, 0.5])

    class Planted(Monitor):
        def measure(self):
            found = super().measure()
            assert set(found) == {"accuracy_fgs", "accuracy_pgd"}
            return found | {"accuracy_pgd": next(values)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Monitor", Planted)
        config = runs.smoke_config("vib", num_epochs=3, eval__every_epochs=1.0)
        config |= {"objective": PGD_AT, "monitor": SECTION}
        result = loop.train(config, workdir, quiet=True)
    return workdir, result


def test_the_best_checkpoint_by_pgd_is_kept_and_exported(trained):
    workdir, result = trained
    folder = os.path.join(workdir, settings.BEST_CHECKPOINT)
    assert os.listdir(folder) == ["step-0000000008.npz"]
    assert result["best_step"] == 8
    saved = [
        export.read_metadata(os.path.join(workdir, name))
        for name in (settings.SAVED_MODEL, settings.BEST_SAVED_MODEL)
    ]
    assert [metadata["step"] for metadata in saved] == [12, 8]


def test_the_log_has_what_the_monitor_measures(trained):
    lines = files.read_text(os.path.join(trained[0], "metrics.jsonl"))
    rows = [json.loads(line) for line in lines.splitlines()]
    found = [r["accuracy_pgd"] for r in rows if r["kind"] == "eval"]
    assert found == [0.25, 0.75, 0.5]


@pytest.mark.parametrize(
    "section",
    [
        {"monitor": SECTION | {"gap": 2.0}},
        {"monitor": SECTION | {"action": "halt"}},
        {"monitor": {"epsilon": 0.1}},
        {"objective": {"name": "pgd"}},
        {"objective": PGD_AT | {"epsilon": 8}},
        {"objective": PGD_AT | {"num_steps": 0}},
        {"objective": PGD_AT | {"steps": 3}},
    ],
)
def test_wrong_sections_are_refused_before_anything_is_built(section):
    config = runs.smoke_config("vib") | section
    runs.refused(settings.check_values, config)
