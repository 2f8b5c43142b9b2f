"""A figure's numbers as a table that one can read: a line a group of seeds."""

import math
from collections.abc import Sequence

import pandas as pd

_GROUP = ["panel", "model", "mode", "x"]
# Of a curve over restarts these are enough.
_RESTARTS = (1, 2, 5, 10, 20, 50, 100)
_FEW = 20


def to_markdown(columns: Sequence[str], rows: Sequence[Sequence]) -> str | None:
    """Summarises the points of a figure over seeds.

    Args:
        columns: Heading of the rows, as in the figure's CSV.
        rows: The points that are drawn.

    Returns:
        A Markdown table: seeds, mean, lowest and highest accuracy, images,
        and from the lowest to the highest end of the 95% intervals of the
        models, which are over images. None for figures of something else.
    """
    if "y" not in columns or "seed" not in columns:
        return None
    table = pd.DataFrame(list(rows), columns=list(columns))
    table = table.astype({"x": float, "y": float})
    if table["x"].nunique() > _FEW:
        table = table[table["x"].isin(_RESTARTS)]
    lines = [
        "| panel | model | mode | x | models | mean | lowest | highest "
        "| 95% intervals | images |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, group in table.groupby(_GROUP, sort=False, dropna=False):
        panel, model, mode, x = key
        y = group["y"]
        cells = [
            "" if pd.isna(panel) else panel,
            model,
            mode,
            "" if math.isnan(x) else f"{x:g}",
            len(group),
            *(_percent(value) for value in (y.mean(), y.min(), y.max())),
            _interval(group),
            _images(group["num_examples"]),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _interval(group) -> str:
    low, high = group["ci_low"].min(), group["ci_high"].max()
    if pd.isna(low) or pd.isna(high):
        return ""
    return f"{_percent(low)} to {_percent(high)}"


def _images(counts) -> str:
    found = sorted({int(count) for count in counts.dropna()})
    return ", ".join(f"{count:,}" for count in found)
