"""Temporary folders that are removed even if their process is killed.

A killed process leaves its folders behind, with copies of weights in them. Each
is locked by its process, so that the next process can detect and remove those
without an owner.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time

_PREFIX = "ib_keras_copy_"
# Between making a folder and locking it.
_YOUNG = 60.0


class Folder:
    """A temporary folder; a context that gives its name and removes it.

    Attributes:
        name: Its path.
    """

    def __init__(self):
        _remove_left_behind()
        self.name = tempfile.mkdtemp(prefix=_PREFIX)
        self._lock = os.open(self.name, os.O_RDONLY)
        # On a file system without locks they are kept.
        with contextlib.suppress(OSError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def remove(self) -> None:
        """Removes it with its content; further calls do nothing."""
        if self._lock is not None:
            shutil.rmtree(self.name, ignore_errors=True)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> str:
        return self.name

    def __exit__(self, *unused) -> None:
        self.remove()


def _remove_left_behind():
    root = tempfile.gettempdir()
    with contextlib.suppress(OSError), os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX):
                with contextlib.suppress(OSError):
                    _remove_if_free(entry)


def _remove_if_free(entry):
    about = entry.stat(follow_symlinks=False)
    if about.st_uid != os.getuid() or time.time() - about.st_mtime < _YOUNG:
        return
    lock = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(entry.path, ignore_errors=True)
    finally:
        os.close(lock)
