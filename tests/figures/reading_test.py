"""Folders of sweeps, whole and damaged: a bad record takes no other with it."""

import json

import pytest

from ib_keras.figures import reading
from tests.support import runs
from tests.support import sweep_folder

FIRST = "vib_beta_0.01_seed_0"
SECOND = "vib_beta_0.01_seed_1"


@pytest.fixture
def folder(tmp_path):
    return sweep_folder.make(tmp_path / "sweep", values=(0.01,), seeds=2)


def names(found):
    return [run.name for run in found]


def record_path(folder, name=FIRST):
    return folder / "records" / f"{name}.json"


def test_a_whole_sweep_is_read_in_its_order(folder):
    found = reading.load(str(folder))
    assert names(found.done) == [
        FIRST,
        SECOND,
        "deterministic_seed_0",
        "deterministic_seed_1",
    ]
    assert [run.is_twin for run in found.done] == [False, False, True, True]
    assert (found.config, found.preset) == ("mnist_vib", "cpu")
    assert not found.missing
    assert not found.excluded
    assert not found.notes


def test_the_records_and_the_plan_are_enough(folder):
    (folder / "table.csv").unlink()
    assert len(reading.load(str(folder)).done) == 4


@pytest.mark.parametrize("is_there", [True, False])
def test_a_folder_that_is_no_sweep_is_refused(tmp_path, is_there):
    folder = tmp_path if is_there else tmp_path / "none"
    error = runs.refused(reading.load, str(folder))
    assert "sweep.json" in str(error)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "damaged"),
        ("[]", "not what a sweep writes"),
        ('{"format_version": 2}', "format_version 2"),
        ('{"format_version": 1, "config": "mnist_vib"}', 'without "preset"'),
    ],
)
def test_a_plan_that_cannot_be_used_is_refused(folder, content, word):
    (folder / "sweep.json").write_text(content)
    assert word in str(runs.refused(reading.load, str(folder)))


def test_a_run_without_a_record_is_missing(folder):
    record_path(folder, FIRST).unlink()
    record_path(folder, SECOND).unlink()
    (folder / "runs" / SECOND).mkdir(parents=True)
    found = reading.load(str(folder))
    assert found.missing == {
        FIRST: "not begun",
        SECOND: "begun, but not finished",
    }
    assert len(found.done) == 2


def whole(record, **changes):
    return json.dumps(record | changes)


def without(record, *path):
    section = record
    for name in path[:-1]:
        section = section[name]
    del section[path[-1]]
    return json.dumps(record)


DAMAGES = {
    "half": (lambda r: json.dumps(r)[:500], "whole JSON|damaged"),
    "a list": (lambda r: "[1]", "not what a sweep writes"),
    "version": (lambda r: whole(r, format_version=7), "format_version 7"),
    "name": (lambda r: whole(r, name="other"), '"other"'),
    "status": (lambda r: whole(r, status="so"), "status = 'so'"),
    "preset": (lambda r: whole(r, preset="smoke"), '"smoke"'),
    "no model": (lambda r: without(r, "model"), 'without "model"'),
    "no hash": (lambda r: without(r, "model", "sha256"), 'without "sha256"'),
    "no accuracy": (
        lambda r: without(r, "audits", "fgs_mean", "robust_accuracy"),
        'audits.fgs_mean without "robust_accuracy"',
    ),
    "a word": (lambda r: whole(r, dataset="MNIST"), "MNIST"),
    "audits": (lambda r: whole(r, audits={"a": {}}), "audits.a without"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_record_is_told_and_the_others_are_read(folder, damage):
    spoil, words = DAMAGES[damage]
    path = record_path(folder)
    path.write_text(spoil(json.loads(path.read_text())))
    found = reading.load(str(folder))
    assert list(found.missing) == [FIRST]
    assert any(word in found.missing[FIRST] for word in words.split("|"))
    assert len(found.done) == 3


def test_collapsed_and_diverged_runs_are_left_out_with_their_reason(folder):
    why = "collapsed: clean accuracy 0.1135 < 0.5500"
    sweep_folder.change(folder, FIRST, collapsed=why)
    # As the sweep writes a run whose loss is not finite: nothing to audit.
    sweep_folder.change(
        folder,
        SECOND,
        status="diverged",
        error="the loss is not finite",
        model=None,
        audits=None,
        result=None,
    )
    found = reading.load(str(folder))
    assert found.excluded == {
        FIRST: why,
        SECOND: "diverged: the loss is not finite",
    }
    assert names(found.collapsed) == [FIRST]
    assert len(found.done) == 2


def test_one_model_counts_once(folder):
    record = json.loads(record_path(folder).read_text())
    sweep_folder.change(folder, SECOND, model=record["model"])
    found = reading.load(str(folder))
    assert found.excluded == {SECOND: f"the same model as {FIRST}"}


def test_a_record_outside_of_the_plan_is_noted(folder):
    plan = json.loads((folder / "sweep.json").read_text())
    plan["runs"] = plan["runs"][1:]
    sweep_folder.write(folder / "sweep.json", plan)
    found = reading.load(str(folder))
    assert len(found.done) == 3
    assert found.notes == (f"Not of the plan, so left out: {FIRST}.",)


def test_runs_of_one_kind_keep_their_states(folder):
    record_path(folder, SECOND).unlink()
    found = reading.load(str(folder))
    twins = found.of(lambda labels: labels["model"] == "deterministic")
    assert list(twins.planned) == [
        "deterministic_seed_0",
        "deterministic_seed_1",
    ]
    assert not twins.missing
    assert len(found.of(lambda labels: labels.get("seed") == 1).missing) == 1


def test_parts_of_a_sweep_make_one(folder, tmp_path):
    other = sweep_folder.make(tmp_path / "other", values=(0.01,), seeds=2)
    record_path(folder, FIRST).unlink()
    record_path(other, SECOND).unlink()
    sweeps = [reading.load(str(f)) for f in (folder, other)]
    found = reading.merge(sweeps)
    assert names(found.done) == names(reading.merge(sweeps[::-1]).done)
    assert names(found.done)[:2] == [FIRST, SECOND]
    assert not found.missing
    assert [n for n in found.notes if "several folders" in n]
    assert found.folders == (str(folder), str(other))


@pytest.mark.parametrize("is_first", [True, False])
def test_what_failed_in_one_folder_counts_from_another(
    folder, tmp_path, is_first
):
    other = sweep_folder.make(tmp_path / "other", values=(0.01,), seeds=2)
    sweep_folder.change(other, FIRST, status="failed", error="no room")
    places = (other, folder) if is_first else (folder, other)
    found = reading.merge([reading.load(str(f)) for f in places])
    assert FIRST in names(found.done)
    assert not found.excluded


def test_a_whole_run_counts_before_one_whose_added_audit_failed(
    folder, tmp_path
):
    other = sweep_folder.make(tmp_path / "other", values=(0.01,), seeds=2)
    sweep_folder.change(other, FIRST, error="no room", audits={})
    for places in ((other, folder), (folder, other)):
        found = reading.merge([reading.load(str(f)) for f in places])
        (run,) = [run for run in found.done if run.name == FIRST]
        assert run.record["error"] is None


def test_sweeps_of_several_budgets_are_not_mixed(folder, tmp_path):
    other = sweep_folder.make(tmp_path / "other", preset="smoke")
    sweeps = [reading.load(str(f)) for f in (folder, other)]
    error = runs.refused(reading.merge, sweeps)
    assert "mnist_vib:cpu" in str(error)
    assert "mnist_vib:smoke" in str(error)


def test_the_command_makes_what_is_missing(folder):
    assert reading.load(str(folder)).command == (
        "python -m launch.sweep --config=configs/mnist_vib.py:cpu "
        f"--workdir={folder}"
    )
    plan = json.loads((folder / "sweep.json").read_text())
    plan["overrides"] = {"num_epochs": 1}
    sweep_folder.write(folder / "sweep.json", plan)
    assert " --config.num_epochs=1 " in reading.load(str(folder)).command
