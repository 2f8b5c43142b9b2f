"""The plan of a sweep: its runs, from the grid of a config module.

A config module defines `sweep(add, preset)` and calls `add` once per run; here
each call becomes a complete `Run`, which is checked before anything is trained.
"""

import dataclasses
import json
import re
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from ib_keras.errors import UserError
from ib_keras.errors import unknown_name
from ib_keras.training import settings

_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]*")
_SCALARS = (str, int, float, bool, type(None))


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, its audits and its landscapes.

    Attributes:
        name: Of its folder; unique in the sweep.
        labels: By which figures group runs.
        config: The whole config of the training.
        audits: Name -> the whole config of an audit, in their order.
        landscape: What loss surfaces to evaluate; None for none.
    """

    name: str
    labels: dict[str, Any]
    config: dict[str, Any]
    audits: dict[str, dict[str, Any]]
    landscape: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """All runs of a sweep.

    Attributes:
        config: Name of the config module.
        preset: What follows the colon of --config.
        budget: How the budget was reduced, in a sentence.
        overrides: Fields that were set for all runs that have them.
        runs: In the order of the grid.
    """

    config: str
    preset: str
    budget: str
    overrides: Mapping[str, Any]
    runs: tuple[Run, ...]

    def to_json(self) -> dict[str, Any]:
        """The content of `sweep.json`."""
        return {
            "format_version": 1,
            "config": self.config,
            "preset": self.preset,
            "budget": self.budget,
            "overrides": self.overrides,
            "num_runs": len(self.runs),
            "runs": [{"name": r.name, "labels": r.labels} for r in self.runs],
        }


def make(
    config: str,
    preset: str,
    sweep: Callable[..., str | None],
    get_config: Callable[[str, str], Mapping[str, Any]],
    get_protocol: Callable[[str], Mapping[str, Any]],
    overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """Calls a config module's `sweep` and completes its runs.

    Args:
        config: Name of the config module.
        preset: What follows the colon of --config.
        sweep: `sweep(add, preset)`; may return the sentence on the reduced
            budget.
        get_config: Gives the training config of a module of `configs/`, such
            as "mnist_vib", with a preset, as JSON values. A run's own preset,
            such as that of "mnist_vib:pgd_at", goes before the sweep's.
        get_protocol: Gives a config of `configs/audits/`, as JSON values.
        overrides: Dotted field -> value, for all runs that have the field.

    Returns:
        The `Plan`.

    Raises:
        UserError: If a run is wrong: its name, a field, a protocol, a label.
    """
    overrides = _plain(overrides or {})
    sweep_config = config
    runs: dict[str, Run] = {}

    def add(
        name, fields, *, config=None, audits=None, labels=None, landscape=None
    ):
        _check_name(name, runs)
        for field in overrides:
            if field in fields:
                raise UserError(
                    "The field is one of those that the sweep sets itself",
                    received=f"--config.{field}, and {field}="
                    f"{fields[field]!r} of run {name}",
                    expected="fields that are the same in all runs",
                    fix="Leave it out, or take some runs with --only.",
                )
        module, _, own = (config or sweep_config).partition(":")
        presets = ",".join(filter(None, (own, preset)))
        values = _plain(get_config(module, presets))
        known = {k: v for k, v in overrides.items() if _has(values, k)}
        values = override(override(values, known), fields)
        runs[name] = Run(
            name=name,
            labels=_check_labels(name, labels or {}),
            config=values,
            audits={
                audit: _audit(name, audit, section, get_protocol, values)
                for audit, section in (audits or {}).items()
            },
            landscape=_check_landscape(name, landscape),
        )

    budget = sweep(add, preset) or ""
    if not runs:
        raise UserError(
            "The sweep has no runs",
            received=f"sweep() of {config}, which adds nothing",
            expected="a call of add() for each run",
            fix="Correct the config's sweep().",
        )
    if telling := matters(overrides):
        said = ", ".join(f"{k}={v!r}" for k, v in telling.items())
        budget = f"{budget} (with {said})".strip()
    return Plan(config, preset, budget, overrides, tuple(runs.values()))


def matters(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that change results, and so make it another sweep."""
    return {k: v for k, v in overrides.items() if k not in settings.MAY_DIFFER}


def override(
    values: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """A copy of nested JSON values with some fields changed.

    Args:
        values: The config.
        changes: Dotted name -> value. A whole number for a field that is a
            float becomes one, as on the command line.

    Returns:
        The copy.

    Raises:
        UserError: If there is no such field.
    """
    copy = _plain(values)
    for name, value in changes.items():
        section = copy
        *sections, field = name.split(".")
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or field not in section:
            raise unknown_name(
                "config field", name, _names(copy), "Correct sweep()."
            )
        if isinstance(section[field], float) and type(value) is int:
            value = float(value)
        section[field] = _plain(value)
    return copy


def _plain(value):
    """The value after a round trip through JSON, to compare with files."""
    return json.loads(json.dumps(value))


def _names(values, inside=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _names(value, f"{inside}{key}.")
        else:
            yield f"{inside}{key}"


def _has(values, name) -> bool:
    return name in set(_names(values))


def _check_name(name, runs):
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            "The name of a run cannot be that of a folder",
            received=f"{name!r}",
            expected="small letters, digits and _ . -",
            fix="Correct the config's sweep().",
        )
    if name in runs:
        raise UserError(
            "Two runs of the sweep have one name",
            received=f'"{name}" twice',
            expected="a name of its own for each run",
            fix="Put what differs into the name in the config's sweep().",
        )


def _check_labels(name, labels):
    for key, value in labels.items():
        if not isinstance(key, str) or not isinstance(value, _SCALARS):
            raise UserError(
                "A label is not a scalar",
                received=f"{key!r}: {value!r} of run {name}",
                expected="texts, numbers, true, false or none",
                fix="Correct the config's sweep().",
            )
    return _plain(labels)


def _audit(run, name, section, get_protocol, training):
    if not _NAME.fullmatch(name) or "protocol" not in section:
        raise UserError(
            "An audit of the sweep cannot be used",
            received=f"{name!r}: {dict(section)} of run {run}",
            expected="a name of small letters and digits, and a protocol",
            fix="Correct the config's sweep().",
        )
    # The audit uses the copy of the data that was trained on.
    data = training.get("data", {})
    changes = {
        f"dataset.{field}": data[field]
        for field in ("data_dir", "download")
        if data.get(field) is not None
    }
    changes |= {k: v for k, v in section.items() if k != "protocol"}
    return override(get_protocol(section["protocol"]), changes)


def _check_landscape(run, landscape):
    if landscape is None:
        return None
    if not {"epsilon", "num_images"} <= set(landscape):
        raise UserError(
            "The landscapes of a run are not described",
            received=f"{dict(landscape)} of run {run}",
            expected="epsilon and num_images",
            fix="Correct the config's sweep().",
        )
    return _plain(landscape)


def choose(plan: Plan, only: str | None) -> list[Run]:
    """The runs whose names match an expression.

    Args:
        plan: The sweep.
        only: A regular expression; None for all.

    Raises:
        UserError: If it is none, or no name matches.
    """
    try:
        pattern = re.compile(only or "")
    except re.error as error:
        raise UserError(
            "--only is not a regular expression",
            received=f"{only!r} ({error})",
            expected="a part of the names, or an expression such as seed_[01]",
            fix="Correct --only; --list shows the names.",
        ) from error
    chosen = [run for run in plan.runs if pattern.search(run.name)]
    if not chosen:
        raise UserError(
            "No run matches",
            received=f"--only={only}",
            expected=f"a part of names such as {plan.runs[0].name}",
            fix="See the names with --list.",
        )
    return chosen
