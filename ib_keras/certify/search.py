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

# From the cheapest to the tightest; each first tries those before it.
METHODS = ("ibp", "crown", "alpha_crown")

# Neurons of a layer whose bounds are sought at once: few where few matter.
_CHUNKS = (4, 16)
_MOST_ROUNDS = 32
# Neurons that matter less than the most important one by this are not counted.
_SHARE = 0.01
# Multiplications an image that tighter intervals may cost.
_WORK = 10**9
# float64 numbers of the largest tensor in a backward pass of a batch, and of
# the intervals that are kept of examples.
_MEMORY = 2**24
_LARGEST_BATCH = 64


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
        self._batch = self._batch_size()
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
        nothing = self._batched.nothing_known(self._batch)
        for rows in self._batches(state.open_rows):
            part = balls.rows(self._fill(rows))
            state.take(rows, self._decide(part, nothing, drawn, False), 0)

    def _by_lines(self, state, rows, balls, drawn) -> None:
        """CROWN of examples, whose intervals are kept meanwhile."""
        kept = _Kept(rows, self._batched.nothing_known(len(rows)), self._deep)
        for left in reversed(range(self._num_rounds + 1)):
            for part in self._batches(kept.open_rows(state)):
                self._round(state, kept, part, balls, drawn, left)
        if "alpha_crown" not in self._methods:
            return
        for part in self._batches(rows[state.method[rows] < 0]):
            filled = self._fill(part)
            found = self._batched.search(
                balls.rows(filled), kept.known_of(filled), drawn
            )
            state.take(part, heads.decide(self._head, found), 2)

    def _round(self, state, kept, rows, balls, drawn, left) -> None:
        """Bounds examples; then tightens the intervals that matter most."""
        before = state.margin[rows]
        filled = self._fill(rows)
        part, known = balls.rows(filled), kept.known_of(filled)
        margins, impact = self._batched.impact(part, known, drawn)
        state.take(rows, heads.decide(self._head, margins), 1)
        if not left or not self._deep:
            return
        # Not sought further where the last gain, so many times, is too little.
        gain = state.margin[rows] - before
        if left < self._num_rounds:
            kept.close(rows[~(state.margin[rows] + gain * left > 0)])
        if not len(kept.open_rows(state, rows)):
            return
        # First of what is nearest to the scores: often it is enough.
        is_first = left == self._num_rounds
        for curve in self._deep[-1:] if is_first else self._deep:
            places = kept.choose(curve, filled, impact[curve.name])
            if places.shape[1]:
                known = kept.known_of(filled)
                found = self._batched.tighten(curve, places, part, known, drawn)
                kept.put(self._bounds.argument(curve), filled, places, *found)

    def _decide(self, balls, known, drawn, lines):
        margins = self._batched.margins(balls, known, drawn, lines)
        return heads.decide(self._head, margins)

    def _batches(self, rows):
        return _split(rows, self._batch)

    def _fill(self, rows):
        """Repeats the last example, so that all batches are of one size."""
        return rows[np.arange(self._batch).clip(max=len(rows) - 1)]

    def _batch_size(self) -> int:
        """Images at once, by the memory of a backward pass."""
        largest = max(map(math.prod, self._bounds.shapes.values()))
        passes = max(2 * max(_CHUNKS), math.prod(self._head.shape))
        return max(1, min(_LARGEST_BATCH, _MEMORY // (largest * passes)))

    def _num_kept(self) -> int:
        """Examples whose intervals are kept at a time."""
        known = self._batched.nothing_known(1)
        size = 2 * sum(low.size for low, _ in known.values())
        return max(self._batch, _MEMORY // max(size, 1))

    @functools.cached_property
    def _num_rounds(self) -> int:
        """How often intervals are tightened, by the work that it is."""
        names = [self._bounds.argument(curve) for curve in self._deep]
        work = 2 * max(_CHUNKS) * sum(map(self._bounds.work, names))
        return min(_MOST_ROUNDS, _WORK // work) if work else 0

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
        """Takes new lower bounds of margins; those behind the last are copies."""
        margins = margins[: len(rows)]
        self.margin[rows] = np.fmax(self.margin[rows], margins)
        is_new = (margins > 0) & (self.method[rows] < 0)
        self.method[rows[is_new]] = method


class _Kept:
    """The intervals of curves' arguments, of some examples."""

    def __init__(self, rows, known, curves):
        self._rows = rows
        self._known = known
        self._is_closed = np.zeros(len(rows), bool)
        self._is_sought = {
            curve.name: np.zeros((len(rows), 1), bool) for curve in curves
        }
        # Those behind others can become tighter each time.
        self._is_again = {
            curve.name: index > 0 for index, curve in enumerate(curves)
        }

    def _places(self, rows):
        return np.searchsorted(self._rows, rows)

    def close(self, rows) -> None:
        """Seeks no more intervals of these examples."""
        self._is_closed[self._places(rows)] = True

    def open_rows(self, state, rows=None) -> np.ndarray:
        """Those of the examples that are neither proved nor closed."""
        rows = self._rows if rows is None else rows
        is_closed = self._is_closed[self._places(rows)]
        return rows[(state.method[rows] < 0) & ~is_closed]

    def known_of(self, rows):
        """The intervals of examples, by name."""
        at = self._places(rows)
        return {k: (low[at], high[at]) for k, (low, high) in self._known.items()}

    def choose(self, curve, rows, impact) -> np.ndarray:
        """The neurons to seek next, int32 `[examples, neurons]`."""
        at, count = self._places(rows), impact.shape[1]
        sought = self._is_sought[curve.name]
        if sought.shape[1] != count:
            sought = np.zeros((len(sought), count), bool)
            self._is_sought[curve.name] = sought
        # What is not a number cannot be mended.
        left = np.where(sought[at], 0.0, np.nan_to_num(impact, posinf=0.0))
        most = left.max(axis=1, keepdims=True)
        wanted = int((left > _SHARE * most).sum(axis=1).max())
        order = np.argsort(-left, axis=1, kind="stable").astype(np.int32)
        size = next((n for n in _CHUNKS if n >= wanted), _CHUNKS[-1])
        places = order[:, np.arange(size if wanted else 0) % count]
        if not self._is_again[curve.name]:
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
