"""Parts of an audit, put together, are the audit of one process."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from ib_keras.attacks import devices
from ib_keras.audit import jobs
from ib_keras.audit import protocol
from ib_keras.audit import runner
from ib_keras.audit import shards
from ib_keras.errors import Interrupted
from ib_keras.errors import InUseError
from tests.audit.runner_test import read
from tests.audit.runner_test import two_stages
from tests.support import runs

# Fields of the ledger that rounding may change a little.
FLOATS = ("adversarial_images", "margin", "wrong_share", "loss")
FLOATS += ("gradient_norm",)
COUNT = 12


def config(**changes):
    """12 digits in batches of 5: FGS, then two runs of PGD, at two radii."""
    return two_stages(
        **{
            "num_examples": COUNT,
            "batch_size": 5,
            "epsilon_curve": [0.05],
            "stages.pgd.num_restarts": 2,
            "stages.pgd.attack.num_steps": 3,
            "stages.pgd.attack.step_size": 0.06,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def model():
    return runs.digits_model("vib")


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    runner.audit(config(), model, str(folder), quiet=True)
    return folder


@pytest.fixture
def job(model, tmp_path):
    made = jobs.make(config(), model, str(tmp_path / "audit"))
    made = json.loads(json.dumps(made))  # It goes to another process.
    jobs.claim(made)
    return made


def assert_same(folder, expected_folder):
    """Equal but for rounding, times and commands: the first of Measured."""
    for place in (".", "epsilon_0.05"):
        summary, examples = read(pathlib.Path(folder) / place)
        expected_summary, expected = read(pathlib.Path(expected_folder) / place)
        assert list(examples) == list(expected)
        for name, array in expected.items():
            if name in FLOATS:
                np.testing.assert_allclose(
                    examples[name], array, atol=1e-5, err_msg=name
                )
            else:
                np.testing.assert_array_equal(examples[name], array, name)
        assert timeless(summary) == timeless(expected_summary)


def timeless(summary):
    volatile = ("command", "seal", "seconds")
    rest = {k: v for k, v in summary.items() if k not in volatile}
    rest["expected_accuracy"] = pytest.approx(rest["expected_accuracy"])
    rest["stages"] = [
        {k: v for k, v in stage.items() if k != "seconds"}
        for stage in summary["stages"]
    ]
    return rest


def attack_all(job, parts):
    return [shards.attack(job, *part) for part in parts]


@pytest.mark.parametrize(
    "parts",
    [
        [(0, 12)],
        [(0, 3), (3, 6), (6, 9), (9, 12)],
        [(7, 12), (0, 1), (1, 7)],
    ],
    ids=["one", "four", "unequal, in any order"],
)
def test_parts_merged_are_the_audit_of_one_process(job, whole, parts):
    attack_all(job, parts)
    names = os.listdir(job["workdir"])
    assert sorted(n for n in names if n.startswith("part_")) == sorted(
        f"part_{first}_{last}" for first, last in parts
    )
    returned = shards.merge(job, parts)
    assert returned == read(job["workdir"])[0]
    assert shards.examine(job) is None
    assert_same(job["workdir"], whole)
    assert sorted(os.listdir(job["workdir"])) == sorted(os.listdir(whole))
    # Once more, there is nothing left to do.
    before = runs.snapshot(job["workdir"])
    assert shards.merge(job, parts) == returned
    assert runs.snapshot(job["workdir"]) == before


def test_parts_in_one_process_share_their_traces(job):
    shards.forget()
    before = len(devices.TRACES)
    shards.attack(job, 0, 3)
    first = devices.TRACES[before:]
    assert first
    attack_all(job, [(3, 6), (6, 9), (9, 12)])
    assert devices.TRACES[before:] == first


def test_a_part_that_is_done_is_not_attacked_again(job, monkeypatch):
    found = shards.attack(job, 0, 5)
    assert (found["first"], found["last"]) == (0, 5)
    before = runs.snapshot(job["workdir"])
    monkeypatch.setattr(shards, "_open", lambda *given: 1 / 0)
    assert shards.attack(job, 0, 5) == found
    assert runs.snapshot(job["workdir"]) == before


def test_a_part_that_was_stopped_goes_on(job, whole):
    for at in (1, 2, 3):
        with pytest.raises(Interrupted):
            shards.attack(job, 0, 7, should_stop=runs.Clock(at))
        shards.forget()
    attack_all(job, [(0, 7), (7, 12)])
    shards.merge(job, [(0, 7), (7, 12)])
    assert_same(job["workdir"], whole)


def test_a_part_that_is_cut_off_is_refused_and_attacked_anew(job, whole):
    parts = [(0, 5), (5, 12)]
    attack_all(job, parts)
    path = pathlib.Path(job["workdir"], "part_5_12", "partial.npz")
    path.write_bytes(path.read_bytes()[:-100])
    error = runs.refused(shards.merge, job, parts)
    assert "cut off" in error.what
    assert "partial.npz in" in error.received
    assert not pathlib.Path(job["workdir"], "summary.json").exists()
    # So does a receipt that is cut off.
    attack_all(job, parts)
    receipt = pathlib.Path(job["workdir"], "part_0_5", "part.json")
    receipt.write_text(receipt.read_text()[:20])
    error = runs.refused(shards.merge, job, parts)
    assert "not whole" in error.what
    attack_all(job, parts)
    shards.merge(job, parts)
    assert_same(job["workdir"], whole)


def test_a_part_that_was_never_attacked_is_refused(job):
    shards.attack(job, 0, 5)
    error = runs.refused(shards.merge, job, [(0, 5), (5, 12)])
    assert "part_5_12" in error.received


def test_a_part_of_another_audit_is_refused(job, model, tmp_path):
    other = jobs.make(config(seed=1), model, str(tmp_path / "other"))
    jobs.claim(other)
    shards.attack(other, 0, 12)
    place = pathlib.Path(job["workdir"], "part_0_12")
    shutil.copytree(pathlib.Path(other["workdir"], "part_0_12"), place)
    for call in (
        lambda: shards.merge(job, [(0, 12)]),
        lambda: shards.attack(job, 0, 12),
    ):
        error = runs.refused(call)
        assert error.what == "A part is that of another audit"


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ([(0, 5), (6, 12)], "leave a gap"),
        ([(0, 5), (5, 11)], "leave a gap"),
        ([], "leave a gap"),
        ([(1, 12)], "leave a gap"),
        ([(0, 6), (5, 12)], "overlap"),
        ([(0, 12), (0, 12)], "overlap"),
        ([(0, 12), (12, 13)], "overlap"),
    ],
)
def test_gaps_and_overlaps_are_refused(parts, what):
    assert what in runs.refused(jobs.check_parts, parts, 12).what


def test_ranges():
    assert jobs.split(10, None) == [(0, 10)]
    assert jobs.split(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert jobs.split(10, 10) == [(0, 10)]
    for size in (0, 11, -1, 2.0, True):
        error = runs.refused(jobs.split, 10, size)
        assert error.received == f"examples_per_part={size}"


@pytest.mark.parametrize("part", [(5, 5), (-1, 3), (3, 13), (6, 5)])
def test_a_range_outside_of_the_examples_is_refused(job, part):
    assert "not a range" in runs.refused(shards.attack, job, *part).what


def test_a_model_that_has_changed_is_refused(job):
    job["sha256"] = "0" * 64
    shutil.rmtree(job["workdir"])
    jobs.claim(job)
    error = runs.refused(shards.attack, job, 0, 12)
    assert "changed since" in error.what


def test_a_folder_that_is_not_there_is_not_made(job):
    shutil.rmtree(job["workdir"])
    for call in (
        lambda: shards.attack(job, 0, 12),
        lambda: shards.merge(job, [(0, 12)]),
        lambda: shards.examine(job),
    ):
        assert "does not see" in runs.refused(call).what
    assert not os.path.exists(job["workdir"])


def test_a_part_that_another_process_attacks_is_left_to_it(job, monkeypatch):
    def asks_for_the_same():
        with pytest.raises(InUseError):
            shards.attack(job, 0, 12)
        return True

    with pytest.raises(Interrupted):
        shards.attack(job, 0, 12, should_stop=asks_for_the_same)


def test_more_targets_than_other_classes_are_refused():
    asked = {"multi": {"num_restarts": 1, "attack": {}}}
    asked["multi"]["attack"] = {"name": "multi_targeted", "num_targets": 9}
    stages = protocol.build_stages({"stages": asked})
    shards.check_targets(stages, 10)
    error = runs.refused(shards.check_targets, stages, 9)
    assert error.received == "num_targets=9 of stage multi"


@pytest.mark.slow
def test_diagnostics_are_those_of_one_process(model, tmp_path):
    asked = config(**{"diagnostics.set": "quick", "epsilon_curve": []})
    asked["diagnostics"]["num_examples"] = 6
    runner.audit(asked, model, str(tmp_path / "one"), quiet=True)
    made = jobs.make(asked, model, str(tmp_path / "parts"))
    jobs.claim(made)
    attack_all(made, [(0, 7), (7, 12)])
    shards.merge(made, [(0, 7), (7, 12)])
    found = shards.examine(made)
    expected = json.loads((tmp_path / "one" / "findings.json").read_text())
    assert found["verdict"] == expected["verdict"]
    assert [f["id"] for f in found["findings"]] == [
        f["id"] for f in expected["findings"]
    ]
    assert shards.examine(made)["seal"] == found["seal"]


@pytest.mark.slow
def test_one_part_of_a_model_with_noise_is_the_audit(model, tmp_path):
    """Of several the draws are others, by the first example of each."""
    asked = config(mode="stochastic", epsilon_curve=[0.05])
    runner.audit(asked, model, str(tmp_path / "one"), quiet=True)
    made = jobs.make(asked, model, str(tmp_path / "parts"))
    jobs.claim(made)
    shards.attack(made, 0, 12)
    shards.merge(made, [(0, 12)])
    assert_same(made["workdir"], tmp_path / "one")
