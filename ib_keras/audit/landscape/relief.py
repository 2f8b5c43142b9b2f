"""One loss surface in three dimensions, the ball of the attack marked on it.

The colours are full inside of the ball and pale outside, and its outline is
drawn on the surface.
"""

from collections.abc import Mapping
from typing import Any

import contourpy
import mpl_toolkits.mplot3d  # noqa: F401  Registers the projection.
import numpy as np
from matplotlib import colormaps
from matplotlib import path as paths
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

_INK = "#1a1a1a"
_PALE = 0.3  # Of the colours outside of the ball.
_DIGITS = 5
_FLAT = 1e-3  # Nats: a surface below it is drawn flat.
_SEAM = 0.25  # Points: faces overlap, else there are white gaps between them.


def of(one) -> dict[str, Any]:
    """What `draw` takes of a `surface.Landscape`, as JSON values.

    Returns:
        `us` and `vs`, the coordinates in units of epsilon; `cross_entropy`,
        nats, whose rows follow `vs`, None where not finite; `ball`, the
        outline of the ball, lines of `[u, v]`; `attack_at`, u of the attack's
        image.
    """
    ball = lines(one, one.distance, 1.0)
    return {
        "us": _rounded(one.first_axis),
        "vs": _rounded(one.second_axis),
        "cross_entropy": [_rounded(row) for row in one.cross_entropy],
        "ball": [[_rounded(point) for point in line] for line in ball],
        "attack_at": number(one.attack_at),
    }


def lines(one, values, level: float) -> list[np.ndarray]:
    """Where a map crosses a level: lines `[points, 2]` of (a, b)."""
    finite = values[np.isfinite(values)]
    if not finite.size or not finite.min() < level < finite.max():
        return []
    return contourpy.contour_generator(
        one.first_axis, one.second_axis, np.ma.masked_invalid(values)
    ).lines(level)


def _rounded(values) -> list[float | None]:
    return [number(value) for value in values]


def number(value) -> float | None:
    """A number of a record; None where it is not finite."""
    value = float(value)
    return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None


def draw(
    axes: Axes,
    one: Mapping[str, Any],
    colors: str = "viridis",
    scale: float = 1.0,
) -> None:
    """Draws a surface.

    Args:
        axes: In three dimensions.
        one: As `of` makes it.
        colors: Name of a map of colours.
        scale: Of lines and markers.
    """
    us, vs = (np.asarray(one[name], float) for name in ("us", "vs"))
    loss = np.array(one["cross_entropy"], float)  # None becomes NaN.
    highest = float(np.nanmax(loss)) if np.isfinite(loss).any() else 0.0
    top = highest if highest > _FLAT else 1.0
    lines = [np.asarray(line, float) for line in one["ball"]]
    axes.computed_zorder = False
    axes.plot_surface(
        *np.meshgrid(us, vs),
        loss,
        rstride=1,
        cstride=1,
        facecolors=_shades(us, vs, loss, top, lines, colors),
        lw=_SEAM,
        shade=False,
        zorder=1,
    )
    lift = 0.01 * top
    for line in lines:
        heights = _heights(us, vs, loss, *line.T) + lift
        axes.plot(*line.T, heights, color=_INK, lw=0.8 * scale, zorder=2)
    for u, marker in ((0.0, "o"), (float(one["attack_at"]), "X")):
        height = _heights(us, vs, loss, np.array([u]), np.zeros(1)) + lift
        axes.plot(
            [u],
            [0],
            height,
            marker=marker,
            ms=4 * scale,
            mfc="white",
            mec="black",
            mew=0.6 * scale,
            zorder=3,
        )
    axes.set_zlim(0, top)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.MultipleLocator(1))


def _shades(us, vs, loss, top, lines, name) -> np.ndarray:
    """Colours of the faces, each by its middle."""
    middle = (loss[:-1, :-1] + loss[1:, :-1] + loss[:-1, 1:] + loss[1:, 1:]) / 4
    shades = colormaps[name](Normalize(0, top)(np.nan_to_num(middle)))
    first, second = np.meshgrid((us[:-1] + us[1:]) / 2, (vs[:-1] + vs[1:]) / 2)
    places = np.stack([first.ravel(), second.ravel()], axis=1)
    is_inside = np.zeros(len(places), bool)
    for line in lines:
        is_inside |= paths.Path(line).contains_points(places)
    if lines:
        far = ~is_inside.reshape(middle.shape)
        shades[far, :3] = 1 - _PALE * (1 - shades[far, :3])
    return shades


def _heights(us, vs, loss, u, v) -> np.ndarray:
    """The surface at points, linear in each axis."""
    across = np.clip((u - us[0]) / (us[1] - us[0]), 0, len(us) - 1 - 1e-9)
    along = np.clip((v - vs[0]) / (vs[1] - vs[0]), 0, len(vs) - 1 - 1e-9)
    i, j = along.astype(int), across.astype(int)
    y, x = along - i, across - j
    return (
        loss[i, j] * (1 - y) * (1 - x)
        + loss[i, j + 1] * (1 - y) * x
        + loss[i + 1, j] * y * (1 - x)
        + loss[i + 1, j + 1] * y * x
    )
