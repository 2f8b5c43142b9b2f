"""Atomic reads and writes, local and remote: the only way to a workdir.

A file appears under its name complete or not at all: it is written under a
temporary name and renamed. That holds for local folders and for remote ones
(`gs://`, `ram://`), where an object is visible only once it is complete.
Folders are renamed too, which is atomic locally; on object stores the launchers
write a folder's decisive file (summary, metadata) last. Paths with a scheme go
through `tf.io.gfile`; for local paths TensorFlow is not imported.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np

from ib_keras.errors import UserError


class _Local:
    """The functions of `tf.io.gfile` that are used here, for this machine."""

    GFile = staticmethod(open)
    exists = staticmethod(os.path.exists)
    isdir = staticmethod(os.path.isdir)
    listdir = staticmethod(os.listdir)
    remove = staticmethod(os.remove)
    rmtree = staticmethod(shutil.rmtree)
    walk = staticmethod(os.walk)

    @staticmethod
    def makedirs(path):
        os.makedirs(path, exist_ok=True)

    @staticmethod
    def rename(source, target, overwrite=False):
        if not overwrite and os.path.exists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.replace(source, target)


def is_remote(path: str) -> bool:
    """Whether a path is of another file system than this machine's."""
    return "://" in os.fspath(path)


def _system(path):
    """The file system that a path is of."""
    if not is_remote(path):
        return _Local
    import tensorflow as tf

    return tf.io.gfile


class _Anywhere:
    """The functions of `tf.io.gfile`, each by the path it is given."""

    def __getattr__(self, name):
        return lambda path, *more, **named: getattr(_system(path), name)(
            path, *more, **named
        )


gfile = _Anywhere()


def remote_errors(*names: str) -> tuple[type[Exception], ...]:
    """TensorFlow's errors; an empty tuple if it has not been imported."""
    tf = sys.modules.get("tensorflow")
    return () if tf is None else tuple(getattr(tf.errors, n) for n in names)


def join(*parts: str) -> str:
    """Joins path parts, keeping a scheme such as `gs://`."""
    return os.path.join(*(os.fspath(part) for part in parts))


def exists(path: str) -> bool:
    """Whether a file or a folder is there.

    Raises:
        UserError: If that cannot be found out: no permission, or no such file
            system.
    """
    with user_errors("look at", path):
        return gfile.exists(os.fspath(path))


def is_folder(path: str) -> bool:
    """Whether a folder is there; False where that cannot be found out."""
    return gfile.isdir(os.fspath(path))


def make_folder(path: str) -> str:
    """Makes a folder and its parents; a folder that exists is fine.

    Raises:
        UserError: If it cannot be made or is a file.
    """
    path = os.fspath(path)
    with user_errors("make the folder", path):
        gfile.makedirs(path)
    return path


def remove(path: str) -> None:
    """Removes a file or a whole folder, if it is there."""
    path = os.fspath(path)
    if not exists(path):
        return
    if is_folder(path):
        gfile.rmtree(path)
    else:
        gfile.remove(path)


def listdir(path: str) -> list[str]:
    """Sorted names in a folder; empty where there is no such folder."""
    path = os.fspath(path)
    if not exists(path):
        return []
    names = gfile.listdir(path)
    return sorted(name.rstrip("/") for name in names)


def walk(path: str) -> Iterator[str]:
    """The paths of all files in a folder and below."""
    path = os.fspath(path)
    for folder, _, names in gfile.walk(path):
        yield from (join(folder, name) for name in names)


def open_bytes(path: str):
    """Opens a file to be read in pieces; a context."""
    path = os.fspath(path)
    return gfile.GFile(path, "rb")


@contextlib.contextmanager
def user_errors(verb: str, path: str):
    """Turns errors of the file system into `UserError`s."""
    try:
        yield
    except remote_errors("UnimplementedError") as error:
        raise UserError(
            f"Cannot {verb}",
            received=f"{path}, of a file system that is not installed",
            expected="a local path, or gs:// where ib_keras[gcs] is installed",
            fix='For gs:// run pip install -e ".[gcs]"; copy anything else to '
            "this machine.",
        ) from error
    except (OSError,) + remote_errors("OpError") as error:
        reason = (
            getattr(error, "strerror", None)
            or getattr(error, "message", None)
            or type(error).__name__
        )
        full = isinstance(error, remote_errors("ResourceExhaustedError")) or (
            getattr(error, "errno", None) == errno.ENOSPC
        )
        raise UserError(
            f"Cannot {verb}",
            received=f"{path} ({reason})",
            expected="a place that can be written, with space left",
            fix="Free some space and run the same command again."
            if full
            else "Choose another --workdir or change its permissions.",
        ) from error


def _temporary(path: str) -> str:
    # Hidden, and not `path` with something behind: `ram://` takes a file for
    # one that exists as soon as a longer name begins like it.
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.tmp-{uuid.uuid4().hex[:12]}")


def is_leftover(name: str) -> bool:
    """Whether a name in a folder is of a write that was killed half-way."""
    return bool(re.fullmatch(r"\..+\.tmp-[0-9a-f]{12}", name))


def write_bytes(path: str, data: bytes) -> None:
    """Writes a file atomically: the old content or the new, never a part.

    Raises:
        UserError: If the place cannot be written or has no space left.
    """
    path = os.fspath(path)
    temporary = _temporary(path)
    with user_errors("write the file", path):
        try:
            with gfile.GFile(temporary, "wb") as file:
                file.write(data)
            gfile.rename(temporary, path, overwrite=True)
        except BaseException:
            with contextlib.suppress(Exception):
                remove(temporary)
            raise


def read_bytes(path: str) -> bytes:
    """Reads a whole file."""
    with open_bytes(path) as file:
        return file.read()


def write_text(path: str, text: str) -> None:
    """Writes a text file in UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8"))


def read_text(path: str) -> str:
    """Reads a text file in UTF-8."""
    return read_bytes(path).decode("utf-8")


def write_json(path: str, value: Any) -> None:
    """Writes JSON that a person can read; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, allow_nan=False, default=_plain)
    write_text(path, text + "\n")


def write_sealed_json(path: str, value: dict[str, Any]) -> dict[str, Any]:
    """As `write_json`, with a field `seal`: SHA-256 of all others.

    A seal that is there already is replaced. It is no signature: who alters a
    file on purpose can seal it again. It tells of damage to what no other file
    repeats.

    Returns:
        What was written.
    """
    value = {name: item for name, item in value.items() if name != "seal"}
    whole = json.loads(json.dumps(value, allow_nan=False, default=_plain))
    sealed = {**value, "seal": _seal(whole)}
    write_json(path, sealed)
    return sealed


def read_sealed_json(path: str) -> Any:
    """As `read_json`, of a file that may have a seal.

    Raises:
        UserError: If it cannot be read, or was altered.
    """
    value = read_json(path)
    check_seal(value, path)
    return value


def check_seal(value: Any, path: str) -> None:
    """Refuses what was read from a file and is not what was sealed.

    Args:
        value: As `read_json` gives it; without a seal it passes, as older
            versions wrote it.
        path: For the message.

    Raises:
        UserError: If it was altered.
    """
    if not isinstance(value, dict) or "seal" not in value:
        return
    rest = {name: item for name, item in value.items() if name != "seal"}
    if value["seal"] != _seal(rest):
        raise UserError(
            "A file is not as it was written",
            received=f"{path}, whose content is not what its seal is of",
            expected="the file that the audit wrote",
            fix="Restore it, or remove it and run the same audit again.",
        )


def _seal(value):
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def read_json(path: str) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: If the file is not there, cannot be read or is not whole
            JSON.
    """
    try:
        return json.loads(read_text(path))
    except remote_errors("NotFoundError") + (FileNotFoundError,) as error:
        raise UserError(
            "A file is missing",
            received=f"no {os.fspath(path)}",
            expected="the JSON file that an earlier step wrote",
            fix="Check the path, or run that step again.",
        ) from error
    except (OSError, ValueError) + remote_errors("OpError") as error:
        raise UserError(
            "A file is damaged",
            received=f"{os.fspath(path)} ({type(error).__name__}: {error})",
            expected="whole JSON",
            fix="Restore it, or remove it and run the step again.",
        ) from error


def write_npz(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as one `.npz` (zip with checksums), atomically.

    The bytes are a function of the arrays alone, so equal results are equal
    files.
    """
    buffer = io.BytesIO()
    plain: dict[str, Any] = {
        name: np.asarray(arrays[name], order="C") for name in sorted(arrays)
    }
    np.savez(buffer, **plain)
    write_bytes(path, buffer.getvalue())


def read_npz(path: str) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz`, checking their checksums.

    Raises:
        UserError: If the file is missing or damaged.
    """
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except remote_errors("NotFoundError") + (FileNotFoundError,) as error:
        raise UserError(
            "A file is missing",
            received=f"no {os.fspath(path)}",
            expected="the .npz file that an earlier step wrote",
            fix="Check the path, or run that step again.",
        ) from error
    except Exception as error:  # Of zipfile, zlib or numpy.
        raise UserError(
            "A file is damaged",
            received=f"{os.fspath(path)} ({type(error).__name__}: {error})",
            expected="a whole .npz file",
            fix="Restore it, or remove it and run the step again.",
        ) from error


def _move_folder(source: str, target: str) -> None:
    """Renames a folder; remotely file by file, its own files last."""
    if not is_remote(source):
        gfile.rename(source, target)
        return
    for folder, _, names in gfile.walk(source, topdown=False):
        folder = folder.rstrip("/")
        there = target + folder.removeprefix(source)
        gfile.makedirs(there)
        for name in sorted(names):
            gfile.rename(join(folder, name), join(there, name))
    gfile.rmtree(source)


def write_folder(path: str, write: Callable[[str], None]) -> None:
    """Makes a folder atomically: `write` fills a temporary one, then a rename.

    Args:
        path: Where the folder shall be. One that is there is replaced only
            after the new one is complete.
        write: Called with the path of an empty folder to fill.

    Raises:
        UserError: If the place cannot be written or has no space left.
    """
    path = os.fspath(path).rstrip("/")
    temporary = _temporary(path)
    old, is_old_aside = _temporary(path), False
    with user_errors("write the folder", path):
        try:
            gfile.makedirs(temporary)
            write(temporary)
            if gfile.exists(path):
                _move_folder(path, old)
            is_old_aside = True
            _move_folder(temporary, path)
        except BaseException:
            with contextlib.suppress(Exception):
                remove(temporary)
                if gfile.exists(old):
                    if is_old_aside:
                        remove(path)
                    _move_folder(old, path)
            raise
        remove(old)
