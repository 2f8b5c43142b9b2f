"""One loss surface in three dimensions, the ball of the attack marked on it.

The colours are full inside of the ball and pale outside, and its outline is
drawn on the surface.
"""

from collections.abc import Mapping
from typing import Any

import mpl_toolkits.mplot3d  # noqa: F401  Registers the projection.
import numpy as np
from matplotlib import colormaps
from matplotlib import colors
from matplotlib import path as paths
from matplotlib import ticker
from matplotlib.axes import Axes

from ib_keras.figures import style

_COLORS = "viridis"
_PALE = 0.3  # Of the colours outside of the ball.
_FLAT = 1e-3  # Nats: a surface below it is drawn flat.
_SEAM = 0.25  # Points: faces overlap, else there are white gaps between them.


def draw(axes: Axes, one: Mapping[str, Any]) -> None:
    """Draws a surface.

    Args:
        axes: In three dimensions.
        one: As `ib_keras.sweeps.landscapes` makes it.
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
        facecolors=_shades(us, vs, loss, top, lines),
        lw=_SEAM,
        shade=False,
        zorder=1,
    )
    lift = 0.01 * top
    for line in lines:
        heights = _heights(us, vs, loss, *line.T) + lift
        axes.plot(*line.T, heights, color=style.INK, lw=0.8, zorder=2)
    for u, marker in ((0.0, "o"), (float(one["attack_at"]), "X")):
        height = _heights(us, vs, loss, np.array([u]), np.zeros(1)) + lift
        axes.plot(
            [u],
            [0],
            height,
            marker=marker,
            ms=4,
            mfc="white",
            mec="black",
            mew=0.6,
            zorder=3,
        )
    axes.set_zlim(0, top)
    _style(axes)


def draw_image(axes: Axes, one: Mapping[str, Any]) -> None:
    """Draws the test image, small, in the panel's upper corner."""
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
    """Places an inset in a panel, at any position of the panel."""

    def __init__(self, axes: Axes, inches: float = 0.4):
        self._axes, self._inches = axes, inches

    def __call__(self, inset, renderer):
        box = self._axes.get_position()
        width, height = self._axes.figure.get_size_inches()
        size = (self._inches / width, self._inches / height)
        return type(box).from_bounds(box.x0, box.y1 - size[1], *size)


def _shades(us, vs, loss, top, lines) -> np.ndarray:
    """Colours of the faces, each by its middle."""
    middle = (loss[:-1, :-1] + loss[1:, :-1] + loss[:-1, 1:] + loss[1:, 1:]) / 4
    shades = colormaps[_COLORS](colors.Normalize(0, top)(np.nan_to_num(middle)))
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


def _style(axes) -> None:
    axes.set_xlabel("to PGD's image", labelpad=-7)
    axes.set_ylabel("random", labelpad=-7)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.MultipleLocator(1))
    axes.zaxis.set_major_locator(ticker.MaxNLocator(4))
    axes.tick_params(pad=-3, labelsize=7)
    axes.view_init(elev=30, azim=-128)
    axes.set_box_aspect((1, 1, 0.7), zoom=0.97)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.pane.set_facecolor("white")
        axis.pane.set_edgecolor(style.PALE)
