"""CSV with full precision: one row per radius, for spreadsheets."""

import dataclasses
from collections.abc import Sequence

import pandas as pd

from ib_keras.audit import formats
from ib_keras.audit.formats import rows
from ib_keras.audit.report import load
from ib_keras.audit.report import pairs

# First characters of cells that spreadsheets take for formulas.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def build() -> formats.Format:
    """Builds the format."""
    return formats.Format("audit.csv", render, compares=True)


def render(
    audits: Sequence[load.Audit], baseline: str | None = None
) -> formats.Document:
    """Renders the rows of the audits; accuracies are shares of 1."""
    records = [_record(row) for row in rows.of_all(audits)]
    # Counts stay whole where other rows have none.
    table = pd.DataFrame(records).convert_dtypes()
    return formats.Document(
        table.to_csv(index=False, lineterminator="\n"),
        tuple(pairs.sentences(audits, baseline)),
    )


def _record(row: rows.Row) -> dict:
    record = {}
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if isinstance(value, rows.Share):
            record[f"{field.name}_accuracy"] = value.value
            record[f"{field.name}_low"] = value.low
            record[f"{field.name}_high"] = value.high
        elif field.name == "certified":
            record["certified_accuracy"] = value
        else:
            record[field.name] = _defused(value)
    return record


def _defused(value):
    is_formula = isinstance(value, str) and value.lstrip(" ").startswith(
        _FORMULA
    )
    return f"'{value}" if is_formula else value
