"""Figures 5 and 7: clean and adversarial accuracy on the toy problems.

Training itself measures both. Here collapsed runs are drawn, marked as such:
their accuracy, and the beta from which runs collapse, are the result.
"""

import dataclasses

from ib_keras.figures import captions
from ib_keras.figures import drawing
from ib_keras.figures import panels
from ib_keras.figures import points as points_lib
from ib_keras.figures import reading
from ib_keras.figures import style

_PANELS = (
    ("(a) clean", "accuracy"),
    ("(b) adversarial", "adversarial/accuracy"),
)


def draw(number: int, runs: reading.Runs) -> drawing.Drawing:
    """Both accuracies against beta, VIB in both modes and the baseline."""
    by_panel = [_points(runs, field) for _, field in _PANELS]
    points = [p for found in by_panel for p in found]
    drawing.check_points(
        number, runs, points, "accuracies on the splits test and adversarial"
    )
    caption = captions.write(runs, points, images="samples")
    figure = style.figure(style.ONE_COLUMN, 3.1, caption)
    axes = figure.subplots(2, 1, sharex=True)
    for panel, (title, _), found in zip(axes, _PANELS, by_panel, strict=True):
        panels.draw_swept(panel, found, "beta")
        panels.title(panel, title)
    axes[0].set_xlabel("")
    for panel in axes:
        panels.set_percent([panel], "accuracy", points)
    panels.draw_legend(figure, points)
    rows = [
        (*p.row(number, letter), int(p.is_collapsed))
        for letter, found in zip("ab", by_panel, strict=True)
        for p in found
    ]
    return drawing.Drawing(
        figure,
        (*points_lib.COLUMNS, "is_collapsed"),
        rows,
        captions.notes(runs, points),
    )


def _points(runs, field):
    found = []
    for group, is_collapsed in ((runs.done, False), (runs.collapsed, True)):
        for mode in ("mean", "stochastic"):
            found += [
                dataclasses.replace(point, is_collapsed=is_collapsed)
                for point in points_lib.of_result(
                    group, field, "beta", mode=mode
                )
            ]
    return found
