"""The verdict and the findings as the page shows them.

Findings against the number come first, those in its favour are folded, and
every status is a word with a sign, not only a colour.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from ib_keras.audit import verdict as verdicts
from ib_keras.audit.diagnostics import base
from ib_keras.audit.report import charts
from ib_keras.audit.report import findings
from ib_keras.audit.report import links
from ib_keras.audit.report import load
from ib_keras.audit.report import text

_FRESH = "D23"
# Status -> its sign; in the order in which findings are shown.
SIGNS = {
    base.FAIL: "✕",
    base.WARN: "▲",
    base.PASS: "✓",
    base.NOT_APPLICABLE: "–",
}
_VERDICT_SIGNS = {
    verdicts.BELIEVABLE: "✓",
    verdicts.UPPER_BOUND: "▲",
    verdicts.INVALID: "✕",
}
_MAX_FINDINGS = 100
_MAX_REASONS = 12
_MAX_NUMBERS = 24
_MAX_MODES = 8


@dataclasses.dataclass(frozen=True)
class Row:
    """One finding; `numbers` are names and values beyond `value`."""

    anchor: str
    id: str
    question: str
    status: str
    sign: str
    value: str
    threshold: str
    evidence: str
    advice: str
    source: tuple[links.Part, ...]
    examples: tuple[int, ...]
    numbers: tuple[tuple[str, str], ...]


class Reason(NamedTuple):
    """A reason of the verdict; `row` is None without its finding."""

    id: str
    why: str
    row: Row | None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict in words; `label` names its colour."""

    label: str
    sign: str
    words: str
    sentence: str
    reasons: tuple[Reason, ...]
    next_steps: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A table of accuracies, each with its interval, under its question."""

    question: str
    num_examples: int | None
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All findings of one audit on the page.

    `counts` are (sign, number, status); `open_rows` are against the number, and
    `folded`, pairs (status, rows), are not.
    """

    verdict: Verdict
    counts: tuple[tuple[str, int, str], ...]
    open_rows: tuple[Row, ...]
    folded: tuple[tuple[str, tuple[Row, ...]], ...]
    num_left_out: int
    matrices: tuple[Matrix, ...]
    fresh: tuple[Row, ...]


def describe(audit: load.Audit, name: str) -> Evidence | None:
    """Describes the findings of an audit.

    Args:
        audit: The audit.
        name: Prefix of the ids, unique on the page.

    Returns:
        The evidence, or None where diagnostics were not run.
    """
    found = audit.findings
    if found is None:
        return None
    ordered = sorted(
        enumerate(found.findings),
        key=lambda entry: list(SIGNS).index(entry[1].status),
    )
    rows = [
        _row(finding, f"{name}-finding{position}")
        for position, finding in ordered[:_MAX_FINDINGS]
    ]
    return Evidence(
        verdict=_verdict(found.verdict, rows),
        counts=_counts(found.findings),
        open_rows=_of(rows, base.FAIL) + _of(rows, base.WARN),
        folded=tuple(
            (status, group)
            for status in (base.PASS, base.NOT_APPLICABLE)
            if (group := _of(rows, status))
        ),
        num_left_out=len(ordered) - len(rows),
        matrices=_matrices(found),
        fresh=tuple(
            row
            for row in rows
            if row.id == _FRESH and row.status != base.NOT_APPLICABLE
        ),
    )


def named_examples(audit: load.Audit, limit: int) -> list[int]:
    """Rows of the examples of findings, the most severe finding first."""
    if audit.findings is None:
        return []
    rows = [
        example
        for status in (base.FAIL, base.WARN)
        for finding in audit.findings.findings
        if finding.status == status
        for example in finding.examples
    ]
    return list(dict.fromkeys(rows))[:limit]


def _of(rows: list[Row], status: str) -> tuple[Row, ...]:
    return tuple(row for row in rows if row.status == status)


def _counts(all_findings) -> tuple[tuple[str, int, str], ...]:
    statuses = [finding.status for finding in all_findings]
    return tuple(
        (sign, statuses.count(status), status)
        for status, sign in SIGNS.items()
        if status in statuses
    )


def _verdict(verdict: findings.Verdict, rows: list[Row]) -> Verdict:
    by_id: dict[str, Row] = {}
    for row in rows:  # Of several with one id, the most severe comes first.
        by_id.setdefault(row.id, row)
    return Verdict(
        label=verdict.label,
        sign=_VERDICT_SIGNS[verdict.label],
        words=_sentence_case(verdicts.WORDS[verdict.label]),
        sentence=text.clean(verdict.sentence, 600),
        reasons=tuple(
            Reason(
                text.clean(reason.id, 12),
                text.clean(reason.why, 400),
                by_id.get(text.clean(reason.id, 12)),
            )
            for reason in verdict.decided_by[:_MAX_REASONS]
        ),
        next_steps=tuple(
            text.clean(step, 400) for step in verdict.next_steps[:_MAX_REASONS]
        ),
    )


def _row(finding: base.Finding, anchor: str) -> Row:
    return Row(
        anchor=anchor,
        id=text.clean(finding.id, 12),
        question=text.clean(finding.question, 200),
        status=finding.status,
        sign=SIGNS[finding.status],
        value=text.figure(finding.value),
        threshold=text.figure(finding.threshold),
        evidence=text.clean(finding.evidence, 600),
        advice=text.clean(finding.advice, 400),
        source=links.split(finding.source),
        examples=finding.examples,
        numbers=_numbers(finding.data),
    )


def _numbers(data: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The numbers and short lists of numbers in the data of a finding."""
    numbers = []
    for name, value in data.items():
        values = value if isinstance(value, list) else [value]
        is_plain = all(_is_number(entry) for entry in values)
        if is_plain and 0 < len(values) <= _MAX_NUMBERS:
            words = text.clean(name, 40).replace("_", " ")
            numbers.append((words, ", ".join(map(text.figure, values))))
    return tuple(numbers[:_MAX_NUMBERS])


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float)
    return is_number and abs(value) < 1e300


def _matrices(found: findings.Findings) -> tuple[Matrix, ...]:
    pairs = zip(found.findings, found.matrices, strict=True)
    return tuple(
        Matrix(
            question=text.clean(finding.question, 200),
            num_examples=matrix.num_examples,
            columns=tuple(map(_mode, matrix.columns[:_MAX_MODES])),
            rows=tuple(
                (
                    _mode(mode),
                    tuple(
                        (text.percent(share), _interval(share, matrix))
                        for share in shares[:_MAX_MODES]
                    ),
                )
                for mode, shares in zip(
                    matrix.rows[:_MAX_MODES],
                    matrix.robust_accuracy[:_MAX_MODES],
                    strict=True,
                )
            ),
        )
        for finding, matrix in pairs
        if matrix
    )[:_MAX_MODES]


def _mode(name: str) -> str:
    return text.clean(name, 40).replace("_", " ")


def _interval(share: float, matrix: findings.Matrix) -> str:
    if not matrix.num_examples:
        return ""
    ends = charts.accuracy_interval(share, matrix.num_examples)
    return text.interval(ends) if ends else ""


def _sentence_case(words: str) -> str:
    return words[:1].upper() + words[1:]
