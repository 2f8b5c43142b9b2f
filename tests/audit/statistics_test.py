"""Tests for intervals, the paired test and comparisons of audits."""

import itertools
import math

import numpy as np
import pytest
import scipy.special

from ib_keras import files
from ib_keras.audit import statistics
from ib_keras.errors import UserError
from tests.support import audit_folder
from tests.support import runs

# The 97.5% quantile of the standard normal.
QUANTILE = 1.959963984540054


@pytest.mark.parametrize(
    "num_success, num_trials", [(1, 3), (60, 500), (499, 500), (9999, 10000)]
)
def test_wilson_interval_solves_its_defining_equation(num_success, num_trials):
    """Each end p satisfies |share - p| = z sqrt(p (1 - p) / n)."""
    share = num_success / num_trials
    low, high = statistics.wilson_interval(num_success, num_trials)
    assert low < share < high
    for end in (low, high):
        deviation = math.sqrt(end * (1 - end) / num_trials)
        assert abs(share - end) == pytest.approx(QUANTILE * deviation)


def test_wilson_interval_keeps_a_width_at_the_ends():
    edge = QUANTILE**2 / (20 + QUANTILE**2)
    assert statistics.wilson_interval(0, 20) == pytest.approx((0, edge))
    assert statistics.wilson_interval(20, 20) == pytest.approx((1 - edge, 1))


def test_wilson_interval_of_no_trials_claims_nothing():
    assert statistics.wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("counts", [(-1, 5), (6, 5), (2.5, 5), (1, -1)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(UserError, match="successes in"):
        statistics.wilson_interval(*counts)


# Newcombe, "Two-sided confidence intervals for the single proportion",
# Statistics in Medicine 17, 1998, table I: method 3.
@pytest.mark.parametrize(
    "counts, wilson",
    [
        ((81, 263), (0.2553, 0.3662)),
        ((15, 148), (0.0624, 0.1605)),
        ((0, 20), (0.0, 0.1611)),
        ((1, 29), (0.0061, 0.1718)),
    ],
)
def test_intervals_are_those_of_a_textbook(counts, wilson):
    assert statistics.wilson_interval(*counts) == pytest.approx(
        wilson, abs=5e-5
    )


# The paired test.


def pairs(both, only_a, only_b, neither):
    """Two models' results with these counts."""
    table = [(1, 1)] * both + [(1, 0)] * only_a
    table += [(0, 1)] * only_b + [(0, 0)] * neither
    a, b = np.array(table, bool).T
    return a, b


@pytest.mark.parametrize("b, c", itertools.product(range(6), repeat=2))
def test_mcnemar_counts_all_splits_at_least_as_uneven(b, c):
    """Brute force over the 2^(b + c) outcomes of fair coins."""
    extreme = [
        abs(2 * sum(coins) - b - c) >= abs(b - c)
        for coins in itertools.product((0, 1), repeat=b + c)
    ]
    found = statistics.mcnemar(*pairs(3, b, c, 2))
    assert found.p_value == pytest.approx(np.mean(extreme))
    assert (found.only_a, found.only_b, found.both) == (b, c, 3)
    assert found.num_examples == 5 + b + c
    assert found.difference == pytest.approx((b - c) / (5 + b + c))


# Newcombe 1998 (paired data), method 10.
@pytest.mark.parametrize(
    "table, interval",
    [
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((1, 1, 7, 12), (-0.5069, -0.0256)),
        ((54, 0, 0, 0), (-0.0664, 0.0664)),
    ],
)
def test_the_interval_of_a_difference_is_that_of_a_textbook(table, interval):
    found = statistics.mcnemar(*pairs(*table))
    assert found.difference_ci95 == pytest.approx(interval, abs=5e-5)


def test_the_interval_of_a_difference_covers_it():
    """Over every table of 12 pairs, weighed by its multinomial chance."""
    shares = np.array([0.5, 0.2, 0.1, 0.2])
    covered = 0.0
    for table in itertools.product(range(13), repeat=4):
        if sum(table) != 12:
            continue
        counts = np.array(table)
        chance = np.exp(
            scipy.special.gammaln(13)
            - scipy.special.gammaln(counts + 1).sum()
            + (counts * np.log(shares)).sum()
        )
        low, high = statistics.mcnemar(*pairs(*table)).difference_ci95
        covered += chance * (low <= 0.1 <= high)
    assert 0.94 < covered < 0.995


def test_swapping_the_models_turns_the_sign():
    a, b = pairs(10, 6, 1, 3)
    there, back = statistics.mcnemar(a, b), statistics.mcnemar(b, a)
    assert there.p_value == back.p_value == pytest.approx(2 * 8 / 128)
    assert there.difference == -back.difference == 0.25
    low, high = there.difference_ci95
    assert back.difference_ci95 == pytest.approx((-high, -low))


def test_for_one_training_the_difference_is_that_of_agresti_and_min():
    """Their formula: half an example more in each cell of the table."""
    a, b = pairs(40, 6, 13, 3)
    found, (low, high) = statistics.difference_over_seeds(a[None], b[None])
    n, only_a, only_b = 62 + 2, 6.5, 13.5
    center = (only_a - only_b) / n
    spread = 1.959964 * np.sqrt(((only_a + only_b) / n - center**2) / n)
    assert found == pytest.approx((6 - 13) / 62)
    assert (low, high) == pytest.approx((center - spread, center + spread))


def test_the_interval_over_seeds_does_not_count_an_image_twice():
    """Equal answers of more seeds make it no narrower."""
    a, b = pairs(40, 6, 13, 3)
    one = statistics.difference_over_seeds(a[None], b[None])
    three = statistics.difference_over_seeds([a] * 3, [b] * 3)
    assert three[0] == pytest.approx(one[0])
    assert three[1] == pytest.approx(one[1])


def test_the_interval_over_seeds_covers_the_difference():
    """Images of their own difficulty, 4,000 times; 3 sigma of 0.95 is 0.01."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(4000):
        chance = rng.beta(4, 1, 100)  # Mean 0.8.
        a = rng.random((3, 100)) < chance
        b = rng.random((3, 100)) < np.clip(chance - 0.05, 0, 1)
        truth = (chance - np.clip(chance - 0.05, 0, 1)).mean()
        _, (low, high) = statistics.difference_over_seeds(a, b)
        covered += low <= truth <= high
    assert 0.94 < covered / 4000 < 0.99


@pytest.mark.parametrize("lengths", [(3, 4), (0, 0)])
def test_results_of_other_examples_are_refused(lengths):
    results = [np.ones(length, bool) for length in lengths]
    error = runs.refused(statistics.mcnemar, *results)
    assert "not paired" in str(error)


# Two audits.


@pytest.fixture
def audits(tmp_path):
    """Two folders of the same 40 examples, and what they hold."""
    first = audit_folder.write(str(tmp_path / "a"), seed=1)
    second = audit_folder.write(
        str(tmp_path / "b"),
        seed=2,
        images=first.clean_images,
        labels=first.examples["label"],
        hardness=20.0,
    )
    return (str(tmp_path / "a"), first), (str(tmp_path / "b"), second)


def test_compare_pairs_the_examples(audits):
    (folder_a, a), (folder_b, b) = audits
    found = statistics.compare(folder_a, folder_b)
    ours, theirs = (c.examples["is_robust"] for c in (a, b))
    assert found.robust.only_a == int((ours & ~theirs).sum())
    assert found.robust.only_b == int((~ours & theirs).sum()) > 0
    assert found.robust.difference == pytest.approx(
        a.summary["robust_accuracy"] - b.summary["robust_accuracy"]
    )
    assert found.clean.difference == pytest.approx(
        a.summary["clean_accuracy"] - b.summary["clean_accuracy"]
    )
    assert found.notes == ("seed is 1 and 2",)
    assert found.to_json()["robust"]["p_value"] == found.robust.p_value


def test_compare_notes_what_else_differs(audits, tmp_path):
    (folder_a, a), _ = audits
    other = str(tmp_path / "other")
    audit_folder.write(
        other,
        seed=1,
        images=a.clean_images,
        labels=a.examples["label"],
        stages={"pgd_ce": 3},
        mode="stochastic",
    )
    assert statistics.compare(folder_a, other).notes == (
        "mode is mean and stochastic",
        "the stages or their restarts differ",
    )


def rewrite(folder, edit):
    """Writes the summary of a folder again, as it was edited."""
    path = files.join(folder, "summary.json")
    summary = files.read_json(path)
    edit(summary)
    files.write_json(path, summary)


def another_protocol(summary):
    summary["protocol"] = "aa_mt"


def another_version(summary):
    summary["protocol_version"] = 2


def another_attack(summary):
    summary["stages"][1]["attack"]["num_steps"] = 500


def more_restarts(summary):
    summary["stages"][1]["num_restarts"] = 11


@pytest.mark.parametrize(
    "edit, note",
    [
        (another_protocol, "protocol is pgd_restarts and aa_mt"),
        (another_version, "protocol_version is 1 and 2"),
        (another_attack, "the stages or their restarts differ"),
        (more_restarts, "the stages or their restarts differ"),
    ],
)
def test_compare_notes_each_difference(audits, edit, note):
    (folder_a, _), (folder_b, _) = audits
    rewrite(folder_b, edit)
    notes = statistics.compare(folder_a, folder_b).notes
    assert set(notes) == {note, "seed is 1 and 2"}


def another_data_set(summary):
    summary["dataset"]["name"] = "digits"


def another_split(summary):
    summary["dataset"]["split"] = "train"


def as_it_was(summary):
    pass


@pytest.mark.parametrize(
    "name, changes, edit",
    [
        ("threat_model", {"epsilon": 0.1}, as_it_was),
        ("threat_model", {"norm": "l2"}, as_it_was),
        ("index", {"num_examples": 30}, as_it_was),
        ("label", {"num_examples": 40}, as_it_was),
        ("dataset", {}, another_data_set),
        ("dataset", {}, another_split),
    ],
)
def test_folders_that_are_not_paired_are_refused(
    audits, tmp_path, name, changes, edit
):
    (folder_a, a), _ = audits
    same = {"images": a.clean_images, "labels": a.examples["label"]}
    if "num_examples" in changes:
        same = {}
    other = str(tmp_path / "other")
    audit_folder.write(other, seed=5, **same, **changes)
    rewrite(other, edit)
    error = runs.refused(statistics.compare, folder_a, other)
    assert f"not paired: {name} differs" in str(error)


@pytest.mark.parametrize(
    "name", ["index", "label", "clean_prediction", "is_robust"]
)
def test_examples_without_an_array_are_refused(audits, name):
    (folder_a, _), (folder_b, b) = audits
    left = {k: v for k, v in b.examples.items() if k != name}
    files.write_npz(files.join(folder_b, "examples.npz"), left)
    error = runs.refused(statistics.compare, folder_a, folder_b)
    assert f"without '{name}'" in error.received


def test_a_folder_without_an_audit_is_refused(audits, tmp_path):
    (folder_a, _), _ = audits
    error = runs.refused(statistics.compare, folder_a, str(tmp_path / "none"))
    assert "no " in error.received
