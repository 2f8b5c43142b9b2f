"""One run: its record, its parts in their order, and how it can fail."""

import itertools
import json
import os
import pathlib
import re

import numpy as np
import pytest

from configs.sweeps import mnist
from ib_keras import export
from ib_keras.audit import runner
from ib_keras.audit.audited_model import loading
from ib_keras.audit.landscape import records as landscapes
from ib_keras.errors import Interrupted
from ib_keras.sweeps import folder as folders
from ib_keras.sweeps import plan
from ib_keras.sweeps import records
from ib_keras.sweeps import worker
from ib_keras.training import loop
from tests.support import runs
from tests.sweeps.plan_test import values

AUDITS = mnist.audits("smoke", is_stochastic=True, restarts=True)
for _section in AUDITS.values():  # Each radius costs a second of tracing.
    _section["epsilon_curve"] = (0.2,)
AUDITS["restarts"]["epsilon_curve"] = (0.1, 0.2)
ONE = {"fgs_mean": AUDITS["fgs_mean"]}


def make_run(name="vib_0", audits=AUDITS, landscape=None, **changes):
    """A run of eight steps of hardly any weights, and its audits."""
    return plan.Run(
        name=name,
        labels={"model": "vib", "beta": 0.01, "seed": 0},
        config=runs.smoke_config("vib", **changes),
        audits={
            audit: plan.override(
                values(f"audits.{section['protocol']}"),
                {k: v for k, v in section.items() if k != "protocol"},
            )
            for audit, section in audits.items()
        },
        landscape=landscape,
    )


def do(run, workdir, should_stop=lambda: False):
    """Does a run; its status, what its log says it did, and its record."""
    settings = worker.Settings(str(workdir), "smoke", "python -m x", "c0ffee")
    try:
        word = worker.do_run(run, settings, should_stop=should_stop)
    except Interrupted:
        word = "interrupted"
    log = pathlib.Path(workdir, "runs", run.name, "log.txt")
    text = log.read_text() if log.exists() else ""
    said = re.findall(r"^Begins: (.*)\.$", text, re.MULTILINE)
    path = pathlib.Path(workdir, "records", f"{run.name}.json")
    return word, said, json.loads(path.read_text()) if path.exists() else None


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("worker")
    landscape = {"epsilon": 0.1, "num_images": 1, "grid": 5, "num_restarts": 1}
    run = make_run(landscape=landscape)
    return workdir, run, *do(run, workdir)


def test_a_run_trains_audits_and_evaluates_with_messages(done):
    workdir, _, word, said, _ = done
    assert word == "done"
    assert said == [
        *("training", "fgs_mean", "fgs_stochastic", "restarts", "landscapes")
    ]
    own = workdir / "runs" / "vib_0"
    assert {"config.json", "result.json", "saved_model", "log.txt"} <= set(
        os.listdir(own)
    )
    assert sorted(os.listdir(own / "audits")) == sorted(AUDITS)
    assert "First call done" in (own / "log.txt").read_text()


def test_a_record_is_what_the_run_left(done):
    workdir, run, _, _, record = done
    own = workdir / "runs" / "vib_0"
    result = json.loads((own / "result.json").read_text())
    assert record["format_version"] == 1
    assert record["name"] == "vib_0"
    assert record["labels"] == run.labels
    assert record["preset"] == "smoke"
    assert record["status"] == "done"
    assert record["error"] is None
    assert record["config"] == run.config
    assert record["result"] == result
    assert record["dataset"] == result["dataset"]
    assert record["model"] == {
        "sha256": loading.hash_folder(str(own / "saved_model")),
        "num_classes": 10,
        "is_stochastic": True,
        "versions": export.describe_versions(),
        "git_commit": "c0ffee",
    }
    assert record["git_commit"] == "c0ffee"
    assert record["versions"] == export.describe_versions()
    assert set(record["seconds"]) == {"train", "audits", "wall"}
    assert all(value > 0 for value in record["seconds"].values())


def test_a_record_has_the_numbers_of_each_audit(done):
    workdir, _, _, _, record = done
    assert list(record["audits"]) == list(AUDITS)
    for name, found in record["audits"].items():
        place = workdir / "runs" / "vib_0" / "audits" / name
        summary = json.loads((place / "summary.json").read_text())
        for field in records._AUDIT_FIELDS:
            assert found[field] == summary[field]
        assert summary["versions"]["git_commit"] == "c0ffee"
        assert found["verdict"] is None  # Smoke runs no diagnostics.
        labels = np.load(place / "examples.npz")["label"]
        _, counts = np.unique(labels, return_counts=True)
        assert found["largest_class_share"] == counts.max() / labels.size
        robust = np.array(list(found["is_robust"])) == "1"
        assert robust.mean() == summary["robust_accuracy"]
        curve = {p["epsilon"]: p for p in found["epsilon_curve"]}
        own = found["threat_model"]["epsilon"]
        assert (own in curve) == (name == "restarts")  # Of several radii.
        for epsilon, point in curve.items():
            there = place
            if epsilon != own:
                there = place / f"epsilon_{epsilon}"
            part = json.loads((there / "summary.json").read_text())
            assert point["robust_accuracy"] == part["robust_accuracy"]
            stage = part["stages"][-1]
            assert point["restart_curve"] == stage["restart_curve"]
            assert len(point["restart_curve"]) == stage["num_restarts"]
    stochastic = record["audits"]["fgs_stochastic"]
    assert stochastic["mode"] == "stochastic"
    assert stochastic["num_samples"] == 2


def test_a_model_that_guesses_has_collapsed(done):
    record = done[-1]
    clean = record["result"]["accuracy"]
    assert clean < 0.55  # (1 + 1 / 10) / 2, on images that are noise.
    assert record["collapsed"] == (
        f"collapsed: clean accuracy {clean:.4f} < 0.5500"
    )


def test_a_finished_training_is_taken_as_it_is(tmp_path):
    """Such as one of launch.train, in the folder of the run."""
    run = make_run(audits=ONE)
    own = tmp_path / "runs" / run.name
    loop.train(run.config, str(own), quiet=True)
    before = runs.snapshot(own)
    word, _, record = do(run, tmp_path)
    assert word == "done"
    after = runs.snapshot(own)
    assert {n: after[n] for n in before} == before
    assert record["result"] == json.loads(before["result.json"])


def test_a_folder_of_another_config_is_not_touched(tmp_path):
    run = make_run(audits={})
    own = tmp_path / "runs" / run.name
    loop.train(runs.smoke_config("vib", seed=5), str(own), quiet=True)
    before = runs.snapshot(own)
    word, _, record = do(run, tmp_path)
    assert word == "failed"
    assert "seed=0. Expected: seed=5" in record["error"]
    assert runs.snapshot(own) == before


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 4, 9])
def test_a_run_that_was_stopped_goes_on_to_the_same_record(done, tmp_path, at):
    workdir, run, _, _, expected = done
    asked = itertools.count(1)
    word, _, record = do(run, tmp_path, lambda: next(asked) >= at)
    assert word == "interrupted"
    assert record is None
    word, _, record = do(run, tmp_path)
    assert word == "done"

    def timeless(record):
        record = json.loads(json.dumps(record))
        record.pop("seconds")
        # A SavedModel's file of its graph is another at each export.
        record["model"].pop("sha256")
        for audit in record["audits"].values():
            audit.pop("seconds")
        return record

    assert timeless(record) == timeless(expected)


def test_a_training_that_diverges_is_a_result(tmp_path):
    run = make_run(optim__learning_rate=1e30)
    word, _, record = do(run, tmp_path)
    assert word == record["status"] == "diverged"
    assert "no longer finite" in record["error"]
    assert record["result"] is None
    assert record["audits"] == {}


def test_an_audit_that_cannot_be_is_a_failure_with_its_trace(tmp_path):
    too_many = AUDITS["fgs_mean"] | {"num_examples": 33}
    run = make_run(audits={"fgs_mean": too_many})
    word, _, record = do(run, tmp_path)
    assert word == record["status"] == "failed"
    assert "UserError: There are fewer examples" in record["error"]
    log = (tmp_path / "runs" / run.name / "log.txt").read_text()
    assert "Traceback" in log


def test_a_run_without_memory_is_left_to_a_new_process(tmp_path, monkeypatch):
    def train(*arguments, **more):
        raise MemoryError

    monkeypatch.setattr(loop, "train", train)
    with pytest.raises(MemoryError):
        do(make_run(), tmp_path)
    assert not (tmp_path / "records").exists()


def test_landscapes_are_evaluated_once(done, tmp_path, monkeypatch):
    workdir, run, _, _, record = done
    assert record["landscapes"] is not None
    monkeypatch.setattr(landscapes, "evaluate", lambda *arguments: 1 / 0)
    word, _, again = do(run, workdir)
    assert word == "done"
    assert again["landscapes"] == record["landscapes"]


def test_surfaces_of_another_spec_are_not_taken(done, tmp_path):
    workdir, run, *_ = done
    path = str(workdir / "runs" / run.name / "landscapes.json")
    assert len(records.landscapes(path, run.landscape)) == 1
    assert records.landscapes(path, run.landscape | {"grid": 7}) is None
    assert records.landscapes(str(tmp_path / "none"), run.landscape) is None
    listed = tmp_path / "landscapes.json"  # Without a spec.
    listed.write_text("[]")
    assert records.landscapes(str(listed), run.landscape) is None


def test_a_lost_log_costs_the_time_alone(tmp_path):
    run = make_run(audits={})
    do(run, tmp_path)
    log = tmp_path / "runs" / run.name / "metrics.jsonl"
    for content in ("", "x", "1", '{"kind": "train"}\n', "null", None):
        log.unlink() if content is None else log.write_text(content)
        word, _, record = do(run, tmp_path)
        assert word == "done", content
        assert record["result"]["step"] > 0
        assert record["seconds"]["train"] is None, content


def test_what_fails_beside_a_done_run_leaves_its_numbers(tmp_path):
    run = make_run(audits=ONE)
    _, _, before = do(run, tmp_path)
    too_many = AUDITS["fgs_mean"] | {"num_examples": 33}
    grown = make_run(audits=ONE | {"more": too_many})
    word, _, record = do(grown, tmp_path)
    assert word == "failed"
    assert record["error"].startswith("UserError: There are fewer examples")
    assert record | {"error": None} == before
    place = folders.Folder(str(tmp_path))
    assert place.state(grown)[0] == "failed"
    # And the mistake may be mended in the same folder.
    mended = make_run(audits=ONE | {"more": AUDITS["fgs_mean"]})
    word, _, record = do(mended, tmp_path)
    assert word == "done"
    assert record["error"] is None
    assert list(record["audits"]) == ["fgs_mean", "more"]


def test_an_audit_that_was_corrected_sets_the_old_one_aside(
    tmp_path, monkeypatch
):
    attack = runner.audit

    def attack_and_fail(*arguments, **options):
        attack(*arguments, **options)
        raise MemoryError

    run = make_run(audits=ONE)
    monkeypatch.setattr(runner, "audit", attack_and_fail)
    with pytest.raises(MemoryError):
        do(run, tmp_path)
    monkeypatch.undo()
    audits = tmp_path / "runs" / run.name / "audits"
    before = runs.snapshot(audits / "fgs_mean")
    fewer = make_run(audits={"fgs_mean": ONE["fgs_mean"] | {"batch_size": 4}})
    word, _, record = do(fewer, tmp_path)
    assert word == "done"
    assert record["audit_configs"]["fgs_mean"]["batch_size"] == 4
    assert runs.snapshot(audits / "fgs_mean.before_1") == before


def test_a_grown_plan_adds_to_a_record(tmp_path):
    small = make_run(audits=ONE)
    do(small, tmp_path)
    place = folders.Folder(str(tmp_path))
    assert place.is_finished(small)
    more = ONE | {"again": AUDITS["fgs_mean"]}
    whole = make_run(audits=more)
    assert place.state(whole)[0] == folders.RESUMABLE
    word, _, record = do(whole, tmp_path)
    assert word == "done"
    assert list(record["audits"]) == list(more)
    # And a plan that has shrunk since is content with it.
    assert place.is_finished(small)
