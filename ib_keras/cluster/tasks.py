"""What is to be done, and what became of it; and doing it in this process."""

import collections
import dataclasses
import importlib
import traceback
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from ib_keras.errors import ContradictionError
from ib_keras.errors import Interrupted
from ib_keras.errors import UserError

# The status of an outcome. What comes after a task that failed is not done.
DONE, FAILED, INTERRUPTED = "done", "failed", "interrupted"

# What trying again would not mend.
FINAL = (UserError, ContradictionError)


@dataclasses.dataclass(frozen=True)
class Task:
    """One call of a function of JSON values.

    Attributes:
        key: Its name, unique among the tasks.
        call: "module:function"; it also takes `should_stop`, a function, and
            raises `Interrupted` when it has saved and stops.
        arguments: By name.
        after: Keys of the tasks that have to be done before.
        group: Tasks of a group go to one process if they can, which may keep
            what they have in common.
    """

    key: str
    call: str
    arguments: Mapping[str, Any]
    after: tuple[str, ...] = ()
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        task: The task.
        status: `DONE`, `FAILED` or `INTERRUPTED`.
        value: What it returned.
        error: A line, of one that failed.
        tries: How often it was begun.
        worker: Address of the process; "" of this one.
        seconds: Inside the function, of the last try.
        trace: The traceback of an error that is no user's.
    """

    task: Task
    status: str
    value: Any = None
    error: str | None = None
    tries: int = 1
    worker: str = ""
    seconds: float = 0.0
    trace: str = ""


class Queue:
    """Tasks in their order, each once those before it are done.

    Args:
        tasks: All of them; a key in `after` that none has counts as done.
    """

    def __init__(self, tasks: Sequence[Task]):
        known = {task.key for task in tasks}
        self._waits = {
            task.key: {key for key in task.after if key in known}
            for task in tasks
        }
        self._tasks = {task.key: task for task in tasks}
        self._next: dict[str, list[str]] = collections.defaultdict(list)
        for key, before in self._waits.items():
            for other in before:
                self._next[other].append(key)
        self._ready: dict[str, collections.deque[Task]] = {}
        for task in tasks:
            if not self._waits[task.key]:
                self._add(task)

    def _add(self, task, is_first=False):
        ready = self._ready.setdefault(task.group, collections.deque())
        ready.appendleft(task) if is_first else ready.append(task)

    def __bool__(self) -> bool:
        """Whether a task can be taken."""
        return bool(self._ready)

    def take(self, group: str = "", busy: Sequence[str] = ()) -> Task | None:
        """The next task.

        Args:
            group: What a process has done last, so of this group if possible.
            busy: Groups of other processes, which are left to them if there
                is something else.

        Returns:
            The task; None if none can be done now.
        """
        if not self._ready:
            return None
        others = [name for name in self._ready if name not in busy]
        if group not in self._ready:
            group = others[0] if others else next(iter(self._ready))
        task = self._ready[group].popleft()
        if not self._ready[group]:
            del self._ready[group]
        return task

    def give_back(self, task: Task) -> None:
        """Takes a task again that could not be done."""
        self._add(task, is_first=True)

    def set_done(self, task: Task) -> None:
        """Frees the tasks that come after a task that is done."""
        for key in self._next.pop(task.key, ()):
            self._waits[key].discard(task.key)
            if not self._waits[key]:
                self._add(self._tasks[key])

    def clear(self) -> None:
        """Drops what was not begun."""
        self._ready.clear()


def resolve(call: str) -> Callable[..., Any]:
    """The function that "module:function" names."""
    module, _, name = call.partition(":")
    return getattr(importlib.import_module(module), name)


def one_line(error: BaseException) -> str:
    """The text of an error in records of failures."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500]


def run_here(
    tasks: Sequence[Task], should_stop: Callable[[], bool]
) -> Iterator[Outcome]:
    """Does tasks one after the other in this process, without Dask.

    Args:
        tasks: What is to be done.
        should_stop: Asked by tasks and between them; true saves and stops.

    Yields:
        The outcomes; after one that was interrupted there are no more.
    """
    queue = Queue(tasks)
    group = ""
    while not should_stop() and (task := queue.take(group)):
        group = task.group
        outcome = _try(task, should_stop)
        if outcome.status == DONE:
            queue.set_done(task)
        yield outcome
        if outcome.status == INTERRUPTED:
            return


def _try(task, should_stop):
    try:
        call = resolve(task.call)
        value = call(**task.arguments, should_stop=should_stop)
    except Interrupted:
        return Outcome(task, INTERRUPTED)
    except FINAL as error:
        return Outcome(task, FAILED, error=one_line(error))
    except Exception as error:  # A task's, which others do not suffer from.
        trace = traceback.format_exc()
        return Outcome(task, FAILED, error=one_line(error), trace=trace)
    return Outcome(task, DONE, value)
