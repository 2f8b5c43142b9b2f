"""From the cheapest bound of each example to the tightest, as far as needed.

Interval propagation first, then CROWN by its intervals, for all examples. Of
those that are left, CROWN's own intervals are sought neuron by neuron: first of
those that take most off the margins, for the cost of one is a backward pass
and most change nothing. Last the slopes of the lines are sought by gradient.
"""

import functools
import math

import numpy as np

from ib_keras.certify import head as heads
from ib_keras.certify.batched import Balls
from ib_keras.certify.batched import Batched
from ib_keras.certify.bounds import Bounds
from ib_keras.certify.head import Head
from ib_keras.certify.slopes import SlopeSearch

# From the cheapest to the tightest; each first tries those before it.
METHODS = ("ibp", "crown", "alpha_crown")

# Examples at once, and backward passes of a batch at once where memory does not
# forbid it.
_LARGEST_BATCH = 64
_PASSES = 2048
# float64 numbers in the largest tensor of a batch, and in the intervals that
# are kept of examples.
_MEMORY = 2**24
# Multiplications that tighter intervals of one example may cost.
_WORK = 4 * 10**9
# Neurons that matter less than the most important one by this are not sought.
_SHARE = 0.01


class Search:
    """Bounds of some examples.

    Args:
        bounds: Of the graph up to the scores.
        head: The end of the graph.
        method: The tightest of `METHODS` to try.
    """

    def __init__(self, bounds: Bounds, head: Head, method: str):
        self._bounds = bounds
        self._head = head
        self._methods = METHODS[: METHODS.index(method) + 1]
        self._batched = Batched(bounds, head)
        self._slopes = SlopeSearch(bounds, head, self._batched)
        # Before the first curves interval propagation is exact.
        self._deep = [c for c in bounds.curves if self._has_curve_before(c)]

    def run(self, balls: Balls, drawn) -> tuple[np.ndarray, np.ndarray]:
        """Bounds examples.

        Args:
            balls: Around the examples.
            drawn: What a seed drew.

        Returns:
            float64 `[examples]`, the best lower bound of each margin, NaN of
            those that were not asked about; and int `[examples]`, the first of
            `METHODS` that made it positive, -1 where none did.
        """
        state = _State(len(balls.labels))
        self._by_intervals(state, balls, drawn)
        if "crown" in self._methods:
            for rows in _split(state.open_rows, self._num_kept()):
                self._by_lines(state, rows, balls, drawn)
        return state.margin, state.method

    def _by_intervals(self, state, balls, drawn) -> None:
        for rows in _split(state.open_rows, self._batch):
            nothing = self._batched.nothing_known(len(rows))
            margins = self._batched.margins(balls.rows(rows), nothing, drawn)
            state.take(rows, heads.decide(self._head, margins), 0)

    def _by_lines(self, state, rows, balls, drawn) -> None:
        """CROWN of examples, whose intervals are kept meanwhile."""
        kept = _Kept(rows, self._batched.nothing_known(len(rows)), self._deep)
        index = 0
        while len(open_rows := kept.open_rows(state)):
            for part in _split(open_rows, self._batch):
                self._round(state, kept, part, balls, drawn, index == 0)
            index += 1
        if "alpha_crown" not in self._methods:
            return
        for part in _split(rows[state.method[rows] < 0], self._batch):
            known = kept.known_of(part)
            found = self._slopes(balls.rows(part), known, drawn)
            state.take(part, heads.decide(self._head, found), 2)

    def _round(self, state, kept, rows, balls, drawn, is_first) -> None:
        """Bounds examples; then tightens the intervals that matter most."""
        before = state.margin[rows]
        part, known = balls.rows(rows), kept.known_of(rows)
        margins, impact = self._batched.impact(part, known, drawn)
        state.take(rows, heads.decide(self._head, margins), 1)
        if not is_first:
            kept.judge(rows, state.margin[rows], state.margin[rows] - before)
        chosen = np.isin(rows, kept.open_rows(state))
        rows, part = rows[chosen], part.rows(chosen)
        if not len(rows) or not self._deep:
            return kept.close(rows)
        count = max(1, self._num_passes // (2 * len(rows)))
        # First of what is nearest to the scores: often it is enough.
        curves = self._deep
        if is_first and impact[curves[-1].name][chosen].any():
            curves = curves[-1:]
        for curve in curves:
            felt = impact[curve.name][chosen]
            places = kept.choose(curve, rows, felt, count)
            if not places.shape[1]:
                continue
            known = kept.known_of(rows)
            found = self._batched.tighten(curve, places, part, known, drawn)
            name = self._bounds.argument(curve)
            kept.put(name, rows, places, *found)
            kept.charge(rows, 2 * places.shape[1] * self._bounds.work(name))
        return None

    @functools.cached_property
    def _largest(self) -> int:
        return max(map(math.prod, self._bounds.shapes.values()))

    @functools.cached_property
    def _batch(self) -> int:
        """Images at once, by the memory of a backward pass."""
        passes = math.prod(self._head.shape) * self._largest
        return max(1, min(_LARGEST_BATCH, _MEMORY // passes))

    @functools.cached_property
    def _num_passes(self) -> int:
        return max(2, min(_PASSES, _MEMORY // self._largest))

    def _num_kept(self) -> int:
        """Examples whose intervals are kept at a time."""
        known = self._batched.nothing_known(1)
        size = 2 * sum(low.size for low, _ in known.values())
        return max(self._batch, _MEMORY // max(size, 1))

    def _has_curve_before(self, curve) -> bool:
        nodes = self._bounds.before(self._bounds.argument(curve))
        return any(node in self._bounds.curves for node in nodes)


def _split(rows, size) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


class _State:
    """What is proved of each example so far."""

    def __init__(self, count):
        self.margin = np.full(count, np.nan)
        self.method = np.full(count, -1)

    @property
    def open_rows(self) -> np.ndarray:
        return np.flatnonzero(self.method < 0)

    def take(self, rows, margins, method) -> None:
        """Takes new lower bounds of margins."""
        self.margin[rows] = np.fmax(self.margin[rows], margins)
        is_new = (margins > 0) & (self.method[rows] < 0)
        self.method[rows[is_new]] = method


class _Kept:
    """The intervals of curves' arguments, of some examples."""

    def __init__(self, rows, known, curves):
        self._rows = rows
        self._known = known
        self._is_closed = np.zeros(len(rows), bool)
        self._work = np.zeros(len(rows))
        self._last_work = np.zeros(len(rows))
        self._is_sought = {}
        # Those behind others can become tighter each time.
        self._first = curves[0].name if curves else None

    def _places(self, rows):
        return np.searchsorted(self._rows, rows)

    def close(self, rows) -> None:
        """Seeks no more intervals of these examples."""
        self._is_closed[self._places(rows)] = True

    def charge(self, rows, work) -> None:
        """Counts the multiplications that an example took."""
        self._work[self._places(rows)] += work

    def judge(self, rows, margins, gains) -> None:
        """Closes examples that will not be proved by the work that is left.

        So it is where nothing was sought in the last round, and where the rest
        of the work, if it gained as much as the last did, would not do.
        """
        at = self._places(rows)
        last = self._work[at] - self._last_work[at]
        left = np.maximum(_WORK - self._work[at], 0.0)
        hope = margins + gains * left / np.maximum(last, 1.0)
        self.close(rows[~(hope > 0) | (last == 0)])
        self._last_work[at] = self._work[at]

    def open_rows(self, state) -> np.ndarray:
        """The examples that are neither proved nor closed."""
        is_open = (state.method[self._rows] < 0) & ~self._is_closed
        return self._rows[is_open]

    def known_of(self, rows):
        """The intervals of examples, by name."""
        at = self._places(rows)
        return {
            k: (low[at], high[at]) for k, (low, high) in self._known.items()
        }

    def choose(self, curve, rows, impact, most: int) -> np.ndarray:
        """The neurons to seek next, int32 `[examples, neurons]`."""
        at, count = self._places(rows), impact.shape[1]
        sought = self._is_sought.setdefault(
            curve.name, np.zeros((len(self._rows), count), bool)
        )
        # What is not a number cannot be mended.
        left = np.where(sought[at], 0.0, np.nan_to_num(impact, posinf=0.0))
        largest = left.max(axis=1, keepdims=True)
        wanted = int((left > _SHARE * largest).sum(axis=1).max())
        order = np.argsort(-left, axis=1, kind="stable").astype(np.int32)
        places = order[:, : min(most, wanted)]
        if curve.name == self._first:
            sought[at[:, None], places] = True
        return places

    def put(self, name, rows, places, low, high) -> None:
        """Keeps tighter intervals of neurons, where they are tighter."""
        at = self._places(rows)[:, None]
        for old, new, tighter in zip(
            self._known[name], (low, high), (np.fmax, np.fmin), strict=True
        ):
            flat = old.reshape(len(old), -1)  # A view.
            flat[at, places] = tighter(flat[at, places], new)
