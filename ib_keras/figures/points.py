"""The numbers that figures draw, from records of runs.

An accuracy is a share of 1 here and in the CSV; only axes have per cent. A
point whose record gives no interval has Wilson's of its count.
"""

import dataclasses
import math
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

from ib_keras.audit import statistics
from ib_keras.figures import reading

COLUMNS = (
    "figure",
    "panel",
    "model",
    "mode",
    "x",
    "y",
    "seed",
    "ci_low",
    "ci_high",
    "num_examples",
    "run",
    "model_sha256",
)
_SHORT = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One dot of a figure, or one place on a line.

    Attributes:
        model: The label of its run.
        mode: "mean" or "stochastic".
        x: The value on the axis: beta, rho or restarts; None for a
            deterministic baseline (twin) without it.
        y: An accuracy, a share of 1.
        interval: Its 95% interval; None where the count is not known.
        num_examples: Of the accuracy; None where not known.
        run: The run.
        is_collapsed: Whether the run is left out of means.
    """

    model: str
    mode: str
    x: float | None
    y: float
    interval: tuple[float, float] | None
    num_examples: int | None
    run: reading.Run
    is_collapsed: bool = False

    @property
    def seed(self) -> Any:
        """The label of its run; None where it has none."""
        return self.run.labels.get("seed")

    def row(self, figure: int, panel: str) -> tuple:
        """The values of `COLUMNS`."""
        low, high = self.interval or (None, None)
        return (
            figure,
            panel,
            self.model,
            self.mode,
            self.x,
            self.y,
            self.seed,
            low,
            high,
            self.num_examples,
            self.run.name,
            self.run.sha256[:_SHORT],
        )


def of_audit(
    runs: Iterable[reading.Run],
    audit: str,
    swept: str,
    epsilon: float | None = None,
) -> list[Point]:
    """Robust accuracies of one audit, one point per run that has it.

    Args:
        runs: The runs.
        audit: Name of the audit.
        swept: Label of x, such as "beta".
        epsilon: A radius of the audit's curve; None is the audit's own.

    Returns:
        The points; runs without the audit or the radius have none.
    """
    points = []
    for run in runs:
        found = _radius(run.record["audits"].get(audit), epsilon)
        if found is None or not _has_x(run, swept):
            continue
        record, at = found
        points.append(
            Point(
                model=run.labels["model"],
                mode=record["mode"],
                x=_x(run, swept),
                y=float(at["robust_accuracy"]),
                interval=tuple(at["robust_accuracy_ci95"]),
                num_examples=record["num_examples"],
                run=run,
            )
        )
    return points


def of_restarts(
    runs: Iterable[reading.Run], audit: str, epsilon: float | None = None
) -> list[list[Point]]:
    """Robust accuracy after 1, 2, ... restarts, one line per run.

    Args:
        runs: The runs.
        audit: Name of the audit; of its stages the last counts.
        epsilon: A radius of the audit's curve; None is the audit's own.

    Returns:
        A list of points per run.
    """
    lines = []
    for run in runs:
        found = _radius(run.record["audits"].get(audit), epsilon)
        if found is None:
            continue
        record, at = found
        curve = at.get("restart_curve")
        stage = record["stages"][-1] if record["stages"] else {}
        own = record["threat_model"]["epsilon"]
        if not curve and (epsilon is None or _is_same(epsilon, own)):
            curve = stage.get("restart_curve")
        if not curve:
            continue
        values = _whole(curve, stage.get("num_restarts", 0))
        lines.append(
            [
                Point(
                    model=run.labels["model"],
                    mode=record["mode"],
                    x=restart,
                    y=value,
                    interval=interval(value, record["num_examples"]),
                    num_examples=record["num_examples"],
                    run=run,
                )
                for restart, value in enumerate(values, start=1)
            ]
        )
    return lines


def of_result(
    runs: Iterable[reading.Run], field: str, swept: str, *, mode: str
) -> list[Point]:
    """An accuracy that training itself measured, one point per run.

    Args:
        runs: The runs.
        field: Of `result.json`, in mean mode.
        swept: Label of x.
        mode: "mean", or "stochastic" for the field of that mode.

    Returns:
        The points; twins have none in stochastic mode.
    """
    if mode == "stochastic":
        field = f"{field}_stochastic"
    points = []
    for run in runs:
        y = run.record["result"].get(field)
        if not isinstance(y, int | float) or not math.isfinite(y):
            continue
        if run.is_twin and mode == "stochastic" or not _has_x(run, swept):
            continue
        count = run.record["config"].get("data", {}).get("num_examples")
        points.append(
            Point(
                model=run.labels["model"],
                mode=mode,
                x=_x(run, swept),
                y=float(y),
                interval=interval(y, count) if count else None,
                num_examples=count,
                run=run,
            )
        )
    return points


def radii(runs: Iterable[reading.Run], audit: str) -> list[float]:
    """The radii that an audit was made at, ascending."""
    found = set()
    for run in runs:
        record = run.record["audits"].get(audit)
        if record is None:
            continue
        found.add(round(float(record["threat_model"]["epsilon"]), 9))
        found |= {
            round(float(r["epsilon"]), 9) for r in record["epsilon_curve"]
        }
    return sorted(found)


def interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share of so many examples."""
    return statistics.wilson_interval(round(share * count), count)


def widest(points: Iterable[Point]) -> float | None:
    """The longer half of an interval; None without one."""
    arms = [
        max(p.interval[1] - p.y, p.y - p.interval[0])
        for p in points
        if p.interval
    ]
    return max(arms, default=None)


def to_csv(columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Rows as CSV with a heading; None is an empty field."""
    lines = [",".join(columns)]
    lines += [",".join(map(_field, row)) for row in rows]
    return "\n".join(lines) + "\n"


def _field(value) -> str:
    if value is None:
        return ""
    text = f"{value:.9g}" if isinstance(value, float) else str(value)
    if any(character in text for character in ',"\n'):
        text = '"' + text.replace('"', '""') + '"'
    return text


def _x(run, swept) -> float | None:
    return None if run.is_twin else float(run.labels[swept])


def _has_x(run, swept) -> bool:
    x = run.labels.get(swept)
    return run.is_twin or (isinstance(x, int | float) and math.isfinite(x))


def _is_same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6)


def _radius(record, epsilon):
    """The audit and its numbers at a radius; None if it has none."""
    if record is None:
        return None
    if epsilon is None:
        return record, record
    for row in record["epsilon_curve"]:
        if _is_same(row["epsilon"], epsilon):
            return record, row
    if _is_same(record["threat_model"]["epsilon"], epsilon):
        return record, record
    return None


def _whole(curve, num_restarts: int) -> list[float]:
    """Restarts without examples left were not run: accuracy stays 0."""
    values = [float(value) for value in curve]
    if values[-1] == 0:
        values += [0.0] * (num_restarts - len(values))
    return values
