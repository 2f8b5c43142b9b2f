"""The kernel's limits on this process: each ends it by a signal, or a call.

Reading a graph has little of everything; the weights get what they need once
the index has said how much that is; then come the calls, whose limits nothing
can raise again.
"""

import math
import os
import resource
import signal

from ib_keras.audit.safety.report import Limits

# Reading from a slow disk takes time, and no processor.
_WALL = 12
_BYTES_PER_SECOND = 20 << 20


def for_reading(limits: Limits) -> None:
    """While the graph is read, in a child alone: nothing of it runs."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGXFSZ, signal.SIGALRM, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    _soft(resource.RLIMIT_AS, _used_addresses() + limits.scan_bytes())
    _soft(resource.RLIMIT_CPU, _used_seconds() + limits.scan_seconds)
    signal.setitimer(signal.ITIMER_REAL, _WALL * limits.scan_seconds)


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
    signal.setitimer(signal.ITIMER_REAL, _WALL * seconds)


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
    signal.setitimer(signal.ITIMER_REAL, limits.seconds)


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
