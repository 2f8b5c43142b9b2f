"""Numbers from records, against records whose numbers are written by hand."""

import math

import pytest

from ib_keras.figures import points
from ib_keras.figures import reading
from tests.support import sweep_folder


def run(name="vib_seed_0", audits=None, result=None, num_examples=None):
    model = name.partition("_")[0]
    labels = {"model": model, "seed": 0}
    if model == "vib":
        labels["beta"] = 0.01
    data = {"num_examples": num_examples} if num_examples else {}
    record = {
        "audits": audits or {},
        "result": result or {},
        "config": {"data": data},
        "model": {"sha256": "ab" * 32, "num_classes": 10},
    }
    return reading.Run(name, labels, record)


def audit(values, restarts=None, num_examples=200):
    return sweep_folder.audit(
        "fgs_epsilons", values, num_examples, "mean", restarts
    )


def wilson(share, count):
    """The interval by its formula, z = 1.96."""
    z = 1.959963984540054
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(
        share * (1 - share) / count + z * z / (4 * count * count)
    )
    half /= 1 + z * z / count
    return middle - half, middle + half


def test_an_accuracy_is_that_of_the_audit_at_the_radius():
    one = run(audits={"fgs_mean": audit({0.2: 0.5, 0.35: 0.25})})
    (at_own,) = points.of_audit([one], "fgs_mean", "beta")
    (at,) = points.of_audit([one], "fgs_mean", "beta", 0.35)
    assert (at_own.y, at.y) == (0.5, 0.25)
    assert (at.x, at.seed, at.model, at.mode) == (0.01, 0, "vib", "mean")
    assert at.interval == pytest.approx(wilson(0.25, 200), abs=1e-6)
    assert points.of_audit([one], "fgs_mean", "beta", 0.5) == []
    assert points.of_audit([one], "other", "beta") == []


def test_the_radius_of_an_audit_without_a_curve_is_its_own():
    one = run(audits={"madry": audit({8 / 255: 0.5})})
    (at,) = points.of_audit([one], "madry", "beta", 0.0313725490196)
    assert at.y == 0.5


def test_a_baseline_has_no_x():
    twin = run("deterministic_seed_0", {"fgs_mean": audit({0.2: 0.5})})
    (at,) = points.of_audit([twin], "fgs_mean", "beta")
    assert at.x is None


def test_restarts_are_the_curve_of_the_radius():
    curves = {0.2: [0.4, 0.3], 0.1: [0.8, 0.7]}
    one = run(audits={"restarts": audit({0.2: 0.3, 0.1: 0.7}, curves)})
    for epsilon, curve in curves.items():
        (line,) = points.of_restarts([one], "restarts", epsilon)
        assert [(p.x, p.y) for p in line] == [(1, curve[0]), (2, curve[1])]
    (line,) = points.of_restarts([one], "restarts")
    assert [p.y for p in line] == [0.4, 0.3]
    assert line[0].interval == pytest.approx(wilson(0.4, 200), abs=1e-6)


def test_restarts_at_another_radius_are_not_those_of_the_audits_own():
    found = audit({0.2: 0.3, 0.1: 0.7}, {0.2: [0.4, 0.3], 0.1: []})
    one = run(audits={"restarts": found})
    assert points.of_restarts([one], "restarts", 0.1) == []


def test_restarts_without_examples_left_are_zero():
    found = audit({0.2: 0.0}, {0.2: [0.1, 0.0]})
    found["stages"][0]["num_restarts"] = 5
    (line,) = points.of_restarts([run(audits={"r": found})], "r")
    assert [p.y for p in line] == [0.1, 0.0, 0.0, 0.0, 0.0]
    # But with robust examples left, restarts that were not run are not drawn.
    found = audit({0.2: 0.1}, {0.2: [0.2, 0.1]})
    found["stages"][0]["num_restarts"] = 5
    (line,) = points.of_restarts([run(audits={"r": found})], "r")
    assert len(line) == 2


def test_a_toy_is_measured_by_its_training_in_both_modes():
    result = {
        "adversarial/accuracy": 0.25,
        "adversarial/accuracy_stochastic": 0.5,
    }
    one = run(result=result, num_examples=100)
    for mode, y in (("mean", 0.25), ("stochastic", 0.5)):
        (at,) = points.of_result(
            [one], "adversarial/accuracy", "beta", mode=mode
        )
        assert (at.y, at.mode) == (y, mode)
        assert at.interval == pytest.approx(wilson(y, 100), abs=1e-6)
    assert points.of_result([one], "accuracy", "beta", mode="mean") == []


@pytest.mark.parametrize("value", [None, float("nan"), "0.5"])
def test_without_an_accuracy_there_is_no_point(value):
    one = run(result={"accuracy": value})
    assert points.of_result([one], "accuracy", "beta", mode="mean") == []


def test_the_radii_are_those_of_all_runs():
    audits = [audit({0.2: 0.5, 0.35: 0.25}), audit({0.5: 0.1})]
    found = [run(audits={"fgs_mean": one}) for one in audits]
    assert points.radii([*found, run()], "fgs_mean") == [0.2, 0.35, 0.5]


def test_csv_is_read_back_by_others():
    import csv
    import io

    rows = [(1, "a,b", None, 0.1), (2, 'say "x"', 1 / 3, 0.0)]
    text = points.to_csv(("a", "b", "c", "d"), rows)
    assert list(csv.reader(io.StringIO(text))) == [
        ["a", "b", "c", "d"],
        ["1", "a,b", "", "0.1"],
        ["2", 'say "x"', "0.333333333", "0"],
    ]
