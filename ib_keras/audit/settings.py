"""The config of an audit and what else can be refused without TensorFlow.

`check` is of fields and their kinds alone; `check_start` is all that can be
said before anything is loaded, in milliseconds.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from ib_keras import files
from ib_keras import metadata
from ib_keras import plugins
from ib_keras import workdirs
from ib_keras.audit import examples
from ib_keras.audit.audited_model import options
from ib_keras.audit.config import AuditConfig
from ib_keras.audit.config import Certify
from ib_keras.audit.config import Stage
from ib_keras.data import splits
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name
from ib_keras.schemas import CONFIG
from ib_keras.types import ThreatModel
from ib_keras.types import check_count

# The fewest draws of a judgement on a model with noise, and their default.
_FEWEST_DRAWS, NUM_DRAWS = 3, 5

# Sets of diagnostics.
SETS = ("none", "quick", "full")

# Methods of certification, as `certify.METHODS` has them.
CERTIFY_METHODS = ("none", "ibp", "crown", "alpha_crown")

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
# Fields that configs of older versions lack, at values that change nothing.
ADDED = {
    f"certify.{name}": value
    for name, value in dataclasses.asdict(Certify()).items()
}


def tolerated(prefix: str = "") -> tuple[tuple[str, ...], dict[str, Any]]:
    """How the configs of one audit may differ, as `workdirs.check` takes it.

    Args:
        prefix: Of the names of fields.

    Returns:
        `MAY_DIFFER` and `ADDED`.
    """
    return (
        tuple(f"{prefix}{name}" for name in MAY_DIFFER),
        {f"{prefix}{name}": value for name, value in ADDED.items()},
    )


def check(config: Mapping[str, Any]) -> None:
    """Refuses a config with unknown fields, or values of other kinds.

    Names and radii are left to `check_start` and to their users.

    Raises:
        UserError: If there is one.
    """
    CONFIG.read(AuditConfig, config)


def check_stages(stages: Mapping[str, Any]) -> None:
    """Refuses stages that are none, by names and counts alone.

    Args:
        stages: The section of a config.

    Raises:
        UserError: If there are none, or a part or argument is unknown.
    """
    CONFIG.read(Mapping[str, Stage], stages, "stages")
    for section in stages.values():
        plugins.check("attacks", section["attack"])
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
    are_given: bool = False,
) -> None:
    """Refuses what can be refused before TensorFlow is imported.

    Args:
        config: An audit config.
        saved_model: The model's path; anything else is taken as it is.
        workdir: The audit folder; None for an audit that writes nothing.
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
    draws = config["num_judge_samples"]
    if draws is not None:
        check_draws(draws, config["mode"] == "stochastic")
    norm = config["threat_model"]["norm"]
    for epsilon in (
        config["threat_model"]["epsilon"],
        *config["epsilon_curve"],
    ):
        ThreatModel(norm, epsilon)
    check_certify(config)
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
        _check_workdir(config, saved_model, workdir)
    if not are_given:
        _check_dataset(config["dataset"], saved_model)


def workers_error(received: str) -> UserError:
    """The error for an audit that several processes should share.

    Args:
        received: What asked for it.
    """
    return UserError(
        "An audit is not shared by the workers of a strategy",
        received=received,
        expected="one process, with one device or several",
        fix="Take launch.study, which shares audits and parts of them among "
        "processes and machines.",
    )


def check_certify(config: Mapping[str, Any]) -> None:
    """Refuses certificates that no model could have under a config.

    Args:
        config: An audit config.

    Raises:
        UserError: If the method is unknown, the norm is not linf, or noise
            and the other fields do not go together.
    """
    asked = Certify.of(config)
    if asked.method not in CERTIFY_METHODS:
        raise unknown_name(
            "method of certification",
            asked.method,
            CERTIFY_METHODS,
            "Set certify.method to one of them.",
        )
    if not asked.is_on:
        return
    norm = config["threat_model"]["norm"]
    if norm != "linf":
        raise UserError(
            "Certificates are of linf balls alone",
            received=f"certify.method={asked.method} and "
            f"threat_model.norm={norm}",
            expected="threat_model.norm=linf, or no certificates",
            fix="Set --config.certify.method=none.",
        )
    if config["mode"] != "stochastic":
        return
    if asked.radius:
        raise UserError(
            "Certified radii are not of models with noise",
            received="certify.radius=True and mode=stochastic",
            expected="mode=mean, or no radii",
            fix="Set --config.certify.radius=False.",
        )
    is_share = 0 < asked.confidence < 1
    if not is_share or 0.5**asked.num_draws >= 1 - asked.confidence:
        raise UserError(
            "So few draws can prove nothing of fresh noise",
            received=f"certify.num_draws={asked.num_draws} and "
            f"certify.confidence={asked.confidence:g}",
            expected="a confidence between 0 and 1, and draws of which half "
            "to their power is below 1 - confidence",
            fix="Raise --config.certify.num_draws, or lower the confidence.",
        )


def _check_dataset(section, saved_model):
    """Refuses a data set by what the config and the model's metadata say."""
    said = None
    if isinstance(saved_model, str) and not files.is_remote(saved_model):
        said = _metadata(saved_model.rstrip("/"))
    if said is not None or section.get("name") is not None:
        data = examples.section(section, said or {})
        plugins.check("data", data)
        if section.get("split") is not None:
            splits.check_name(data, "dataset.split", section["split"])


def _metadata(saved_model):
    """The metadata of a model; None if they are suspiciously long."""
    path = metadata.path(saved_model)
    if not os.path.isfile(path):
        return {}
    if os.path.getsize(path) > _MOST_METADATA:
        return None
    return metadata.read(saved_model)


def check_draws(num_judge_samples: int, has_noise: bool) -> int:
    """Returns the number of draws of a judgement.

    Raises:
        UserError: If it is not a count, or too few for a model with noise.
    """
    count = check_count("num_judge_samples", num_judge_samples)
    if has_noise and count < _FEWEST_DRAWS:
        raise UserError(
            "A judgement on a model with noise takes several draws",
            received=f"num_judge_samples={count}",
            expected=f"{_FEWEST_DRAWS} or more, or none for {NUM_DRAWS}",
            fix="Raise --config.num_judge_samples, or leave it out.",
        )
    return count


def _check_workdir(config, saved_model, workdir):
    path = files.join(workdir, workdirs.CONFIG_FILE)
    owner = {"audit": dict(config)}
    if files.exists(path):
        # The digest of a remote model is checked later.
        digest = (files.read_json(path) or {}).get("model_sha256")
        if isinstance(saved_model, str) and not files.is_remote(saved_model):
            digest = options.hash_folder(saved_model.rstrip("/"))
        owner["model_sha256"] = digest
    workdirs.check(workdir, owner, *tolerated("audit."))
    workdirs.check_writable(workdir)
    workdirs.check_free(workdir)
