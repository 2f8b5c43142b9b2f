"""Readings are told apart by labels alone, or not at all."""

import numpy as np
import pytest

from ib_keras.audit.target import choosing
from ib_keras.audit.target.reading import Reading
from tests.support import runs

LABELS = np.arange(400) % 10


def trial(range_, accuracy, confidence, seed=0, labels=LABELS):
    """Right on a share of the images, with one probability on all of them."""
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(labels)) >= accuracy * len(labels)
    others = labels + rng.integers(1, 10, len(labels))
    prediction = np.where(wrong, others, labels) % 10
    p = np.full([len(labels), 10], (1 - confidence) / 9)
    p[np.arange(len(labels)), prediction] = confidence
    reading = Reading((8, 8, 1), input_range=range_, num_classes=10)
    return choosing.Trial(reading, np.log(p), labels)


UNIT, BYTES, SIGNED = (0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)


def chosen(*trials):
    best, is_clear = choosing.choose(list(trials))
    return best.reading.input_range, is_clear


def test_the_accuracy_and_the_likelihood_are_what_they_are_called():
    one = trial(UNIT, 0.75, 0.9)
    assert one.accuracy == 0.75
    expected = 0.75 * np.log(0.9) + 0.25 * np.log(0.1 / 9)
    assert one.log_likelihood == pytest.approx(expected)


def test_a_better_accuracy_decides():
    low, high = trial(UNIT, 0.7, 0.7), trial(BYTES, 0.9, 0.7, seed=1)
    assert chosen(low, high) == (BYTES, True)


def test_between_equal_accuracies_the_likelihood_decides():
    """Of two scales of one linear model the one that is not too sure."""
    sure = 1 - 1e-9
    assert chosen(trial(UNIT, 0.9, sure), trial(BYTES, 0.9, 0.9)) == (
        BYTES,
        True,
    )
    assert chosen(trial(UNIT, 0.9, 0.9), trial(BYTES, 0.9, sure)) == (
        UNIT,
        True,
    )


def test_where_nothing_decides_the_unit_range_stands():
    right = [trial(r, 0.9, 0.9, seed=i) for i, r in enumerate((UNIT, SIGNED))]
    assert chosen(*right) == (UNIT, False)


def test_a_range_that_is_better_by_little_is_not_passed_over():
    """Neither is it taken: the user is asked."""
    few = trial(UNIT, 0.9, 0.9), trial(SIGNED, 0.94, 0.9, seed=1)
    error = runs.refused(choosing.choose, list(few))
    assert "accuracy 0.940" in error.received
    assert "--config.model.input_range=0,1" in error.fix


def test_chance_tells_nothing():
    trials = [trial(r, 0.1, 0.5, seed=i) for i, r in enumerate((UNIT, BYTES))]
    runs.refused(choosing.choose, trials)


def test_equal_answers_need_no_choice():
    same = trial(UNIT, 0.9, 0.9), trial(BYTES, 0.9, 0.9)
    assert chosen(*same) == (UNIT, True)


def test_an_answer_that_is_not_finite_is_wrong():
    one = trial(UNIT, 1.0, 0.9)
    one.log_p[:40] = np.nan
    assert one.accuracy == 0.9
    assert one.log_likelihood == pytest.approx(0.9 * np.log(0.9) - 1.0)


def test_another_order_of_classes_is_found_and_undone():
    order = [3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    right = trial(UNIT, 0.9, 0.9)
    moved = choosing.Trial(right.reading, right.log_p[:, order], LABELS)
    accuracy, found = choosing.permutation(moved)
    assert found == order
    assert accuracy == pytest.approx(0.9)
    assert moved.with_labels(found).accuracy == pytest.approx(0.9)
    assert choosing.permutation(right) is None


def test_where_no_order_can_do_better_none_is_looked_for(monkeypatch):
    monkeypatch.setattr(choosing.Trial, "reordered", None)
    assert choosing.permutation(trial(UNIT, 0.9, 0.9)) is None


@pytest.mark.parametrize("seed", range(5))
def test_luck_is_no_order(seed):
    labels = np.random.default_rng(seed).integers(0, 10, 64)
    one = trial(UNIT, 0.1, 0.9, seed + 50, np.arange(64) % 10)
    shuffled = choosing.Trial(one.reading, one.log_p, labels)
    assert choosing.permutation(shuffled) is None


def test_the_logarithm_of_a_softmax():
    logits = np.array([[1.0, 2.0, 3.0], [np.nan, 0.0, 0.0]])
    found = choosing.log_softmax(logits)
    expected = np.exp(logits[0]) / np.exp(logits[0]).sum()
    np.testing.assert_allclose(np.exp(found[0]), expected)
    assert np.isnan(found[1]).all()
