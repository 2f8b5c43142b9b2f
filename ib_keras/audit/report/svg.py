"""Draws lines as inline SVG that takes the page's colours, light or dark.

matplotlib draws with stand-in colours that become CSS variables, so one chart
serves both schemes. Text stays text; lines are told apart by letters, so no
foreign text gets in. Equal series give equal bytes. Only the object interface
is used, so a program's own figures and settings are neither read nor changed.
"""

import dataclasses
import io
import re
from collections.abc import Sequence

import markupsafe
import matplotlib
import matplotlib.backends.backend_svg
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from ib_keras.audit.report import text

INK, LINE, MUTED = "#00aa01", "#00aa02", "#00aa03"
_SERIES = tuple(f"#00aa1{position}" for position in range(6))
_VARIABLES = {
    INK: "var(--ink)",
    LINE: "var(--line)",
    MUTED: "var(--muted)",
    **{
        color: f"var(--series-{position})"
        for position, color in enumerate(_SERIES)
    },
}
_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))
_MARKERS = "osD^v"
_SIZE = (5.2, 3.2)  # Inches of 72 units; the page scales it.
_MAX_MARKERS = 16
MAX_BANDS = 4
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ib_keras.audit.report",
    "font.size": 11,
    "font.family": ["DejaVu Sans"],
    "text.usetex": False,
}


@dataclasses.dataclass(frozen=True)
class Point:
    """One reading: the share `y` at `x`, with its 95% interval if known."""

    x: float
    y: float
    interval: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of a chart; `position` fixes its colour, dash and marker."""

    label: str
    position: int
    points: tuple[Point, ...]


def draw(
    series: Sequence[Series],
    name: str,
    *,
    x_label: str,
    limits: tuple[float, float],
    is_log: bool = False,
    reference: float | None = None,
    highlight: float | None = None,
    has_bars: bool = False,
    marks: Sequence[int] = (),
) -> markupsafe.Markup:
    """Draws shares against x.

    Args:
        series: One line or several; several are lettered at their ends.
        name: Prefix of the ids inside the SVG, unique on the page.
        x_label: What x is.
        limits: The lowest and the highest x.
        is_log: Whether x is on a log scale.
        reference: A share to mark as that of clean examples.
        highlight: An x to mark.
        has_bars: Whether each interval is a bar of its own, for points that
            were measured apart, and not part of a band.
        marks: Where stages begin, to number them along the top.

    Returns:
        An `<svg>` element.
    """
    with matplotlib.rc_context(settings()):
        figure = matplotlib.figure.Figure(figsize=_SIZE, facecolor="none")
        matplotlib.backends.backend_svg.FigureCanvasSVG(figure)
        axes = figure.add_axes((0.12, 0.165, 0.81, 0.745), facecolor="none")
        _style_axes(axes, x_label, limits, is_log)
        for line in series:
            _draw_line(axes, line)
            if len(series) <= MAX_BANDS:
                _draw_intervals(axes, line, has_bars)
        if len(series) > 1:
            _draw_labels(axes, series)
        if reference is not None:
            _draw_reference(axes, reference)
        if highlight is not None:
            axes.axvline(highlight, color=MUTED, lw=0.8, ls=(0, (2, 2)))
        _draw_marks(axes, marks, limits[1])
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return inline(buffer.getvalue(), name, _describe(series, x_label))


def settings() -> dict:
    """The defaults of matplotlib, whatever its user has set, and ours."""
    defaults = {
        key: value
        for key, value in matplotlib.rcParamsDefault.items()
        if not key.startswith(("backend", "interactive", "toolbar"))
    }
    return {**defaults, **_SETTINGS}


def _style_axes(axes, x_label: str, limits, is_log: bool) -> None:
    """Shares on a full scale from 0 to 100%, quiet lines, few ticks."""
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks(np.linspace(0, 1, 5))
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
    _style_x(axes, limits, is_log)
    axes.set_xlabel(x_label, color=MUTED)
    axes.grid(axis="y", color=LINE, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=LINE, labelcolor=MUTED, length=3, width=0.8)
    axes.tick_params(axis="y", length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LINE)


def _style_x(axes, limits: tuple[float, float], is_log: bool) -> None:
    """A range just wider than `limits`, ticks at round numbers."""
    low, high = limits
    if is_log:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.06, high * 1.06)
        subs = (1, 2, 5) if high <= 300 * low else (1,)
        locator = matplotlib.ticker.LogLocator(subs=subs)
        if high < 3 * low:  # Too short for powers.
            locator = matplotlib.ticker.MaxNLocator(3, integer=high > 1)
    else:
        margin = 0.02 * (high - low or 1)
        axes.set_xlim(low - margin, high + margin)
        locator = matplotlib.ticker.MaxNLocator(
            6, steps=(1, 2, 2.5, 5, 10), integer=high > 1
        )
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.xaxis.set_major_formatter(
        matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:,.6g}")
    )


def _draw_line(axes, line: Series) -> None:
    color = _SERIES[line.position % len(_SERIES)]
    x, y = zip(*((point.x, point.y) for point in line.points), strict=True)
    marker = _MARKERS[line.position % len(_MARKERS)]
    axes.plot(
        x,
        y,
        color=color,
        lw=1.8,
        ls=_DASHES[line.position // len(_SERIES) % len(_DASHES)],
        marker=marker if len(x) <= _MAX_MARKERS else None,
        ms=4.5,
        mew=0,
        clip_on=False,
    )


def _draw_intervals(axes, line: Series, has_bars: bool) -> None:
    color = _SERIES[line.position % len(_SERIES)]
    known = [point for point in line.points if point.interval]
    if not known:
        return
    x = [point.x for point in known]
    low, high = zip(*(point.interval for point in known), strict=True)
    if has_bars:
        axes.vlines(x, low, high, color=color, lw=1.4, clip_on=False)
        for ends in (low, high):
            axes.plot(
                x, ends, ls="", marker="_", ms=7, color=color, clip_on=False
            )
    else:
        axes.fill_between(x, low, high, color=color, alpha=0.16, lw=0)


def _draw_labels(axes, series: Sequence[Series]) -> None:
    """Letters beside the ends of the lines, moved apart where they meet."""
    ends = {}
    for line in series:
        ends.setdefault(line.points[-1].x, []).append(line)
    for x, lines in ends.items():
        heights = _spread([line.points[-1].y for line in lines], 0.065)
        for line, height in zip(lines, heights, strict=True):
            axes.annotate(
                line.label,
                (x, height),
                (9, 0),
                textcoords="offset points",
                color=_SERIES[line.position % len(_SERIES)],
                va="center",
                weight="bold",
            )


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights in [0, 1] moved as little as needed to be `gap` apart."""
    gap = min(gap, 1 / max(len(heights) - 1, 1))
    order = np.argsort(heights, kind="stable")
    placed = np.array(heights, float)[order]
    for rank in range(1, len(placed)):
        placed[rank] = max(placed[rank], placed[rank - 1] + gap)
    placed[-1] = min(placed[-1], 1.0)
    for rank in range(len(placed) - 2, -1, -1):
        placed[rank] = min(placed[rank], placed[rank + 1] - gap)
    result = np.empty(len(placed))
    result[order] = placed
    return result.tolist()


def _draw_reference(axes, accuracy: float) -> None:
    axes.axhline(accuracy, color=MUTED, lw=0.9, ls=(0, (4, 3)))
    is_high = accuracy > 0.9
    axes.text(
        0.995,
        accuracy + (-0.02 if is_high else 0.02),
        "clean",
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="top" if is_high else "bottom",
        color=MUTED,
    )


def _draw_marks(axes, starts: Sequence[int], last: float) -> None:
    """Numbers the stages along the top, with a rule where one begins."""
    for number, start in enumerate(starts, start=1):
        end = starts[number] if number < len(starts) else last
        low, high = max(start, 1), max(end, 1)
        is_log = axes.get_xscale() == "log"
        middle = (low * high) ** 0.5 if is_log else (low + high) / 2
        axes.text(
            middle,
            1.02,
            f"stage {number}" if len(starts) <= 3 else str(number),
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            color=MUTED,
            size=9.5,
        )
        if start:
            axes.axvline(start, color=LINE, lw=0.8, zorder=0.5)


def _describe(series: Sequence[Series], x_label: str) -> str:
    """The chart in words, for those who do not see it."""
    sentences = [
        f"{f'Audit {line.label}: ' if line.label else ''}"
        f"{text.percent(line.points[0].y)} at {line.points[0].x:.6g}, "
        f"{text.percent(line.points[-1].y)} at {line.points[-1].x:.6g}."
        for line in series
    ]
    return f"Line chart, robust accuracy against {x_label}. " + " ".join(
        sentences
    )


def inline(svg: str, name: str, description: str) -> markupsafe.Markup:
    """A file's SVG made fit for a page: colours, ids, size, description."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    label = markupsafe.escape(description)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return markupsafe.Markup(svg)
