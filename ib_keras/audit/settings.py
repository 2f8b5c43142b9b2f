"""The config of an audit and what else can be refused without TensorFlow.

`check` is of fields and their kinds alone; `check_start` is all that can be
said before anything is loaded, in milliseconds.
"""

import functools
import numbers
import operator
import os
from collections.abc import Mapping
from typing import Any

from ib_keras import files
from ib_keras import metadata
from ib_keras import plugins
from ib_keras import workdirs
from ib_keras.audit import examples
from ib_keras.audit.audited_model import options
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name
from ib_keras.types import ThreatModel
from ib_keras.types import check_count
from ib_keras.types import is_number

# Draws of a verdict on a model with noise: most of them decide, and how many
# there are by default.
_FEWEST_DRAWS, NUM_DRAWS = 3, 5

# Sets of diagnostics.
SETS = ("none", "quick", "full")

# Bytes of metadata that are read before the model is checked.
_MOST_METADATA = 1 << 20

# Fields that change no result: an audit may be continued with others.
MAY_DIFFER = (
    "dataset.data_dir",
    "dataset.download",
    "diagnostics.set",
    "diagnostics.num_examples",
    "diagnostics.twin",
)

# The fields of a config; what is open here is checked by the parts.
FIELDS: dict[str, Any] = {
    "protocol": None,
    "protocol_version": None,
    "seed": None,
    "mode": None,
    "num_samples": None,
    "num_judge_samples": None,
    "num_examples": None,
    "batch_size": None,
    "chunk_steps": None,
    "compact": None,
    "model": {
        "signature": None,
        "output": None,
        "outputs": None,
        "input_range": None,
        "layout": None,
        "preprocessing": None,
    },
    "dataset": ...,
    "threat_model": {"norm": None, "epsilon": None},
    "epsilon_curve": None,
    "stages": ...,
    "diagnostics": {"set": None, "num_examples": None, "twin": None},
}


def check(config: Mapping[str, Any]) -> None:
    """Refuses a config with unknown fields, or values of other kinds.

    Counts, names and radii are left to `check_start` and to their users.

    Raises:
        UserError: If there is one.
    """
    workdirs.check_fields(_completed(config), FIELDS)
    for name, (is_right, expected) in _KINDS.items():
        value = functools.reduce(operator.getitem, name.split("."), config)
        if not is_right(value):
            raise UserError(
                f"{name} is not of its kind",
                received=repr(value),
                expected=expected,
                fix=f"Set {name} in the config, as --config.{name}=... does.",
            )


def _completed(config):
    """A config of version 0.1, which has no section `model.preprocessing`."""
    model = config.get("model")
    if not isinstance(model, Mapping):
        return config
    return {**config, "model": {"preprocessing": None, **model}}


def _is_seed(value) -> bool:
    is_whole = isinstance(value, numbers.Integral)
    return is_whole and not isinstance(value, bool) and value >= 0


def _are_numbers(values) -> bool:
    return isinstance(values, list | tuple) and all(map(is_number, values))


# What a field must be and how to say it; `check` says where others are checked.
_KINDS = {
    "seed": (_is_seed, "a whole number, 0 or more"),
    "compact": (lambda v: isinstance(v, bool), "True or False"),
    "protocol": (lambda v: isinstance(v, str), "a name"),
    "threat_model.epsilon": (is_number, "a finite number, 0 or more"),
    "epsilon_curve": (_are_numbers, "numbers, such as (0.1, 0.2)"),
    "diagnostics.twin": (
        lambda v: v is None or isinstance(v, str),
        "the path of a SavedModel",
    ),
}


def check_stages(stages: Mapping[str, Any]) -> None:
    """Refuses stages that are none, by names and counts alone.

    Args:
        stages: The section of a config.

    Raises:
        UserError: If there are none, or a part or argument is unknown.
    """
    stage = {"num_restarts": None, "attack": ...}
    workdirs.check_fields(stages, {name: stage for name in stages}, "stages.")
    for section in stages.values():
        plugins.check("attacks", section["attack"])
        check_count("num_restarts", section["num_restarts"])
    if not stages:
        raise UserError(
            "The protocol has no stages",
            received="stages={}",
            expected="at least one stage",
            fix="Name one in the config's `stages`.",
        )


def check_start(
    config: Mapping[str, Any],
    saved_model: Any,
    workdir: str | None = None,
    is_alone: bool = True,
    are_given: bool = False,
) -> None:
    """Refuses what can be refused before TensorFlow is imported.

    Args:
        config: An audit config.
        saved_model: The model's path; anything else is taken as it is.
        workdir: The audit folder; None for an audit that writes nothing.
        is_alone: Whether no other process shares the audit.
        are_given: Whether the examples are at hand, and no data set is read.

    Raises:
        UserError: If config, a path or the workdir cannot be used.
    """
    check(config)
    options.Options.from_config(config["model"])
    if config["mode"] not in options.MODES:
        raise unknown_name(
            "mode", config["mode"], options.MODES, "Set mode to one of them."
        )
    check_stages(config["stages"])
    _check_counts(config)
    norm = config["threat_model"]["norm"]
    for epsilon in (
        config["threat_model"]["epsilon"],
        *config["epsilon_curve"],
    ):
        ThreatModel(norm, epsilon)
    diagnostics = config["diagnostics"]
    if diagnostics["set"] not in SETS:
        raise unknown_name(
            "set of diagnostics",
            diagnostics["set"],
            SETS,
            "Set diagnostics.set to one.",
        )
    for path in (saved_model, diagnostics["twin"]):
        if isinstance(path, str) and not files.is_remote(path):
            options.check_path(path.rstrip("/"))
    if workdir is not None and not files.is_remote(workdir):
        _check_workdir(config, saved_model, workdir, is_alone)
    if not are_given:
        _check_dataset(config["dataset"], saved_model)


def _check_dataset(section, saved_model):
    """Refuses a data set by what the config and the model's metadata say."""
    said = None
    if isinstance(saved_model, str) and not files.is_remote(saved_model):
        said = _metadata(saved_model.rstrip("/"))
    if said is not None or section.get("name") is not None:
        plugins.check("data", examples.section(section, said or {}))


def _metadata(saved_model):
    """What a model says of itself; None where that is suspiciously long."""
    path = metadata.path(saved_model)
    if not os.path.isfile(path):
        return {}
    if os.path.getsize(path) > _MOST_METADATA:
        return None
    return metadata.read(saved_model)


def _check_counts(config):
    for name in ("num_examples", "batch_size", "chunk_steps"):
        check_count(name, config[name])
    if config["num_samples"] is not None:
        check_count("num_samples", config["num_samples"])
    if config["num_judge_samples"] is not None:
        check_draws(config["num_judge_samples"], config["mode"] == "stochastic")
    count = config["diagnostics"]["num_examples"]
    check_count("diagnostics.num_examples", count)


def check_draws(num_judge_samples: int, has_noise: bool) -> int:
    """Returns the number of draws of a verdict.

    Raises:
        UserError: If it is no count, or too few for a model with noise.
    """
    count = check_count("num_judge_samples", num_judge_samples)
    if has_noise and count < _FEWEST_DRAWS:
        raise UserError(
            "A verdict on a model with noise takes several draws",
            received=f"num_judge_samples={count}",
            expected=f"{_FEWEST_DRAWS} or more, or none for {NUM_DRAWS}",
            fix="Raise --config.num_judge_samples, or leave it out.",
        )
    return count


def _check_workdir(config, saved_model, workdir, is_alone):
    path = files.join(workdir, workdirs.CONFIG_FILE)
    owner = {"audit": dict(config)}
    if files.exists(path):
        # Of a remote model the digest is for later.
        digest = (files.read_json(path) or {}).get("model_sha256")
        if isinstance(saved_model, str) and not files.is_remote(saved_model):
            digest = options.hash_folder(saved_model.rstrip("/"))
        owner["model_sha256"] = digest
    workdirs.check(workdir, owner, tuple(f"audit.{n}" for n in MAY_DIFFER))
    workdirs.check_writable(workdir)
    if is_alone:
        workdirs.check_free(workdir)
