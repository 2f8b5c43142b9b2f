"""Intervals for shares of examples: how far a finite sample can be trusted."""

import functools

import scipy.stats

from ib_keras.errors import UserError


@functools.cache
def wilson_interval(num_success: int, num_trials: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a share, such as an accuracy.

    It stays inside [0, 1] and keeps a positive width at 0% and at 100%, where
    the normal approximation claims certainty.

    Args:
        num_success: How many trials succeeded.
        num_trials: How many trials there were; with none of them the interval
            is all of [0, 1].

    Returns:
        The lower and the upper end, shares of 1.

    Raises:
        UserError: If the counts are not whole, or not 0 <= successes <=
            trials.

    References:
        Wilson, "Probable inference, the law of succession, and statistical
        inference", JASA 22(158), 1927.
    """
    whole = int(num_success) == num_success and int(num_trials) == num_trials
    if not whole or not 0 <= num_success <= num_trials:
        raise UserError(
            "Counts have no interval",
            received=f"{num_success} successes in {num_trials} trials",
            expected="whole numbers with 0 <= successes <= trials",
            fix="Count the examples again.",
        )
    if num_trials == 0:
        return 0.0, 1.0
    test = scipy.stats.binomtest(int(num_success), int(num_trials))
    interval = test.proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)
