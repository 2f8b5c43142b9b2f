"""Reads the folders of sweeps: planned runs and the state of each.

Only `sweep.json`, the plan, and `records/`, one small file per finished run,
are read. A record that cannot be used excludes its own run alone; excluded
runs, and why, are kept, since every figure states them.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from ib_keras import files
from ib_keras.errors import UserError
from ib_keras.figures import records

SWEEP_FILE = "sweep.json"
# The label `model` of deterministic baselines (twins).
TWINS = ("deterministic", "linear")
_NOT_BEGUN = "not begun"


@dataclasses.dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        name: In its sweep.
        labels: By which it is grouped: model, beta or rho, seed.
        record: The content of its file, checked.
    """

    name: str
    labels: Mapping[str, Any]
    record: Mapping[str, Any]

    @property
    def is_twin(self) -> bool:
        """Whether it has no bottleneck to sweep."""
        return self.labels["model"] in TWINS

    @property
    def sha256(self) -> str:
        """Of the model."""
        return self.record["model"]["sha256"]


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of an experiment, from one folder or several.

    Attributes:
        config: The experiment, a module of `configs/`.
        preset: Of the config.
        budget: How the preset reduces the budget, a sentence.
        folders: Where they came from.
        planned: Name -> labels.
        done: Valid runs.
        collapsed: Finished, but left out for their clean accuracy.
        excluded: Name -> why it is left out; the collapsed ones too.
        missing: Name -> the state of a run without a usable record.
        notes: Other notes.
        overrides: Fields of the config that were set for all runs.
    """

    config: str
    preset: str
    budget: str
    folders: tuple[str, ...]
    planned: Mapping[str, Mapping[str, Any]]
    done: tuple[Run, ...]
    collapsed: tuple[Run, ...]
    excluded: Mapping[str, str]
    missing: Mapping[str, str]
    notes: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def of(self, is_wanted: Callable[[Mapping[str, Any]], bool]) -> "Runs":
        """The runs with the wanted labels."""
        planned = {n: lb for n, lb in self.planned.items() if is_wanted(lb)}
        return dataclasses.replace(
            self,
            planned=planned,
            done=tuple(run for run in self.done if run.name in planned),
            collapsed=tuple(r for r in self.collapsed if r.name in planned),
            excluded={n: w for n, w in self.excluded.items() if n in planned},
            missing={n: w for n, w in self.missing.items() if n in planned},
        )

    def state_of(self, name: str) -> int | None:
        """The state of a run: 0 complete, 1 partial, 2 failed, or None."""
        if name in self.excluded:
            return 2 if self.excluded[name].startswith("failed") else 0
        for run in self.done:
            if run.name == name:
                return 1 if run.record["error"] else 0
        return None

    @property
    def command(self) -> str:
        """The command that makes the missing runs."""
        preset = f":{self.preset}" if self.preset else ""
        words = [
            "python -m launch.sweep",
            f"--config=configs/{self.config}.py{preset}",
            *(f"--config.{k}={v}" for k, v in self.overrides.items()),
            f"--workdir={self.folders[0]}",
        ]
        return " ".join(words)


def load(folder: str) -> Runs:
    """Reads the folder of a sweep.

    Args:
        folder: It needs `sweep.json` and `records/` alone.

    Returns:
        Its `Runs`.

    Raises:
        UserError: If the folder is not that of a sweep, or of another format.
    """
    path = files.join(folder, SWEEP_FILE)
    if not files.exists(path):
        raise UserError(
            "The folder is not that of a sweep",
            received=f"{folder}, without {SWEEP_FILE}",
            expected="what launch.sweep writes: sweep.json and records/",
            fix="Give the --workdir of a sweep, or run one.",
        )
    plan = records.read_plan(path)
    planned = {row["name"]: row["labels"] for row in plan["runs"]}
    done, collapsed, excluded, missing = [], [], {}, {}
    for name, labels in planned.items():
        try:
            record = records.read_record(folder, name, plan["preset"])
        except UserError as error:
            missing[name] = f"{error.what}: {error.received}"
            continue
        if record is None:
            missing[name] = _without_record(folder, name)
            continue
        why = _why_excluded(record, done)
        if why is None:
            done.append(Run(name, labels, record))
        else:
            excluded[name] = why
            if record["status"] == "done" and record["collapsed"]:
                collapsed.append(Run(name, labels, record))
    return Runs(
        config=plan["config"],
        preset=plan["preset"],
        budget=plan["budget"],
        folders=(folder,),
        planned=planned,
        done=tuple(done),
        collapsed=tuple(collapsed),
        excluded=excluded,
        missing=missing,
        notes=_strangers(folder, planned),
        overrides=plan.get("overrides") or {},
    )


def merge(sweeps: Sequence[Runs]) -> Runs:
    """Merges parts of one sweep, such as those of several machines.

    Args:
        sweeps: Of one config and preset. For a run in several of them the
            first complete one is used, or else the most complete one.

    Returns:
        All their runs.

    Raises:
        UserError: If they are of several presets, whose budgets differ.
    """
    first = sweeps[0]
    for other in sweeps[1:]:
        if _budget(other) != _budget(first):
            raise UserError(
                "Sweeps of several budgets cannot be in one figure",
                received="; ".join(
                    f"{sweep.folders[0]} is {' '.join(_budget(sweep))}"
                    for sweep in (first, other)
                ),
                expected="one preset of one config, with the same fields",
                fix="Draw them apart, each with its --runs and --output.",
            )
    if len(sweeps) == 1:
        return first
    planned = {n: lb for sweep in sweeps for n, lb in sweep.planned.items()}
    done, collapsed, excluded, missing, notes = [], [], {}, {}, []
    for name in planned:
        having = [s for s in sweeps if s.state_of(name) is not None]
        if not having:
            reasons = [s.missing[name] for s in sweeps if name in s.missing]
            missing[name] = min(reasons, key=lambda why: why == _NOT_BEGUN)
            continue
        if len(having) > 1:
            notes.append(f"{name} is in several folders; one counts.")
        best = min(having, key=lambda sweep: sweep.state_of(name))
        if name in best.excluded:
            excluded[name] = best.excluded[name]
            collapsed += [run for run in best.collapsed if run.name == name]
            continue
        run = next(run for run in best.done if run.name == name)
        same = _same_model(run.record, done)
        if same is None:
            done.append(run)
        else:
            excluded[name] = same
    return dataclasses.replace(
        first,
        folders=tuple(f for sweep in sweeps for f in sweep.folders),
        planned=planned,
        done=tuple(done),
        collapsed=tuple(collapsed),
        excluded=excluded,
        missing=missing,
        notes=(*(n for sweep in sweeps for n in sweep.notes), *notes),
    )


def _budget(sweep: Runs) -> tuple[str, ...]:
    return (f"{sweep.config}:{sweep.preset}", f'"{sweep.budget}"')


def _why_excluded(record, done) -> str | None:
    if record["status"] != "done":
        error = record["error"]
        return f"{record['status']}: {error}" if error else record["status"]
    return record["collapsed"] or _same_model(record, done)


def _same_model(record, done) -> str | None:
    for run in done:
        if run.sha256 == record["model"]["sha256"]:
            return f"the same model as {run.name}"
    return None


def _without_record(folder: str, name: str) -> str:
    if files.exists(files.join(folder, "runs", name)):
        return "begun, but not finished"
    return _NOT_BEGUN


def _strangers(folder, planned) -> tuple[str, ...]:
    """Records of runs outside of the plan are noted, not drawn."""
    names = [
        name.removesuffix(".json")
        for name in files.listdir(files.join(folder, records.RECORDS))
        if name.endswith(".json") and not files.is_leftover(name)
    ]
    strange = [name for name in names if name not in planned]
    if not strange:
        return ()
    return (f"Not of the plan, so left out: {', '.join(strange)}.",)
