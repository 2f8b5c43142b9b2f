"""Cloud TPU VMs: makes one, installs, runs a job on it, fetches, deletes.

python -m launch.tpu_vm create --project=P --zone=Z --name=N --type=v4-8
python -m launch.tpu_vm install
python -m launch.tpu_vm run -- python -m launch.train --config=... \
    --workdir=gs://bucket/run
python -m launch.tpu_vm status|logs|stop|doctor|fetch|delete
python -m launch.tpu_vm adopt --project=P --zone=Z --name=N

--dry_run prints the commands of gcloud and runs none. docs/tpu_vm.md is the
guide.
"""

import contextlib
import os
import pathlib
import sys

from absl import flags as absl_flags

from launch import flags

for _name, _what in {
    "project": "ID of the Google Cloud project.",
    "zone": "Zone, such as us-central2-b.",
    "name": "Name of the VM.",
    "type": "Accelerator type, such as v4-8.",
    "version": "TPU software version; by default that of the type.",
}.items():
    absl_flags.DEFINE_string(_name, None, f"{_what} Remembered.")
absl_flags.DEFINE_bool(
    "spot", None, "A VM that is cheaper and can be taken away. Remembered."
)
absl_flags.DEFINE_bool(
    "queued", None, "Ask by a queued resource, and wait in line. Remembered."
)
absl_flags.DEFINE_bool("dry_run", False, "Print the commands and run none.")
absl_flags.DEFINE_string("worker", "all", "all, or the number of one worker.")
absl_flags.DEFINE_integer(
    "retries",
    0,
    "For run: wait for the job's end, and begin again this often when the VM "
    "is lost or the job was interrupted.",
    lower_bound=0,
)
absl_flags.DEFINE_integer("lines", 50, "For logs: how many.", lower_bound=0)
absl_flags.DEFINE_bool("follow", False, "For logs: go on until Ctrl-C.")
absl_flags.DEFINE_string("to", "results", "For fetch: the local folder.")
absl_flags.DEFINE_string(
    "workdir", None, "For doctor: a gs:// folder to try to write to."
)
absl_flags.DEFINE_float(
    "poll_seconds", 30.0, "From one look at a state to the next.", 0.001
)

VERBS = (
    *("create", "install", "run", "status", "logs", "stop", "doctor"),
    *("fetch", "delete", "adopt"),
)


def _verb(words: list[str]) -> str:
    from ib_keras.errors import UserError
    from ib_keras.errors import unknown_name

    fix = "See python -m launch.tpu_vm --help."
    if not words:
        raise UserError(
            "The verb is missing",
            received="no verb",
            expected=f"one of {', '.join(VERBS)}",
            fix=fix,
        )
    if words[0] not in VERBS:
        raise unknown_name("verb", words[0], VERBS, fix)
    return words[0]


def _refuse_more(verb: str, more: list[str], job: list[str]) -> None:
    from ib_keras.errors import UserError

    if len(more) > (verb == "fetch") or (job and verb != "run"):
        raise UserError(
            f"Arguments of {verb} are not understood",
            received=repr([*more, *job]),
            expected="flags alone; fetch takes a folder, and run a command "
            "after --",
            fix="Write --flag=value; run -- python -m launch.train ...",
        )


def _job_of(job: list[str]) -> tuple[str, ...]:
    from ib_keras.errors import UserError

    if not job:
        raise UserError(
            "The command to run is missing",
            received="nothing after --",
            expected="a command after --",
            fix="Write run -- python -m launch.train --config=...",
        )
    return tuple(job)


def _source(more: list[str], job: tuple[str, ...]) -> str:
    """What fetch copies: the folder given, or the workdir of the job."""
    from ib_keras.errors import UserError

    if more:
        return more[0].rstrip("/")
    for word, value in zip(job, (*job[1:], ""), strict=False):
        flag, equals, after = word.partition("=")
        if flag in ("--workdir", "-workdir"):
            return (after if equals else value).rstrip("/")
    raise UserError(
        "There is nothing to fetch",
        received="no folder, and no job with --workdir was started from here",
        expected="a folder of a bucket or of the VM",
        fix="Write fetch gs://bucket/folder.",
    )


def _root() -> str:
    """The checkout that install copies."""
    from ib_keras.errors import UserError

    root = pathlib.Path(__file__).resolve().parents[1]
    if not (root / "setup.py").exists():
        raise UserError(
            "There is no checkout to install",
            received=f"{root}, which is an installed copy",
            expected="a checkout, with setup.py",
            fix="Clone the repository and run this command there.",
        )
    return str(root)


def _adopt(vm) -> None:
    """Remembers what a VM that exists is."""
    import dataclasses

    from launch.cloud import commands
    from launch.cloud import settings as settings_lib
    from launch.cloud import states
    from launch.cloud.gcloud import GcloudError

    words = commands.describe_node(vm.settings)
    found = vm.gcloud.describe(words)
    if vm.gcloud.dry_run:
        return
    if found is None:
        raise GcloudError("missing", words, f"no VM {vm.settings.name}")
    request = str(found.get("queuedResource") or "").rpartition("/")[2]
    settings = dataclasses.replace(
        vm.settings,
        type=found.get("acceleratorType") or None,
        version=found.get("runtimeVersion") or None,
        spot=bool((found.get("schedulingConfig") or {}).get("spot")),
        request=request or None,
    )
    settings_lib.save(settings)
    print(
        f"{settings.name}: {states.of_node(found)}, {settings.type}, "
        f"{settings.version}{', spot' if settings.spot else ''}. Remembered."
    )


def _run(vm, job: tuple[str, ...]) -> int:
    chosen = absl_flags.FLAGS
    retries, worker = chosen.retries, chosen.worker
    if vm.gcloud.dry_run or not retries:
        vm.start(job, worker)
        if vm.gcloud.dry_run and retries:
            vm.state()
            vm.workers(worker)
            print(f"# When the VM is lost, at most {retries} times:")
            vm.delete()
            vm.create()
            vm.install()
            vm.start(job, worker)
        elif not vm.gcloud.dry_run:
            print("It runs by itself now: see status and logs.")
        return 0
    status = vm.keep_running(job, worker=worker, retries=retries)
    print(f"The job ended with status {status}.")
    return status


def _status(vm) -> int:
    from launch.cloud import states

    state = vm.state()
    if vm.gcloud.dry_run:
        vm.workers(absl_flags.FLAGS.worker)
        return 0
    print(f"{vm.settings.name}: {state}")
    if states.meaning(state) == states.READY:
        for worker in vm.workers(absl_flags.FLAGS.worker):
            status = "" if worker.status is None else f" {worker.status}"
            print(f"  {worker.host}: {worker.state}{status}")
    return 0


def _logs(vm) -> int:
    from launch.cloud import commands

    chosen = absl_flags.FLAGS
    verb = "follow" if chosen.follow else "log"
    words = commands.on_vm(
        vm.settings, verb, str(chosen.lines), worker=chosen.worker
    )
    if not chosen.follow:
        print(vm.gcloud.run(words), end="")
        return 0
    with contextlib.suppress(KeyboardInterrupt):
        vm.gcloud.stream(words)
    return 0


def _stop(vm) -> None:
    from launch.cloud import commands

    worker = absl_flags.FLAGS.worker
    words = commands.on_vm(vm.settings, "stop", worker=worker)
    print(vm.gcloud.run(words), end="")


def _doctor(vm) -> int:
    from launch.cloud import commands

    chosen = absl_flags.FLAGS
    more = [f"--workdir={chosen.workdir}"] if chosen.workdir else []
    words = commands.on_vm(
        vm.settings,
        *("exec", "python", "-m", "launch.doctor", "--vm"),
        *more,
        worker=chosen.worker,
    )
    return 2 if vm.gcloud.stream(words) else 0


def _fetch(vm, source: str) -> None:
    from launch.cloud import commands

    to, worker = absl_flags.FLAGS.to, absl_flags.FLAGS.worker
    if not vm.gcloud.dry_run:
        os.makedirs(to, exist_ok=True)
    worker = "0" if worker == "all" else worker
    words = commands.fetch(vm.settings, source, to, worker)
    vm.gcloud.run(words, timeout=6 * 3600.0)
    if not vm.gcloud.dry_run:
        print(f"Fetched: {os.path.join(to, os.path.basename(source))}")


def main(words: list[str]) -> int:
    """Does what the first word says.

    Args:
        words: The verb and what follows it that is no flag.

    Returns:
        The exit status.
    """
    import dataclasses

    from ib_keras.errors import Interrupted
    from launch.cloud import settings as settings_lib
    from launch.cloud.gcloud import Gcloud
    from launch.cloud.vm import VM

    chosen = absl_flags.FLAGS
    # absl drops the first "--", so the job is what stands after it.
    typed = sys.argv
    job = typed[typed.index("--") + 1 :] if "--" in typed else []
    words = words[: len(words) - len(job)]
    verb = _verb(words)
    more = words[1:]
    _refuse_more(verb, more, job)
    settings = settings_lib.merge(
        settings_lib.load(),
        queued=chosen.queued,
        **{
            name: getattr(chosen, name)
            for name in ("project", "zone", "name", "type", "version", "spot")
        },
    ).needing("name", "project", "zone")
    needs_kind = verb == "create" or (verb == "run" and chosen.retries)
    if needs_kind:
        settings.needing("type").software()
    if verb == "run":
        settings = dataclasses.replace(settings, job=_job_of(job))
    source = _source(more, settings.job) if verb == "fetch" else None
    root = _root() if verb == "install" or needs_kind else ""
    if verb != "adopt" or chosen.dry_run:
        # Also those of a dry run, which is a rehearsal: see the guide.
        settings_lib.save(settings)
    poll = chosen.poll_seconds
    gcloud = Gcloud(dry_run=chosen.dry_run, pause=poll / 6)
    vm = VM(settings, gcloud, root=root, poll=poll)
    verbs = {
        "create": vm.create,
        "install": vm.install,
        "run": lambda: _run(vm, settings.job),
        "status": lambda: _status(vm),
        "logs": lambda: _logs(vm),
        "stop": lambda: _stop(vm),
        "doctor": lambda: _doctor(vm),
        "fetch": lambda: _fetch(vm, source),
        "delete": vm.delete,
        "adopt": lambda: _adopt(vm),
    }
    try:
        return verbs[verb]() or 0
    except KeyboardInterrupt:
        raise Interrupted(
            "Interrupted. What was asked of the cloud goes on there: run the "
            "same command again, or see status."
        ) from None


if __name__ == "__main__":
    flags.run(main, takes_words=True)
