"""A workdir belongs to one config, which is its `config.json`.

And it is written by one process at a time: `lock.json` in it says by which.
"""

import contextlib
import errno
import json
import os
import pathlib
import socket
import threading
import time
import types
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from ib_keras import files
from ib_keras.errors import InUseError
from ib_keras.errors import UserError

CONFIG_FILE = "config.json"
LOCK_FILE = "lock.json"

# A holder renews its lock this often. A process that finds the lock of another
# host, whose processes it cannot see, watches it for longer than that, by its
# own clock: clocks of two hosts, or one that is set, are never compared.
_RENEW_SECONDS = 15.0
_WATCH_SECONDS = 50.0

# Of the locks that this process holds.
_held: set[str] = set()


def check(
    workdir: str,
    config: Mapping[str, Any],
    may_differ: tuple[str, ...] = (),
    added: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Refuses a workdir that is not of this config; writes nothing.

    Args:
        workdir: The folder.
        config: JSON values, nested.
        may_differ: Dotted names of fields that change no result, such as
            "data.data_dir".
        added: Dotted names of fields that configs of older versions lack, with
            the values that make a run what it was without them.

    Raises:
        UserError: If the workdir holds another config, or something else that
            is not ours.
    """
    if not workdir or (files.exists(workdir) and not files.is_folder(workdir)):
        raise UserError(
            "The workdir is not a folder",
            received=f'"{workdir}"',
            expected="a folder, which need not be there yet",
            fix="Choose another --workdir.",
        )
    path = files.join(workdir, CONFIG_FILE)
    if not files.exists(path):
        present = [
            n for n in files.listdir(workdir) if not files.is_leftover(n)
        ]
        if present:
            raise UserError(
                "The workdir holds something else",
                received=f"{workdir} with {', '.join(present[:3])}, and no "
                f"{CONFIG_FILE}",
                expected="a new or empty folder, or one of an earlier run",
                fix="Choose another --workdir.",
            )
        return
    check_same(
        "The workdir belongs to another config",
        path,
        files.read_json(path),
        config,
        may_differ,
        added=added,
    )


def check_writable(workdir: str) -> None:
    """Refuses a local workdir that cannot be made or written; makes nothing.

    Raises:
        UserError: If the system says so.
    """
    with files.user_errors("make the folder", workdir):
        folder = os.path.abspath(workdir)
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def check_same(
    problem: str,
    path: str,
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    may_differ: tuple[str, ...] = (),
    inside: str = "",
    added: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Refuses a config that is not the one that a file has.

    Args:
        problem: What to say first.
        path: Of the file.
        there: What it has, JSON values.
        here: The config.
        may_differ: As `check`.
        inside: Prefix of the names of fields, such as "audits.".
        added: As `check`.

    Raises:
        UserError: If they differ; it names the first field.
    """
    different = differences(there, here, may_differ, added)
    if different:
        key, before, now = different[0]
        raise UserError(
            problem,
            received=f"{inside}{key}={now!r}"
            + (f" and {len(different) - 1} more" if different[1:] else ""),
            expected=f"{inside}{key}={before!r}, as in {path}",
            fix="Choose another --workdir, or give the config it was made by.",
        )


def differences(
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    may_differ: tuple[str, ...] = (),
    added: Mapping[str, Any] = types.MappingProxyType({}),
) -> list[tuple[str, Any, Any]]:
    """In what two configs differ.

    Args:
        there: JSON values, nested.
        here: Likewise.
        may_differ: Dotted names of fields that change no result.
        added: As `check`.

    Returns:
        Dotted name, value there and value here, in the order of names.
    """
    there = {**added, **flatten(there)}
    here = {**added, **flatten(json.loads(json.dumps(here)))}
    return [
        (key, there.get(key), here.get(key))
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key) and key not in may_differ
    ]


def claim(
    workdir: str,
    config: Mapping[str, Any],
    may_differ: tuple[str, ...] = (),
    added: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Makes the workdir, or checks that it belongs to the same config.

    The arguments and errors are those of `check`.
    """
    check(workdir, config, may_differ, added)
    path = files.join(workdir, CONFIG_FILE)
    if not files.exists(path):
        files.make_folder(workdir)
        files.write_json(path, json.loads(json.dumps(config)))


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields by their dotted names, as --config.NAME has them.

    Args:
        config: JSON values, nested.
        prefix: Of the names.

    Returns:
        Name -> value; empty lists are left out.
    """
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        elif value not in ((), []):
            # An empty list is the default of fields that were added later:
            # older workdirs can be resumed.
            flat[prefix + key] = value
    return flat


def check_free(workdir: str) -> None:
    """Refuses a workdir that a living process of this host writes to.

    Checks without locking, before work that takes long and writes nothing.

    Raises:
        UserError: If there is such a process; it is named.
    """
    path = files.join(workdir, LOCK_FILE)
    owner = _read_owner(path)
    if owner and _is_alive(owner):
        raise _in_use(path, owner)


@contextlib.contextmanager
def lock(workdir: str, say: Callable[[str], None]) -> Iterator["Lock"]:
    """Holds a workdir for this process alone, as long as the context.

    The lock of a process that is gone (its host was started again, or there
    is no such process any more) is taken over at once, with a message; the lock
    of another host only when it was not renewed for a while.

    Args:
        workdir: A folder that is there.
        say: Called with a line where a lock is taken over or watched.

    Yields:
        The lock; see `Lock.check`.

    Raises:
        UserError: If another process holds it; it is named.
    """
    path = files.join(workdir, LOCK_FILE)
    owner = _read_owner(path)
    if owner:
        alive = _is_alive(owner)
        if alive is None:
            say(
                f"{workdir} was locked by {_name(owner)}; watching for "
                f"{_WATCH_SECONDS:.0f} s whether it still is."
            )
            time.sleep(_WATCH_SECONDS)
            alive = _read_owner(path) not in (owner, None)
        if alive:
            raise _in_use(path, owner)
        say(f"Taking {workdir} over from {_name(owner)}, which is gone.")
    held = Lock(path)
    _held.add(held.token)
    try:
        held.start()
        yield held
    finally:
        _held.discard(held.token)
        held.release()


class Lock:
    """A lock that is held: `lock` makes it.

    Args:
        path: Its file.
    """

    def __init__(self, path: str):
        self._path = path
        self.token = uuid.uuid4().hex
        self._owner = _this_process() | {"token": self.token}
        self._lost = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(
            target=self._renew, name="lock", daemon=True
        )

    def start(self) -> None:
        """Writes the file, and renews it from now on."""
        self._write(0)
        self._look()  # Of two processes at the same moment one is first.
        self.check()
        self._thread.start()

    def check(self) -> None:
        """Refuses to go on where another process has taken the lock over.

        Raises:
            UserError: If so; that process is named.
        """
        if self._lost is not None:
            raise _in_use(self._path, self._lost)

    def _write(self, renewals):
        files.write_json(self._path, self._owner | {"renewals": renewals})

    def _look(self):
        owner = _read_owner(self._path)
        if owner and owner.get("token") != self.token:
            self._lost = owner

    def _renew(self):
        renewals = 0
        while not self._is_over.wait(_RENEW_SECONDS):
            self._look()
            if self._lost is not None:
                return
            renewals += 1
            # A full disk or a lost network: tried again the next time.
            with contextlib.suppress(Exception):
                self._write(renewals)

    def release(self) -> None:
        """Removes the file, if it is still of this process."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
        owner = _read_owner(self._path)
        if owner and owner.get("token") == self.token:
            with contextlib.suppress(Exception):
                files.remove(self._path)


def _read_owner(path: str) -> dict[str, Any] | None:
    """The owner in a lock file; None if there is none, or it is damaged."""
    if not files.exists(path):
        return None
    try:
        owner = files.read_json(path)
    except UserError:
        return None
    return owner if isinstance(owner, dict) else None


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def _is_alive(owner: Mapping[str, Any]) -> bool | None:
    """Whether a lock's process runs; None where this host cannot know."""
    if owner.get("host") != socket.gethostname():
        return None
    if owner.get("boot") != _boot_id():
        return False
    pid = owner.get("pid")
    if pid == os.getpid():
        return owner.get("token") in _held
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _started(pid) == owner.get("started")


def _boot_id() -> str:
    """An identifier of this boot of the host; empty outside of Linux."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()[:36]
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a process began, in ticks since the boot; None for a dead one.

    Numbers of processes are used again. Outside of Linux it is always None.
    """
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name of the program, in brackets, may hold anything.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def _name(owner: Mapping[str, Any]) -> str:
    return f"process {owner.get('pid')} on {owner.get('host')}"


def _in_use(path: str, owner: Mapping[str, Any]) -> InUseError:
    return InUseError(
        "The workdir is in use by another process",
        received=f"{path} of {_name(owner)}",
        expected="one process at a time",
        fix="Wait for it or stop it, or choose another --workdir.",
    )
