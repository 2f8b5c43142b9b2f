"""What a worker does with a task, and how it stops.

A worker stops at the next look of the task at `should_stop`: when the study's
`distributed.Event` is set, when its process got SIGTERM or is closed, or when
nobody waits for the task any more. After a signal the task is handed to another
worker, and this one leaves.
"""

import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

import distributed
from distributed.diagnostics.plugin import WorkerPlugin

from ib_keras.cluster import tasks
from ib_keras.errors import Interrupted
from ib_keras.errors import InUseError

# The topic under which the scheduler books that a task was begun.
TOPIC = "ib_keras_begun"

# Seconds between two questions to the scheduler, and for a folder to be free
# that a process had which is lost.
_LOOK, _PATIENCE = 1.0, 90.0


class FailedError(Exception):
    """An error that trying again may mend, as texts without its classes.

    Its arguments are a line and the traceback.
    """


class _Leaving:
    """Whether this process was told to end, and whether it has a task."""

    def __init__(self):
        self.is_asked = threading.Event()
        self.is_busy = False

    def on_signal(self, worker):
        def handle(number, frame):
            if self.is_asked.is_set():
                signal.signal(number, signal.SIG_DFL)
            self.is_asked.set()
            if not self.is_busy:
                _leave(worker)

        return handle


_leaving = _Leaving()


def _leave(worker):
    """Closes the worker; its nanny starts another where it still may."""
    worker.loop.add_callback(worker.close_gracefully, restart=True)


def keep_random_apart() -> None:
    """Gives Dask a generator of random numbers of its own.

    Its event loop draws from Python's global one (`dask.sizeof`, several times
    a second), which a training seeds and Keras draws initial weights by: equal
    trainings would have other weights.
    """
    own = random.Random()
    for name, module in list(sys.modules.items()):
        is_dask = name.partition(".")[0] in ("dask", "distributed", "tornado")
        if is_dask and getattr(module, "random", None) is random:
            module.random = own  # type: ignore[attr-defined]


class Signals(WorkerPlugin):
    """Saves and hands over at SIGTERM; leaves Ctrl-C to who started it all."""

    name = "ib_keras_signals"

    def setup(self, worker):
        _leaving.is_asked.clear()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, _leaving.on_signal(worker))

    def teardown(self, worker):
        _leaving.is_asked.set()


class _Stop:
    """Whether a task should save and stop.

    Args:
        worker: The worker that does it.
        key: Of the task, as Dask has it.
        event: Name of the event by which all tasks are stopped.
    """

    def __init__(self, worker, key, event):
        self._worker = worker
        self._key = key
        self._event = distributed.Event(event)
        self._looked = time.monotonic()
        self._answer = False

    def __call__(self) -> bool:
        if _leaving.is_asked.is_set():
            return True
        now = time.monotonic()
        if not self._answer and now - self._looked >= _LOOK:
            self._looked = now
            self._answer = self._is_unwanted() or self._is_asked()
        return self._answer

    def _is_unwanted(self):
        """Whether whoever wanted the task has gone."""
        state = self._worker.state.tasks.get(self._key)
        return state is not None and state.state == "cancelled"

    def _is_asked(self):
        try:
            return self._event.is_set()
        except (OSError, TimeoutError):  # The task goes on without it.
            return False


def do(call: str, arguments: Mapping[str, Any], event: str) -> dict[str, Any]:
    """Does a task in a worker.

    Args:
        call: As of `tasks.Task`.
        arguments: As of `tasks.Task`.
        event: Name of the event that stops all tasks.

    Returns:
        `status`, `value`, `error`, `worker` and `seconds`, as of
        `tasks.Outcome`.

    Raises:
        FailedError: If it failed and may be tried again.
        Reschedule: If this process has to leave; progress is saved.
    """
    keep_random_apart()
    worker = distributed.get_worker()
    key = worker.get_current_task()
    worker.log_event(TOPIC, {"key": str(key), "worker": worker.address})
    stop = _Stop(worker, key, event)
    found: dict[str, Any] = {"value": None, "error": None}
    began = time.monotonic()
    _leaving.is_busy = True
    try:
        found["value"] = _call(call, arguments, stop)
        status = tasks.DONE
    except Interrupted:
        status = tasks.INTERRUPTED
    except tasks.FINAL as error:
        status, found["error"] = tasks.FAILED, tasks.one_line(error)
    except Exception as error:
        trace = traceback.format_exc()
        raise FailedError(tasks.one_line(error), trace) from None
    finally:
        _leaving.is_busy = False
        if _leaving.is_asked.is_set():
            _leave(worker)
    if status == tasks.INTERRUPTED and _leaving.is_asked.is_set():
        raise distributed.Reschedule
    seconds = time.monotonic() - began
    where = {"worker": worker.address, "pid": os.getpid()}
    return {"status": status, **found, **where, "seconds": seconds}


def _call(call, arguments, stop):
    """Calls it; waits for a folder that a lost process may still hold."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return tasks.resolve(call)(**arguments, should_stop=stop)
        except InUseError:
            if time.monotonic() > until:
                raise
            if stop():
                raise Interrupted(
                    "Stopped while a folder was in use."
                ) from None
            time.sleep(_LOOK)
