"""The places of the labels of a chart, so that none overlaps another."""

from collections.abc import Sequence

import numpy as np

# Of a label, in units of 1/72 inch: its height, and the width of a letter.
HEIGHT, LETTER_WIDTH = 13, 8


def spread(
    ends: np.ndarray, widths: Sequence[float], low: float, high: float
) -> np.ndarray | None:
    """Heights of labels, moved as little as needed to avoid overlaps.

    Args:
        ends: `[labels, 2]`, where each would best be.
        widths: Of the labels.
        low: The lowest height a label may have.
        high: The highest.

    Returns:
        The heights, or None if there is too little space.
    """
    order = np.argsort(ends[:, 1], kind="stable")
    heights = np.array(ends[:, 1], float)
    for upper, one in enumerate(order):
        for other in order[:upper]:
            if _is_beside(ends, widths, one, other):
                lowest = heights[other] + HEIGHT
                heights[one] = max(heights[one], lowest)
    for lower in range(len(order) - 1, -1, -1):
        one = order[lower]
        heights[one] = min(heights[one], high)
        for other in order[lower + 1 :]:
            if _is_beside(ends, widths, one, other):
                highest = heights[other] - HEIGHT
                heights[one] = min(heights[one], highest)
    has_room = (heights >= low - HEIGHT / 2).all()
    return heights if has_room else None


def _is_beside(ends, widths, one: int, other: int) -> bool:
    """Whether two labels at one height would overlap."""
    left, right = sorted((one, other), key=lambda label: ends[label, 0])
    return ends[right, 0] - ends[left, 0] < widths[left] + 4
