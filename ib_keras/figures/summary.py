"""A figure's numbers as a table: one line per group of seeds."""

from collections.abc import Sequence

import pandas as pd

# The restarts of a curve that are shown.
_RESTARTS = (1, 2, 5, 10, 20, 50, 100)
_FEW = 20


def to_markdown(columns: Sequence[str], rows: Sequence[Sequence]) -> str | None:
    """Summarises the points of a figure over models of one kind.

    Args:
        columns: Heading of the rows, as in the figure's CSV.
        rows: The points that are drawn.

    Returns:
        A Markdown table with a line for each model and x, and a column for
        each panel and mode: the mean accuracy of the models, in per cent, with
        the lowest and the highest, or of a model alone with the 95% interval
        over test images, in brackets. Collapsed models are left out, and
        counted. Panels over restarts have a table of their own, behind the
        others. None for figures of something else.
    """
    if "y" not in columns or "seed" not in columns:
        return None
    table = pd.DataFrame(list(rows), columns=list(columns))
    table = table.astype({"x": float, "y": float})
    table["panel"] = table["panel"].fillna("")
    if "is_collapsed" not in table:
        table["is_collapsed"] = 0
    numbers = table.groupby("panel")["x"].nunique()
    curves = table["panel"].isin(numbers[numbers > _FEW].index)
    over_restarts = curves & table["x"].isin(_RESTARTS)
    parts = [table[~curves], table[over_restarts]]
    return "\n".join(_table(part) for part in parts if not part.empty)


def _table(table: pd.DataFrame) -> str:
    """A table of panels whose x is the same quantity."""
    kinds = list(table.groupby(["panel", "mode"], sort=False).groups)
    kinds.sort(key=lambda kind: kind[0])
    names = [", ".join(filter(None, kind)) for kind in kinds]
    lines = [
        "| " + " | ".join(["model", "x", *names, "models"]) + " |",
        "|---" * (len(kinds) + 3) + "|",
    ]
    models = table["model"].drop_duplicates()
    for model in models:
        own = table[table["model"] == model]
        for x, group in own.groupby("x", dropna=False):
            cells = [model, "" if pd.isna(x) else f"{x:g}"]
            for panel, mode in kinds:
                is_own = (group["panel"] == panel) & (group["mode"] == mode)
                cells.append(_accuracy(group[is_own]))
            lines.append("| " + " | ".join([*cells, _count(group)]) + " |")
    return "\n".join(lines) + "\n"


def _accuracy(group: pd.DataFrame) -> str:
    group = group[group["is_collapsed"] == 0]
    if group.empty:
        return ""
    y = group["y"]
    text = f"{100 * y.mean():.1f}"
    if len(group) > 1:
        return f"{text} ({100 * y.min():.1f} to {100 * y.max():.1f})"
    (low,), (high,) = group["ci_low"], group["ci_high"]
    if pd.isna(low) or pd.isna(high):
        return text
    return f"{text} [{100 * low:.1f}, {100 * high:.1f}]"


def _count(group: pd.DataFrame) -> str:
    runs = group.groupby("run")["is_collapsed"].max()
    left = int((runs == 0).sum())
    return f"{left}" if left == len(runs) else f"{left} of {len(runs)}"
