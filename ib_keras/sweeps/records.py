"""`records/NAME.json`: all that figures need of a finished run.

A record is made of what training and audits left in the run's folder and holds
no time but those, so that a run that was killed and went on has the record of
one that was not.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ib_keras import export
from ib_keras import files
from ib_keras import workdirs
from ib_keras.audit import folder as folders
from ib_keras.audit import training_seeds
from ib_keras.audit.target import loading
from ib_keras.errors import UserError
from ib_keras.sweeps.plan import Run
from ib_keras.training import loop

FORMAT_VERSION = 1
DONE, DIVERGED, FAILED = "done", "diverged", "failed"
STATUSES = (DONE, DIVERGED, FAILED)

AUDITS = "audits"
LANDSCAPES = "landscapes.json"
METRICS = "metrics.jsonl"

_AUDIT_FIELDS = (
    "protocol",
    "protocol_version",
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
    """SHA-256 of all that a run is made by."""
    text = json.dumps(
        [run.config, run.audits, run.landscape], sort_keys=True, default=list
    )
    return hashlib.sha256(text.encode()).hexdigest()


def frame(
    run: Run, preset: str, status: str, git_commit: str | None
) -> dict[str, Any]:
    """The fields of a record that do not rest on results, in their order."""
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
    result = files.read_json(files.join(folder, loop.RESULT_FILE))
    saved_model = files.join(folder, loop.SAVED_MODEL)
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
    }
    seconds = 0.0
    for name in run.audits:
        place = files.join(folder, AUDITS, name)
        record["audits"][name], spent = _audit(place)
        seconds += spent
    if run.landscape is not None:
        record["landscapes"] = files.read_json(files.join(folder, LANDSCAPES))
    record["seconds"]["train"] = _train_seconds(folder, run.config)
    record["seconds"]["audits"] = round(seconds, 3)
    return record


def _audit(place) -> tuple[dict[str, Any], float]:
    """What a record says of an audit folder, and the seconds it took."""
    summary = files.read_json(files.join(place, folders.SUMMARY))
    seconds = summary["seconds"]
    own = float(summary["threat_model"]["epsilon"])
    points = []
    for point in summary["epsilon_curve"]:
        epsilon = float(point["epsilon"])
        there = summary
        if epsilon != own:
            part = folders.radius(place, epsilon)
            there = files.read_json(files.join(part, folders.SUMMARY))
            seconds += there["seconds"]
        points.append(
            {
                **{name: point[name] for name in _POINT_FIELDS},
                "restart_curve": there["stages"][-1]["restart_curve"],
            }
        )
    findings = files.join(place, folders.FINDINGS)
    verdict = None
    if files.exists(findings):
        found = files.read_json(findings)
        verdict = found["verdict"]
        seconds += found.get("seconds") or 0.0
    return {
        **{name: summary[name] for name in _AUDIT_FIELDS},
        "stages": [
            {name: stage[name] for name in _STAGE_FIELDS}
            for stage in summary["stages"]
        ],
        "epsilon_curve": points,
        "verdict": verdict,
    }, seconds


def _train_seconds(folder, config) -> float:
    """The time of the training steps, whoever made them, by the log."""
    batch_size = config["train"]["batch_size"]
    total, before = 0.0, 0
    for line in files.read_text(files.join(folder, METRICS)).splitlines():
        row = json.loads(line)
        if row["kind"] == "train":
            examples = (row["step"] - before) * batch_size
            total += examples / row["examples_per_second"]
            before = row["step"]
    return round(total, 3)


def read(path: str) -> dict[str, Any]:
    """Reads a record, for what a sweep has to know of it.

    Raises:
        UserError: If it is missing, damaged or of another format.
    """
    record = files.read_json(path)
    said = record.get("status") if isinstance(record, dict) else None
    version = record.get("format_version") if said else None
    needed = {"name", "config", "audit_configs", "landscape_config", "audits"}
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
        "makes it anew from the folder of the run.",
    )


def check(record: Mapping[str, Any], run: Run, path: str) -> bool:
    """Whether a record is all of what its run asks for.

    Args:
        record: As `read` gives it.
        run: The run of the plan.
        path: Of the record, for messages.

    Returns:
        False where audits or landscapes were added to the plan since.

    Raises:
        UserError: If it is of another config; the field is named.
    """
    _refuse(path, "", record["config"], run.config, loop.MAY_DIFFER)
    is_whole = True
    for name, config in run.audits.items():
        there = record["audit_configs"].get(name)
        if there is None:
            is_whole = False
            continue
        _refuse(path, f"audits.{name}.", there, config, _AUDIT_MAY_DIFFER)
    if run.landscape is not None:
        there = record["landscape_config"]
        if there is None:
            return False
        _refuse(path, "landscape.", there, run.landscape, ())
    return is_whole


def _refuse(path, inside, there, here, may_differ):
    workdirs.check_same(
        "The sweep's folder has this run by another config",
        path,
        there,
        here,
        may_differ,
        inside,
    )
