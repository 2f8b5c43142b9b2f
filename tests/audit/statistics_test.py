"""Tests for intervals of shares."""

import math

import pytest

from ib_keras.audit import statistics
from ib_keras.errors import UserError

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
