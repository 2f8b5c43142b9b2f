r"""A LaTeX tabular for `\usepackage{booktabs}`, all text escaped.

Accuracies are in per cent with the two ends of their 95% interval; foreign
names are reduced to ASCII, so that every engine compiles them.
"""

import unicodedata
from collections.abc import Sequence

import pandas as pd

from ib_keras.audit import formats
from ib_keras.audit.formats import rows
from ib_keras.audit.formats import verdicts
from ib_keras.audit.report import load
from ib_keras.audit.report import names
from ib_keras.audit.report import pairs
from ib_keras.audit.report import text

_NORMS = {"linf": r"$\ell_\infty$", "l2": r"$\ell_2$"}
_MISSING = "--"
# Columns that are aligned to the right.
_NUMBERS = (
    r"$\epsilon$",
    "$n$",
    "Clean",
    "Robust",
    "Certified",
    "Restarts",
    "Gradients",
)
_ESCAPES = str.maketrans(
    {
        **{char: f"\\{char}" for char in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        # Other glyphs in LaTeX's first font encoding.
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': "''",
        # At the start of a row these would be read as arguments of the row
        # break.
        "[": "{[}",
        "*": "{*}",
    }
)


def build() -> formats.Format:
    """Builds the format."""
    return formats.Format("audit.tex", render, compares=True)


def render(
    audits: Sequence[load.Audit], baseline: str | None = None
) -> formats.Document:
    """Renders the tabular, after a comment with verdicts and comparisons."""
    listed = rows.of_all(audits)
    is_certified = rows.are_certified(listed)
    cells = [_cells(row, is_certified) for row in listed]
    table = pd.DataFrame(cells)
    tabular = table.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="".join("r" if n in _NUMBERS else "l" for n in table),
    )
    comments = [
        r"Needs \usepackage{booktabs}. Accuracies in per cent, with 95%"
        " intervals.",
        *_judgements(audits),
        *pairs.sentences(audits, baseline),
    ]
    lines = [f"% {plain(comment)}\n" for comment in comments]
    return formats.Document("".join(lines) + tabular)


def plain(value) -> str:
    """Foreign text as one line of ASCII; what has no ASCII becomes "?"."""
    folded = unicodedata.normalize("NFKD", text.clean(value, 400))
    folded = folded.replace(text.MISSING, _MISSING).replace("−", "-")
    return "".join(
        char if char.isascii() else "?"
        for char in folded
        if not unicodedata.combining(char)
    )


def escape(value) -> str:
    """Foreign text as LaTeX that shows it."""
    return plain(value).translate(_ESCAPES)


def _cells(row: rows.Row, is_certified: bool) -> dict[str, str]:
    certified = plain(rows.certified(row)).rstrip("%")
    return {
        "Model": escape(row.model),
        "Data": escape(f"{row.dataset} {row.split}"),
        "Protocol": escape(rows.protocol(row)),
        r"\texttt{ib\_keras}": escape(row.version),
        "Norm": _NORMS[row.norm],
        r"$\epsilon$": text.epsilon(row.epsilon),
        "Mode": escape(rows.mode(row)),
        "$n$": _count(row.num_examples),
        "Clean": _share(row.clean),
        "Robust": _share(row.robust),
        **({"Certified": certified} if is_certified else {}),
        "Restarts": _count(row.restarts),
        "Gradients": _count(row.gradient_evaluations),
        "Verdict": row.verdict,
    }


def _share(share: rows.Share) -> str:
    up, down = share.errors()
    value = text.percent(share.value).rstrip("%")
    return f"${value}^{{+{up}}}_{{-{down}}}$"


def _count(number: int | None) -> str:
    # A comma would be typeset as punctuation in mathematics; a thin space is
    # the same in both.
    return _MISSING if number is None else f"{number:,}".replace(",", r"\,")


def _judgements(audits: Sequence[load.Audit]) -> list[str]:
    found = []
    for audit, name in zip(audits, names.labels(audits), strict=True):
        verdict = verdicts.of(audit)
        sentence = f"{verdicts.NOT_JUDGED}."
        if verdict is not None:
            sentence = verdicts.sentence(verdict)
        found.append(f"{name}: {sentence}")
    return found
