"""Figure 6: samples of the toy problem, and its adversarial ones.

Needs no runs: the data set is a function of its seed.
"""

import numpy as np
from matplotlib import ticker

from ib_keras import plugins
from ib_keras.figures import drawing
from ib_keras.figures import panels
from ib_keras.figures import style

_NUM_SAMPLES = 1000
_SPLITS = (("(a) data", "test"), ("(b) adversarial", "adversarial"))
_LOOKS = (
    style.Look("$y=-1$", "#d55e00", "^"),
    style.Look("$y=+1$", "#0072b2", "o"),
)


def draw(number: int, runs: None = None) -> drawing.Drawing:
    """Draws the first samples of both splits, by their features."""
    source = plugins.build("data", {"name": "toy_overlap"})
    low, high = source.feature_range
    caption = (
        f"The first {_NUM_SAMPLES:,} samples of each split. (a) has the "
        "distribution of section 3.3; in (b) $x_2$ is from the low-density "
        "regions alone."
    )
    figure = style.figure(style.ONE_COLUMN, 1.75, caption)
    axes = figure.subplots(1, 2, sharey=True)
    rows = []
    for panel, (title, split) in zip(axes, _SPLITS, strict=True):
        images, labels = source.load(f"{split}[:{_NUM_SAMPLES}]")
        features = low + (high - low) * images[:, 0, :, 0].astype(np.float64)
        for label, look in enumerate(_LOOKS):
            own = features[labels == label]
            panel.plot(
                *own.T,
                **{**look.dots(1.4), "mew": 0.0},
                label=look.label,
                rasterized=False,
            )
        panels.title(panel, title)
        panel.set_xlabel("$x_1$")
        panel.grid(True, axis="both")
        panel.xaxis.set_major_locator(ticker.MultipleLocator(5))
        rows += [
            (number, split, 2 * int(y) - 1, float(x1), float(x2))
            for y, (x1, x2) in zip(labels, features, strict=True)
        ]
    axes[0].set_ylabel("$x_2$")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=2, markerscale=2.5
    )
    return drawing.Drawing(
        figure, ("figure", "panel", "y", "x1", "x2"), rows, ()
    )
