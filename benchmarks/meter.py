"""What a command takes: seconds, memory of all its processes, its end."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
_FIELDS = ("Pss_Anon", "Pss_Shmem")


def _tree(root: int) -> list[int]:
    """A process and all below it."""
    children, found, pending = {}, [], [root]
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = pathlib.Path(entry.path, "stat").read_text()
                parent = int(stat.rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    while pending:
        found.append(pending.pop())
        pending += children.get(found[-1], [])
    return found


def _megabytes(pid: int) -> float:
    """Memory of a process but for files that are mapped, such as libraries."""
    with contextlib.suppress(OSError):
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        pairs = (line.split()[:2] for line in lines.splitlines()[1:])
        sizes = {name.rstrip(":"): size for name, size in pairs}
        return sum(int(sizes[name]) for name in _FIELDS) / 1024
    return 0.0


def run(command: list[str], timeout: float = 300.0, **arguments) -> dict:
    """Runs a command and watches it.

    Args:
        command: Its words.
        timeout: Seconds after which it is killed, with all below it.
        **arguments: Of `subprocess.Popen`.

    Returns:
        `seconds`, `megabytes` (the peak of the sum over the command and all
        below it, without mapped files, asked 20 times a second), `status`,
        `output` and `errors`.
    """
    began = time.monotonic()
    peak = 0.0
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **arguments,
    ) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(_megabytes, _tree(process.pid))))
            if time.monotonic() - began > timeout:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.05)
        seconds = time.monotonic() - began
        output, errors = process.communicate()
    return {
        "seconds": round(seconds, 2),
        "megabytes": round(peak),
        "status": process.returncode,
        "output": output,
        "errors": errors,
    }
