"""Runs a study, or the rest of it, on the workers of a scheduler."""

import dataclasses
import time
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from ib_keras import files
from ib_keras import workdirs
from ib_keras.audit import folder as folders
from ib_keras.audit import jobs
from ib_keras.cluster import engine
from ib_keras.cluster import schedulers
from ib_keras.cluster import tasks
from ib_keras.cluster.tasks import Outcome
from ib_keras.cluster.tasks import Task
from ib_keras.errors import Interrupted
from ib_keras.progress import Progress
from ib_keras.studies import folder
from ib_keras.studies.plan import Job
from ib_keras.studies.plan import Plan

# The module of the calls.
CALLS = "ib_keras.studies.calls"


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run of a study did.

    Attributes:
        num_jobs: Audits of the plan.
        num_done: Of these, finished.
        failures: What has failed, as `failures.jsonl` has it.
        seconds: Wall time of the tasks.
        busy_seconds: Inside the calls, of all workers together.
        num_tasks: Calls that were made.
    """

    num_jobs: int
    num_done: int
    failures: tuple[dict[str, Any], ...]
    seconds: float = 0.0
    busy_seconds: float = 0.0
    num_tasks: int = 0


def make_tasks(left: Iterable[Job]) -> list[Task]:
    """What is to be done for jobs that are not done."""
    by_model: dict[str, list[Job]] = {}
    for job in left:
        by_model.setdefault(job.model, []).append(job)
    listed = []
    for model, those in by_model.items():
        listed += _check_task(model, those)
        for job in those:
            listed += _job_tasks(job)
    return listed


def _check_task(model, those):
    """The check of a model, if a folder of its audits has no report of it."""
    lacking = [
        job.audit["workdir"]
        for job in those
        if not files.exists(files.join(job.audit["workdir"], folders.SAFETY))
    ]
    if not lacking:
        return []
    audits = [job.audit for job in those]
    arguments = {
        "saved_model": audits[0]["saved_model"],
        "allow_ops": audits[0]["allow_ops"],
        "batch_size": max(audit["config"]["batch_size"] for audit in audits),
        "workdirs": lacking,
    }
    return [Task(_check_key(model), f"{CALLS}:check", arguments, (), model)]


def _check_key(model):
    return f"check:{model}"


def _job_tasks(job):
    arguments = {"job": job.audit}
    common = {"group": job.name}
    attacks = [
        Task(
            f"attack:{job.name}:{first}-{last}",
            f"{CALLS}:attack",
            {**arguments, "first": first, "last": last},
            (_check_key(job.model),),
            **common,
        )
        for first, last in job.parts
        if not jobs.is_merged(job.audit)
    ]
    merge = Task(
        f"merge:{job.name}",
        f"{CALLS}:merge",
        {**arguments, "parts": job.parts},
        tuple(task.key for task in attacks),
        **common,
    )
    examine = Task(
        f"examine:{job.name}",
        f"{CALLS}:examine",
        arguments,
        (merge.key,),
        **common,
    )
    return [*attacks, merge, examine]


def run(
    plan: Plan,
    workdir: str,
    *,
    scheduler: str = schedulers.LOCAL,
    num_workers: int = 1,
    retries: int = 2,
    slurm: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> Result:
    """Makes the audits that are not there yet.

    Args:
        plan: The study.
        workdir: Its folder; the same call resumes.
        scheduler: As of `cluster.schedulers.check`.
        num_workers: Processes, or Slurm jobs, to start.
        retries: How often a part is tried again whose worker was lost.
        slurm: A YAML file of `dask_jobqueue`; None takes ours.
        should_stop: Asked about twice a second; true saves and stops.
        quiet: Shows no progress.
        on_outcome: Called with what becomes of each task.

    Returns:
        A `Result`.

    Raises:
        UserError: If the folder is another study's or in use, or the
            scheduler or a worker cannot be used.
        Interrupted: If it was stopped; active parts are saved.
    """
    folder.check(workdir, plan)
    left = [job for job in plan.jobs if not jobs.is_done(job.audit)]
    if not left:
        folder.write_failures(workdir, [])
        return Result(len(plan.jobs), len(plan.jobs), ())
    connection = schedulers.connect(scheduler, num_workers, retries, slurm)
    with connection as client:
        folder.claim(workdir, plan)
        say = _sayer(quiet)
        with workdirs.lock(workdir, say):
            folder.check(workdir, plan)  # Written by the previous owner.
            for job in left:
                jobs.claim(job.audit)
            is_local = scheduler == schedulers.LOCAL
            made = engine.Engine(
                client,
                retries,
                files.join(workdir, folder.STUDY),
                patience=schedulers.PATIENCE if is_local else None,
            )
            made.check(schedulers.START if is_local else 0.0)
            listed = make_tasks(left)
            report = _Report(plan, workdir, left, listed, quiet, on_outcome)
            return report.collect(made.run(listed, should_stop), should_stop)


def _sayer(quiet):
    def say(line):
        if not quiet:
            print(line, flush=True)

    return say


class _Report:
    """Shows and books what becomes of the tasks."""

    def __init__(self, plan, workdir, left, listed, quiet, on_outcome):
        self._plan = plan
        self._workdir = workdir
        self._left = left
        self._listed = listed
        self._quiet = quiet
        self._on_outcome = on_outcome
        self._failures: list[dict[str, Any]] = []

    def collect(self, outcomes, should_stop) -> Result:
        """Follows the tasks to their end.

        Raises:
            Interrupted: If not all were done, for it was asked to stop.
        """
        began, busy, count = time.monotonic(), 0.0, 0
        with Progress(
            len(self._listed), "task", "study", 0, self._quiet
        ) as progress:
            for outcome in outcomes:
                count += 1
                busy += outcome.seconds
                self._on_outcome(outcome)
                if outcome.status == tasks.FAILED:
                    self._failures.append(_failure(outcome))
                    progress.say(f"{outcome.task.key}: {outcome.error}")
                progress.update(
                    count,
                    failed=len(self._failures),
                    last=outcome.task.key,
                )
        seconds = time.monotonic() - began
        folder.write_failures(self._workdir, self._failures)
        done = [job for job in self._plan.jobs if jobs.is_done(job.audit)]
        is_over = len(done) == len(self._plan.jobs)
        if not is_over and should_stop():
            raise Interrupted(
                f"Stopped with {len(done)} of {len(self._plan.jobs)} audits "
                "done; run the same command again."
            )
        return Result(
            num_jobs=len(self._plan.jobs),
            num_done=len(done),
            failures=tuple(self._failures),
            seconds=seconds,
            busy_seconds=busy,
            num_tasks=count,
        )


def _failure(outcome: Outcome) -> dict[str, Any]:
    """A line of `failures.jsonl`."""
    step, _, name = outcome.task.key.partition(":")
    arguments = outcome.task.arguments
    part = None
    if "first" in arguments:
        part = [arguments["first"], arguments["last"]]
    trace = {"trace": outcome.trace} if outcome.trace else {}
    return {
        "job": name.partition(":")[0],
        "step": step,
        "range": part,
        "error": outcome.error,
        "tries": outcome.tries,
        "worker": outcome.worker,
        **trace,
    }
