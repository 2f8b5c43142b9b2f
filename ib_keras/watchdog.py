"""Ends a process that hangs, with the stack of every thread."""

import faulthandler
import os
import sys
import threading
import time

EXIT_STATUS = 76

# Later than ours by this much, for a hang that lets no Python thread run.
_GRACE = 30.0

# The active watchdogs, for `beat`.
_watching: list["Watchdog"] = []


def beat() -> None:
    """Reports progress to all active watchdogs."""
    for watchdog in tuple(_watching):
        watchdog.beat()


class Watchdog:
    """Ends the process when `beat` was not called for too long.

    It prints the stack of every thread to stderr and exits with status 76, at
    once and without cleaning up: the hanging code may hold any lock. A hang in
    C code that keeps Python itself from running ends half a minute later with
    status 1, by `faulthandler`. A context; entering it is the first beat.

    Args:
        seconds: The longest time between two beats; 0 or less turns it off.
        what: The unit of work that calls `beat`, for the message.
        resume: What the last line of the message says to do.
        smaller: The field of a config that makes a call shorter.
    """

    def __init__(
        self,
        seconds: float,
        *,
        what: str = "training step",
        resume: str = "The same command resumes from the newest checkpoint.",
        smaller: str = "steps_per_call",
    ):
        self._seconds = seconds
        self._what = what
        self._resume = resume
        self._smaller = smaller
        self._last = self._armed = -float("inf")
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Watchdog":
        if self._seconds > 0:
            self.beat()
            self._thread = threading.Thread(
                target=self._watch, name="watchdog", daemon=True
            )
            self._thread.start()
            _watching.append(self)
        return self

    def __exit__(self, *unused) -> None:
        self._is_over.set()
        if self._thread is not None:
            _watching.remove(self)
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        """Reports progress."""
        self._last = now = time.monotonic()
        # Arming it starts a thread, which is too slow for every small step.
        if self._seconds > 0 and now - self._armed > min(1, self._seconds / 4):
            self._armed = now
            faulthandler.dump_traceback_later(
                self._seconds + _GRACE,
                exit=True,
                file=sys.__stderr__ or sys.stderr,
            )

    def _watch(self):
        while True:
            left = self._last + self._seconds - time.monotonic()
            if left <= 0:
                self._end()
            if self._is_over.wait(min(left, 60.0)):
                return

    def _end(self):
        stream = sys.__stderr__
        print(
            f"Error: No {self._what} has ended for {self._seconds / 60:.3g} "
            "minutes. The stack of every thread:",
            file=stream,
            flush=True,
        )
        faulthandler.dump_traceback(stream, all_threads=True)
        print(
            f"Fix: the stacks above show what was waited for. {self._resume} "
            "Where a call really takes so long, raise --watchdog_minutes or "
            f"lower {self._smaller}.",
            file=stream,
            flush=True,
        )
        os._exit(EXIT_STATUS)
