"""`records/NAME.json`: all that figures need of a finished run.

A record is made from the files of training and audits in the run's folder, so
that a run that was killed and resumed has the same record as one that was not,
but for seconds, of which `wall` is the last attempt alone. `versions` and
`git_commit` are those of the writer; `model` has those of the training.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import export
from ib_keras import files
from ib_keras import workdirs
from ib_keras.audit import folder as folders
from ib_keras.audit import settings as audit_settings
from ib_keras.audit import training_seeds
from ib_keras.audit.audited_model import loading
from ib_keras.errors import UserError
from ib_keras.sweeps.plan import Run
from ib_keras.training import settings

FORMAT_VERSION = 1
DONE, DIVERGED, FAILED = "done", "diverged", "failed"
STATUSES = (DONE, DIVERGED, FAILED)

AUDITS = "audits"
LANDSCAPES = "landscapes.json"
METRICS = "metrics.jsonl"

_AUDIT_FIELDS = (
    "protocol",
    "protocol_version",
    "dataset",
    "mode",
    "num_samples",
    "num_examples",
    "seed",
    "threat_model",
    "clean_accuracy",
    "robust_accuracy",
    "robust_accuracy_ci95",
    "gradient_evaluations",
    "seconds",
)
_STAGE_FIELDS = (
    "name",
    "num_restarts",
    "robust_accuracy",
    "num_attacked",
    "num_broken",
    "gradient_evaluations",
    "restart_curve",
)
_POINT_FIELDS = ("epsilon", "robust_accuracy", "robust_accuracy_ci95")

# Fields of audits that change no number of a record.
_AUDIT_MAY_DIFFER = ("dataset.data_dir", "dataset.download")


def fingerprint(run: Run) -> str:
    """SHA-256 of all configs of a run."""
    text = json.dumps(
        [run.config, run.audits, run.landscape], sort_keys=True, default=list
    )
    return hashlib.sha256(text.encode()).hexdigest()


def frame(
    run: Run, preset: str, status: str, git_commit: str | None
) -> dict[str, Any]:
    """The fields of a record that do not depend on results, in their order."""
    return {
        "format_version": FORMAT_VERSION,
        "name": run.name,
        "labels": run.labels,
        "preset": preset,
        "status": status,
        "error": None,
        "collapsed": None,
        "config": run.config,
        "config_sha256": fingerprint(run),
        "audit_configs": run.audits,
        "landscape_config": run.landscape,
        "dataset": None,
        "result": None,
        "model": None,
        "audits": {},
        "landscapes": None,
        "seconds": {"train": None, "audits": None, "wall": None},
        "versions": export.describe_versions(),
        "git_commit": git_commit,
    }


def compose(
    run: Run, folder: str, preset: str, git_commit: str | None
) -> dict[str, Any]:
    """Makes the record of a run whose parts are all finished.

    Args:
        run: The run.
        folder: Its folder.
        preset: Of the sweep.
        git_commit: Of the code.

    Returns:
        JSON values.

    Raises:
        UserError: If a file is missing or damaged.
    """
    record = frame(run, preset, DONE, git_commit)
    result = files.read_json(files.join(folder, settings.RESULT_FILE))
    saved_model = files.join(folder, settings.SAVED_MODEL)
    metadata = export.read_metadata(saved_model) or {}
    num_classes = int(metadata["num_classes"])
    record["collapsed"] = training_seeds.collapse(
        result["accuracy"], training_seeds.halfway(num_classes)
    )
    record["dataset"] = result["dataset"]
    record["result"] = result
    record["model"] = {
        "sha256": loading.hash_folder(saved_model),
        "num_classes": num_classes,
        "is_stochastic": bool(metadata["is_stochastic"]),
        "versions": metadata.get("versions"),
        "git_commit": metadata.get("git_commit"),
    }
    seconds = 0.0
    for name in run.audits:
        place = files.join(folder, AUDITS, name)
        record["audits"][name], spent = _audit(place)
        seconds += spent
    if run.landscape is not None:
        place = files.join(folder, LANDSCAPES)
        record["landscapes"] = landscapes(place, run.landscape)
    record["seconds"]["train"] = _train_seconds(folder, run.config)
    record["seconds"]["audits"] = round(seconds, 3)
    return record


def landscapes(path: str, spec: Mapping[str, Any]) -> list[Any] | None:
    """The loss surfaces of a file; None if it has none of this spec."""
    if not files.exists(path):
        return None
    found = files.read_json(path)
    is_ours = isinstance(found, dict) and found.get("spec") == spec
    return found["surfaces"] if is_ours else None


def failure(
    run: Run, path: str, error: str, preset: str, git_commit: str | None
) -> dict[str, Any]:
    """The record of a run that failed.

    Args:
        run: The run.
        path: Of its record. Its results are kept, with the error: then audits
            that were added later have failed.
        error: What happened, a line.
        preset: Of the sweep.
        git_commit: Of the code.

    Returns:
        JSON values.
    """
    if files.exists(path):
        before = read(path)
        if before["status"] == DONE:
            return before | {"error": error}
    return frame(run, preset, FAILED, git_commit) | {"error": error}


def has_failed(record: Mapping[str, Any]) -> bool:
    """Whether a run, or what was added to one that is done, has failed."""
    status = record["status"]
    return status == FAILED or status == DONE and bool(record["error"])


def _audit(place) -> tuple[dict[str, Any], float]:
    """What a record says of an audit folder, and the seconds it took."""
    summary = folders.summary(place)
    seconds = summary["seconds"]
    own = float(summary["threat_model"]["epsilon"])
    points = []
    for point in summary["epsilon_curve"]:
        epsilon = float(point["epsilon"])
        there = summary
        if epsilon != own:
            there = folders.summary(folders.radius(place, epsilon))
            seconds += there["seconds"]
        points.append(
            {
                **{name: point[name] for name in _POINT_FIELDS},
                "restart_curve": there["stages"][-1]["restart_curve"],
            }
        )
    examples = files.read_npz(files.join(place, folders.EXAMPLES))
    labels, is_robust = examples["label"], examples["is_robust"].astype(int)
    found = folders.findings(place) or {}
    seconds += found.get("seconds") or 0.0
    return {
        **{name: summary[name] for name in _AUDIT_FIELDS},
        "largest_class_share": float(np.bincount(labels).max() / len(labels)),
        "is_robust": "".join("01"[robust] for robust in is_robust),
        "stages": [
            {name: stage[name] for name in _STAGE_FIELDS}
            for stage in summary["stages"]
        ],
        "epsilon_curve": points,
        "verdict": found.get("verdict"),
    }, seconds


def _train_seconds(folder, config) -> float | None:
    """The time of the training steps over all attempts, from the log.

    None where the log cannot be read, which does not fail the run.
    """
    batch_size = config["train"]["batch_size"]
    total, before = 0.0, 0
    try:
        text = files.read_text(files.join(folder, METRICS))
        for row in map(json.loads, text.splitlines()):
            if row["kind"] == "train":
                examples = (row["step"] - before) * batch_size
                total += examples / row["examples_per_second"]
                before = row["step"]
    except (
        tf.errors.OpError,
        ArithmeticError,
        LookupError,
        OSError,
        TypeError,
        ValueError,  # Such as a UserError.
    ):
        return None
    return round(total, 3) or None


def read(path: str) -> dict[str, Any]:
    """Reads a record, and checks the fields that a sweep uses.

    Raises:
        UserError: If it is missing, damaged or of another format.
    """
    record = files.read_json(path)
    said = record.get("status") if isinstance(record, dict) else None
    version = record.get("format_version") if said else None
    needed = {"name", "error", "config", "audit_configs", "audits"}
    needed |= {"landscape_config"}
    if said not in STATUSES or version != FORMAT_VERSION:
        reason = f"status {said!r}, format_version {version!r}"
    elif not needed <= record.keys():
        reason = f"no {', '.join(sorted(needed - record.keys()))}"
    else:
        return record
    raise UserError(
        "A file is not the record of a run",
        received=f"{path} ({reason})",
        expected=f"format_version {FORMAT_VERSION}, as launch.sweep writes it",
        fix="Restore it; or remove it and run the same command again, which "
        "makes it again from the folder of the run.",
    )


def check(record: Mapping[str, Any], run: Run, path: str) -> bool:
    """Whether a record has all results of its run.

    Args:
        record: As `read` gives it.
        run: The run of the plan.
        path: Of the record, for messages.

    Returns:
        False where audits or landscapes were added to the plan since.

    Raises:
        UserError: If it is of another config; the field is named.
    """
    _refuse(path, "", record["config"], run.config, settings.MAY_DIFFER)
    is_whole = True
    for name, config in run.audits.items():
        there = record["audit_configs"].get(name)
        if there is None:
            is_whole = False
            continue
        _refuse(
            path,
            f"audits.{name}.",
            there,
            config,
            _AUDIT_MAY_DIFFER,
            added=audit_settings.ADDED,
        )
    if run.landscape is not None:
        there = record["landscape_config"]
        if there is None:
            return False
        _refuse(path, "landscape.", there, run.landscape, ())
    return is_whole


def _refuse(path, inside, there, here, may_differ, **more):
    workdirs.check_same(
        "The sweep's folder has this run by another config",
        path,
        there,
        here,
        may_differ,
        inside,
        **more,
    )
