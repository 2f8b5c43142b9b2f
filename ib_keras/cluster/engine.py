"""Hands tasks to a cluster's workers and collects what becomes of them.

Dask itself starts tasks again whose worker was lost or that raised. Each worker
gets one task at a time, so that a task that ends its worker takes no other with
it.
"""

import collections
import contextlib
import time
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from ib_keras.cluster import schedulers
from ib_keras.cluster import tasks
from ib_keras.cluster.tasks import Outcome
from ib_keras.cluster.tasks import Task
from ib_keras.errors import UserError
from ib_keras.version import __version__

# Seconds between two looks at workers and at whether to stop.
_LOOK = 0.5
# Seconds to wait for a new worker in place of one.
_RENEWAL = 60
# How often a task is begun again that lost workers though it had not begun.
_MOST_AGAIN = 5


class Engine:
    """Does tasks on the workers of a scheduler.

    Args:
        client: A `distributed.Client`.
        retries: How often a task is tried again.
        seen: A file that every worker has to see; "" for none.
        renew_after: A worker that has done so many tasks is replaced by its
            nanny, for the memory that it does not give back; None for never.
        patience: Seconds without any worker after which it gives up; None
            waits for ever, as where workers queue for a machine.
    """

    def __init__(
        self,
        client: Any,
        retries: int = 2,
        seen: str = "",
        renew_after: int | None = None,
        patience: float | None = None,
    ):
        self._renew_after = renew_after
        self._patience = patience
        self._there = time.monotonic()
        self._counts: collections.Counter[str] = collections.Counter()
        self._client = client
        self._retries = retries
        self._seen = seen
        self._id = uuid.uuid4().hex[:8]
        self._known: set[str] = set()
        # Of each task at work: its future and the worker that should have it.
        # Dask gives it to the one that is idle; to ask for that worker would
        # leave the task waiting where it is lost.
        self._active: dict[str, tuple[Task, Any, str]] = {}
        self._last: dict[str, str] = {}
        self._again: dict[str, int] = {}

    def check(self, wait: float = 0.0) -> None:
        """Refuses workers that cannot do the tasks.

        Args:
            wait: Seconds to wait for the first one.

        Raises:
            UserError: If one has several threads or another version of this
                package, or does not see the file.
        """
        until = time.monotonic() + wait
        while not self._client.nthreads() and time.monotonic() < until:
            time.sleep(0.1)
        self._look()

    def _look(self) -> list[str]:
        """The addresses of the workers; new ones are checked."""
        threads = self._client.nthreads()
        new = sorted(set(threads) - self._known)
        for address in new:
            if threads[address] != 1:
                raise schedulers.threads_error(
                    f"{threads[address]} threads of {address}"
                )
        if new:
            self._check_facts(new)
            # A worker that is lost meanwhile: the next look asks again.
            with contextlib.suppress(OSError):
                self._add_signals()
                self._known.update(new)
        return list(threads)

    def _check_facts(self, addresses):
        found = self._client.run(
            _facts(), self._seen, workers=addresses, on_error="return"
        )
        for address, facts in found.items():
            if isinstance(facts, OSError):
                continue  # It has left again.
            if isinstance(facts, Exception):
                facts = {"version": f"none that answers ({facts})"}
            if facts["version"] != __version__:
                raise UserError(
                    "A worker has another version of ib_keras",
                    received=f"{facts['version']} at {address}",
                    expected=__version__,
                    fix="Install the same version on all machines, and start "
                    "the workers again.",
                )
            if not facts["sees"]:
                raise UserError(
                    "A worker does not see the workdir",
                    received=f"no {self._seen} at {address}",
                    expected="a folder that all workers share",
                    fix="Put --workdir on a shared file system or on gs://.",
                )

    def _add_signals(self):
        from ib_keras.cluster import worker

        self._client.register_plugin(worker.Signals())

    def run(
        self,
        listed: Sequence[Task],
        should_stop: Callable[[], bool],
        on_look: Callable[[Sequence[Task]], None] = lambda active: None,
    ) -> Iterator[Outcome]:
        """Does tasks, as far as those before them are done.

        Args:
            listed: What is to be done.
            should_stop: Asked about twice a second; true lets active tasks
                save and drops the rest.
            on_look: Called as often with the active tasks.

        Yields:
            The outcomes, as they come.

        Raises:
            UserError: If the scheduler is lost, or all workers are.
        """
        import distributed

        queue = tasks.Queue(listed)
        event = distributed.Event(f"stop-{self._id}", client=self._client)
        is_stopping = False
        self._there = time.monotonic()
        looked, workers = 0.0, list[str]()
        try:
            while queue or self._active:
                if not is_stopping and should_stop():
                    is_stopping = True
                    event.set()
                    queue.clear()
                if time.monotonic() - looked > _LOOK or not workers:
                    looked, workers = time.monotonic(), self._look()
                    self._check_there(workers)
                self._hand_out(queue, workers)
                on_look([task for task, *_ in self._active.values()])
                for task, future, where in self._wait():
                    outcome = self._outcome(task, future)
                    self._note(outcome, where)
                    if self._is_innocent(outcome):
                        if not is_stopping:
                            queue.give_back(task)
                        continue
                    if outcome.status == tasks.DONE and not is_stopping:
                        queue.set_done(task)
                    yield outcome
                    if queue and self._renew(outcome.worker):
                        workers = []
        finally:
            for _, future, _ in self._active.values():
                future.release()
            self._active.clear()

    def _check_there(self, workers):
        """Gives up where no worker has been there for too long."""
        now = time.monotonic()
        if workers:
            self._there = now
        elif self._patience is not None and now - self._there > self._patience:
            raise UserError(
                "All workers are lost, and none has come in their place",
                received=f"no worker for {self._patience:g} s",
                expected="at least one",
                fix="Run the same command again, which goes on; with fewer "
                "--workers if memory was short.",
            )

    def _renew(self, address):
        """Replaces a worker that has done its share; whether it did."""
        if not self._renew_after or self._counts[address] < self._renew_after:
            return False
        if address in self._client.nthreads():
            if any(self._client.processing([address]).values()):
                return False  # After its task.
            # On a busy machine the nanny may take longer, and that is enough.
            with contextlib.suppress(TimeoutError):
                self._client.restart_workers([address], timeout=_RENEWAL)
        self._counts.pop(address)
        return True

    def _hand_out(self, queue, workers):
        busy = {where for _, _, where in self._active.values()}
        idle = [w for w in workers if w not in busy]
        # What lost its worker is waiting for another one.
        room = max(len(workers), 1) - len(self._active)
        for where in idle[: max(room, 0)]:
            others = [self._last.get(w, "") for w in workers if w != where]
            task = queue.take(self._last.get(where, ""), others)
            if task is None:
                return
            self._last[where] = task.group
            self._active[task.key] = task, self._submit(task), where

    def _submit(self, task):
        from ib_keras.cluster import worker

        again = self._again.get(task.key, 0)
        return self._client.submit(
            worker.do,
            task.call,
            dict(task.arguments),
            f"stop-{self._id}",
            key=f"{task.key}-{self._id}-{again}",
            pure=False,
            retries=self._retries,
        )

    def _wait(self):
        """The tasks that have ended, after a while."""
        import distributed

        if not self._active:
            time.sleep(_LOOK)
            return []
        try:
            with self._client.as_current():
                distributed.wait(
                    [future for _, future, _ in self._active.values()],
                    timeout=_LOOK,
                    return_when="FIRST_COMPLETED",
                )
        except TimeoutError:
            pass
        except distributed.client.FutureCancelledError:
            raise self._lost() from None
        ended = [
            key
            for key, (_, future, _) in self._active.items()
            if future.status != "pending"
        ]
        return [self._active.pop(key) for key in ended]

    def _note(self, outcome, where):
        """Keeps which worker has done what, which Dask has decided."""
        actual = outcome.worker
        if not actual:
            return
        self._last[actual] = outcome.task.group
        self._counts[actual] += 1
        for key, (task, future, other) in self._active.items():
            if other == actual != where:
                self._active[key] = task, future, where

    def _lost(self):
        return UserError(
            "The scheduler is lost",
            received="a connection that was closed",
            expected="a scheduler that stays",
            fix="Start it, and run the same command again.",
        )

    def _outcome(self, task, future) -> Outcome:
        if future.status == "finished":
            found = dict(future.result())
            found.pop("pid", None)
            tries = 1
            if found["status"] == tasks.FAILED:
                tries = len(self._begun(task)) or 1
            return Outcome(task, tries=tries, **found)
        if future.status != "error":
            raise self._lost()
        error = future.exception()
        begun = self._begun(task)
        where = begun[-1] if begun else ""
        text, trace = str(error), ""
        if type(error).__name__ == "FailedError":
            text, trace = error.args
        if type(error).__name__ == "KilledWorker":
            where = getattr(error.last_worker, "address", where)
            text = (
                f"The worker was lost {len(begun)} times, the last at {where}"
            )
        return Outcome(
            task,
            tasks.FAILED,
            error=text,
            tries=len(begun),
            worker=where,
            trace=trace,
        )

    def _begun(self, task) -> list[str]:
        """The workers that have begun a task, in turn."""
        from ib_keras.cluster import worker

        events = self._client.get_events(worker.TOPIC)
        return [
            event["worker"]
            for _, event in events
            if event["key"].startswith(f"{task.key}-{self._id}-")
        ]

    def _is_innocent(self, outcome) -> bool:
        """Whether a task is to be begun again.

        Dask counts a lost worker against a task that only waited there. And a
        task may have been stopped with a worker that left.
        """
        key, status = outcome.task.key, outcome.status
        is_lost = status == tasks.FAILED and "worker was lost" in str(
            outcome.error
        )
        has_waited = is_lost and outcome.tries <= self._retries
        is_left = status == tasks.INTERRUPTED
        if not (has_waited or is_left):
            return False
        self._again[key] = self._again.get(key, 0) + 1
        return self._again[key] <= _MOST_AGAIN


def _facts():
    """A function of a worker; made here so that it is sent by value.

    A worker may have another version of this package, or none.
    """

    def facts(path):
        import os

        try:
            from ib_keras import version

            found = version.__version__
        except ImportError:
            return {"version": None, "sees": False}
        if "://" not in path:
            return {"version": found, "sees": not path or os.path.exists(path)}
        from ib_keras import files

        return {"version": found, "sees": files.exists(path)}

    return facts
