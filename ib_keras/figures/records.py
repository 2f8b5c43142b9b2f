"""Files of a sweep, checked for what figures need of them."""

import dataclasses
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


@dataclasses.dataclass
class _Version:
    format_version: Count


@dataclasses.dataclass
class _Labels:
    model: str


@dataclasses.dataclass
class _Planned:
    name: str
    labels: _Labels


@dataclasses.dataclass
class _Plan:
    """What figures need of `sweep.json`."""

    config: str
    preset: str
    budget: str
    runs: tuple[_Planned, ...]


@dataclasses.dataclass
class _Record:
    """What every record has."""

    name: str
    status: Annotated[str, schemas.one_of("done", "diverged", "failed")]
    preset: str


@dataclasses.dataclass
class _Dataset:
    name: str
    description: str


@dataclasses.dataclass
class _Model:
    sha256: str
    num_classes: Count


@dataclasses.dataclass
class _Done:
    """What the record of a finished run must have, of what figures use."""

    config: Mapping[str, Any]
    dataset: _Dataset
    result: Mapping[str, Any]
    model: _Model
    audits: Mapping[str, Summary]


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
    source.read(_Record, record)
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
        source.read(_Done, record)
    return {"collapsed": None, "error": None, "landscapes": None, **record}


def read_plan(path: str) -> Mapping[str, Any]:
    """The checked plan of a sweep.

    Raises:
        UserError: If it is damaged or of another version.
    """
    plan = files.read_json(path)
    _source(path, plan).read(_Plan, plan)
    return plan


_FIX = "Remove the file and run the sweep again: it makes what is missing."


def _source(path: str, content) -> schemas.Source:
    """How to speak of a file, which is refused if of another version."""
    source = schemas.Source("A file is not what a sweep writes: it", _FIX, path)
    version = source.read(_Version, content).format_version
    if version != FORMAT_VERSION:
        raise UserError(
            "The file is of another version",
            received=f"{path}, format_version {version}",
            expected=f"format_version {FORMAT_VERSION}",
            fix="Run the sweep again with this version, or draw with that one.",
        )
    return source
