"""Draws the landscapes of an audit: heat maps for the page, and surfaces.

A heat map has its own colours, which stay in light, dark and print; all lines
on it are drawn twice, dark and light, so that they are seen on any of them.
The surface in three dimensions is for separate pictures.
"""

import dataclasses
import io

import markupsafe
import matplotlib
import matplotlib.backends.backend_svg
import matplotlib.colors
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from ib_keras import files
from ib_keras.audit import landscape
from ib_keras.audit.landscape import examples as landscape_examples
from ib_keras.audit.landscape import relief
from ib_keras.audit.report import load
from ib_keras.audit.report import svg
from ib_keras.audit.report import text

MAX_SHOWN = 4

_WIDTH, _HEIGHT = 5.2, 2.52  # Inches of 72 units; the page scales it.
_SIDE, _BOTTOM = 1.66, 0.56
_LEFTS = (0.56, 2.9)
_LOSS_COLORS, _MARGIN_COLORS = "cividis", "RdBu_r"
# Colours of a picture outside of the page, on white.
_PAPER = {"ink": "#1b1d21", "line": "#9aa0aa", "muted": "#444a55"}
_FOR_PAGE = {"ink": svg.INK, "line": svg.LINE, "muted": svg.MUTED}


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One example's landscape: its picture and its numbers."""

    index: int
    label: str
    is_robust: bool
    svg: markupsafe.Markup
    facts: tuple[tuple[str, str], ...]


def choose(audit: load.Audit, name: str) -> tuple[Drawing, ...]:
    """Draws the first landscapes of an audit.

    Args:
        audit: The audit.
        name: Prefix of the ids inside the SVGs, unique on the page.

    Returns:
        The drawings; none where the audit has no landscapes.

    Raises:
        UserError: If their file is damaged.
    """
    path = files.join(audit.folder, landscape_examples.FILE)
    if not files.exists(path):
        return ()
    found = landscape_examples.from_arrays(
        files.read_npz(path), path, audit.num_examples
    )
    names = audit.model.metadata.get("class_names")
    return tuple(
        Drawing(
            index=int(audit.examples["index"][row]),
            label=text.class_name(int(audit.examples["label"][row]), names),
            is_robust=bool(audit.examples["is_robust"][row]),
            svg=inline(one, f"{name}-{position}"),
            facts=facts(one),
        )
        for position, (row, one) in enumerate(found[:MAX_SHOWN])
    )


def facts(one: landscape.Landscape) -> tuple[tuple[str, str], ...]:
    """The numbers under a picture, as (name, value)."""
    numbers = landscape.describe(one)
    flat = "no gradient taken"
    if numbers.flat_share is not None:
        flat = (
            f"{text.percent(numbers.flat_share)} by cross-entropy, "
            f"{text.percent(numbers.margin_flat_share)} by margin"
        )
    return (
        ("Misclassified", f"{text.percent(numbers.wrong_share)} of the ball"),
        ("Flat", flat),
        (
            "Highest loss",
            f"{_short(numbers.highest_cross_entropy)} nats; attack "
            f"{_short(one.attack_cross_entropy)}",
        ),
        (
            "Highest margin",
            f"{text.signed(numbers.highest_margin)}; attack "
            f"{text.signed(float(one.attack_margin))}",
        ),
        (
            "Curvature",
            f"{_short(numbers.curvature)} nats, "
            f"{_short(numbers.margin_curvature)} logits per ε²",
        ),
    )


def _short(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "not finite"


def inline(one: landscape.Landscape, name: str) -> markupsafe.Markup:
    """The heat maps as an `<svg>` that takes the page's colours."""
    with matplotlib.rc_context(svg.settings()):
        figure = heat_maps(one, _FOR_PAGE)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    described = "; ".join(f"{key}: {value}" for key, value in facts(one))
    return svg.inline(
        buffer.getvalue(),
        name,
        "Heat maps of cross-entropy and margin on the plane of the attack's "
        f"direction and a random one. {described}.",
    )


def pictures(one: landscape.Landscape) -> dict[str, bytes]:
    """Files of their own: heat maps and surface, as PNG and as SVG.

    Args:
        one: The landscape.

    Returns:
        End of the file name -> content.
    """
    found = {}
    with matplotlib.rc_context(svg.settings()):
        for name, figure in (
            ("", heat_maps(one, _PAPER)),
            ("_surface", surface(one)),
        ):
            figure.set_facecolor("white")
            for kind in ("png", "svg"):
                buffer = io.BytesIO()
                date = {"Date": None} if kind == "svg" else None
                figure.savefig(buffer, format=kind, dpi=200, metadata=date)
                found[f"{name}.{kind}"] = buffer.getvalue()
    return found


def heat_maps(one: landscape.Landscape, colors) -> matplotlib.figure.Figure:
    """Cross-entropy and margin beside each other, the ball outlined."""
    figure = _figure((_WIDTH, _HEIGHT))
    loss, margin = (
        np.ma.masked_invalid(m) for m in (one.cross_entropy, one.margin)
    )
    top = float(loss.max()) if loss.count() else 1.0
    reach = float(np.abs(margin).max()) if margin.count() else 1.0
    panels = (
        ("cross-entropy, nats", loss, _LOSS_COLORS, 0.0, top or 1.0),
        (
            "margin, logits",
            margin,
            _MARGIN_COLORS,
            -reach or -1.0,
            reach or 1.0,
        ),
    )
    for left, (title, values, map_name, low, high) in zip(
        _LEFTS, panels, strict=True
    ):
        axes = figure.add_axes(_place(left, _SIDE), facecolor="none")
        axes.imshow(
            values,
            cmap=map_name,
            vmin=low,
            vmax=high,
            origin="lower",
            extent=_extent(one),
            interpolation="none",
        )
        _draw_lines(axes, one)
        _style(axes, colors)
        axes.set_title(
            title, size=11, color=colors["ink"], loc="left", pad=5, y=1.0
        )
        _draw_scale(figure, left + _SIDE + 0.08, map_name, low, high, colors)
        # Space for the numbers of the scale; both maps have the same axes.
        axes.tick_params(labelleft=left == _LEFTS[0])
    figure.axes[0].set_ylabel("random direction, ε", color=colors["muted"])
    figure.text(
        (_LEFTS[0] + _LEFTS[1] + _SIDE) / 2 / _WIDTH,
        0.035,
        "towards the attack's image, ε",
        color=colors["muted"],
        ha="center",
        size=11,
    )
    return figure


def _figure(size) -> matplotlib.figure.Figure:
    figure = matplotlib.figure.Figure(figsize=size, facecolor="none")
    matplotlib.backends.backend_svg.FigureCanvasSVG(figure)
    return figure


def _place(left: float, width: float) -> tuple[float, float, float, float]:
    return (left / _WIDTH, _BOTTOM / _HEIGHT, width / _WIDTH, _SIDE / _HEIGHT)


def _extent(one: landscape.Landscape) -> tuple[float, float, float, float]:
    """The outer edges of the pixels, whose middles the axes hold."""
    ends = []
    for axis in (one.first_axis, one.second_axis):
        half = (axis[1] - axis[0]) / 2
        ends += [axis[0] - half, axis[-1] + half]
    return tuple(float(end) for end in ends)


def _draw_lines(axes, one: landscape.Landscape) -> None:
    """The ball, where the prediction turns wrong, and the two images."""
    ball = _together(relief.lines(one, one.distance, 1.0))
    axes.plot(*ball, color="black", lw=2.6)
    axes.plot(*ball, color="white", lw=1.3)
    turns = _together(relief.lines(one, one.margin, 0.0))
    axes.plot(*turns, color="white", lw=2.4)
    axes.plot(*turns, color="black", lw=1.3, ls=(0, (3, 1.6)))
    style = {"ls": "none", "mec": "black", "mfc": "white", "mew": 0.8}
    axes.plot([0], [0], marker="o", ms=5, **style)
    if one.attack_at:
        axes.plot([one.attack_at], [0], marker="X", ms=7, **style)


def _together(lines: list[np.ndarray]) -> np.ndarray:
    """`[2, points]`, with a gap of NaN between lines: one to draw, not many."""
    gap = np.full((1, 2), np.nan)
    pieces = [piece for line in lines for piece in (line, gap)]
    return np.concatenate([gap, *pieces]).T


def _style(axes, colors) -> None:
    for line in (axes.xaxis, axes.yaxis):
        line.set_major_locator(matplotlib.ticker.MultipleLocator(1))
    axes.tick_params(
        colors=colors["line"], labelcolor=colors["muted"], length=3, width=0.8
    )
    for spine in axes.spines.values():
        spine.set_color(colors["line"])


def _draw_scale(figure, left, map_name, low, high, colors) -> None:
    """A bar of the colours with a few numbers beside it."""
    axes = figure.add_axes(_place(left, 0.09))
    axes.imshow(
        np.linspace(low, high, 64)[:, None],
        cmap=map_name,
        origin="lower",
        extent=(0, 1, low, high),
        aspect="auto",
        interpolation="none",
    )
    axes.xaxis.set_visible(False)
    axes.yaxis.tick_right()
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    axes.yaxis.set_major_formatter(
        matplotlib.ticker.FuncFormatter(
            lambda y, _: f"{y:.3g}".replace("-", "−")
        )
    )
    axes.tick_params(
        colors=colors["line"], labelcolor=colors["muted"], length=2, pad=2
    )
    for spine in axes.spines.values():
        spine.set_visible(False)


def surface(one: landscape.Landscape) -> matplotlib.figure.Figure:
    """The cross-entropy as a surface, pale outside of the ball."""
    figure = _figure((6.4, 4.8))
    axes = figure.add_axes((-0.02, 0.03, 1.02, 1.04), projection="3d")
    relief.draw(axes, relief.of(one), _LOSS_COLORS, scale=1.8)
    axes.set_xlabel("towards the attack's image, ε")
    axes.set_ylabel("random direction, ε")
    axes.set_zlabel("cross-entropy, nats")
    axes.view_init(elev=32, azim=-128)
    axes.zaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    axes.set_box_aspect((1, 1, 0.62), zoom=0.95)
    return figure
