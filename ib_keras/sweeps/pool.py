"""The worker processes of a sweep and the runs that they execute.

A worker executes many runs, since a process takes seconds to start and a toy
problem takes seconds to train. If a worker dies, its run is tried once more by
a new one.
"""

import collections
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from collections.abc import Sequence
from multiprocessing import connection as connections
from multiprocessing import resource_tracker

from ib_keras.sweeps import worker
from ib_keras.sweeps.plan import Run

# A worker is replaced after so many runs: TensorFlow does not free all memory
# before the end of a process.
RUNS_PER_WORKER = 20
_TRIES = 2
_LOOK_SECONDS = 1.0
_END_SECONDS = 20.0


class _Worker:
    """One process, and the run that it executes."""

    def __init__(self, context, settings):
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=worker.serve, args=(theirs, settings), daemon=True
        )
        with _held_back():
            self.process.start()
        theirs.close()
        self.run: Run | None = None
        self.doing = ""
        self.num_runs = 0
        self.is_leaving = False

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a run."""
        return self.run is None and not self.is_leaving

    def give(self, run: Run) -> None:
        """Gives it a run."""
        self.run = run
        self.doing = "starting"
        self.num_runs += 1
        # Its sentinel shows that it has died.
        with contextlib.suppress(OSError):
            self.connection.send(run)

    def ask_to_stop(self) -> None:
        """Asks it to save and to end."""
        with contextlib.suppress(OSError):
            self.connection.send(None)

    def messages(self):
        """Its new messages, also those from before it died."""
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll():
                yield self.connection.recv()

    def end(self) -> None:
        """Waits for its end, and kills it after a while."""
        self.process.join(_END_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


@contextlib.contextmanager
def _held_back():
    """Blocks signals until a new process has installed its handlers."""
    # The first process also starts the resource tracker, which unblocks them.
    resource_tracker.ensure_running()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def share_cores(num_workers: int) -> None:
    """Gives each new worker its part of the cores."""
    cores = max(len(os.sched_getaffinity(0)) // num_workers, 1)
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(cores))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", str(cores))


class Pool:
    """Executes runs.

    Args:
        settings: For the workers.
        num_workers: How many at once.
        on_end: Called with a run and a word: a status of records, or
            "interrupted".
        on_death: Called with a run that killed its workers, and how they
            ended.
        on_look: Called about once a second with the runs at work and what
            each does.
    """

    def __init__(
        self,
        settings: worker.Settings,
        num_workers: int,
        *,
        on_end: Callable[[Run, str], None],
        on_death: Callable[[Run, str], None],
        on_look: Callable[[Sequence[tuple[Run, str]]], None],
    ):
        self._settings = settings
        self._num_workers = num_workers
        self._on_end = on_end
        self._on_death = on_death
        self._on_look = on_look
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._queue: collections.deque[Run] = collections.deque()
        self._tries: collections.Counter[str] = collections.Counter()
        self._is_stopping = False

    def do(self, runs: Sequence[Run], should_stop: Callable[[], bool]) -> None:
        """Executes all runs, or stops when asked to: running ones save."""
        self._queue.extend(runs)
        share_cores(self._num_workers)
        try:
            while True:
                if should_stop() and not self._is_stopping:
                    self._stop()
                self._hand_out()
                if not self._queue and not any(w.run for w in self._workers):
                    break
                self._wait()
                self._on_look(
                    [(w.run, w.doing) for w in self._workers if w.run]
                )
            for each in self._workers:
                each.ask_to_stop()
        except BaseException:
            for each in self._workers:
                each.process.kill()
            raise
        finally:
            for each in self._workers:
                each.end()
            self._workers.clear()

    def _stop(self):
        self._is_stopping = True
        self._queue.clear()
        for each in self._workers:
            each.ask_to_stop()

    def _hand_out(self):
        for each in list(self._workers):
            if each.is_idle and each.num_runs >= RUNS_PER_WORKER:
                self._remove(each)
        while self._queue:
            idle = [w for w in self._workers if w.is_idle]
            if not idle and len(self._workers) >= self._num_workers:
                return
            if not idle:
                idle = [_Worker(self._context, self._settings)]
                self._workers += idle
            run = self._queue.popleft()
            self._tries[run.name] += 1
            idle[0].give(run)

    def _wait(self):
        ends = [w.connection for w in self._workers]
        ends += [w.process.sentinel for w in self._workers]
        connections.wait(ends, _LOOK_SECONDS)
        for each in list(self._workers):
            # First, so that its last messages are read below.
            is_dead = not each.process.is_alive()
            for word, text in each.messages():
                self._hear(each, word, text)
            if is_dead:
                self._bury(each)

    def _hear(self, each, word, text):
        if word == worker.DOING:
            each.doing = text
            return
        run, each.run = each.run, None
        each.is_leaving = word == worker.INTERRUPTED
        if each.is_leaving and not self._is_stopping:
            self._again(run, "it was stopped")
            return
        self._on_end(run, word)

    def _bury(self, each):
        code = each.process.exitcode
        self._remove(each)
        if each.run is None:
            return
        how = f"exit status {code}"
        if code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        if self._is_stopping:
            self._on_end(each.run, worker.INTERRUPTED)
        else:
            self._again(each.run, f"{how}, while {each.doing}")

    def _again(self, run, how):
        if self._tries[run.name] < _TRIES:
            self._queue.appendleft(run)
        else:
            self._on_death(run, how)

    def _remove(self, each):
        self._workers.remove(each)
        each.ask_to_stop()
        each.end()
