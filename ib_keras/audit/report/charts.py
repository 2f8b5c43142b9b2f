"""The curves of an audit, each as a chart and as a table of its numbers.

Several audits in one chart are labelled by letters, which a legend explains. If
the lines take a small part of the scale, the chart shows that part, and the
full range as well; `svg` draws.
"""

import dataclasses
from collections.abc import Sequence

import markupsafe
import numpy as np

from ib_keras.audit import statistics
from ib_keras.audit import summary
from ib_keras.audit.report import load
from ib_keras.audit.report import svg
from ib_keras.audit.report import text

_MAX_POINTS = 200
_MAX_ROWS = 12
# A chart is zoomed where the lines need less than this of the full scale, and
# not to less than that.
_MOST_ZOOMED, _LEAST_ZOOMED = 0.75, 0.1


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart, and the same numbers as a table.

    `svg` shows the part that the lines are in, `full` the whole scale if that
    is another. `legend` has a swatch and a label for each of several lines
    of one audit.
    """

    title: str
    note: str
    svg: markupsafe.Markup
    full: markupsafe.Markup | None
    legend: tuple[tuple[markupsafe.Markup, str], ...]
    x_name: str
    rows: tuple[tuple[str, str, str, str], ...]  # label, x, y, interval


def letter(position: int) -> str:
    """0 -> "A", 25 -> "Z", 26 -> "AA": the letter of an audit in charts."""
    prefix = letter(position // 26 - 1) if position >= 26 else ""
    return prefix + chr(ord("A") + position % 26)


def restarts(audits: Sequence[load.Audit], name: str) -> Chart | None:
    """Robust accuracy against restarts spent, over all stages in order.

    Args:
        audits: One audit, or several to lay over each other.
        name: Prefix of the ids inside the SVG, unique on the page.

    Returns:
        The chart, or None where no audit has two points.
    """
    series = _series(audits, _restart_points)
    if len(audits) == 1:
        series = _with_other_radii(series, audits[0])
    longest = max((len(line.points) for line in series), default=0)
    if longest < 2:
        return None
    last = max(line.points[-1].x for line in series)
    is_log = last > 10
    note = "Worst case over everything tried so far, on all examples. "
    note += f"{'Log scale. ' if is_log else ''}{_interval_note(series)}"
    is_single = len(audits) == 1
    return _chart(
        "Accuracy against restarts",
        note,
        series,
        name,
        x_name="Restarts",
        x_label="restarts, all stages in order",
        is_log=is_log,
        limits=(1, last),
        reference=audits[0].clean_accuracy if is_single else None,
        marks=_stage_starts(audits[0]) if is_single else (),
    )


def gradients(audits: Sequence[load.Audit], name: str) -> Chart | None:
    """Robust accuracy against gradient evaluations, over all stages.

    Args:
        audits: One audit, or several to lay over each other.
        name: Prefix of the ids inside the SVG, unique on the page.

    Returns:
        The chart, or None where no audit has two points.
    """
    series = _series(audits, _gradient_points)
    if max((len(line.points) for line in series), default=0) < 2:
        return None
    first = min(line.points[0].x for line in series)
    last = max(line.points[-1].x for line in series)
    if first <= 0 or last <= first:
        return None
    return _chart(
        "Accuracy against gradient evaluations",
        f"One point a restart. Log scale. {_interval_note(series)}",
        series,
        name,
        x_name="Gradients",
        x_label="gradient evaluations, all examples together",
        is_log=True,
        limits=(first, last),
        reference=audits[0].clean_accuracy if len(audits) == 1 else None,
    )


def _gradient_points(audit: load.Audit) -> tuple[svg.Point, ...]:
    """Points (gradients spent so far, accuracy), thinned."""
    points, spent = [], 0
    for stage in audit.stages:
        curve = zip(stage.gradient_curve, stage.restart_curve, strict=False)
        points += [(spent + count, accuracy) for count, accuracy in curve]
        if stage.gradient_curve:
            spent += stage.gradient_curve[-1]
    # A stage without gradients, or without examples left, has no points.
    best = {}
    for x, y in points:
        best[x] = y
    return tuple(
        svg.Point(x, y, accuracy_interval(y, audit.num_examples))
        for x, y in _thin(sorted(best.items()), _MAX_POINTS)
        if x > 0
    )


def _with_other_radii(
    series: list[svg.Series], audit: load.Audit
) -> list[svg.Series]:
    """Adds the restart curves of the audit at its other radii, if any."""
    own = float(audit.threat_model.epsilon)
    others = [
        point
        for point in audit.epsilon_curve
        if point.epsilon != own and point.restart_curve
    ]
    if not others:
        return series
    named = dataclasses.replace(series[0], label=f"ε {text.epsilon(own)}")
    return [named] + [
        svg.Series(
            f"ε {text.epsilon(point.epsilon)}",
            position,
            tuple(
                svg.Point(x, y, accuracy_interval(y, audit.num_examples))
                for x, y in _thin(
                    list(enumerate(point.restart_curve, start=1)), _MAX_POINTS
                )
            ),
        )
        for position, point in enumerate(others, start=1)
    ]


def epsilons(
    audits: Sequence[load.Audit], norm: str, name: str
) -> Chart | None:
    """Robust accuracy against the radius, for the audits in one norm.

    Args:
        audits: One audit, or several; those in other norms or without an
            epsilon curve are left out.
        norm: The norm of the threat model.
        name: Prefix of the ids inside the SVG, unique on the page.

    Returns:
        The chart, or None where no audit has a curve.
    """
    series = _series(audits, lambda audit: _epsilon_points(audit, norm))
    if not series:
        return None
    last = max(line.points[-1].x for line in series)
    note = (
        "Each point is an audit of its own at that radius; 0 is clean "
        f"accuracy. {_interval_note(series, 'Bars')}"
    )
    is_single = len(audits) == 1
    return _chart(
        "Accuracy against epsilon",
        note,
        series,
        name,
        closer=_attacked(series),
        x_name="Epsilon",
        format_x=text.epsilon,
        x_label=f"epsilon ({text.norm(norm)}, pixels in [0, 1])",
        limits=(0, last),
        highlight=audits[0].threat_model.epsilon if is_single else None,
        has_bars=True,
        ticks={
            point.x: text.epsilon(point.x)
            for line in series
            for point in line.points
        },
    )


def _chart(
    title: str,
    note: str,
    series: list[svg.Series],
    name: str,
    *,
    x_name: str,
    limits: tuple[float, float],
    closer: list[svg.Series] | None = None,
    format_x=text.count,
    **drawing,
) -> Chart:
    """Draws the lines in full and, if that shows more, zoomed in.

    `closer` are the lines for the zoomed chart, if not all of each.
    """
    closer = closer or series
    shares = _zoom(closer)
    full = None
    if shares:
        full = svg.draw(series, f"{name}-full", limits=limits, **drawing)
        note += f" Zoomed: {text.percent(shares[0])} to "
        note += f"{text.percent(shares[1])}; the full range is below."
        ends = [point.x for line in closer for point in line.points]
        limits = min(ends), max(ends)
        series, shown = closer, series
    else:
        shares, shown = (0.0, 1.0), series
    return Chart(
        title,
        note,
        svg.draw(series, name, limits=limits, shares=shares, **drawing),
        full,
        _legend(shown),
        x_name,
        _rows(shown, format_x),
    )


def _zoom(series: Sequence[svg.Series]) -> tuple[float, float] | None:
    """The part of the scale that the lines are in; None for most of it."""
    has_intervals = len(series) <= svg.MAX_BANDS
    ends = [
        end
        for line in series
        for point in line.points
        for end in (point.y, *((has_intervals and point.interval) or ()))
    ]
    low, high = min(ends), max(ends)
    margin = 0.05 * (high - low)
    high = min(max(high + margin, low + _LEAST_ZOOMED), 1.0)
    low = max(min(low - margin, high - _LEAST_ZOOMED), 0.0)
    if low < 0.25 * high:  # So near to zero that zero is shown.
        low = 0.0
    return None if high - low > _MOST_ZOOMED else (low, high)


def _attacked(series: Sequence[svg.Series]) -> list[svg.Series]:
    """The lines without clean accuracy; all of them if little is left."""
    closer = [
        dataclasses.replace(
            line, points=tuple(point for point in line.points if point.x > 0)
        )
        for line in series
    ]
    radii = {point.x for line in closer for point in line.points}
    return closer if len(radii) > 1 else list(series)


def _legend(series) -> tuple[tuple[markupsafe.Markup, str], ...]:
    return tuple(
        (svg.swatch(line.position), line.label)
        for line in series
        if line.label and len(series) > 1
    )


def _series(audits: Sequence[load.Audit], points_of) -> list[svg.Series]:
    """The lines of those audits that have points, in their own colours."""
    is_single = len(audits) == 1
    return [
        svg.Series("" if is_single else letter(position), position, points)
        for position, audit in enumerate(audits)
        if (points := points_of(audit))
    ]


def accuracy_interval(
    accuracy: float, num_examples: int
) -> tuple[float, float] | None:
    """The Wilson interval of an accuracy; None if it is no count over n."""
    correct = accuracy * num_examples
    if abs(correct - round(correct)) > 1e-3:
        return None
    return statistics.wilson_interval(round(correct), num_examples)


def _restart_points(audit: load.Audit) -> tuple[svg.Point, ...]:
    """Points (restarts so far, accuracy), thinned evenly in log restarts."""
    points, spent = [], 0
    for stage in audit.stages:
        curve = _restart_curve(stage)
        points += [(spent + restart, accuracy) for restart, accuracy in curve]
        spent += curve[-1][0]
    return tuple(
        svg.Point(x, y, accuracy_interval(y, audit.num_examples))
        for x, y in _thin(points, _MAX_POINTS)
    )


def _stage_starts(audit: load.Audit) -> tuple[int, ...]:
    """Restarts spent before each stage; empty for one stage."""
    if len(audit.stages) < 2:
        return ()
    lengths = [_restart_curve(stage)[-1][0] for stage in audit.stages]
    return tuple(int(start) for start in np.cumsum([0, *lengths[:-1]]))


def _restart_curve(stage: summary.Stage) -> list[tuple[int, float]]:
    """(restart, accuracy); the last restart alone where no curve is kept."""
    if stage.restart_curve:
        return list(enumerate(stage.restart_curve, start=1))
    return [(max(stage.num_restarts or 1, 1), stage.robust_accuracy)]


def _epsilon_points(audit: load.Audit, norm: str) -> tuple[svg.Point, ...]:
    """The curve with the audit's own radius and, at 0, clean accuracy."""
    if audit.threat_model.norm != norm or not audit.epsilon_curve:
        return ()
    clean = audit.clean_accuracy
    points = {
        0.0: svg.Point(0.0, clean, accuracy_interval(clean, audit.num_examples))
    }
    for point in audit.epsilon_curve:
        points[point.epsilon] = svg.Point(
            point.epsilon, point.robust_accuracy, point.interval
        )
    epsilon = float(audit.threat_model.epsilon)
    points[epsilon] = svg.Point(
        epsilon, audit.robust_accuracy, audit.robust_interval
    )
    return tuple(points[key] for key in sorted(points))


def _thin(points: list, limit: int) -> list:
    """At most about `limit` of the points, dense at the start, both ends."""
    if len(points) <= limit:
        return points
    ranks = np.geomspace(1, len(points), limit).round().astype(int) - 1
    return [points[rank] for rank in np.unique(ranks)]


def _interval_note(series: Sequence[svg.Series], shape: str = "Band") -> str:
    is_known = any(point.interval for line in series for point in line.points)
    if not is_known or len(series) > svg.MAX_BANDS:
        return ""
    return f"{shape}: 95% interval."


def _rows(series: Sequence[svg.Series], format_x=text.count) -> tuple:
    return tuple(
        (
            line.label,
            format_x(point.x),
            text.percent(point.y),
            text.interval(point.interval),
        )
        for line in series
        for point in _thin(list(line.points), _MAX_ROWS)
    )
