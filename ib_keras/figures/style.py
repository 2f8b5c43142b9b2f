"""The style of figures: sizes, fonts and colours of a two-column paper.

Widths are those of one column and of two, in inches; the colours are Okabe and
Ito's, which the colour-blind can tell apart, and markers differ as well, for
print in grey. Only matplotlib's objects are used, never pyplot, and its
defaults instead of the user's settings, so equal numbers give equal bytes.
"""

import contextlib
import dataclasses
import io
from collections.abc import Sequence

import matplotlib
import matplotlib.backends.backend_agg
import matplotlib.figure

ONE_COLUMN, TWO_COLUMNS = 3.3, 6.8  # Inches.
ENDINGS = (".pdf", ".svg", ".png")
INK, GREY, PALE = "#1a1a1a", "#595959", "#d9d9d9"
_DPI = 300
_CAPTION_SIZE = 6
_CAPTION_LINE = 0.105  # Inches.
_SETTINGS = {
    # Both come with matplotlib, so every machine has them.
    "font.family": ["STIXGeneral"],
    "mathtext.fontset": "stix",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.titlepad": 4,
    "axes.labelpad": 2,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.4,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.4,
    "legend.borderaxespad": 0.2,
    "lines.linewidth": 1.0,
    "text.usetex": False,
    # TrueType: text in the PDF stays text, and journals take it.
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "ib_keras.figures",
}


@dataclasses.dataclass(frozen=True)
class Look:
    """Colour and marker of a series."""

    label: str
    color: str
    marker: str
    is_open: bool = False

    def dots(self, size: float = 3.2) -> dict:
        """Arguments of `Axes.plot` for dots."""
        return {
            "ls": "none",
            "marker": self.marker,
            "ms": size,
            "mec": self.color,
            "mew": 0.7,
            "mfc": "white" if self.is_open else self.color,
        }


# By the label of the run and the mode.
LOOKS = {
    ("vib", "mean"): Look("VIB, mean mode", "#0072b2", "o"),
    ("vib", "stochastic"): Look("VIB, stochastic mode", "#d55e00", "^", True),
    ("ceb", "mean"): Look("CEB, mean mode", "#009e73", "s"),
    ("ceb", "stochastic"): Look("CEB, stochastic mode", "#cc79a7", "D", True),
    ("deterministic", "mean"): Look("deterministic", INK, "x"),
    ("linear", "mean"): Look("linear", INK, "x"),
}
COLLAPSED = Look("collapsed", "#8c8c8c", "o", True)  # Or its mode's marker.


def look(model: str, mode: str) -> Look:
    """The style of a series; a default one for other models."""
    plain = Look(f"{model}, {mode} mode", "#e69f00", "v")
    return LOOKS.get((model, mode), plain)


@contextlib.contextmanager
def settings():
    """The defaults of matplotlib and ours, without the user's settings."""
    defaults = {
        key: value
        for key, value in matplotlib.rcParamsDefault.items()
        if not key.startswith(("backend", "interactive", "toolbar"))
    }
    with matplotlib.rc_context({**defaults, **_SETTINGS}):
        yield


def figure(
    width: float, height: float, caption: str
) -> matplotlib.figure.Figure:
    """A figure with a caption of small lines under it.

    Args:
        width: `ONE_COLUMN` or `TWO_COLUMNS`.
        height: Of all but the caption, in inches.
        caption: Its caption; broken into lines.

    Returns:
        The figure, with space for the caption.
    """
    made = matplotlib.figure.Figure(figsize=(width, height))
    matplotlib.backends.backend_agg.FigureCanvasAgg(made)
    lines = _broken(made, caption, width - 0.08)
    below = _CAPTION_LINE * len(lines) + 0.05
    made.set_size_inches(width, height + below)
    share = below / (height + below)
    made.set_layout_engine(
        "constrained",
        rect=(0, share, 1, 1 - share),
        w_pad=0.03,
        h_pad=0.03,
        wspace=0.04,
    )
    made.text(
        0.04 / width,
        (below - 0.02) / (height + below),
        "\n".join(lines),
        size=_CAPTION_SIZE,
        color=GREY,
        va="top",
        linespacing=1.15,
    )
    return made


def _broken(made, text: str, width: float) -> list[str]:
    """Breaks a text where its next word would pass the width."""
    renderer = made.canvas.get_renderer()
    probe = made.text(0, 0, "", size=_CAPTION_SIZE)

    def is_narrow(words: Sequence[str]) -> bool:
        probe.set_text(" ".join(words))
        return probe.get_window_extent(renderer).width <= width * made.dpi

    lines, line = [], []
    for word in text.split():
        if line and not is_narrow([*line, word]):
            lines.append(" ".join(line))
            line = []
        line.append(word)
    probe.remove()
    return [*lines, " ".join(line)] if line else lines


def save(made: matplotlib.figure.Figure) -> dict[str, bytes]:
    """The figure in each format, without the time of day.

    Returns:
        End of the file name -> content.
    """
    metadata = {
        ".pdf": {"CreationDate": None},
        ".svg": {"Date": None},
        ".png": {},
    }
    contents = {}
    for ending in ENDINGS:
        buffer = io.BytesIO()
        made.savefig(
            buffer, format=ending[1:], dpi=_DPI, metadata=metadata[ending]
        )
        contents[ending] = buffer.getvalue()
    return contents
