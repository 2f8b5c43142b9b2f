"""The curves of an audit, each as a chart and as a table of its numbers.

Audits laid over each other are told apart by a letter, which the comparison
table explains; `svg` draws.
"""

import dataclasses
from collections.abc import Sequence

import markupsafe
import numpy as np

from ib_keras.audit import statistics
from ib_keras.audit.report import load
from ib_keras.audit.report import svg
from ib_keras.audit.report import text

_MAX_POINTS = 200
_MAX_ROWS = 12


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart with the same numbers as a table, for reading and copying."""

    title: str
    note: str
    svg: markupsafe.Markup
    x_name: str
    rows: tuple[tuple[str, str, str, str], ...]  # label, x, y, interval


def letter(position: int) -> str:
    """0 -> "A", 25 -> "Z", 26 -> "AA": how charts call an audit."""
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
    drawing = svg.draw(
        series,
        name,
        x_label="restarts, all stages in order",
        is_log=is_log,
        limits=(1, last),
        reference=audits[0].clean_accuracy if is_single else None,
        marks=_stage_starts(audits[0]) if is_single else (),
    )
    return Chart(
        "Accuracy against restarts", note, drawing, "Restarts", _rows(series)
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
    drawing = svg.draw(
        series,
        name,
        x_label="gradient evaluations, all examples together",
        is_log=True,
        limits=(first, last),
        reference=audits[0].clean_accuracy if len(audits) == 1 else None,
    )
    return Chart(
        "Accuracy against gradient evaluations",
        f"One point a restart. Log scale. {_interval_note(series)}",
        drawing,
        "Gradients",
        _rows(series),
    )


def _gradient_points(audit: load.Audit) -> tuple[svg.Point, ...]:
    """Points (gradients spent so far, accuracy), thinned."""
    points, spent = [], 0
    for stage in audit.stages:
        curve = zip(stage.gradient_curve, stage.restart_curve, strict=False)
        points += [(spent + count, accuracy) for count, accuracy in curve]
        if stage.gradient_curve:
            spent += stage.gradient_curve[-1]
    # A stage without gradients, or with nobody left, moves no further.
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
    drawing = svg.draw(
        series,
        name,
        x_label=f"epsilon ({text.norm(norm)}, pixels in [0, 1])",
        limits=(0, last),
        highlight=audits[0].threat_model.epsilon if is_single else None,
        has_bars=True,
    )
    return Chart(
        "Accuracy against epsilon",
        note,
        drawing,
        "Epsilon",
        _rows(series, text.epsilon),
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


def _restart_curve(stage: load.Stage) -> list[tuple[int, float]]:
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
