"""A Markdown table (GitHub's), with verdicts and comparisons under it."""

import re
from collections.abc import Sequence

from ib_keras.audit import formats
from ib_keras.audit.formats import rows
from ib_keras.audit.formats import verdicts
from ib_keras.audit.report import load
from ib_keras.audit.report import names
from ib_keras.audit.report import pairs
from ib_keras.audit.report import text

# Characters that Markdown or HTML could read as markup; an underscore inside of
# a word is not markup.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~#&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")

COLUMNS = (
    ("Model", False),
    ("Data", False),
    ("Protocol", False),
    ("ib_keras", False),
    ("Norm", False),
    ("Epsilon", True),
    ("Mode", False),
    ("n", True),
    ("Clean accuracy (95%)", True),
    ("Robust accuracy (95%)", True),
    ("Restarts", True),
    ("Gradient evaluations", True),
    ("Verdict", False),
)
# Behind the robust accuracy, where any audit has certificates.
_CERTIFIED = ("Certified accuracy", True)
_PLACE = 10


def build() -> formats.Format:
    """Builds the format."""
    return formats.Format("audit.md", render, compares=True)


def render(
    audits: Sequence[load.Audit], baseline: str | None = None
) -> formats.Document:
    """Renders the table, then a line of verdict and reasons for each audit."""
    parts = [table(rows.of_all(audits))]
    for audit, name in zip(audits, names.labels(audits), strict=True):
        parts.append(f"**{escape(name)}**: {judgement(audit)}")
    if compared := pairs.sentences(audits, baseline):
        parts.append("\n".join(f"- {escape(line)}" for line in compared))
    return formats.Document("\n\n".join(parts) + "\n")


def table(listed: Sequence[rows.Row]) -> str:
    """The table of rows, without a line break behind it."""
    columns, cells = list(COLUMNS), [_cells(row) for row in listed]
    if rows.are_certified(listed):
        columns.insert(_PLACE, _CERTIFIED)
        for row, line in zip(listed, cells, strict=True):
            line.insert(_PLACE, rows.certified(row))
    heads = [name for name, _ in columns]
    rules = ["---:" if is_number else "---" for _, is_number in columns]
    cells = [[escape(cell) for cell in line] for line in cells]
    return "\n".join(
        f"| {' | '.join(line)} |" for line in [heads, rules, *cells]
    )


def judgement(audit: load.Audit) -> str:
    """The verdict of an audit with its reasons and what to do next."""
    verdict = verdicts.of(audit)
    if verdict is None:
        return (
            "not judged: no diagnostics were run, so the robust accuracy is an "
            "upper bound."
        )
    points = [
        f"- {escape(text.clean(reason.id, 20))}: {_sentence(reason.why)}"
        for reason in verdict.decided_by
    ]
    points += [f"- Next: {_sentence(step)}" for step in verdict.next_steps]
    # A list needs a blank line before it.
    return "\n".join(
        [escape(verdicts.sentence(verdict)), *([""] if points else []), *points]
    )


def escape(value) -> str:
    """Makes foreign text one line that Markdown shows literally."""
    return _SPECIAL.sub(r"\\\g<0>", text.clean(value, 400))


def _sentence(value: str) -> str:
    return escape(value).rstrip(".") + "."


def _cells(row: rows.Row) -> list:
    return [
        row.model,
        f"{row.dataset} {row.split}",
        rows.protocol(row),
        row.version,
        text.norm(row.norm),
        text.epsilon(row.epsilon),
        rows.mode(row),
        text.count(row.num_examples),
        row.clean,
        row.robust,
        text.count(row.restarts),
        text.count(row.gradient_evaluations),
        row.verdict,
    ]
