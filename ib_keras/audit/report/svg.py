"""Draws lines as inline SVG that takes the page's colours, light or dark.

matplotlib draws with placeholder colours that become CSS variables, so one
chart serves both schemes. Text stays text; lines are labelled by letters, so
there is no foreign text. Equal series give equal bytes. Only the object
interface is used, so a program's own figures and settings are neither read nor
changed.
"""

import dataclasses
import io
import re
from collections.abc import Mapping
from collections.abc import Sequence

import markupsafe
import matplotlib
import matplotlib.backends.backend_svg
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from ib_keras.audit.report import labels
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
# The same markers as paths around (0, 0), and the dashes, for a swatch.
_MARKER_PATHS = {
    "o": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "s": "M-3.5-3.5h7v7h-7z",
    "D": "M0-4.5l4.5 4.5l-4.5 4.5l-4.5-4.5z",
    "^": "M0-4.5l4.5 8h-9z",
    "v": "M0 4.5l4.5-8h-9z",
}
_DASH_ARRAYS = ("none", "8 4", "2 3")
_SIZE = (5.2, 3.2)  # Inches of 72 units; the page scales it.
_PLACE = (0.12, 0.165, 0.81, 0.745)  # Of the axes, in shares of it.
_MAX_MARKERS = 16
MAX_BANDS = 4
_LABEL_GAP = 9  # From the end of a line to its label, in units.
# Widths of a stage's number along the top, and of its word.
_NUMBER_WIDTH, _STAGE_WIDTH = 16, 46
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ib_keras.audit.report",
    "font.size": 11,
    "font.family": ["DejaVu Sans"],
    "text.usetex": False,
}


@dataclasses.dataclass(frozen=True)
class Point:
    """One point: the share `y` at `x`, with its 95% interval if known."""

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
    shares: tuple[float, float] = (0.0, 1.0),
    is_log: bool = False,
    reference: float | None = None,
    highlight: float | None = None,
    has_bars: bool = False,
    marks: Sequence[int] = (),
    ticks: Mapping[float, str] | None = None,
) -> markupsafe.Markup:
    """Draws shares against x.

    Args:
        series: One line or several; several are labelled at their ends, if
            there is space for all labels.
        name: Prefix of the ids inside the SVG, unique on the page.
        x_label: What x is.
        limits: The lowest and the highest x.
        shares: The lowest and the highest share that the axis shows.
        is_log: Whether x is on a log scale.
        reference: A share to mark as that of clean examples, if it is shown.
        highlight: An x to mark.
        has_bars: Whether each interval is a bar of its own, for points that
            were measured apart, and not part of a band.
        marks: Where stages begin, to number them along the top.
        ticks: x -> its label, in place of round numbers if there is space for
            all of them.

    Returns:
        An `<svg>` element.
    """
    with matplotlib.rc_context(settings()):
        figure = matplotlib.figure.Figure(figsize=_SIZE, facecolor="none")
        matplotlib.backends.backend_svg.FigureCanvasSVG(figure)
        axes = figure.add_axes(_PLACE, facecolor="none")
        _style_axes(axes, x_label, limits, shares, is_log)
        _set_ticks(axes, ticks or {}, limits)
        for line in series:
            _draw_line(axes, line)
            if len(series) <= MAX_BANDS:
                _draw_intervals(axes, line, has_bars)
        if len(series) > 1:
            _draw_labels(axes, series)
        if reference is not None and reference <= shares[1]:
            _draw_reference(axes, reference)
        if highlight is not None:
            axes.axvline(highlight, color=MUTED, lw=0.8, ls=(0, (2, 2)))
        _draw_marks(axes, marks, limits[1])
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return inline(buffer.getvalue(), name, _describe(series, x_label))


def swatch(position: int) -> markupsafe.Markup:
    """A short piece of the line of a position, for a legend."""
    color = f"var(--series-{position % len(_SERIES)})"
    marker = _MARKER_PATHS[_MARKERS[position % len(_MARKERS)]]
    return markupsafe.Markup(
        '<svg class="swatch" viewBox="0 -6 40 12" aria-hidden="true">'
        f'<path d="M0 0H40" stroke="{color}" stroke-width="2.5" '
        f'stroke-dasharray="{_DASH_ARRAYS[_dash(position)]}"/>'
        f'<path d="{marker}" transform="translate(20)" fill="{color}"/></svg>'
    )


def bracket(low: float, high: float) -> markupsafe.Markup:
    """A bar of all examples: proved robust, not known, and broken.

    Args:
        low: Certified accuracy, a share of 1.
        high: Robust accuracy, not below it.
    """
    words = (
        f"From 0% to 100% of the examples: {text.percent(low)} proved robust, "
        f"not known up to {text.percent(high)}, the rest not robust"
    )
    parts = (("proved", 0.0, low), ("open", low, high), ("rest", high, 1.0))
    bars = "".join(
        f'<rect class="{name}" x="{1000 * start:.1f}" y="0" '
        f'width="{1000 * max(end - start, 0.0):.1f}" height="10"/>'
        for name, start, end in parts
    )
    return markupsafe.Markup(
        '<svg class="bracket" viewBox="0 0 1000 10" role="img" '
        f'preserveAspectRatio="none" aria-label="{words}">{bars}</svg>'
    )


def _dash(position: int) -> int:
    """Neighbours differ, so that both of two crossing lines are visible."""
    turn = position // len(_SERIES)
    return (position + turn) % len(_DASHES)


def settings() -> dict:
    """The defaults of matplotlib, whatever its user has set, and ours."""
    defaults = {
        key: value
        for key, value in matplotlib.rcParamsDefault.items()
        if not key.startswith(("backend", "interactive", "toolbar"))
    }
    return {**defaults, **_SETTINGS}


def _style_axes(axes, x_label: str, limits, shares, is_log: bool) -> None:
    """Thin lines, few ticks, a range just wider than the data."""
    margin = 0.02 * (shares[1] - shares[0])
    axes.set_ylim(shares[0] - margin, shares[1] + margin)
    axes.yaxis.set_major_locator(
        matplotlib.ticker.MaxNLocator(5, steps=(1, 2, 2.5, 5, 10))
    )
    axes.yaxis.set_major_formatter(
        matplotlib.ticker.FuncFormatter(lambda y, _: f"{100 * y:.4g}%")
    )
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
        locator: matplotlib.ticker.Locator = matplotlib.ticker.LogLocator(
            subs=subs
        )
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
    formatter: matplotlib.ticker.Formatter = matplotlib.ticker.FuncFormatter(
        lambda x, _: f"{x:,.6g}"
    )
    if high >= 10_000:  # "200k", which leaves space for its neighbours.
        formatter = matplotlib.ticker.EngFormatter(sep="")
    axes.xaxis.set_major_formatter(formatter)


def _set_ticks(axes, ticks: Mapping[float, str], limits) -> None:
    """The caller's own ticks, unless two of their labels would overlap."""
    shown = {x: ticks[x] for x in sorted(ticks) if limits[0] <= x <= limits[1]}
    places = [_in_units(axes, Point(x, 0))[0] for x in shown]
    widest = labels.LETTER_WIDTH * max(map(len, shown.values()), default=0)
    if shown and (np.diff(places) > widest).all():
        axes.set_xticks(list(shown), list(shown.values()))


def _draw_line(axes, line: Series) -> None:
    color = _SERIES[line.position % len(_SERIES)]
    x, y = zip(*((point.x, point.y) for point in line.points), strict=True)
    marker = _MARKERS[line.position % len(_MARKERS)]
    axes.plot(
        x,
        y,
        color=color,
        lw=1.8,
        ls=_DASHES[_dash(line.position)],
        marker=marker if len(x) <= _MAX_MARKERS else None,
        ms=4.5,
        mew=0,
        clip_on=False,
        zorder=2 + 0.1 * _dash(line.position),
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
    """Labels beside the ends of the lines, moved apart where they overlap.

    If there is no space for all of them there are none, only the legend.
    """
    ends = np.array([_in_units(axes, line.points[-1]) for line in series])
    widths = [labels.LETTER_WIDTH * len(line.label) for line in series]
    low, high = (_in_units(axes, Point(0, y))[1] for y in axes.get_ylim())
    heights = labels.spread(ends, widths, low, high)
    if heights is None:
        return
    for line, end, height in zip(series, ends, heights, strict=True):
        color = _SERIES[line.position % len(_SERIES)]
        lead = {"arrowstyle": "-", "color": color, "lw": 0.5, "shrinkA": 1}
        is_far = abs(height - end[1]) > labels.HEIGHT / 2
        axes.annotate(
            line.label,
            (line.points[-1].x, line.points[-1].y),
            (_LABEL_GAP, height - end[1]),
            textcoords="offset points",
            color=color,
            va="center",
            weight="bold",
            arrowprops=lead if is_far else None,
        )


def _in_units(axes, point: Point) -> np.ndarray:
    """Where a point is in the picture, in units of 1/72 inch."""
    x = max(point.x, axes.get_xlim()[0])
    units = 72 / axes.figure.dpi
    return units * axes.transData.transform((x, point.y))


def _draw_reference(axes, accuracy: float) -> None:
    axes.axhline(accuracy, color=MUTED, lw=0.9, ls=(0, (4, 3)))
    low, high = axes.get_ylim()
    place = (accuracy - low) / (high - low)
    is_high = place > 0.9
    axes.text(
        0.995,
        place + (-0.02 if is_high else 0.02),
        "clean",
        transform=axes.transAxes,
        ha="right",
        va="top" if is_high else "bottom",
        color=MUTED,
    )


def _draw_marks(axes, starts: Sequence[int], last: float) -> None:
    """Numbers the stages along the top, with a rule where one begins.

    A stage that is too short for its number has none.
    """
    ends = [*starts[1:], last]
    places = [
        [_in_units(axes, Point(max(x, 1), 0))[0] for x in stage]
        for stage in zip(starts, ends, strict=False)
    ]
    shortest = min((end - start for start, end in places), default=0)
    word = "stage " if shortest > _STAGE_WIDTH else ""
    for number, (start, (left, right)) in enumerate(
        zip(starts, places, strict=True), start=1
    ):
        if start:
            axes.axvline(start, color=LINE, lw=0.8, zorder=0.5)
        if right - left < _NUMBER_WIDTH:
            continue
        axes.text(
            (left + right) / 2 / (72 * _SIZE[0]),
            _PLACE[1] + 1.02 * _PLACE[3],
            f"{word}{number}",
            transform=axes.figure.transFigure,
            ha="center",
            va="bottom",
            color=MUTED,
            size=9.5,
        )


def _describe(series: Sequence[Series], x_label: str) -> str:
    """The chart in words, for screen readers."""
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
    """A file's SVG adapted to a page: colours, ids, size, description."""
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
