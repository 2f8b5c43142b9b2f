"""The files of a model: their names and digests, a copy of remote ones.

Nothing here interprets the content of the files.
"""

import contextlib
import hashlib
import math
import os
import re
import stat
from collections.abc import Iterator

from ib_keras import files
from ib_keras.audit.safety import scratch
from ib_keras.audit.safety.report import Limits
from ib_keras.audit.safety.report import Problem
from ib_keras.audit.safety.report import over
from ib_keras.audit.safety.report import refuse
from ib_keras.audit.safety.report import shown
from ib_keras.errors import UserError

GRAPH_FILE = "saved_model.pb"
FINGERPRINT_FILE = "fingerprint.pb"
INDEX_FILE = "variables/variables.index"
VARIABLES = "variables/variables"

# Folder ("" is the top one) -> pattern of the names of its files.
_KNOWN = {
    "": r"saved_model\.pb|fingerprint\.pb|keras_metadata\.pb",
    "variables": r"variables\.index|variables\.data-\d{5}-of-\d{5}",
    "assets": r"[^/\\\x00-\x1f]{1,255}",
    "assets.extra": r"[^/\\\x00-\x1f]{1,255}",
}
# Files that are small for every model: the most bytes that they may have.
_SMALL = {
    FINGERPRINT_FILE: 64 << 10,
    "keras_metadata.pb": 16 << 20,
    INDEX_FILE: 16 << 20,
}
_CHUNK = 1 << 22
_MAX_FILES = 10_000


@contextlib.contextmanager
def local(path: str, limits: Limits) -> Iterator[str]:
    """A local path of the same files: a temporary copy of remote ones.

    Args:
        path: File or folder.
        limits: Their sum is checked before anything is copied.

    Yields:
        `path` itself where it is local.

    Raises:
        UserError: If there is no such path.
        UnsafeError: If it is larger than the limits allow.
    """
    path = path.rstrip("/")
    if not files.exists(path):
        raise UserError(
            "There is no model",
            received=path,
            expected="a SavedModel folder or a .keras file",
            fix="Check the path.",
        )
    if not files.is_remote(path):
        yield path
        return
    import tensorflow as tf

    gfile = tf.io.gfile
    with scratch.Folder() as folder:
        target = os.path.join(folder, os.path.basename(path))
        names = _remote_names(path)
        _check_size(
            path,
            sum(gfile.stat(path + name).length for name in names),
            limits,
        )
        for name in names:
            os.makedirs(os.path.dirname(target + name), exist_ok=True)
            gfile.copy(path + name, target + name)
        yield target


def _remote_names(path):
    """Names relative to `path`, each with its slash; "" for a file."""
    if not files.is_folder(path):
        return [""]
    names = []
    for folder, _, found in files.gfile.walk(path):
        below = folder.rstrip("/")[len(path) :]
        names += [f"{below}/{name}" for name in found]
    odd = [n for n in names if ".." in n.split("/") or "\\" in n]
    if odd or len(names) > _MAX_FILES:
        what = f"the file name {shown(odd[0])}" if odd else "too many files"
        raise refuse(path, [Problem(what)])
    return names


def _check_size(path, size, limits):
    limit = limits.max_model_bytes()
    if size > limit:
        raise refuse(
            path,
            [
                Problem(
                    f"files of {size / 2**30:.1f} GiB, where"
                    f" {limit / 2**30:.1f} GiB is the limit (half of this"
                    " machine's memory)"
                )
            ],
        )


def listing(folder: str, path: str, limits: Limits) -> list[str]:
    """The names of a SavedModel's files, relative to its folder, sorted.

    Args:
        folder: A local folder.
        path: In messages.
        limits: On the sum of their sizes.

    Returns:
        The names.

    Raises:
        UserError: If a file is missing that every SavedModel has.
        UnsafeError: If there is anything but the files of a SavedModel: links,
            devices, other names, other folders.
    """
    problems, sizes = [], {}
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(os.path.join(folder, below)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = os.path.join(below, entry.name)
                mode = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(mode.st_mode) and name in _KNOWN:
                    pending.append(name)
                elif problem := _problem(below, entry.name, mode.st_mode):
                    problems.append(Problem(problem))
                else:
                    sizes[name] = mode.st_size
        if len(sizes) > _MAX_FILES:
            problems.append(Problem(f"more than {_MAX_FILES} files"))
            break
    if problems := problems or _size_problems(sizes, limits):
        raise refuse(path, problems)
    _check_size(path, sum(sizes.values()), limits)
    if GRAPH_FILE not in sizes:
        raise UserError(
            "There is no SavedModel",
            received=f"{path} without {GRAPH_FILE}",
            expected=f"a folder that holds {GRAPH_FILE}",
            fix="Give the folder that was exported.",
        )
    return sorted(sizes)


def _size_problems(sizes, limits):
    """Files that are too large for their kind, by name -> size."""
    problems = [
        Problem(f"{name} of {sizes[name]} bytes, where {most} is the limit")
        for name, most in _SMALL.items()
        if sizes.get(name, 0) > most
    ]
    parts = {
        "max_graph_mb": ("saved_model.pb", sizes.get(GRAPH_FILE, 0)),
        "max_asset_mb": (
            "assets",
            sum(n for name, n in sizes.items() if name.startswith("assets")),
        ),
    }
    for limit, (what, size) in parts.items():
        size = math.ceil(size / 2**20)
        problems += over(limit, size, f"{what} of {size} MiB", limits)
    return problems


def _problem(below, name, mode):
    place = shown(os.path.join(below, name))
    if stat.S_ISLNK(mode):
        return f"the symbolic link {place}"
    if stat.S_ISDIR(mode):
        return f"the folder {place}, which no SavedModel has"
    if not stat.S_ISREG(mode):
        return f"{place}, which is not a regular file"
    if not re.fullmatch(_KNOWN[below], name):
        return f"the file {place}, which no SavedModel has (remove it)"
    return None


def read(path: str, name: str, limit: float) -> bytes:
    """Reads a file of the model, which may have at most `limit` bytes."""
    full = os.path.join(path, name) if name else path
    with open(full, "rb") as file:
        # A file that grows meanwhile is not read further.
        data = file.read(min(int(limit), os.path.getsize(full)) + 1)
    if len(data) > limit:
        raise refuse(path, [Problem(f"{name} is larger than {limit} bytes")])
    return data


def sha256(path: str) -> str:
    """SHA-256 of a local file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy(source: str, target: str) -> str:
    """Copies a file; returns the SHA-256 of the copied bytes."""
    total = hashlib.sha256()
    with open(source, "rb") as file, open(target, "wb") as copied:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
            copied.write(chunk)
    return total.hexdigest()


def digests(folder: str, names: list[str]) -> dict[str, str]:
    """SHA-256 of each of a folder's files, by name."""
    return {name: sha256(os.path.join(folder, name)) for name in names}
