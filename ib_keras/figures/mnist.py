"""Figures 1, 2 and 8: VIB on MNIST under FGS and under PGD with restarts."""

import functools

from ib_keras.figures import captions
from ib_keras.figures import drawing
from ib_keras.figures import panels
from ib_keras.figures import points as points_lib
from ib_keras.figures import reading
from ib_keras.figures import style

# From this radius on every image can be made solid grey, which a classifier
# assigns to one class. So under a successful attack at most the share of the
# largest class is correct.
_GREY = 0.5
_ON_GREY = (
    r"At $\epsilon\geq$0.5 all images can be made solid grey, and one answer "
    "is right for the largest class at most: above the dashed line the attack "
    "has failed."
)
_BETA = 0.01


def draw_fgs(number: int, runs: reading.Runs) -> drawing.Drawing:
    """FGS accuracy against beta, a panel a radius (figure 1)."""
    twins = [run for run in runs.done if run.is_twin]
    models = [run for run in runs.done if not run.is_twin]
    by_panel = {}
    radii = points_lib.radii(runs.done, "fgs_mean")
    for epsilon in radii:
        of_audit = functools.partial(
            points_lib.of_audit, swept="beta", epsilon=epsilon
        )
        by_panel[epsilon] = [
            *of_audit(models, "fgs_mean"),
            *of_audit(models, "fgs_stochastic"),
            *of_audit(twins, "fgs_mean"),
        ]
    points = [p for found in by_panel.values() for p in found]
    drawing.check_points(number, runs, points, "the audit fgs_mean")
    has_grey = max(radii) >= _GREY
    level = _one_answer(runs.done) if has_grey else None
    figure = style.figure(
        style.TWO_COLUMNS,
        2.05,
        captions.write(runs, points, more="" if level is None else _ON_GREY),
    )
    axes = figure.subplots(1, len(by_panel), squeeze=False)[0]
    rows = []
    for letter, (epsilon, found), panel in zip(
        "abcdefgh", by_panel.items(), axes, strict=False
    ):
        panels.draw_swept(panel, found, "beta")
        panels.title(panel, rf"({letter}) FGS, $\epsilon={epsilon:g}$")
        rows += [p.row(number, letter) for p in found]
        if epsilon >= _GREY and level is not None:
            panels.draw_level(panel, level)
    panels.set_percent(axes, "robust accuracy", points)
    if level is not None:  # Also where all attacks stay below it.
        for panel in axes:
            panel.set_ylim(top=max(panel.get_ylim()[1], 105 * level))
    text = level and f"one answer for all, {100 * level:.1f}%"
    panels.draw_legend(figure, points, text)
    return drawing.Drawing(
        figure, points_lib.COLUMNS, rows, captions.notes(runs, points)
    )


def _one_answer(runs) -> float | None:
    """The highest accuracy of one class for all images; None if not known."""
    audits = [run.record["audits"].get("fgs_mean", {}) for run in runs]
    shares = [audit.get("largest_class_share") for audit in audits]
    return max((share for share in shares if share), default=None)


def draw_restarts(
    number: int, runs: reading.Runs, *, epsilon: float
) -> drawing.Drawing:
    """PGD accuracy against restarts at beta = 0.01 (figures 2 and 8)."""
    runs = runs.of(lambda labels: labels.get("beta", _BETA) == _BETA)
    lines = points_lib.of_restarts(runs.done, "restarts", epsilon)
    points = [p for line in lines for p in line]
    drawing.check_points(
        number,
        runs,
        points,
        f"the audit restarts at epsilon {epsilon:g}, of beta {_BETA:g}",
    )
    figure = style.figure(style.ONE_COLUMN, 2.2, captions.write(runs, points))
    axes = figure.subplots()
    panels.draw_restarts(axes, lines)
    panels.title(axes, rf"PGD, $\epsilon={epsilon:g}$, $\beta={_BETA:g}$")
    panels.set_percent([axes], "robust accuracy", points)
    panels.draw_legend(figure, points)
    rows = [p.row(number, "") for p in points]
    return drawing.Drawing(
        figure, points_lib.COLUMNS, rows, captions.notes(runs, points)
    )
