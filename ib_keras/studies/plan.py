"""The jobs of a study: each of its models by each of its protocols."""

import dataclasses
import glob
import json
import os
import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from ib_keras import files
from ib_keras import lazy
from ib_keras import metadata
from ib_keras.audit import jobs
from ib_keras.audit import settings
from ib_keras.audit.audited_model import options
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name
from ib_keras.schemas import CONFIG

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=-]*")
_WILD = re.compile(r"[*?[]")
# Folders that every training has, which name no model.
_EXPORTS = ("saved_model", "export", "model")


# The config of a study:
# * models: paths of SavedModels and .keras files, with wildcards at wish;
#   NAME=PATH gives a model another name than that of its folder.
# * protocols: name -> fields that differ from the protocol of this name in
#   configs/audits/; `protocol` names another one.
# * examples_per_part: None for one part an audit. What is no count is refused
#   by what splits, with the number that it has to fit.
_SCHEMA = {
    "models": tuple[str, ...],
    "protocols": Mapping[str, Any],
    "examples_per_part": Any,
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One audit of the study.

    Attributes:
        model: Name of the model.
        protocol: Name of the protocol.
        audit: As of `audit.jobs.make`.
        parts: (first, last) of the ranges of its examples.
    """

    model: str
    protocol: str
    audit: dict[str, Any]
    parts: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        """Of its folder, and in lists of failures."""
        return f"{self.model}/{self.protocol}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study.

    Attributes:
        models: Name -> `path` and `sha256`.
        protocols: Name -> config of an audit.
        examples_per_part: As of the config.
        jobs: Models by protocols.
        left_out: Names of the audits in stochastic mode of models that have no
            noise, which are no jobs.
    """

    models: dict[str, dict[str, str]]
    protocols: dict[str, dict[str, Any]]
    examples_per_part: int | None
    jobs: tuple[Job, ...]
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What `study.json` holds."""
        return {
            "format_version": 1,
            "examples_per_part": self.examples_per_part,
            "protocols": self.protocols,
            "models": self.models,
        }


def make(
    config: Mapping[str, Any],
    workdir: str,
    get_protocol: Callable[[str], Mapping[str, Any]],
    *,
    allow_ops: Iterable[str] = (),
    command: str = "",
    git_commit: str | None = None,
) -> Plan:
    """Finds the models, and refuses what can be refused without TensorFlow.

    Args:
        config: Of the study, JSON values; see `_SCHEMA`.
        workdir: Its folder.
        get_protocol: Gives a config of `configs/audits/`, as JSON values.
        allow_ops: Operations that the safety check lets pass.
        command: How this was started, for the audits.
        git_commit: Of the code, for the audits.

    Returns:
        The `Plan`.

    Raises:
        UserError: If a model, a protocol or the size of parts cannot be used,
            or two models have one name.
    """
    CONFIG.read(_SCHEMA, config)
    protocols = {
        name: _protocol(name, section, get_protocol)
        for name, section in config["protocols"].items()
    }
    if not protocols:
        raise UserError(
            "The study has no protocols",
            received="protocols={}",
            expected="at least one, of configs/audits/",
            fix="Name one in the config's `protocols`.",
        )
    size = config["examples_per_part"]
    parts = {
        name: tuple(jobs.split(protocol["num_examples"], size))
        for name, protocol in protocols.items()
    }
    paths = find_models(config["models"])
    for path in paths.values():
        for protocol in protocols.values():
            settings.check_start(protocol, path)
            _check_targets(protocol, path)
    models = {
        name: {"path": path, "sha256": options.hash_folder(path)}
        for name, path in paths.items()
    }
    made = tuple(
        Job(
            model,
            name,
            jobs.make(
                protocol,
                models[model]["path"],
                files.join(workdir, "audits", model, name),
                sha256=models[model]["sha256"],
                allow_ops=tuple(allow_ops),
                command=command,
                git_commit=git_commit,
                is_checked=True,
            ),
            parts[name],
        )
        for model in models
        for name, protocol in protocols.items()
    )
    left_out = tuple(job.name for job in made if _lacks_noise(job.audit))
    lacking = set(left_out)
    kept = tuple(job for job in made if job.name not in lacking)
    if not kept:
        raise UserError(
            "No model of the study has a stochastic mode",
            received=f"models {', '.join(models)}",
            expected="a model with noise, or a protocol of mean mode",
            fix="Set protocols.NAME.mode to mean in the config.",
        )
    return Plan(models, protocols, size, kept, left_out)


def _lacks_noise(audit) -> bool:
    """Whether an audit is of a mode that the model is said not to have."""
    path = audit["saved_model"]
    if audit["config"]["mode"] != "stochastic" or files.is_remote(path):
        return False
    return (metadata.read(path) or {}).get("is_stochastic") is False


def find_models(patterns: Iterable[str]) -> dict[str, str]:
    """The models that paths with wildcards are of.

    Args:
        patterns: As of `models` in a config.

    Returns:
        Name -> path, in the order of the patterns.

    Raises:
        UserError: If one matches nothing, or two models have one name.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        name, equals, path = pattern.rpartition("=")
        if "/" in name:  # Such as runs/beta=0.01/saved_model.
            name, equals, path = "", "", pattern
        for match in _matches(path or pattern):
            _add(found, name if equals else _model_name(match), match)
    if not found:
        raise UserError(
            "The study has no models",
            received="models=()",
            expected="at least one path of a SavedModel or a .keras file",
            fix="Set --config.models=\"('runs/*/saved_model',)\".",
        )
    return found


def _add(found, name, path):
    if not _NAME.fullmatch(name):
        raise UserError(
            "The name of a model cannot be that of a folder",
            received=f"{name!r}, of {path}",
            expected="letters, digits and _ . = -",
            fix="Give it another as NAME=PATH in --config.models.",
        )
    if found.setdefault(name, path) != path:
        raise UserError(
            "Two jobs have one workdir",
            received=f"{found[name]} and {path}, both named {name}",
            expected="a name of its own for each model",
            fix="Give one another name as NAME=PATH in --config.models.",
        )


def _matches(pattern):
    if not _WILD.search(pattern):
        return [pattern.rstrip("/")]
    if files.is_remote(pattern):
        found = lazy.tensorflow().io.gfile.glob(pattern)
    else:
        found = glob.glob(pattern, recursive=True)
    if not found:
        raise UserError(
            "No model matches",
            received=pattern,
            expected="a pattern of paths that exist",
            fix="Correct --config.models; quote it, so that the shell leaves "
            "it alone.",
        )
    return sorted(path.rstrip("/") for path in found)


def _model_name(path):
    """The name of its folder, or of the training's where it is an export."""
    parent, name = os.path.split(path)
    if name in _EXPORTS:
        name = os.path.basename(parent)
    return re.sub(r"\.(keras|h5|hdf5)$", "", name)


def _protocol(name, section, get_protocol):
    changes = dict(section or {})
    base = get_protocol(changes.pop("protocol", None) or name)
    if not _NAME.fullmatch(name):
        raise UserError(
            "The name of a protocol cannot be that of a folder",
            received=f"{name!r}",
            expected="letters, digits and _ . = -",
            fix="Correct the config's `protocols`.",
        )
    return _changed(json.loads(json.dumps(base)), changes, f"protocols.{name}")


def _changed(values, changes, inside):
    """The values with some fields replaced, section by section."""
    for key, value in changes.items():
        if key not in values:
            raise unknown_name(
                "config field",
                f"{inside}.{key}",
                [f"{inside}.{known}" for known in values],
                "Correct the config's `protocols`.",
            )
        before = values[key]
        if isinstance(before, dict) and isinstance(value, Mapping):
            value = _changed(before, value, f"{inside}.{key}")
        elif isinstance(before, float) and type(value) is int:
            value = float(value)
        values[key] = value
    return values


def _check_targets(protocol, path):
    """Refuses more targets than the metadata of a model leave."""
    if files.is_remote(path) or not os.path.isfile(metadata.path(path)):
        return
    count = metadata.read(path).get("num_classes")
    for name, stage in protocol["stages"].items():
        asked = stage["attack"].get("num_targets")
        known = isinstance(count, int) and isinstance(asked, int)
        if known and asked > count - 1:
            raise jobs.targets_error(name, asked, count, f" of {path}")
