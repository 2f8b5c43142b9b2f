"""Runs a sweep, or the rest of it, and reports its results."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from ib_keras import files
from ib_keras.errors import Interrupted
from ib_keras.errors import UserError
from ib_keras.progress import Progress
from ib_keras.sweeps import records
from ib_keras.sweeps import table
from ib_keras.sweeps.folder import Folder
from ib_keras.sweeps.plan import Plan
from ib_keras.sweeps.plan import Run
from ib_keras.sweeps.plan import choose
from ib_keras.sweeps.pool import Pool
from ib_keras.sweeps.worker import Settings


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
        num_workers: Number of worker processes.
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
            job = _Job(plan, folder, settings, len(chosen), quiet)
            job.do(left, min(num_workers, len(left)), should_stop)
        _write_table(folder, plan)
        return states(folder, plan)


class _Job:
    """The runs that are left, and the progress bar over all."""

    def __init__(self, plan, folder, settings, num_chosen, quiet):
        self._plan = plan
        self._folder = folder
        self._settings = settings
        self._num_chosen = num_chosen
        self._quiet = quiet
        self._num_done = 0

    def do(self, left, num_workers, should_stop) -> None:
        self._num_done = self._num_chosen - len(left)
        with Progress(
            self._num_chosen, "run", "sweep", self._num_done, self._quiet
        ) as self._progress:
            Pool(
                self._settings,
                num_workers,
                on_end=self._on_end,
                on_death=self._on_death,
                on_look=self._on_look,
            ).do(left, should_stop)
        if self._num_done < self._num_chosen:
            _write_table(self._folder, self._plan)
            raise Interrupted(
                f"Stopped with {self._num_done} of {self._num_chosen} runs "
                "done; run the same command again."
            )

    def _on_look(self, at_work):
        now = "; ".join(
            f"{run.name}: {doing}{self._folder.how_far(run)}"
            for run, doing in at_work
        )
        self._progress.update(self._num_done, now=now)

    def _on_end(self, run: Run, word: str):
        if word not in records.STATUSES:
            return  # Interrupted.
        self._num_done += 1
        if word != records.DONE:
            record = records.read(self._folder.record(run.name))
            self._progress.say(f"{run.name} {word}: {record['error']}")
        _write_table(self._folder, self._plan)

    def _on_death(self, run: Run, how: str):
        path = self._folder.record(run.name)
        log = self._folder.log(run)
        record = records.failure(
            run,
            path,
            f"The worker died twice ({how}); see {log}.",
            self._settings.preset,
            self._settings.git_commit,
        )
        files.make_folder(files.join(self._folder.path, "records"))
        files.write_json(path, record)
        self._on_end(run, records.FAILED)


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
