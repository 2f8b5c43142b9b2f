"""The names of the files of an audit folder."""

from collections.abc import Mapping
from typing import Any

from ib_keras import files
from ib_keras import schemas
from ib_keras import workdirs
from ib_keras.errors import UserError

SUMMARY = "summary.json"
EXAMPLES = "examples.npz"
FINDINGS = "findings.json"
SAFETY = "safety.json"
# Examples whose certificates an attack contradicts.
CONTRADICTION = "contradiction.npz"
# Images and labels of an audit that got them as arrays.
GIVEN = "data.npz"
# What safety.json has and the summary has not: long, or other each time.
SAFETY_ALONE = ("limits", "ops", "path", "probe", "seal", "seconds")

RADIUS_PREFIX = "epsilon_"
# Folders of progress of a range of the examples; that of a worker's share.
PART_PREFIX, _SHARE_PREFIX = "part_", "worker_"


def source(path: str) -> schemas.Source:
    """How to speak of a file of an audit that is not what it should be."""
    fix = "Restore the file, or run the audit again with this version."
    return schemas.Source("An audit's file", fix, path)


def radius_name(epsilon: float) -> str:
    """The folder's name of another radius than the audit's own."""
    return f"{RADIUS_PREFIX}{float(epsilon)!r}"


def radius(workdir: str, epsilon: float) -> str:
    """The folder of another radius than the audit's own."""
    return files.join(workdir, radius_name(epsilon))


def part(workdir: str, first: int, last: int) -> str:
    """The folder of the progress of examples `first` to `last - 1`."""
    return files.join(workdir, f"{PART_PREFIX}{first}_{last}")


def remove_parts(workdir: str) -> None:
    """Removes the folders of parts, once their examples are merged."""
    for name in files.listdir(workdir):
        if name.startswith((PART_PREFIX, _SHARE_PREFIX)):
            files.remove(files.join(workdir, name))


def check(workdir: str) -> Any:
    """Refuses a folder that no audit has finished.

    Returns:
        What its summary holds.

    Raises:
        UserError: If the summary or the config is missing or damaged.
    """
    found = files.read_json(files.join(workdir, SUMMARY))
    files.read_json(files.join(workdir, workdirs.CONFIG_FILE))
    return found


def summary(workdir: str) -> Any:
    """What summary.json holds.

    Raises:
        UserError: If there is none, or it is damaged.
    """
    return files.read_sealed_json(files.join(workdir, SUMMARY))


def findings(workdir: str) -> Any:
    """What findings.json holds; None where no checks have been run.

    Raises:
        UserError: If it is damaged.
    """
    path = files.join(workdir, FINDINGS)
    return files.read_sealed_json(path) if files.exists(path) else None


def batch_size(workdir: str) -> int | None:
    """The batch size of an audit's config; None where it does not say."""
    config = files.read_json(files.join(workdir, workdirs.CONFIG_FILE))
    try:
        size = config["audit"]["batch_size"]
    except (KeyError, TypeError):
        return None
    return size if isinstance(size, int) else None


def model_path(summary: Mapping[str, Any]) -> str:
    """The path of the audited model in the summary.

    Raises:
        UserError: If there is nothing.
    """
    path = (summary.get("model") or {}).get("path")
    if path and files.exists(path):
        return path
    raise UserError(
        "The audited model is not at the path in the summary",
        received=f"{path or 'no path'}",
        expected="the model whose sha256 the summary holds",
        fix="Give its place with --saved_model.",
    )
