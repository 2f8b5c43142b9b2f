"""The kernel's limits on this process: each ends it, or fails a call.

Reading a graph has low limits; those for the weights follow from their sizes in
the index; the last are those of calls, which cannot be raised again.
"""

import functools
import glob
import math
import os
import re
import resource
import signal
import time
from collections.abc import Iterable

from ib_keras.audit.safety.report import Limits

# Reading from a slow disk takes time, but no processor time.
_WALL = 12
_BYTES_PER_SECOND = 20 << 20
MOST_SLOWDOWN = 10.0
_FEWEST_SECONDS = 0.5
# Of a batch's gradient beside its logits; part of the memory that is free.
_GRADIENT, _PART = 4, 0.9
# Seconds of a call: so many, and so many times those of loading.
_CALL, _LOADINGS = 4.0, 4.0
# A large batch may be slower than small ones are by the image; and nobody
# waits longer for it than this.
_SLOWER, _PATIENCE = 3.0, 15.0


def for_reading(limits: Limits) -> None:
    """While the graph is read, in a child alone: nothing of it runs."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGXFSZ, signal.SIGALRM, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    _soft(resource.RLIMIT_AS, _used_addresses() + limits.scan_bytes())
    _soft(resource.RLIMIT_CPU, _used_seconds() + limits.scan_seconds)
    _set_timer(_WALL * limits.scan_seconds * slowdown())


def for_weights(limits: Limits, largest: int, total: int) -> None:
    """While files of known size are read and copied.

    Args:
        limits: As `for_reading`.
        largest: Bytes of the largest variable.
        total: Bytes of all files.
    """
    seconds = limits.scan_seconds + total / _BYTES_PER_SECOND
    room = limits.scan_bytes() + 3 * largest
    _soft(resource.RLIMIT_AS, _used_addresses() + room)
    _soft(resource.RLIMIT_CPU, _used_seconds() + seconds)
    _set_timer(_WALL * seconds * slowdown())


def for_calls(limits: Limits, weight_bytes: int, file_bytes: int) -> None:
    """While the model is loaded and called.

    Args:
        limits: As `for_reading`.
        weight_bytes: Of the files, which are in memory up to three times.
        file_bytes: How large a file may be written.
    """
    room = _used_addresses() + limits.memory_bytes() + 3 * weight_bytes
    seconds = _used_seconds() + limits.seconds * (os.cpu_count() or 1)
    _hard(resource.RLIMIT_AS, room)
    _hard(resource.RLIMIT_CPU, math.ceil(seconds))
    _hard(resource.RLIMIT_FSIZE, file_bytes)
    _set_timer(limits.seconds * slowdown())


def for_audit(allow_ops: Iterable[str], num_samples: int | None) -> int:
    """For the audit itself, whose calls the child has not made.

    A batch's gradient may take four times what a first call may, for each
    draw of a model with noise; and no audit takes the last of the memory. On
    a machine with GPUs, whose drivers ask for more than they use, there is no
    limit.

    Args:
        allow_ops: As of `safety.check`: it can raise `memory_gb`.
        num_samples: Draws of one gradient; None for a model without noise.

    Returns:
        Bytes that may be added to what is used; 0 for any number.
    """
    if glob.glob("/dev/nvidia[0-9]*") or glob.glob("/dev/accel*"):
        return 0
    most = Limits().raised(allow_ops).memory_bytes()
    room = _GRADIENT * most * max(num_samples or 1, 1)
    room = min(room, int(_PART * _about("/proc/meminfo", "MemAvailable")))
    used = _about("/proc/self/status", "VmData")
    _soft(resource.RLIMIT_DATA, used + room)
    return room


class Deadline:
    """When the process ends for a call that takes too long.

    A call of few images takes no longer than some times the loading of the
    model, on whatever machine; so nobody has to wait for `limits.seconds`
    because of a loop without an end. All calls together have those.

    Args:
        limits: As `for_reading`.
        loading: Seconds that loading took.
        is_quick: Whether no call compiles, which may take all the time.
    """

    def __init__(self, limits: Limits, loading: float, is_quick: bool):
        slower = slowdown()
        self._end = time.monotonic() + limits.seconds * slower - loading
        most = _CALL * slower + _LOADINGS * loading
        self._most = most if is_quick else math.inf

    def allows(self, expected: float) -> bool:
        """Whether there is time for a call of so many seconds."""
        left = self._end - time.monotonic()
        return _SLOWER * expected < min(left, _PATIENCE)

    def start(self, expected: float = 0.0) -> None:
        """Begins to count for a call that should take so many seconds."""
        left = self._end - time.monotonic()
        most = max(self._most, _SLOWER * expected)
        _set_timer(max(min(left, most), 1e-3))


@functools.cache
def slowdown() -> float:
    """How much slower than by itself this process has run so far.

    On a machine that others keep busy, or whose disk is slow, an honest model
    takes longer, too. This is asked before anything of a model is read, and
    no limit becomes more than `MOST_SLOWDOWN` times as long.
    """
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    began = ticks / os.sysconf("SC_CLK_TCK")
    lived = time.clock_gettime(time.CLOCK_BOOTTIME) - began
    used = _used_seconds()
    if used < _FEWEST_SECONDS:  # Too few to tell.
        return 1.0
    return min(max(lived / used, 1.0), MOST_SLOWDOWN)


def _set_timer(seconds):
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _about(path, name):
    """Bytes of a line `name: NUMBER kB` of the kernel's."""
    with open(path, encoding="ascii") as file:
        found = re.search(rf"^{name}:\s+(\d+) kB", file.read(), re.MULTILINE)
    return int(found[1]) << 10


def _soft(kind, value):
    _, most = resource.getrlimit(kind)
    value = math.ceil(value)
    if most != resource.RLIM_INFINITY:
        value = min(value, most)
    resource.setrlimit(kind, (value, most))


def _hard(kind, value):
    _, most = resource.getrlimit(kind)
    if most != resource.RLIM_INFINITY:
        value = min(value, most)
    resource.setrlimit(kind, (value, value))


def _used_addresses():
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _used_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
