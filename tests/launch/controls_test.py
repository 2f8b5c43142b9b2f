"""Planted models get the verdicts that are written beside them."""

import pytest

from ib_keras.audit import verdict
from ib_keras.errors import UserError
from launch import control_models as controls

pytestmark = pytest.mark.commands

# Run with every change, for "believable" is the hardest to give; others are
# slow.
QUICK = ("provably robust model",)


def run(name, folder):
    (control,) = controls.select([name])
    row = controls.run(control, str(folder))
    assert row["is_right"], row
    return row


@pytest.mark.parametrize("name", QUICK)
def test_a_verdict_is_right(name, tmp_path):
    row = run(name, tmp_path)
    if row["expected"] == verdict.BELIEVABLE:
        assert row["robust_accuracy"] == row["clean_accuracy"] == 1.0
        assert row["decided_by"] == []
    else:
        assert row["decided_by"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [c.name for c in controls.CONTROLS if c.name not in QUICK]
)
def test_every_verdict_is_right(name, tmp_path):
    run(name, tmp_path)


def test_every_verdict_is_planted():
    assert {c.expected for c in controls.CONTROLS} == set(verdict.LABELS)
    honest = [c for c in controls.CONTROLS if c.is_honest]
    assert all(c.expected == verdict.BELIEVABLE for c in honest)


def test_an_unknown_control_is_refused():
    with pytest.raises(UserError, match="linear softmax"):
        controls.select(["linear softmaxx"])


def test_the_confusion_table_counts():
    rows = [
        {"expected": "believable", "verdict": "believable"},
        {"expected": "believable", "verdict": "invalid"},
        {"expected": "invalid", "verdict": "invalid"},
    ]
    table = controls.confusion(rows)
    assert set(table) == {"believable", "invalid"}
    assert table["believable"]["invalid"] == 1
    assert table["invalid"] == dict.fromkeys(controls.OUTCOMES, 0) | {
        "invalid": 1
    }
