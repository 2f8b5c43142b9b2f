"""Runs a sweep, or the rest of it, and reports its results.

A run is a task of `ib_keras.cluster`, its training before its audits. Several
workers are processes of this machine that Dask starts; one worker is this
process.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from ib_keras import files
from ib_keras.cluster import engine
from ib_keras.cluster import schedulers
from ib_keras.cluster import tasks
from ib_keras.cluster.tasks import Outcome
from ib_keras.cluster.tasks import Task
from ib_keras.errors import Interrupted
from ib_keras.errors import UserError
from ib_keras.progress import Progress
from ib_keras.sweeps import records
from ib_keras.sweeps import table
from ib_keras.sweeps.folder import Folder
from ib_keras.sweeps.plan import Plan
from ib_keras.sweeps.plan import Run
from ib_keras.sweeps.plan import choose
from ib_keras.sweeps.worker import Settings

# What a worker does with a run.
CALL = "ib_keras.sweeps.worker:do"
# A worker is replaced after so many runs: TensorFlow does not free all memory
# before the end of a process.
RUNS_PER_WORKER = 20
_RETRIES = 1


def states(folder: Folder, plan: Plan) -> list[tuple[Run, str, Any]]:
    """Run, status and record of each run of a sweep."""
    return [(run, *folder.state(run)) for run in plan.runs]


def rows(folder: Folder, plan: Plan) -> list[dict[str, str]]:
    """The rows of the sweep's table."""
    return table.rows(states(folder, plan))


def run(
    plan: Plan,
    workdir: str,
    *,
    num_workers: int = 1,
    only: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    command: str = "",
    git_commit: str | None = None,
    quiet: bool = False,
) -> list[tuple[Run, str, Any]]:
    """Executes the remaining runs of a sweep.

    Args:
        plan: The sweep.
        workdir: Its folder; the same call resumes.
        num_workers: Number of worker processes; 1 runs in this one.
        only: A regular expression that names of runs must match.
        should_stop: Called about once a second; true saves and stops.
        command: How this was started, for models and audits.
        git_commit: Of the code, for models and records.
        quiet: Shows no progress.

    Returns:
        Run, status and record of each run of the plan.

    Raises:
        UserError: If the folder is another sweep's, in use, or damaged.
        Interrupted: If it was stopped; the active runs are saved.
    """
    if type(num_workers) is not int or num_workers < 1:
        raise UserError(
            "The number of workers is not a count",
            received=f"{num_workers!r}",
            expected="a whole number, 1 or more",
            fix="Set --workers to it.",
        )
    chosen = choose(plan, only)
    folder = Folder(workdir)
    folder.check(plan)
    with folder.lock():
        folder.check(plan)  # Written by the previous owner of the lock.
        folder.claim(plan)
        left = [run for run in chosen if not folder.is_finished(run)]
        if left:
            settings = Settings(workdir, plan.preset, command, git_commit)
            report = _Report(plan, folder, settings, len(chosen), quiet)
            with report.begin(len(left)):
                _execute(left, settings, num_workers, should_stop, report)
        _write_table(folder, plan)
        return states(folder, plan)


def _execute(left, settings, num_workers, should_stop, report) -> None:
    """Executes runs, in this process or in several."""
    shared = dataclasses.asdict(settings)
    listed = [
        Task(
            run.name, CALL, {"run": dataclasses.asdict(run), "settings": shared}
        )
        for run in left
    ]
    if num_workers == 1:
        report.follow(tasks.run_here(listed, should_stop))
        return
    count = min(num_workers, len(left))
    with schedulers.connect(schedulers.LOCAL, count, _RETRIES) as client:
        made = engine.Engine(
            client,
            _RETRIES,
            renew_after=RUNS_PER_WORKER,
            patience=schedulers.PATIENCE,
        )
        made.check(schedulers.START)
        report.follow(made.run(listed, should_stop, report.on_look))


class _Report:
    """The progress over all runs, their records and the table."""

    def __init__(self, plan, folder, settings, num_chosen, quiet):
        self._plan = plan
        self._runs = {run.name: run for run in plan.runs}
        self._folder = folder
        self._settings = settings
        self._num_chosen = num_chosen
        self._quiet = quiet
        self._num_done = 0

    @contextlib.contextmanager
    def begin(self, num_left) -> Iterator[None]:
        """Shows the progress; raises `Interrupted` if not all were done."""
        self._num_done = self._num_chosen - num_left
        with Progress(
            self._num_chosen, "run", "sweep", self._num_done, self._quiet
        ) as self._progress:
            yield
        if self._num_done < self._num_chosen:
            _write_table(self._folder, self._plan)
            raise Interrupted(
                f"Stopped with {self._num_done} of {self._num_chosen} runs "
                "done; run the same command again."
            )

    def on_look(self, active: Sequence[Task]) -> None:
        """Shows how far the runs are that are executed now."""
        now = "; ".join(
            f"{task.key}{self._folder.how_far(self._runs[task.key])}"
            for task in active
        )
        self._progress.update(self._num_done, now=now)

    def follow(self, outcomes: Iterable[Outcome]) -> None:
        """Books what becomes of runs."""
        for outcome in outcomes:
            run = self._runs[outcome.task.key]
            if outcome.status == tasks.INTERRUPTED:
                continue
            if outcome.status == tasks.FAILED:
                self._write_failure(run, outcome)
            self._on_end(run)

    def _on_end(self, run):
        self._num_done += 1
        record = records.read(self._folder.record(run.name))
        if record["status"] != records.DONE or record["error"]:
            word = record["status"]
            word = records.FAILED if records.has_failed(record) else word
            self._progress.say(f"{run.name} {word}: {record['error']}")
        self._progress.update(self._num_done)
        _write_table(self._folder, self._plan)

    def _write_failure(self, run, outcome):
        """The record of a run that could not write its own."""
        path = self._folder.record(run.name)
        record = records.failure(
            run,
            path,
            f"{outcome.error} ({outcome.tries} tries); see "
            f"{self._folder.log(run)}.",
            self._settings.preset,
            self._settings.git_commit,
        )
        files.make_folder(files.join(self._folder.path, "records"))
        files.write_json(path, record)


def _write_table(folder: Folder, plan: Plan) -> None:
    """Writes the table, if its content would change."""
    text = table.to_csv(rows(folder, plan))
    path = folder.table
    if not files.exists(path) or files.read_text(path) != text:
        files.write_text(path, text)


def estimate(
    found: Sequence[tuple[Run, str, Any]], num_workers: int
) -> str | None:
    """The time that the rest will take, from the finished runs.

    Args:
        found: Run, status and record of each.
        num_workers: How many at once.

    Returns:
        A sentence; None where nothing was measured, or nothing is left.
    """
    by_model: dict[Any, list[float]] = {}
    for run, status, record in found:
        if status == records.DONE:
            seconds = record["seconds"]
            whole = max(
                seconds["wall"] or 0.0,
                (seconds["train"] or 0.0) + (seconds["audits"] or 0.0),
            )
            by_model.setdefault(run.labels.get("model"), []).append(whole)
    left = [
        run
        for run, status, _ in found
        if status not in (records.DONE, records.DIVERGED)
    ]
    if not by_model or not left:
        return None
    every = [value for values in by_model.values() for value in values]
    total = 0.0
    for each in left:
        values = by_model.get(each.labels.get("model"), every)
        total += sum(values) / len(values)
    return (
        f"{len(left)} of {len(found)} runs are left: about "
        f"{total / num_workers / 60:.1f} min with {num_workers} "
        f"worker{'s' * (num_workers > 1)}, by the {len(every)} that are done."
    )
