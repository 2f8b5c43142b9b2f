"""Reads `findings.json`: the verdict and the findings that it rests on.

An audit whose diagnostics were not run has no such file and no verdict. A file
that exists must be complete: a partial verdict would mislead.
"""

import dataclasses
import functools
from typing import Annotated
from typing import Any

from ib_keras.audit import folder as folders
from ib_keras.audit import verdict as verdicts
from ib_keras.audit.diagnostics import base
from ib_keras.errors import UserError
from ib_keras.schemas import Count
from ib_keras.schemas import Number
from ib_keras.schemas import Share
from ib_keras.schemas import field
from ib_keras.schemas import one_of

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Reason:
    """A finding that decided the verdict, and why."""

    id: str
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of the findings; `label` is one of `verdict.LABELS`."""

    label: Annotated[str, one_of(*verdicts.LABELS)]
    sentence: str = ""
    decided_by: tuple[Reason, ...] = ()
    next_steps: tuple[str, ...] = field(key="next", default=())


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Robust accuracies `[row][column]`: mode attacked in, mode scored in.

    Each is a share of `num_examples`, where that is known.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    robust_accuracy: tuple[tuple[Share, ...], ...]
    num_examples: Count | None = None

    def __post_init__(self):
        shape = (len(self.rows), len(self.columns))
        if [len(r) for r in self.robust_accuracy] != [shape[1]] * shape[0]:
            raise UserError(
                "A matrix of a finding is not of its shape",
                received=f"rows of {[len(r) for r in self.robust_accuracy]}",
                expected=f"{shape[0]} lists of {shape[1]} numbers",
                fix="Restore the file, or run the audit again.",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """All of `findings.json`, in the order of the file."""

    verdict: Verdict
    findings: tuple[base.Finding, ...]
    set_name: str | None = field(key="set", default=None)
    num_examples: Count | None = None
    seed: Any = None
    gradient_evaluations: Count | None = None
    seconds: Number | None = None

    @functools.cached_property
    def matrices(self) -> tuple[Matrix | None, ...]:
        """The matrix among the data of each finding; None where it has none."""
        source = folders.source(folders.FINDINGS)
        return tuple(
            source.read(Matrix, finding.data, f"findings[{position}].data")
            if {"rows", "columns"} <= finding.data.keys()
            else None
            for position, finding in enumerate(self.findings)
        )


def read(content: Any, path: str, num_examples: int) -> Findings:
    """Reads and checks what `findings.json` held.

    Args:
        content: What the file held.
        path: Of the file.
        num_examples: How many examples the audit has.

    Returns:
        The findings.

    Raises:
        UserError: If a field is missing or of another kind, the file is of a
            later format, or a finding points at an example that is not there.
    """
    source = folders.source(path)
    version = source.read({"format_version": Count}, content)["format_version"]
    if version > FORMAT_VERSION:
        raise UserError(
            "The findings are of a later format",
            received=f"{path}: format_version = {version}",
            expected=f"{FORMAT_VERSION} or less",
            fix="Write the report with the version that ran the audit.",
        )
    found = source.read(Findings, content)
    for finding in found.findings:
        if max(finding.examples, default=-1) >= num_examples:
            raise UserError(
                "A finding points at an example that is not there",
                received=f"{path}: {finding.id}: {max(finding.examples)}",
                expected=f"positions below {num_examples}",
                fix="Restore the folder, or run the audit again.",
            )
    _ = found.matrices  # A damaged one is told of now.
    return found
