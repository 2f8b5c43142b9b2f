"""Reads `findings.json`: the verdict and the findings that it rests on.

An audit whose diagnostics were not run has no such file and no verdict. A file
that exists must be complete: a partial verdict would mislead.
"""

import dataclasses
from typing import Any

from ib_keras.audit import verdict as verdicts
from ib_keras.audit.diagnostics import base
from ib_keras.audit.report import fields
from ib_keras.errors import UserError

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Reason:
    """A finding that decided the verdict, and why."""

    id: str
    why: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of the findings; `label` is one of `verdict.LABELS`."""

    label: str
    sentence: str
    decided_by: tuple[Reason, ...]
    next_steps: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Robust accuracies `[row][column]`: mode attacked in, mode scored in.

    Each is a share of `num_examples`, where that is known.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    robust_accuracy: tuple[tuple[float, ...], ...]
    num_examples: int | None


@dataclasses.dataclass(frozen=True)
class Findings:
    """All of `findings.json`, in the order of the file.

    `matrices` has one entry for each of `findings`, None where a finding has
    no matrix among its data.
    """

    verdict: Verdict
    findings: tuple[base.Finding, ...]
    matrices: tuple[Matrix | None, ...]
    set_name: str | None
    num_examples: int | None
    seed: Any
    gradient_evaluations: int | None
    seconds: float | None


def read(record: fields.Record, num_examples: int) -> Findings:
    """Reads and checks what `findings.json` held.

    Args:
        record: The file's object.
        num_examples: How many examples the audit has.

    Returns:
        The findings.

    Raises:
        UserError: If a field is missing or of another kind, the file is of a
            later format, or a finding points at an example that is not there.
    """
    version = record.count("format_version")
    if version > FORMAT_VERSION:
        raise UserError(
            "The findings are of a later format",
            received=f"{record.where}: format_version = {version}",
            expected=f"{FORMAT_VERSION} or less",
            fix="Write the report with the version that ran the audit.",
        )
    entries = record.records("findings")
    for entry in entries:
        rows = entry.counts("examples", ())
        if max(rows, default=-1) >= num_examples:
            raise UserError(
                "A finding points at an example that is not there",
                received=f"{entry.where}: examples = {max(rows)}",
                expected=f"positions below {num_examples}",
                fix="Restore the folder, or run the audit again.",
            )
    return Findings(
        verdict=_verdict(record.record("verdict")),
        findings=tuple(map(_finding, entries)),
        matrices=tuple(map(_matrix, entries)),
        set_name=record.text("set", None),
        num_examples=record.count("num_examples", None),
        seed=record.value.get("seed"),
        gradient_evaluations=record.count("gradient_evaluations", None),
        seconds=record.number("seconds", None),
    )


def _verdict(record: fields.Record) -> Verdict:
    return Verdict(
        label=record.choice("label", verdicts.LABELS),
        sentence=record.text("sentence", ""),
        decided_by=tuple(
            Reason(reason.text("id"), reason.text("why", ""))
            for reason in record.records("decided_by", ())
        ),
        next_steps=tuple(record.texts("next", ())),
    )


def _finding(record: fields.Record) -> base.Finding:
    return base.Finding(
        id=record.text("id"),
        question=record.text("question"),
        status=record.choice("status", base.STATUSES),
        evidence=record.text("evidence"),
        source=record.text("source", ""),
        value=record.figure("value", None),
        threshold=record.figure("threshold", None),
        advice=record.text("advice", ""),
        examples=tuple(record.counts("examples", ())),
        data=record.record("data", {}).value,
    )


def _matrix(record: fields.Record) -> Matrix | None:
    data = record.record("data", {})
    if "rows" not in data.value or "columns" not in data.value:
        return None
    rows, columns = data.texts("rows"), data.texts("columns")
    shares = data.share_rows("robust_accuracy", len(rows), len(columns))
    return Matrix(
        tuple(rows),
        tuple(columns),
        tuple(map(tuple, shares)),
        data.count("num_examples", None),
    )
