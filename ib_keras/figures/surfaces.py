"""Figures 4 and 10: the loss around test images, one surface per image.

The model is the highest-scoring one under AA+MT, as in the paper. The plane is
that of a PGD attack's direction and a random one, in units of epsilon; the
l_inf ball, a diamond there, is outlined on the surface.
"""

import numpy as np
from matplotlib import ticker

from ib_keras import schemas
from ib_keras.audit.landscape import relief
from ib_keras.errors import UserError
from ib_keras.figures import captions
from ib_keras.figures import drawing
from ib_keras.figures import points as points_lib
from ib_keras.figures import reading
from ib_keras.figures import style
from ib_keras.schemas import Count
from ib_keras.schemas import Finite

_COLUMNS = (
    "figure",
    "panel",
    "u",
    "v",
    "cross_entropy",
    "is_ball",
    "class_name",
    "index",
    "run",
    "model_sha256",
)


_SOURCE = schemas.Source(
    "A loss surface is not what a sweep writes: it",
    "Remove the run's record and its landscapes.json, and run the sweep again.",
)
# What is drawn of what `audit.landscape.records` makes.
_SURFACE = {
    "us": tuple[Finite, ...],
    "vs": tuple[Finite, ...],
    "cross_entropy": tuple[tuple[Finite | None, ...], ...],
    "ball": tuple[tuple[tuple[Finite, Finite], ...], ...],
    "attack_at": Finite,
    "class_name": str,
    "index": Count,
    "epsilon": Finite,
}


def draw(
    number: int, runs: reading.Runs, *, num_images: int
) -> drawing.Drawing:
    """Surfaces of the best model around one image or several.

    Args:
        number: Of the figure.
        runs: Of a sweep whose models have loss surfaces.
        num_images: One takes the first image; of several the last ones are
            taken, so that two figures share as few as there can be.

    Returns:
        The `Drawing`.

    Raises:
        UserError: If no model has both surfaces and AA+MT.
    """
    runs = runs.of(lambda labels: labels["model"] not in reading.TWINS)
    scored = _scored(number, runs)
    best = max(scored, key=lambda point: point.y)
    landscapes = best.run.record["landscapes"]
    for one in landscapes:
        _check(one, best.run.name)
    chosen = landscapes[:1] if num_images == 1 else landscapes[-num_images:]
    width = style.ONE_COLUMN if len(chosen) == 1 else style.TWO_COLUMNS
    figure = style.figure(
        width, 2.35 if len(chosen) == 1 else 2.1, _caption(runs, best, chosen)
    )
    grid = figure.subplots(
        1, len(chosen), squeeze=False, subplot_kw={"projection": "3d"}
    )[0]
    # The label of a vertical 3D axis would be cut: layouts ignore its size.
    figure.supylabel("cross-entropy (nats)", size="medium")
    rows = []
    for position, (axes, one) in enumerate(zip(grid, chosen, strict=True)):
        letter = "abcdefgh"[position] if len(chosen) > 1 else ""
        relief.draw(axes, one)
        _style(axes)
        text = f"({letter}) {one['class_name']}" if letter else ""
        axes.set_title(text, y=1.0, pad=3)
        _draw_image(axes, one)
        rows += _rows(number, letter, one, best.run)
    return drawing.Drawing(figure, _COLUMNS, rows, captions.notes(runs, scored))


def _scored(number, runs):
    """The scores under AA+MT of the models that have surfaces."""
    models = runs.done
    swept = "rho" if any("rho" in run.labels for run in models) else "beta"
    scored = [
        point
        for point in points_lib.of_audit(models, "aa_mt", swept)
        if point.run.record["landscapes"]
    ]
    drawing.check_points(
        number, runs, scored, "loss surfaces and the audit aa_mt"
    )
    return scored


def _caption(runs, best, chosen) -> str:
    run, one = best.run, chosen[0]
    labels = ", ".join(
        f"{captions.SYMBOLS.get(key, key)} {value:g}"
        for key, value in run.labels.items()
        if isinstance(value, int | float)
    )
    low, high = map(captions.percent, best.interval)
    attack = one.get("attack", {})
    settings = attack.get("attack", {})
    steps = ""
    if "num_steps" in settings:
        steps = (
            f" ({settings['num_steps']} steps, "
            f"{captions.count(attack['num_restarts'], 'restart')})"
        )
    names = ", ".join(f"{o['class_name']} ({o['index']})" for o in chosen)
    return (
        f"{run.record['dataset']['description']}. {runs.budget.rstrip('.')}. "
        f"The {run.labels['model'].upper()} model that scores highest under "
        f"AA+MT ({labels}): {captions.percent(best.y)}% of "
        f"{best.num_examples:,} test images, 95% interval {low} to {high}. "
        f"Test image: {names}. Axes in units of "
        rf"$\epsilon=${captions.radius(one['epsilon'])}; outlined is the "
        rf"$\ell_\infty$ ball; × is the image found by PGD{steps}."
    )


def _check(one, name) -> None:
    _SOURCE.read(_SURFACE, one, name)
    shape = (len(one["vs"]), len(one["us"]))
    found = [len(row) for row in one["cross_entropy"]]
    if found != [shape[1]] * shape[0] or min(shape) < 2:
        raise UserError(
            f"{_SOURCE.what} has rows of several lengths",
            received=f"{name}: {found}",
            expected=f"{shape[0]} rows of {shape[1]} values, 2 or more",
            fix=_SOURCE.fix,
        )


def _rows(number, letter, one, run):
    who = (one["class_name"], one["index"], run.name, run.sha256[:12])
    us = [float(u) for u in one["us"]]
    for v, values in zip(one["vs"], one["cross_entropy"], strict=True):
        for u, value in zip(us, values, strict=True):
            yield (number, letter, u, float(v), value, 0, *who)
    for line in one["ball"]:
        for u, v in line:
            yield (number, letter, float(u), float(v), None, 1, *who)


def _draw_image(axes, one) -> None:
    """Draws the test image itself, small, in the panel's upper corner."""
    if not one.get("image"):
        return
    shape = one["image_shape"]
    pixels = np.frombuffer(bytes.fromhex("".join(one["image"])), np.uint8)
    pixels = pixels.reshape(shape)
    inset = axes.figure.add_axes(axes.get_position(), label="image")
    inset.set_in_layout(False)
    inset.set_axes_locator(_Corner(axes))
    inset.imshow(
        np.repeat(pixels, 3, axis=2) if shape[2] == 1 else pixels,
        interpolation="nearest",
    )
    inset.set_xticks([])
    inset.set_yticks([])
    for spine in inset.spines.values():
        spine.set_visible(True)


class _Corner:
    """Places an inset in a panel, wherever the layout puts that."""

    def __init__(self, axes, inches: float = 0.4):
        self._axes, self._inches = axes, inches

    def __call__(self, inset, renderer):
        box = self._axes.get_position()
        width, height = self._axes.figure.get_size_inches()
        size = (self._inches / width, self._inches / height)
        return type(box).from_bounds(box.x0, box.y1 - size[1], *size)


def _style(axes) -> None:
    axes.set_xlabel("to PGD's image", labelpad=-7)
    axes.set_ylabel("random", labelpad=-7)
    axes.zaxis.set_major_locator(ticker.MaxNLocator(4))
    axes.tick_params(pad=-3, labelsize=7)
    axes.view_init(elev=30, azim=-128)
    axes.set_box_aspect((1, 1, 0.7), zoom=0.97)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.pane.set_facecolor("white")
        axis.pane.set_edgecolor(style.PALE)
