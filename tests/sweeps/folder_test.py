"""A sweep's folder: whose it is, what is done, and what is refused."""

import dataclasses
import json
import os

import filelock
import pytest

from ib_keras import files
from ib_keras.sweeps import folder as folders
from ib_keras.sweeps import plan
from ib_keras.sweeps import records
from ib_keras.sweeps import sweep
from tests.support import runs

CONFIG = {"seed": 0, "data": {"name": "x", "data_dir": None}, "rate": 0.5}
AUDIT = {"protocol": "p", "dataset": {"data_dir": None}, "seed": 0}


def make_run(name="a", **changes):
    fields = {
        "name": name,
        "labels": {"model": "vib", "seed": 0},
        "config": CONFIG,
        "audits": {"fgs": AUDIT},
        "landscape": None,
    }
    return plan.Run(**fields | changes)


def make_plan(*given, **changes):
    found = plan.Plan("digits_vib", "cpu", "Cut.", {}, given or (make_run(),))
    return dataclasses.replace(found, **changes)


def write_record(place, run, status="done", seconds=60.0):
    record = records.frame(run, "cpu", status, None)
    record["seconds"] = {"train": seconds, "audits": 0.0, "wall": seconds}
    files.make_folder(os.path.dirname(place.record(run.name)))
    files.write_json(place.record(run.name), record)


@pytest.fixture
def place(tmp_path):
    return folders.Folder(str(tmp_path / "sweep"))


def test_the_progress_of_a_run_is_at_the_end_of_its_log(place):
    run = make_run()
    assert place.how_far(run) == ""
    files.make_folder(place.run("a"))
    for text, expected in (
        ("", ""),
        (
            "train: 40/600 step, 1.5 min left, loss 0.3\n",
            ", 40/600 step, 1.5 min left",
        ),
        ("fgs, epsilon 0.2: 3/10 example\n", ", 3/10 example"),
        ("Begins: fgs.\n", ""),
    ):
        with open(place.log(run), "a", encoding="utf-8") as log:
            log.write(text)
        assert place.how_far(run) == expected


def test_states_follow_what_is_there(place):
    run = make_run()
    assert place.state(run) == ("to do", None)
    files.make_folder(place.run("a"))
    assert place.state(run) == ("to do", None)
    files.write_json(files.join(place.run("a"), "config.json"), CONFIG)
    assert place.state(run) == ("resumable", None)
    for status, is_finished in (
        ("failed", False),
        ("diverged", True),
        ("done", True),
    ):
        write_record(place, run, status)
        state, record = place.state(run)
        assert state == record["status"] == status
        assert place.is_finished(run) == is_finished


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"config": CONFIG | {"rate": 0.25}}, "rate=0.25. Expected: rate=0.5"),
        ({"audits": {"fgs": AUDIT | {"seed": 1}}}, "audits.fgs.seed=1"),
        ({"landscape": {"epsilon": 1, "num_images": 2}}, "landscape.epsilon=1"),
    ],
)
def test_a_record_of_another_config_is_refused_by_its_field(
    place, changes, said
):
    landscape = {"epsilon": 0.5, "num_images": 2}
    write_record(place, make_run(landscape=landscape))
    before = runs.snapshot(place.path)
    changed = make_run(**{"landscape": landscape} | changes)
    error = runs.refused(sweep.run, make_plan(changed), place.path)
    assert said in str(error)
    assert place.record("a") in str(error)
    assert runs.snapshot(place.path) == before


def test_a_folder_of_another_config_is_refused_before_anything_is_done(place):
    files.make_folder(place.run("b"))
    other = CONFIG | {"rate": 0.25}
    files.write_json(files.join(place.run("b"), "config.json"), other)
    before = runs.snapshot(place.path)
    both = make_plan(make_run("a"), make_run("b"))
    error = runs.refused(sweep.run, both, place.path)
    assert "rate=0.5. Expected: rate=0.25" in str(error)
    assert runs.snapshot(place.path) == before


def test_another_path_of_the_data_keeps_the_config(place):
    write_record(place, make_run())
    data = {"name": "x", "data_dir": "/elsewhere"}
    audit = AUDIT | {"dataset": {"data_dir": "/elsewhere"}}
    moved = make_run(config=CONFIG | {"data": data}, audits={"fgs": audit})
    assert place.is_finished(moved)


def test_a_failed_run_may_be_retried_with_a_corrected_audit(place):
    write_record(place, make_run(), "failed")
    corrected = make_run(audits={"fgs": AUDIT | {"seed": 1}})
    assert place.state(corrected)[0] == "failed"
    assert not place.is_finished(corrected)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"status": "done", ',
        b"[]",
        b"{}",
        b'{"format_version": 2, "status": "done"}',
        b'{"format_version": 1, "status": "dome"}',
        b'{"format_version": 1, "status": "done", "name": "a"}',
    ],
)
def test_a_record_that_cannot_be_read_is_told_of_and_kept(place, content):
    write_record(place, make_run())
    with open(place.record("a"), "wb") as file:
        file.write(content)
    error = runs.refused(sweep.run, make_plan(), place.path)
    assert place.record("a") in str(error)
    assert "remove it" in str(error)
    with open(place.record("a"), "rb") as file:
        assert file.read() == content


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"preset": "smoke"}, "preset 'smoke'"),
        ({"config": "mnist_vib"}, "config 'mnist_vib'"),
        ({"overrides": {"rate": 2}}, "overrides {'rate': 2}"),
    ],
)
def test_the_folder_of_another_sweep_is_refused(place, changes, said):
    write_record(place, make_run())
    sweep.run(make_plan(), place.path)
    before = runs.snapshot(place.path)
    error = runs.refused(sweep.run, make_plan(**changes), place.path)
    assert said in str(error)
    assert runs.snapshot(place.path) == before


def test_a_sweep_may_resume_with_another_path_of_its_data(place):
    write_record(place, make_run())
    for folder in ("/here", "/there"):
        overrides = {"data.data_dir": folder, "rate": 0.5}
        sweep.run(make_plan(overrides=overrides), place.path)
    with open(os.path.join(place.path, "sweep.json")) as file:
        assert json.load(file)["overrides"] == overrides


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    error = runs.refused(sweep.run, make_plan(), str(tmp_path))
    assert "thesis.tex" in str(error)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("path", ["", "gs://bucket/sweep", __file__])
def test_a_place_that_is_no_local_folder_is_refused(path):
    runs.refused(sweep.run, make_plan(), path)


def test_two_sweeps_on_one_folder_exclude_each_other(place):
    files.make_folder(place.path)
    with filelock.FileLock(files.join(place.path, "sweep.lock")):
        error = runs.refused(sweep.run, make_plan(), place.path)
    assert "one sweep at a time" in str(error)
    assert os.listdir(place.path) == ["sweep.lock"]


def test_a_sweep_that_is_done_writes_nothing_again(place):
    write_record(place, make_run())
    found = sweep.run(make_plan(), place.path)
    assert [status for _, status, _ in found] == ["done"]

    def times():
        return {
            name: os.stat(os.path.join(folder, name)).st_mtime_ns
            for folder, _, names in os.walk(place.path)
            for name in names
            if name != "sweep.lock"
        }

    before = times()
    assert set(before) == {"a.json", "sweep.json", "table.csv"}
    sweep.run(make_plan(), place.path)
    assert times() == before
    with open(os.path.join(place.path, "sweep.json")) as file:
        assert json.load(file) == {
            "format_version": 1,
            "config": "digits_vib",
            "preset": "cpu",
            "budget": "Cut.",
            "overrides": {},
            "num_runs": 1,
            "runs": [{"name": "a", "labels": {"model": "vib", "seed": 0}}],
        }


def test_only_takes_the_names_that_match():
    found = make_plan(make_run("vib_1"), make_run("vib_2"), make_run("twin_1"))
    assert [r.name for r in sweep.choose(found, "_1$")] == ["vib_1", "twin_1"]
    assert len(sweep.choose(found, None)) == 3
    assert "vib_1" in str(runs.refused(sweep.choose, found, "ceb"))
    assert "regular" in str(runs.refused(sweep.choose, found, "("))


@pytest.mark.parametrize("num_workers", [0, -1, 1.5, True])
def test_a_number_of_workers_is_a_count(place, num_workers):
    runs.refused(sweep.run, make_plan(), place.path, num_workers=num_workers)


def test_the_rest_is_estimated_by_what_is_done(place):
    vib = [make_run(f"vib_{i}") for i in range(3)]
    twin = make_run("twin", labels={"model": "deterministic"})
    found = make_plan(*vib, twin)
    assert sweep.estimate(sweep.states(place, found), 1) is None
    write_record(place, vib[0], seconds=60.0)
    write_record(place, twin, seconds=600.0)
    # Two like the first are left: two minutes, shared by two.
    text = sweep.estimate(sweep.states(place, found), 2)
    assert "2 of 4 runs are left: about 1.0 min with 2 workers" in text
    for run in vib:
        write_record(place, run)
    assert sweep.estimate(sweep.states(place, found), 2) is None
