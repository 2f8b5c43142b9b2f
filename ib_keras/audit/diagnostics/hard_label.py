"""D36: does a search that sees predictions alone find more?"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ib_keras.attacks.base import check_count
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics import judged
from ib_keras.audit.diagnostics.case import Case

# Rays towards so many of the nearest images of other predictions are tried.
_NUM_IMAGES = 3
# A radius is found to this share of epsilon; none is looked for beyond the
# whole range of pixels.
_TOLERANCE, _FARTHEST = 0.02, 1.0


class HardLabel:
    """Runs RayS on robust examples.

    Args:
        num_queries: Per example.
    """

    cost = "cheap"
    ids = ("D36",)

    def __init__(self, num_queries):
        self.num_queries = num_queries

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D36."""
        known: dict[str, Any] = dict(
            id="D36",
            question="Does a search that sees predictions alone find nothing "
            "more?",
            source="Chen and Gu 2020, RayS",
        )
        rows = case.robust_rows
        if not len(rows):
            return [breaks.none_is_robust(**known)]
        if case.threat_model.norm != "linf":
            return [
                base.Finding(
                    **known,
                    status=base.NOT_APPLICABLE,
                    evidence="The search goes to corners of an l_inf ball.",
                )
            ]
        clean = case.subject.images[rows]
        decide = judged.decider(case, rows)
        found = search(
            decide,
            clean,
            _starts(case, rows),
            case.threat_model.epsilon,
            self.num_queries,
        )
        broken = judged.judge(case, rows, found).is_wrong
        return [
            breaks.finding(
                case,
                rows,
                broken,
                threshold=0.002,
                words=f"RayS with {self.num_queries:,} queries, from "
                f"{_NUM_IMAGES + 2} directions,",
                advice="What the model answers is easier to cross than its "
                "gradients say: they are masked.",
                **known,
            )
        ]


def _starts(case, rows) -> np.ndarray:
    """Signs to begin with, float32 `[starts, rows, ...]`.

    Towards the nearest miss of the audit, towards the nearest audited images
    that the model takes for another class, and to brighter.
    """
    images = case.subject.images
    clean = images[rows]
    others = case.ledger.clean_prediction[None] != case.ledger.label[rows, None]
    flat = images.reshape(len(images), -1)
    squares = (flat**2).sum(axis=1)
    distance = squares[None] - 2.0 * flat[rows] @ flat.T
    order = np.argsort(np.where(others, distance, np.inf), axis=1)
    aims = [case.ledger.adversarial_images[rows]]
    aims += [images[order[:, i]] for i in range(min(_NUM_IMAGES, len(images)))]
    aims.append(np.ones_like(clean))
    return np.stack([_signs(aim - clean) for aim in aims])


def _signs(difference):
    return np.where(difference < 0, -1.0, 1.0).astype(np.float32)


def search(
    is_wrong: Callable[[np.ndarray], np.ndarray],
    clean: np.ndarray,
    starts: np.ndarray,
    epsilon: float,
    num_queries: int,
) -> np.ndarray:
    """RayS: the corner of the smallest ball that is misclassified.

    A direction is a sign for each pixel, and its radius the smallest at which
    the image moved that way, cut with the box, is wrong; it is found by
    bisection. Blocks of signs, at first the whole image, then halves, quarters
    and so on, are flipped in turn; a flip is kept where the image is wrong at
    the radius of the best direction, which is then searched again.

    Args:
        is_wrong: Images `[n, ...]` in the box -> bool `[n]`.
        clean: float32 `[n, ...]`.
        starts: float32 `[starts, n, ...]`, signs; the one of smallest radius
            is gone on from.
        epsilon: The radius at which an example is done.
        num_queries: Calls of `is_wrong`.

    Returns:
        float32 `[n, ...]`, each at most epsilon from the clean image; not
        wrong where the search found no such image.
    """
    rays = _Rays(clean, starts, epsilon)
    for _ in range(num_queries):
        if rays.is_done.all():
            break
        rays.update(is_wrong(rays.proposal()))
    return rays.result()


class _Rays:
    """The search of all examples at once; each is in a phase of its own."""

    def __init__(self, clean, starts, epsilon):
        count = len(clean)
        self.clean = clean.reshape(count, -1)
        self.shape = clean.shape
        self.epsilon = epsilon
        self.starts = starts.reshape(len(starts), count, -1)
        self.num_tried = np.ones(count, int)
        self.best = self.starts[0].copy()
        self.radius = np.full(count, np.inf)
        self.trial = self.best.copy()
        self.low, self.high = np.zeros(count), np.full(count, _FARTHEST)
        self.is_bisecting = np.zeros(count, bool)
        # The block that is flipped next: of 2^level the one of this index.
        self.level = np.zeros(count, int)
        self.block = np.zeros(count, int)

    @property
    def is_done(self):
        """Which examples are within the ball, bool `[n]`."""
        return self.radius <= self.epsilon

    def _at(self, directions, radius):
        moved = self.clean + radius[:, None].astype(np.float32) * directions
        return np.clip(moved, 0.0, 1.0).reshape(self.shape)

    def _asked_radius(self):
        within = np.minimum(self.radius, _FARTHEST)
        middle = (self.low + self.high) / 2
        return np.where(self.is_bisecting, middle, within)

    def proposal(self):
        """The images to ask about, `[n, ...]`."""
        return self._at(self.trial, self._asked_radius())

    def update(self, wrong):
        """Takes the answers in, bool `[n]`."""
        radius = self._asked_radius()
        begins = ~self.is_bisecting & wrong & ~self.is_done
        ends = ~self.is_bisecting & ~wrong
        inside = self.is_bisecting
        self.high = np.where(inside & wrong, radius, self.high)
        self.low = np.where(inside & ~wrong, radius, self.low)
        self.low = np.where(begins, 0.0, self.low)
        self.high = np.where(begins, radius, self.high)
        # No more precision is needed than tells a smaller radius from this.
        gap = self.high - self.low
        is_found = inside & (
            (gap < _TOLERANCE * self.epsilon) | (self.high <= self.epsilon)
        )
        self.radius[is_found] = self.high[is_found]
        self.best[is_found] = self.trial[is_found]
        self.is_bisecting = (inside | begins) & ~is_found
        for row in np.flatnonzero(is_found | ends):
            if self.num_tried[row] < len(self.starts):
                self.trial[row] = self.starts[self.num_tried[row], row]
                self.num_tried[row] += 1
            else:
                self._flip_next(row)

    def _flip_next(self, row):
        """Makes the next trial of a row from its best direction."""
        size = self.best.shape[1]
        blocks = min(2 ** self.level[row], size)
        first, last = ((self.block[row] + i) * size // blocks for i in (0, 1))
        self.trial[row] = self.best[row]
        self.trial[row, first:last] *= -1.0
        self.block[row] += 1
        if self.block[row] == blocks:
            self.block[row] = 0
            self.level[row] += 2 ** self.level[row] < size

    def result(self):
        """The images at their radii, within epsilon."""
        return self._at(self.best, np.minimum(self.radius, self.epsilon))


def build(num_queries: int = 200) -> HardLabel:
    """Builds the diagnostic."""
    return HardLabel(check_count("num_queries", num_queries))
