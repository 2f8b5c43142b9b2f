"""The written rules of the verdict, case by case."""

import pytest

from ib_keras.audit import verdict

PASSED = [
    {"id": id, "status": "pass", "evidence": "", "advice": "", "data": {}}
    for id in verdict.NEEDED
]
ROBUST = {"robust_accuracy": 0.3, "epsilon_curve": []}
ALL_BROKEN = {"robust_accuracy": 0.0, "epsilon_curve": []}


def finding(id, status="fail", **data):
    return {
        "id": id,
        "status": status,
        "evidence": f"{id} was seen",
        "advice": f"do {id}",
        "data": data,
    }


def test_all_checks_passed_is_believable():
    said = verdict.decide(PASSED, ROBUST)
    assert said["label"] == verdict.BELIEVABLE
    assert said["decided_by"] == [] and said["next"] == []


@pytest.mark.parametrize(
    ("num_broken", "interval", "is_borderline"),
    [
        (0, [0.0, 0.03], False),
        (1, [0.002, 0.05], True),
        (1, [0.0, 0.009], False),
    ],
)
def test_what_the_checks_broke_is_said_and_whether_it_is_borderline(
    num_broken, interval, is_borderline
):
    excess = finding(
        "M3",
        "warn",
        num_broken=num_broken,
        epsilon=0.1,
        excess_ci95=interval,
        robust_accuracy_after_checks=0.295,
    )
    findings = [row for row in PASSED if row["id"] != "M3"]
    findings.append({**excess, "threshold": 0.01})
    said = verdict.decide(findings, ROBUST)
    assert said["label"] == verdict.BELIEVABLE
    assert ("29.5% are left" in said["sentence"]) == (num_broken > 0)
    assert ("Borderline" in said["sentence"]) == is_borderline


@pytest.mark.parametrize("status", ["warn", "not applicable"])
def test_warnings_decide_nothing(status):
    said = verdict.decide([*PASSED, finding("D14", status)], ROBUST)
    assert said["label"] == verdict.BELIEVABLE


@pytest.mark.parametrize("id", ["D3", "D6", "D8", "D24", "D30"])
def test_a_sign_of_obfuscation_makes_an_upper_bound(id):
    said = verdict.decide([*PASSED, finding(id)], ROBUST)
    assert said["label"] == verdict.UPPER_BOUND
    assert said["decided_by"] == [{"id": id, "why": f"{id} was seen"}]
    assert said["next"] == [f"do {id}"]


@pytest.mark.parametrize("id", verdict.VALIDITY)
def test_a_failed_check_of_validity_invalidates_the_number(id):
    findings = [*PASSED, finding("D6"), finding(id)]
    for summary in (ROBUST, ALL_BROKEN):
        said = verdict.decide(findings, summary)
        assert said["label"] == verdict.INVALID
        assert [row["id"] for row in said["decided_by"]] == [id]


@pytest.mark.parametrize("id", verdict.NEEDED)
def test_a_check_that_was_not_run_is_no_evidence(id):
    left = [row for row in PASSED if row["id"] != id]
    for findings in (left, [*left, finding(id, "warn", error="OpError")]):
        said = verdict.decide(findings, ROBUST)
        assert said["label"] == verdict.UPPER_BOUND
        assert [row["id"] for row in said["decided_by"]] == [id]


def test_noise_has_to_be_asked_about():
    noisy = {**ROBUST, "num_judge_samples": 5}
    said = verdict.decide(PASSED, noisy)
    assert [row["id"] for row in said["decided_by"]] == ["D22", "D23"]


def test_an_upper_bound_of_zero_is_exact():
    said = verdict.decide([*PASSED, finding("D6")], ALL_BROKEN)
    assert said["label"] == verdict.BELIEVABLE
    # But not where another radius of the same audit still has examples.
    curve = [{"epsilon": 0.1, "robust_accuracy": 0.2}]
    both = {**ALL_BROKEN, "epsilon_curve": curve}
    said = verdict.decide([*PASSED, finding("D6")], both)
    assert said["label"] == verdict.UPPER_BOUND


def test_verdicts_are_ordered():
    assert verdict.is_as_bad(verdict.INVALID, verdict.UPPER_BOUND)
    assert verdict.is_as_bad(verdict.UPPER_BOUND, verdict.UPPER_BOUND)
    assert not verdict.is_as_bad(verdict.BELIEVABLE, verdict.UPPER_BOUND)
    assert set(verdict.WORDS) == set(verdict.LABELS)


def test_the_rules_are_those_of_the_docs():
    import pathlib
    import re

    root = pathlib.Path(__file__).parents[2]
    text = (root / "docs" / "diagnostics.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| \*\*invalid\*\* \|.*$", text, re.M)
    assert set(re.findall(r"[DM]\d+", row)) == set(verdict.VALIDITY)
    for label in verdict.LABELS:
        assert f"**{verdict.WORDS[label]}**" in text


def test_every_check_is_in_the_docs():
    import pathlib

    from ib_keras.audit import diagnostics

    root = pathlib.Path(__file__).parents[2]
    text = (root / "docs" / "diagnostics.md").read_text(encoding="utf-8")
    named = {
        id
        for line in text.splitlines()
        if line.startswith(("| D", "| M"))
        for id in line.split("|")[1].replace(" ", "").split(",")
    }
    asked = {id for d in diagnostics.load("full").values() for id in d.ids}
    # D17 is answered within D4, M3 when all others are.
    assert named == asked | {"D17", "M3"}
