"""Findings are asked for once, saved, resumed, and end in a verdict."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import files
from ib_keras.audit import diagnostics
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import combined
from ib_keras.errors import Interrupted
from ib_keras.errors import UserError
from tests.support import cases


def linear(x, seed=None):
    value = tf.reduce_sum(x - 0.5, axis=[1, 2, 3])
    return tf.stack([value, -value, value - 9.0], axis=1)


@pytest.fixture
def case():
    images = np.linspace(0.5, 0.9, 20)[:, None, None, None]
    images = np.tile(images, [1, 2, 2, 1]).astype(np.float32)
    return cases.make(linear, images, np.zeros(20, np.int32))


class Question:
    """Answers as it is told, and counts how often it is asked."""

    cost = "cheap"

    def __init__(self, id, status=base.PASS, error=None):
        self.ids = (id,)
        self.status, self.error, self.count = status, error, 0

    def ask(self, case):
        self.count += 1
        case.gradient_evaluations += 7
        if self.error:
            raise self.error
        return [
            base.Finding(self.ids[0], "Is it?", self.status, "So.", "A source")
        ]


@pytest.fixture
def questions(monkeypatch):
    found = {
        "first": Question("D10"),
        "second": Question("D9", base.FAIL),
        "third": Question(
            "D2", error=tf.errors.InvalidArgumentError(None, None, "no")
        ),
    }
    monkeypatch.setattr(diagnostics, "load", lambda name: found)
    return found


def test_findings_are_written_in_the_order_of_their_numbers(
    case, questions, tmp_path
):
    folder = str(tmp_path)
    said = diagnostics.examine(case, "quick", folder)
    assert said == files.read_json(f"{folder}/findings.json")
    assert [f["id"] for f in said["findings"]] == ["D2", "D9", "D10", "M3"]
    assert [f["name"] for f in said["findings"]] == [
        "third",
        "second",
        "first",
        "combined",
    ]
    assert said["gradient_evaluations"] == 3 * 7
    assert said["verdict"]["label"] == "upper_bound"
    assert not (tmp_path / "findings_partial.json").exists()


def test_a_check_that_raises_is_no_pass(case, questions, tmp_path):
    said = diagnostics.examine(case, "quick", str(tmp_path))
    failed = said["findings"][0]
    assert failed["status"] == "warn" and "no" in failed["evidence"]
    assert failed["data"] == {"error": "InvalidArgumentError"}
    decided = [row["id"] for row in said["verdict"]["decided_by"]]
    assert "D2" in decided  # Not run, so not answered.


def test_it_goes_on_where_it_was_stopped(case, questions, tmp_path):
    folder = str(tmp_path)
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        diagnostics.examine(
            case, "quick", folder, should_stop=lambda: next(asked)
        )
    assert not (tmp_path / "findings.json").exists()
    said = diagnostics.examine(case, "quick", folder)
    assert [q.count for q in questions.values()] == [1, 1, 1]
    assert len(said["findings"]) == 4
    assert said["gradient_evaluations"] == 3 * 7


def test_answers_of_another_set_are_not_taken_over(case, questions, tmp_path):
    folder = str(tmp_path)
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        diagnostics.examine(
            case, "quick", folder, should_stop=lambda: next(asked)
        )
    diagnostics.examine(case, "full", folder)
    assert questions["first"].count == 2


@pytest.mark.parametrize("damage", ["changed", "cut", "other"])
def test_damaged_answers_are_asked_for_again(case, questions, tmp_path, damage):
    folder = str(tmp_path)
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        diagnostics.examine(
            case, "quick", folder, should_stop=lambda: next(asked)
        )
    path = tmp_path / "findings_partial.json"
    text = path.read_text()
    changed = {
        "changed": text.replace('"gradient_evaluations": 7', '"x": 7'),
        "cut": text[:-9],
        "other": "[]",
    }[damage]
    assert changed != text
    path.write_text(changed)
    said = diagnostics.examine(case, "quick", folder)
    assert questions["first"].count == 2
    assert said["gradient_evaluations"] == 3 * 7


def broken(*rows, name="noise"):
    return {"name": name, "data": {"broken": [int(row) for row in rows]}}


def test_what_many_checks_find_is_added_up(case):
    assert len(case.robust_rows) == 15
    rows = case.robust_rows
    many = [broken(*rows[:2]), broken(*rows[1:3], 99), {"data": {}}]
    found = combined.conclude(case, many)
    assert found.examples == tuple(rows[:3])
    assert found.value == pytest.approx(3 / 15 * 0.75)
    assert found.data["robust_accuracy_after_checks"] == pytest.approx(0.6)
    assert combined.conclude(case, []).status == base.PASS


def test_a_known_excess_of_a_point_does_not_pass(case):
    """However few examples it is; a smaller one warns."""
    rows = case.robust_rows
    one = combined.conclude(case, [broken(rows[0])])
    assert one.value == pytest.approx(0.05) and one.status == base.FAIL
    size = len(case.ledger.label) * 10
    case.ledger.is_robust = np.resize(case.ledger.is_robust, size)
    case.robust_rows = np.flatnonzero(case.ledger.is_robust)
    one = combined.conclude(case, [broken(rows[0])])
    assert one.value == pytest.approx(0.005) and one.status == base.WARN


class Breaks:
    """Breaks every example at an odd position, wherever it is asked."""

    def __init__(self):
        self.asked = []

    def ask(self, case):
        rows = case.robust_rows
        self.asked.append(rows)
        case.gradient_evaluations += len(rows)
        return [broken(*(row for row in rows if row % 2))]


def test_where_few_are_broken_more_are_looked_at(case):
    every = np.flatnonzero(case.ledger.is_robust)
    case.robust_rows = every[:3]
    asked = {"noise": Breaks(), "losses": Breaks()}

    def ask(other, name):
        return asked[name].ask(other)

    few = [broken(every[0]), {"name": "losses", "data": {}}]
    further = combined.look_further(case, few, ask)
    assert further.rows == tuple(every[3:]) and further.names == ("noise",)
    assert further.broken == tuple(every[3:][every[3:] % 2 == 1])
    assert not asked["losses"].asked and case.gradient_evaluations >= 12
    found = combined.conclude(case, few, further)
    assert found.value == pytest.approx(
        (1 + len(further.broken)) / 15 * case.robust_accuracy
    )
    # Nothing broken, or enough, leaves nothing to ask.
    for nothing in ([], [broken(*range(99))]):
        case.robust_rows = every[:8]
        assert not combined.look_further(case, nothing, ask).rows


def test_too_few_examples_are_no_evidence(case):
    case.robust_rows = case.robust_rows[:10]
    found = combined.conclude(case, [])
    assert found.status == base.FAIL and "num_examples" in found.advice


def test_numbers_that_are_not_finite_do_not_pass():
    found = base.Finding(
        "D14", "Is it?", base.PASS, "So.", "A source", value=float("nan")
    )
    assert found.status == base.WARN and found.value is None


def test_the_sets_grow():
    sets = [set(diagnostics.load(name)) for name in diagnostics.SETS]
    assert sets[0] == set() < sets[1] < sets[2]
    assert {"binarization", "validation"} <= sets[2] - sets[1]
    with pytest.raises(UserError, match="qiuck.*quick"):
        diagnostics.load("qiuck")


def test_findings_name_five_examples_at_most():
    finding = base.Finding(
        "D1", "Is it?", base.FAIL, "So.", "A source", examples=range(9)
    )
    assert finding.to_json()["examples"] == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="status"):
        base.Finding("D1", "Is it?", "passed", "So.", "A source")


def test_two_standard_errors_are_five_examples():
    assert [base.is_clear(n) for n in (0, 1, 4, 5, 100)] == [
        False,
        False,
        False,
        True,
        True,
    ]
