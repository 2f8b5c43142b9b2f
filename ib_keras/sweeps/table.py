"""One row per run: for `table.csv` and for the console.

It holds no times, so that a sweep that was killed and resumed has the same
table as one that was not.
"""

import csv
import io
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from ib_keras.sweeps.plan import Run

_ACCURACIES = ("accuracy", "accuracy_stochastic")


def rows(
    states: Sequence[tuple[Run, str, Mapping[str, Any] | None]],
) -> list[dict[str, str]]:
    """The rows of a table, all with the same columns.

    Args:
        states: Run, status and record of each, in the order of the sweep.

    Returns:
        Column -> text: the name, the labels, the status, why it collapsed, if
        so, accuracies on the test split and on others ("adversarial/
        accuracy"), and robust accuracies ("fgs_mean@0.2"); all are shares.
    """
    found = [_row(*state) for state in states]
    order = {}
    for run, _, _ in states:
        order.update(dict.fromkeys(("name", *run.labels)))
    order.update(dict.fromkeys(("status", "collapsed")))
    # Accuracies before robust accuracies, whichever run is first.
    for is_attack in (False, True):
        for row in found:
            order.update(
                {key: None for key in row if ("@" in key) == is_attack}
            )
    return [{key: row.get(key, "") for key in order} for row in found]


def _row(run, status, record):
    row = {"name": run.name}
    row.update({key: _text(value) for key, value in run.labels.items()})
    row["status"] = status
    row["collapsed"] = (record or {}).get("collapsed") or ""
    result = (record or {}).get("result") or {}
    for name in result:
        if name.rpartition("/")[2] in _ACCURACIES:
            row[name] = f"{result[name]:.6f}"
    for audit, found in ((record or {}).get("audits") or {}).items():
        for epsilon, accuracy in _points(found):
            row[f"{audit}@{epsilon:.6g}"] = f"{accuracy:.6f}"
    return row


def _points(audit):
    for point in audit["epsilon_curve"]:
        yield point["epsilon"], point["robust_accuracy"]
    if not audit["epsilon_curve"]:
        yield audit["threat_model"]["epsilon"], audit["robust_accuracy"]


def _text(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def to_csv(found: Sequence[Mapping[str, str]]) -> str:
    """The table as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(found[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return buffer.getvalue()


def to_text(found: Sequence[Mapping[str, str]]) -> str:
    """The table in aligned columns, without empty columns."""
    names = [n for n in found[0] if any(row[n] for row in found)]
    lines = [names] + [[_short(n, row[n]) for n in names] for row in found]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _short(column: str, text: str) -> str:
    """Four digits of an accuracy; "collapsed" in place of the numbers."""
    if column == "collapsed":
        return "yes" if text else ""
    is_accuracy = "@" in column or column.rpartition("/")[2] in _ACCURACIES
    return f"{float(text):.4f}" if text and is_accuracy else text
