"""Figures 3 and 9: CEB and VIB on CIFAR-10 under PGD and under AA+MT."""

from ib_keras.figures import captions
from ib_keras.figures import drawing
from ib_keras.figures import panels
from ib_keras.figures import points as points_lib
from ib_keras.figures import reading
from ib_keras.figures import style

# The paper's value of panel b.
_AT = {"rho": 3.0, "beta": 0.01}
_NONE = "no run has this audit"


def draw(number: int, runs: reading.Runs, *, swept: str) -> drawing.Drawing:
    """PGD against rho or beta, PGD against restarts, AA+MT.

    Args:
        number: Of the figure.
        runs: Of a CEB or VIB sweep.
        swept: "rho" or "beta".

    Returns:
        The `Drawing`.

    Raises:
        UserError: If no run has one of the audits.
    """
    at = _AT[swept]
    madry = points_lib.of_audit(runs.done, "madry", swept)
    chosen = runs.of(lambda labels: labels.get(swept, at) == at)
    lines = points_lib.of_restarts(chosen.done, "madry_restarts")
    ensemble = points_lib.of_audit(runs.done, "aa_mt", swept)
    along = [p for line in lines for p in line]
    points = [*madry, *along, *ensemble]
    drawing.check_points(
        number, runs, points, "the audits madry, madry_restarts or aa_mt"
    )
    figure = style.figure(
        style.TWO_COLUMNS,
        2.05,
        captions.write(runs, points, more=_radius(points)),
    )
    axes = figure.subplots(1, 3)
    symbol = captions.SYMBOLS[swept].strip("$")
    panels.title(axes[0], "(a) PGD, 1 restart")
    panels.title(axes[1], rf"(b) PGD, ${symbol}={at:g}$")
    panels.title(axes[2], "(c) AA+MT")
    for panel, found in ((axes[0], madry), (axes[2], ensemble)):
        if found:
            panels.draw_swept(panel, found, swept)
        else:
            panels.say_empty(panel, _NONE)
    if lines:
        panels.draw_restarts(axes[1], lines)
    else:
        panels.say_empty(axes[1], _NONE)
    panels.set_percent(axes, "robust accuracy", points)
    panels.draw_legend(figure, points)
    rows = [
        p.row(number, letter)
        for letter, found in zip("abc", (madry, along, ensemble), strict=True)
        for p in found
    ]
    return drawing.Drawing(
        figure, points_lib.COLUMNS, rows, captions.notes(runs, points)
    )


def _radius(points) -> str:
    found = {
        audit["threat_model"]["epsilon"]
        for p in points
        for name, audit in p.run.record["audits"].items()
        if name in ("madry", "madry_restarts", "aa_mt")
    }
    texts = ", ".join(map(captions.radius, sorted(found)))
    return rf"Under $\ell_\infty$ at $\epsilon=${texts}."
