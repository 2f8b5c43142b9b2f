"""Readings are told apart by labels alone, or not at all."""

import numpy as np
import pytest

from ib_keras.audit.audited_model import selection
from ib_keras.audit.audited_model.io_spec import IOSpec
from ib_keras.audit.audited_model.preprocessing import Preprocessing
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
    way = Preprocessing.of_range(*range_)
    io_spec = IOSpec((8, 8, 1), preprocessing=way, num_classes=10)
    return selection.Trial(io_spec, np.log(p), labels)


UNIT, BYTES, SIGNED = (0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)


def chosen(*trials):
    best, is_clear = selection.choose(list(trials))
    return best.io_spec.preprocessing.input_range, is_clear


def test_the_accuracy_and_the_likelihood_are_what_they_are_called():
    """A temperature makes of any such probability the best one.

    That is the share p that is right, and (1 - p) / 9 of each other class.
    """
    one = trial(UNIT, 0.75, 0.9)
    assert one.accuracy == 0.75
    expected = 0.75 * np.log(0.75) + 0.25 * np.log(0.25 / 9)
    assert one.log_likelihood == pytest.approx(expected, abs=1e-6)


def test_a_better_accuracy_decides():
    low, high = trial(UNIT, 0.7, 0.7), trial(BYTES, 0.9, 0.7, seed=1)
    assert chosen(low, high) == (BYTES, True)


def graded(range_, noise, factor=1.0, seed=0):
    """Right as often as another, but unsure by as much as its noise."""
    rng = np.random.default_rng(7)
    logits = rng.normal(size=[len(LABELS), 10])
    logits[np.arange(len(LABELS)), LABELS] += 4.0
    other = np.random.default_rng(seed + 1).normal(size=logits.shape)
    log_p = selection.log_softmax(factor * (logits + noise * other))
    way = Preprocessing.of_range(*range_)
    io_spec = IOSpec((8, 8, 1), preprocessing=way, num_classes=10)
    return selection.Trial(io_spec, log_p, LABELS)


@pytest.mark.parametrize("factor", [1e-2, 1.0, 30.0])
def test_between_equal_accuracies_the_likelihood_decides(factor):
    """At the best temperature: a factor of the logits says nothing."""
    good, bad = graded(UNIT, 0.0), graded(BYTES, 0.5, factor)
    assert abs(good.accuracy - bad.accuracy) < 0.05
    assert chosen(good, bad) == (UNIT, True)
    good, bad = graded(BYTES, 0.0), graded(UNIT, 0.5, factor)
    assert chosen(bad, good) == (BYTES, True)


def test_of_logits_that_are_too_small_the_likelihood_alone_decides_nothing():
    """They may be small since the images are: trained on [0, 255]."""
    good, bad = graded(UNIT, 0.0, 1e-2), graded(BYTES, 0.25)
    gap, _, nats = selection._gaps(good, bad)
    assert gap < 0.02 and nats > 4
    runs.refused(selection.choose, [good, bad])
    assert chosen(good, graded(BYTES, 0.5, 1e-2)) == (UNIT, True)
    # Accuracy does, and so does the likelihood beside what is far too sure.
    assert chosen(good, graded(BYTES, 2.0)) == (UNIT, True)
    assert chosen(good, graded(BYTES, 0.5, 255.0)) == (UNIT, True)


def test_where_little_decides_the_unit_range_is_kept():
    rivals = graded(UNIT, 0.0), graded(SIGNED, 0.02)
    gap, error, nats = selection._gaps(*rivals)
    assert abs(gap) <= 3 * error + 0.02 and 1 < nats < 2.5
    assert chosen(*rivals) == (UNIT, False)


def test_where_nothing_decides_the_user_has_to():
    right = [trial(r, 0.9, 0.9, seed=i) for i, r in enumerate((UNIT, SIGNED))]
    runs.refused(selection.choose, right)


def test_a_scale_that_makes_the_model_far_too_confident_is_ruled_out():
    """Other things being equal; never one that makes it unsure."""
    plain = graded(UNIT, 0.0)
    sure, unsure = (graded(BYTES, 0.08, f, seed=2) for f in (255.0, 1 / 255))
    assert chosen(plain, sure) == (UNIT, True)
    runs.refused(selection.choose, [plain, unsure])


def test_a_range_that_is_better_by_little_is_not_passed_over():
    """Neither is it taken: the user is asked."""
    few = trial(UNIT, 0.9, 0.9), trial(SIGNED, 0.94, 0.9, seed=1)
    error = runs.refused(selection.choose, list(few))
    assert "accuracy 0.940" in error.received
    assert "--config.model.input_range=0,1" in error.fix


def test_chance_does_not_decide():
    trials = [trial(r, 0.1, 0.5, seed=i) for i, r in enumerate((UNIT, BYTES))]
    runs.refused(selection.choose, trials)


def test_equal_answers_need_no_choice():
    same = trial(UNIT, 0.9, 0.9), trial(BYTES, 0.9, 0.9)
    assert chosen(*same) == (UNIT, True)


def test_an_answer_that_is_not_finite_is_wrong():
    one = trial(UNIT, 1.0, 0.9)
    one.log_p[:40] = np.nan
    assert one.accuracy == 0.9
    # At the best temperature all others are right for certain, near enough.
    assert one.log_likelihood == pytest.approx(-1.0, abs=1e-6)


def test_another_order_of_classes_is_found_and_undone():
    order = [3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    right = trial(UNIT, 0.9, 0.9)
    moved = selection.Trial(right.io_spec, right.log_p[:, order], LABELS)
    accuracy, found = selection.permutation(moved)
    assert found == order
    assert accuracy == pytest.approx(0.9)
    assert moved.with_labels(found).accuracy == pytest.approx(0.9)
    assert selection.permutation(right) is None


def test_where_no_order_can_do_better_none_is_looked_for(monkeypatch):
    monkeypatch.setattr(selection.Trial, "reordered", None)
    assert selection.permutation(trial(UNIT, 0.9, 0.9)) is None


@pytest.mark.parametrize("seed", range(5))
def test_chance_is_no_order(seed):
    labels = np.random.default_rng(seed).integers(0, 10, 64)
    one = trial(UNIT, 0.1, 0.9, seed + 50, np.arange(64) % 10)
    shuffled = selection.Trial(one.io_spec, one.log_p, labels)
    assert selection.permutation(shuffled) is None


def test_the_logarithm_of_a_softmax():
    logits = np.array([[1.0, 2.0, 3.0], [np.nan, 0.0, 0.0]])
    found = selection.log_softmax(logits)
    expected = np.exp(logits[0]) / np.exp(logits[0]).sum()
    np.testing.assert_allclose(np.exp(found[0]), expected)
    assert np.isnan(found[1]).all()
