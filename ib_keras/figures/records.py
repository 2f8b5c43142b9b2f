"""Files of a sweep, checked for what figures need of them."""

from collections.abc import Mapping
from typing import Annotated
from typing import Any

from ib_keras import files
from ib_keras import schemas
from ib_keras.audit.summary import Summary
from ib_keras.errors import UserError
from ib_keras.schemas import Count

RECORDS = "records"
FORMAT_VERSION = 1


# What figures need of `sweep.json`, of every record, and of one of a finished
# run.
_PLAN = {
    "config": str,
    "preset": str,
    "budget": str,
    "runs": tuple[Mapping[str, Any], ...],
}
_RUN = {"name": str, "labels": {"model": str}}
_STATUSES = schemas.one_of("done", "diverged", "failed")
_RECORD = {"name": str, "status": Annotated[str, _STATUSES], "preset": str}
_DONE = {
    "config": Mapping[str, Any],
    "dataset": {"name": str, "description": str},
    "result": Mapping[str, Any],
    "model": {"sha256": str, "num_classes": Count},
    "audits": Mapping[str, Summary],
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
    source = _source(path, record)
    source.read(_RECORD, record)
    wrong = None
    if record["name"] != name:
        wrong = f'{path}: the name is "{record["name"]}"'
    elif record["preset"] != preset:
        wrong = f'{path}: made with preset "{record["preset"]}"'
    if wrong:
        raise UserError(
            "A record is of another run",
            received=wrong,
            expected=f'"{name}", made with preset "{preset}"',
            fix=_FIX,
        )
    if record["status"] == "done":
        source.read(_DONE, record)
    return {"collapsed": None, "error": None, "landscapes": None, **record}


def read_plan(path: str) -> Mapping[str, Any]:
    """The checked plan of a sweep.

    Raises:
        UserError: If it is damaged or of another version.
    """
    plan = files.read_json(path)
    source = _source(path, plan)
    source.read(_PLAN, plan)
    for position, run in enumerate(plan["runs"]):
        source.read(_RUN, run, f"runs[{position}]")
    return plan


_FIX = "Remove the file and run the sweep again: it makes what is missing."


def _source(path: str, content) -> schemas.Source:
    """How to speak of a file, which is refused if of another version."""
    source = schemas.Source("A file is not what a sweep writes: it", _FIX, path)
    version = source.read({"format_version": Count}, content)["format_version"]
    if version != FORMAT_VERSION:
        raise UserError(
            "The file is of another version",
            received=f"{path}, format_version {version}",
            expected=f"format_version {FORMAT_VERSION}",
            fix="Run the sweep again with this version, or draw with that one.",
        )
    return source
