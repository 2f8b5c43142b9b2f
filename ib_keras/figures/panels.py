"""Functions for panels: accuracies on an axis of beta, rho or restarts.

Each seed is a dot or a thin line; the deterministic baseline (the twin) is the
mean over its seeds with the range from the lowest to the highest, as in the
paper's figure 1.
"""

import dataclasses
import math
from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ib_keras.figures import captions
from ib_keras.figures import style
from ib_keras.figures.points import Point

_LEAST_TOP = 10.0  # Per cent: a line at zero has to be visible.
_LEVEL = {"color": style.GREY, "lw": 0.8, "ls": (0, (3, 2))}
_MARKED = (1, 2, 5)  # Restarts with a marker, times powers of ten.


def draw_swept(axes: Axes, points: Sequence[Point], swept: str) -> None:
    """One dot per seed against beta (log axis) or rho, a thin line of means.

    Args:
        axes: The panel.
        points: Of both modes; twins among them are a line and a band.
        swept: "beta" or "rho".
    """
    models = [p for p in points if p.x is not None]
    is_log = swept == "beta"
    modes = sorted({(p.model, p.mode) for p in models})
    between = _between_modes(sorted({p.x for p in models}), is_log)
    for position, key in enumerate(modes):
        look = style.look(*key)
        own = [p for p in models if (p.model, p.mode) == key]
        # Side by side, so that no mode hides the other.
        shift = between * (position - (len(modes) - 1) / 2)
        means = _means(own)
        axes.plot(
            [_shifted(x, shift, is_log) for x in means],
            [100 * y for y in means.values()],
            color=look.color,
            lw=0.7,
            alpha=0.55,
            zorder=2,
        )
        collapsed = dataclasses.replace(style.COLLAPSED, marker=look.marker)
        for is_collapsed, one in ((False, look), (True, collapsed)):
            dots = [p for p in own if p.is_collapsed is is_collapsed]
            if dots:
                axes.plot(
                    [_shifted(p.x, shift, is_log) for p in dots],
                    [100 * p.y for p in dots],
                    **one.dots(),
                    zorder=3,
                    clip_on=False,
                )
    _set_x(axes, sorted({p.x for p in models}), is_log)
    axes.set_xlabel(captions.SYMBOLS[swept])
    draw_twin(axes, [p for p in points if p.x is None])


def draw_twin(axes: Axes, points: Sequence[Point]) -> None:
    """A horizontal level for all x."""
    values = [100 * p.y for p in points if not p.is_collapsed]
    if not values:
        return
    if len(values) > 1:
        axes.axhspan(min(values), max(values), color=style.PALE, lw=0, zorder=1)
    axes.axhline(float(np.mean(values)), color=style.INK, lw=1.0, zorder=1.5)


def draw_restarts(axes: Axes, lines: Sequence[Sequence[Point]]) -> None:
    """One line per seed against restarts (log axis); a band for the twin.

    Args:
        axes: The panel.
        lines: Of each run, its points in the order of restarts.
    """
    twins = [line for line in lines if line[0].run.is_twin]
    for line in lines:
        if line[0].run.is_twin:
            continue
        look = style.look(line[0].model, line[0].mode)
        xs = [p.x for p in line]
        axes.plot(
            xs,
            [100 * p.y for p in line],
            color=look.color,
            lw=0.9,
            alpha=0.8,
            zorder=3,
            clip_on=False,
            **{k: v for k, v in look.dots(3).items() if k not in ("ls", "mfc")},
            mfc=look.color,
            markevery=[i for i, x in enumerate(xs) if _is_marked(x, xs[-1])],
        )
    if twins:
        length = min(map(len, twins))
        table = np.array([[100 * p.y for p in line[:length]] for line in twins])
        xs = [p.x for p in twins[0][:length]]
        if len(twins) > 1:
            axes.fill_between(
                xs, table.min(0), table.max(0), color=style.PALE, lw=0, zorder=1
            )
        axes.plot(xs, table.mean(0), color=style.INK, lw=1.0, zorder=2)
    most = max(p.x for line in lines for p in line)
    axes.set_xscale("log")
    axes.set_xlim(0.9, max(most, 2) * 1.12)
    ticks = [t for t in _nice_restarts(most) if t <= most]
    axes.xaxis.set_major_locator(ticker.FixedLocator(ticks))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("number of restarts")


def set_percent(
    panels: Sequence[Axes], label: str, points: Iterable[Point]
) -> None:
    """The same per cent on all panels, from 0 to just above what is drawn.

    Args:
        panels: The first one gets the label.
        label: Of the axis, without the unit.
        points: All points on them.
    """
    highest = max(_LEAST_TOP, *(100 * p.y for p in points), 0.0)
    step = 20 if highest > 50 else 10 if highest > 20 else 5
    if highest <= _LEAST_TOP:
        step = 2
    top = min(100.0, step * math.ceil(highest / step - 1e-9))
    for position, axes in enumerate(panels):
        axes.set_ylim(-0.03 * top, 1.03 * top)
        axes.yaxis.set_major_locator(ticker.MultipleLocator(step))
        if position:
            axes.tick_params(labelleft=False)
    panels[0].set_ylabel(f"{label} (%)")


def title(axes: Axes, text: str) -> None:
    """The title above a panel, at its left edge."""
    axes.set_title(text, loc="left")


def say_empty(axes: Axes, text: str) -> None:
    """The text in a panel without data."""
    axes.set_xticks([])
    axes.grid(False)
    axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=style.GREY,
        size=7,
        style="italic",
    )


def draw_level(axes: Axes, share: float) -> None:
    """A dashed level, which the legend explains."""
    axes.axhline(100 * share, zorder=1.8, **_LEVEL)


def draw_legend(
    figure: Figure, points: Iterable[Point], level: str | None = None
) -> None:
    """One legend for all panels, over them.

    Args:
        figure: The figure.
        points: All that is drawn.
        level: The meaning of the dashed level, if there is one.
    """
    points = list(points)
    keys = sorted({(p.model, p.mode) for p in points if not p.run.is_twin})
    entries = [
        Line2D([], [], label=style.look(*key).label, **style.look(*key).dots())
        for key in keys
    ]
    twins = {p.run.name: p for p in points if p.run.is_twin}
    if twins:
        label = style.look(next(iter(twins.values())).model, "mean").label
        entries.append(_twin_entry(label, len(twins)))
    if any(p.is_collapsed for p in points):
        mark = style.COLLAPSED
        entries.append(Line2D([], [], label=mark.label, **mark.dots()))
    if level is not None:
        entries.append(Line2D([], [], label=level, **_LEVEL))
    is_narrow = figure.get_figwidth() < style.TWO_COLUMNS
    figure.legend(
        handles=entries,
        loc="outside upper center",
        ncols=min(2, len(entries)) if is_narrow else len(entries),
    )


def _twin_entry(label: str, num_seeds: int):
    if num_seeds == 1:
        return Line2D([], [], color=style.INK, lw=1, label=f"{label} (1 seed)")
    return Patch(
        facecolor=style.PALE,
        edgecolor=style.INK,
        lw=0.8,
        label=f"{label} (mean, min–max)",
    )


def _between_modes(xs: Sequence[float], is_log: bool) -> float:
    """The distance of the dots of two modes, in decades or in x."""
    places = np.log10(xs) if is_log else np.asarray(xs)
    gaps = np.diff(places)
    return min(0.1, 0.4 * gaps.min()) if gaps.size else 0.1


def _shifted(x: float, shift: float, is_log: bool) -> float:
    return x * 10**shift if is_log else x + shift


def _means(points: Iterable[Point]) -> dict[float, float]:
    """The mean over seeds by x, without collapsed runs."""
    found: dict[float, list[float]] = {}
    for point in points:
        if not point.is_collapsed:
            found.setdefault(point.x, []).append(point.y)
    return {x: float(np.mean(found[x])) for x in sorted(found)}


def _set_x(axes: Axes, xs: Sequence[float], is_log: bool) -> None:
    if not xs:
        return
    if is_log:
        axes.set_xscale("log")
        room = 10.0 ** (0.4 if len(xs) > 1 else 1)
        axes.set_xlim(xs[0] / room, xs[-1] * room)
        axes.xaxis.set_major_locator(ticker.LogLocator(numticks=12))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    else:
        axes.set_xlim(xs[0] - 0.5, xs[-1] + 0.5)
        axes.xaxis.set_major_locator(ticker.FixedLocator(xs))
        axes.xaxis.set_major_formatter(
            ticker.FuncFormatter(lambda x, _: f"{x:g}")
        )


def _nice_restarts(most: float) -> list[int]:
    powers = range(int(math.log10(most)) + 1)
    return [first * 10**power for power in powers for first in _MARKED]


def _is_marked(x: float, most: float) -> bool:
    return x == most or x in _nice_restarts(most)
