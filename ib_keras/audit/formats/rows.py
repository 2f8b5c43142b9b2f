"""The rows of all tables: one per radius, each number with its budget."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ib_keras import files
from ib_keras.audit import folder as folders
from ib_keras.audit import statistics
from ib_keras.audit import summary
from ib_keras.audit.formats import verdicts
from ib_keras.audit.report import load
from ib_keras.audit.report import names
from ib_keras.audit.report import text


@dataclasses.dataclass(frozen=True)
class Share:
    """An accuracy with its 95% interval; all are shares of 1."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """0.08 in [0.059, 0.107] -> "8.0% (+2.7/−2.1)"."""
        up, down = self.errors()
        return f"{text.percent(self.value)} (+{up}/−{down})"

    def errors(self) -> tuple[str, str]:
        """How far the interval reaches up and down, in percentage points.

        The intervals are those of shares of a count, so the two differ.
        """
        above, below = self.high - self.value, self.value - self.low
        return f"{100 * above:.1f}", f"{100 * below:.1f}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One audit at one radius.

    `certified` is the lower bound that was proved, a share of 1; None where
    nothing was asked for or can be proved.
    `restarts` and `gradient_evaluations` are the budget of the number, over all
    stages; None where an old or partial folder has none.
    """

    model: str
    model_sha256: str | None
    dataset: str
    split: str
    protocol: str
    protocol_version: Any
    version: str
    norm: str
    epsilon: float
    mode: str
    num_samples: int | None
    num_examples: int
    clean: Share
    robust: Share
    certified: float | None
    restarts: int | None
    gradient_evaluations: int | None
    verdict: str
    folder: str


def of_all(audits: Sequence[load.Audit]) -> list[Row]:
    """The rows of several audits, with distinct names of models.

    Args:
        audits: In the order of the table.

    Returns:
        The rows, audit by audit.
    """
    return [
        dataclasses.replace(row, model=name)
        for audit, name in zip(audits, names.of(audits), strict=True)
        for row in of(audit)
    ]


def of(audit: load.Audit) -> list[Row]:
    """The rows of an audit, by ascending radius.

    Radii of its epsilon curve get their own rows. The verdict, which is about
    all radii, is in the row of the audit's own.

    Args:
        audit: The audit.

    Returns:
        One row or more.
    """
    main = _row(audit, audit.folder, verdicts.words(verdicts.of(audit)))
    rows = [main]
    for point in audit.epsilon_curve:
        if point.epsilon == main.epsilon:
            continue
        rows.append(_of_radius(audit, point, main))
    return sorted(rows, key=lambda row: row.epsilon)


def _of_radius(
    audit: load.Audit, point: summary.EpsilonPoint, main: Row
) -> Row:
    """The row of another radius, whose folder has its budget."""
    folder = folders.radius(audit.folder, point.epsilon)
    if files.exists(files.join(folder, folders.SUMMARY)):
        inner = load.load(folder, has_examples=False)
        return _row(inner, folder, verdicts.NOT_JUDGED)
    low, high = point.interval or statistics.wilson_interval(
        round(point.robust_accuracy * audit.num_examples), audit.num_examples
    )
    return dataclasses.replace(
        main,
        epsilon=point.epsilon,
        robust=Share(point.robust_accuracy, low, high),
        certified=point.certified_accuracy,
        restarts=None,
        gradient_evaluations=None,
        verdict=verdicts.NOT_JUDGED,
        folder=folder,
    )


def _version(versions) -> str:
    """Our version, with the commit if known, since numbers depend on it."""
    commit = versions.get("git_commit")
    version = text.clean(versions.get("ib_keras") or text.MISSING, 20)
    short = text.clean(str(commit)[:7], 7)
    return f"{version} ({short})" if commit else version


def _row(audit: load.Audit, folder: str, verdict: str) -> Row:
    correct = round(audit.clean_accuracy * audit.num_examples)
    clean = statistics.wilson_interval(correct, audit.num_examples)
    restarts = [stage.num_restarts for stage in audit.stages]
    return Row(
        model=names.of([audit])[0],
        model_sha256=audit.model.sha256,
        dataset=text.clean(audit.dataset.get("name") or text.MISSING, 40),
        split=text.clean(audit.dataset.get("split") or text.MISSING, 40),
        protocol=text.clean(audit.protocol, 60),
        protocol_version=audit.protocol_version,
        version=_version(audit.versions),
        norm=audit.threat_model.norm,
        epsilon=float(audit.threat_model.epsilon),
        mode=text.clean(audit.mode, 20),
        num_samples=audit.num_samples if audit.mode == "stochastic" else None,
        num_examples=audit.num_examples,
        clean=Share(audit.clean_accuracy, *clean),
        robust=Share(audit.robust_accuracy, *audit.robust_interval),
        certified=audit.certified_accuracy,
        restarts=_sum(restarts),
        gradient_evaluations=audit.gradient_evaluations,
        verdict=verdict,
        folder=folder,
    )


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def protocol(row: Row) -> str:
    """The protocol with its version: "pgd_restarts v1"."""
    if row.protocol_version is None:
        return row.protocol
    return f"{row.protocol} v{text.clean(row.protocol_version, 10)}"


def are_certified(listed: Sequence[Row]) -> bool:
    """Whether any of the rows has a lower bound, and so a column."""
    return any(row.certified is not None for row in listed)


def certified(row: Row) -> str:
    """The lower bound as tables print it."""
    if row.certified is None:
        return text.MISSING
    return text.percent(row.certified)


def mode(row: Row) -> str:
    """The mode, with S where there is one: "stochastic, S = 12"."""
    if row.num_samples is None:
        return row.mode
    return f"{row.mode}, S = {row.num_samples}"
