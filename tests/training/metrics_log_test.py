"""Rows are said once, whole, and in step with the checkpoints."""

import json

import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import plugin_data_pb2

from ib_keras import files
from ib_keras.training.metrics_log import MetricsLog
from tests.support import runs


def rows(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def log_of(workdir, steps):
    log = MetricsLog(str(workdir))
    for step in steps:
        log.add(step, step / 3, "train", {"loss": 1.0 / step})
    return log


def test_rows_are_json_objects_in_the_order_of_adding(tmp_path):
    log = log_of(tmp_path, (3, 6))
    log.add(6, 2.0, "eval", {"loss": 0.1, "accuracy": 0.5})
    log.flush()
    assert rows(tmp_path) == [
        {"step": 3, "epoch": 1.0, "kind": "train", "loss": 1 / 3},
        {"step": 6, "epoch": 2.0, "kind": "train", "loss": 1 / 6},
        {
            "step": 6,
            "epoch": 2.0,
            "kind": "eval",
            "loss": 0.1,
            "accuracy": 0.5,
        },
    ]


def test_tensorboard_is_told_the_config_for_its_table_of_runs(tmp_path):
    config = {"bottleneck": {"name": "vib", "beta": 0.01}, "eval": [1, None]}
    log = MetricsLog(str(tmp_path), config)
    log.add(3, 1.0, "train", {"loss": 0.5})
    log.flush()
    (path,) = tmp_path.glob("tensorboard/events*")
    content = [
        value.metadata.plugin_data.content
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    ]
    (started,) = (
        plugin_data_pb2.HParamsPluginData.FromString(c) for c in content
    )
    hparams = started.session_start_info.hparams
    assert {k: v.WhichOneof("kind") for k, v in hparams.items()} == {
        "bottleneck.name": "string_value",
        "bottleneck.beta": "number_value",
        "eval": "string_value",
    }
    assert hparams["bottleneck.beta"].number_value == 0.01
    assert hparams["eval"].string_value == "[1, null]"


def test_nothing_is_written_before_a_flush(tmp_path):
    log = log_of(tmp_path, (3,))
    assert not (tmp_path / "metrics.jsonl").exists()
    log.flush()
    assert len(rows(tmp_path)) == 1


@pytest.mark.parametrize(("step", "kept"), [(2, []), (3, [3]), (8, [3, 6])])
def test_a_restored_log_drops_what_is_later_than_the_checkpoint(
    tmp_path, step, kept
):
    log_of(tmp_path, (3, 6, 9)).flush()
    log = MetricsLog(str(tmp_path))
    log.restore(step)
    log.add(10, 3.3, "train", {"loss": 0.0})
    log.flush()
    assert [row["step"] for row in rows(tmp_path)] == [*kept, 10]


def test_a_repeated_row_replaces_the_earlier_one(tmp_path):
    log_of(tmp_path, (3, 6)).flush()
    log = MetricsLog(str(tmp_path))
    log.restore(6)
    log.add(6, 2.0, "eval", {"loss": 0.5})
    log.add(6, 2.0, "train", {"loss": 7.0})
    log.flush()
    said = [(row["step"], row["kind"], row["loss"]) for row in rows(tmp_path)]
    assert said == [
        (3, "train", 1 / 3),
        (6, "eval", 0.5),
        (6, "train", 7.0),
    ]


def test_a_log_that_is_not_there_is_empty(tmp_path):
    log = MetricsLog(str(tmp_path))
    log.restore(5)
    log.flush()
    assert rows(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["not JSON\n", '{"step": 3, "los', "{}\n", "3\n"]
)
def test_a_damaged_log_is_one_clear_error(tmp_path, text):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    error = runs.refused(MetricsLog(str(tmp_path)).restore, 5)
    assert str(path) in error.received
    assert path.read_text() == text


def test_tensorboard_reads_the_same_values(tmp_path):
    log = log_of(tmp_path, (3, 6))
    log.flush()
    (events,) = (tmp_path / "tensorboard").iterdir()
    read = {
        (event.step, value.tag): float(tf.make_ndarray(value.tensor))
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    assert read == {
        (3, "train/loss"): pytest.approx(1 / 3),
        (6, "train/loss"): pytest.approx(1 / 6),
    }


def test_a_place_without_space_for_summaries_is_one_clear_error(tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    error = runs.refused(log_of, tmp_path, (3,))
    assert error.what == "Cannot write the summaries"
    assert (tmp_path / "tensorboard").read_text() == "a file"


def test_a_flush_that_is_killed_leaves_the_old_rows(tmp_path, monkeypatch):
    log_of(tmp_path, (3,)).flush()
    for at, half in ((1, False), (2, False), (1, True)):
        disk = runs.DyingDisk(files.gfile, at, half)
        with monkeypatch.context() as patch:
            patch.setattr(files, "gfile", disk)
            with pytest.raises(runs.Killed):
                log_of(tmp_path, (3, 6)).flush()
        assert [row["step"] for row in rows(tmp_path)] == [3]
