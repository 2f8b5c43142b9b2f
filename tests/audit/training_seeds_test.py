"""Tests for what several trainings have in common."""

import json
import pathlib

import pytest

from ib_keras.audit import training_seeds
from tests.support import audit_folder
from tests.support import runs

CLEAN = (0.97, 0.98, 0.96, 0.1)
ROBUST = (0.2, 0.5, 0.35, 0.1)


@pytest.fixture
def folders(tmp_path):
    """Four audits; the last is of a model that guesses."""
    names = []
    for seed, (clean, robust) in enumerate(zip(CLEAN, ROBUST, strict=True)):
        folder = str(tmp_path / f"seed_{seed}")
        audit_folder.write(folder, seed=seed)
        change(
            folder,
            clean_accuracy=clean,
            robust_accuracy=robust,
            model={"sha256": f"{seed}", "metadata": {"num_classes": 10}},
        )
        names.append(folder)
    return names


def change(folder, **fields):
    path = pathlib.Path(folder, "summary.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_collapsed_run_does_not_count_and_is_named(folders):
    found = training_seeds.aggregate(folders)
    assert found.mean == pytest.approx((0.2 + 0.5 + 0.35) / 3)
    assert (found.minimum, found.maximum, found.num_runs) == (0.2, 0.5, 3)
    # Half way from 1 / 10 to 1.
    assert found.min_clean_accuracy == pytest.approx(0.55)
    assert found.excluded == {
        folders[3]: "collapsed: clean accuracy 0.1000 < 0.5500"
    }
    assert list(found.values) == folders[:3]
    assert json.loads(json.dumps(found.to_json()))["num_runs"] == 3


def test_the_threshold_can_be_set(folders):
    assert training_seeds.aggregate(
        folders, min_clean_accuracy=0.0
    ).num_runs == len(folders)
    found = training_seeds.aggregate(folders, min_clean_accuracy=0.965)
    assert list(found.values) == folders[:2]


def test_another_number_can_be_summarised(folders):
    found = training_seeds.aggregate(folders[:2], metric="clean_accuracy")
    assert found.mean == pytest.approx(0.975)


def test_a_model_counts_once(folders):
    found = training_seeds.aggregate([folders[0], folders[1], folders[0]])
    assert found.num_runs == 1 + 1
    assert found.excluded == {folders[0]: f"the same model as {folders[0]}"}


def test_an_audit_that_is_not_finished_is_left_out(folders, tmp_path):
    missing = str(tmp_path / "none")
    found = training_seeds.aggregate([missing, *folders[:1]])
    assert found.num_runs == 1
    assert "no finished audit" in found.excluded[missing]


def test_nothing_left_is_refused(folders):
    error = runs.refused(training_seeds.aggregate, folders[3:])
    assert "collapsed" in error.received
    runs.refused(training_seeds.aggregate, [])


@pytest.mark.parametrize(
    "field, value",
    [
        ("threat_model", {"norm": "linf", "epsilon": 0.3}),
        ("protocol", "aa_mt"),
        ("mode", "stochastic"),
        ("num_examples", 41),
    ],
)
def test_audits_of_several_kinds_are_refused(folders, field, value):
    change(folders[1], **{field: value})
    error = runs.refused(training_seeds.aggregate, folders)
    assert f"{field} differs" in str(error)


def test_without_classes_the_threshold_must_be_given(folders):
    change(folders[0], model={"sha256": "a", "metadata": {}})
    runs.refused(training_seeds.aggregate, folders)
    found = training_seeds.aggregate(folders[:1], min_clean_accuracy=0.5)
    assert found.num_runs == 1
