"""Files of a sweep, checked for what figures need of them."""

import math
from collections.abc import Mapping
from typing import Any

from ib_keras import files
from ib_keras.errors import UserError

RECORDS = "records"
FORMAT_VERSION = 1
_STATUSES = ("done", "diverged", "failed")
_PAIR = (float, float)
_STAGE = {"name": str, "num_restarts": int, "restart_curve": [float]}
_RADIUS = {
    "epsilon": float,
    "robust_accuracy": float,
    "robust_accuracy_ci95": _PAIR,
}
_AUDIT = {
    "protocol": str,
    "mode": str,
    "num_examples": int,
    "threat_model": {"epsilon": float},
    "clean_accuracy": float,
    "robust_accuracy": float,
    "robust_accuracy_ci95": _PAIR,
    "stages": [_STAGE],
    "epsilon_curve": [_RADIUS],
}
# What a record of a finished run must have, of what figures use.
_DONE = {
    "config": dict,
    "dataset": {"name": str, "description": str},
    "result": dict,
    "model": {"sha256": str, "num_classes": int},
    "audits": dict,
}


def read_record(
    folder: str, name: str, preset: str
) -> Mapping[str, Any] | None:
    """The checked record of a run.

    Args:
        folder: Of the sweep.
        name: Of the run.
        preset: Of the sweep.

    Returns:
        The record; None if there is none.

    Raises:
        UserError: If it is damaged, of another version or of another run.
    """
    path = files.join(folder, RECORDS, f"{name}.json")
    if not files.exists(path):
        return None
    record = files.read_json(path)
    check(record, {"format_version": int}, path)
    check_version(record, path)
    check(record, {"name": str, "status": str, "preset": str}, path)
    wrong = None
    if record["name"] != name:
        wrong = f'{path}: the name is "{record["name"]}"'
    elif record["status"] not in _STATUSES:
        wrong = f'{path}: the status is "{record["status"]}"'
    elif record["preset"] != preset:
        wrong = f'{path}: made with preset "{record["preset"]}"'
    if wrong:
        raise _damaged(wrong)
    if record["status"] == "done":
        check(record, _DONE, path)
        for audit, found in record["audits"].items():
            check(found, _AUDIT, f"{path}: audits.{audit}")
    return {"collapsed": None, "error": None, "landscapes": None, **record}


def check_version(content: Mapping[str, Any], path: str) -> None:
    """Refuses a file of another version."""
    if content["format_version"] != FORMAT_VERSION:
        raise UserError(
            "The file is of another version",
            received=f"{path}, format_version {content['format_version']}",
            expected=f"format_version {FORMAT_VERSION}",
            fix="Run the sweep again with this version, or draw with that one.",
        )


def check(value, kind, path: str) -> None:
    """Refuses JSON that is not of a kind: a type, list, pair or fields."""
    if isinstance(kind, dict):
        is_right = isinstance(value, Mapping)
        for name, inner in kind.items() if is_right else ():
            if name not in value:
                raise _damaged(f"{path}: no {name}")
            check(value[name], inner, f"{path}: {name}")
    elif isinstance(kind, list):
        is_right = isinstance(value, list)
        for item in value if is_right else ():
            check(item, kind[0], path)
    elif isinstance(kind, tuple):
        is_right = isinstance(value, list) and len(value) == len(kind)
        for item in value if is_right else ():
            check(item, kind[0], path)
    elif kind is float:
        is_number = isinstance(value, int | float)
        is_right = is_number and not isinstance(value, bool)
        is_right = is_right and math.isfinite(value)
    else:
        is_right = isinstance(value, kind) and not (
            kind is int and isinstance(value, bool)
        )
    if not is_right:
        raise _damaged(f"{path}: {value!r:.60}")


def _damaged(received: str) -> UserError:
    return UserError(
        "A file is not what a sweep writes",
        received=received,
        expected="a record or a plan of this version",
        fix="Remove the file and run the sweep again: it makes what is "
        "missing.",
    )
