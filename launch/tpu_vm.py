"""Cloud TPU VMs: makes one, installs, runs a job on it, deletes it.

python -m launch.tpu_vm create --project=P --zone=Z --name=N --type=v4-8
python -m launch.tpu_vm install
python -m launch.tpu_vm run -- python -m launch.train --config=... \
    --tpu=local --workdir=gs://bucket/run
python -m launch.tpu_vm status|logs|stop|doctor|delete

--dry_run prints the commands of gcloud and runs none. docs/tpu_vm.md is the
guide.
"""

import contextlib
import sys
from collections.abc import Callable
from collections.abc import Sequence

from absl import flags as absl_flags

from launch import flags

_REMEMBERED = ("project", "zone", "name", "type", "version", "spot")
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
absl_flags.DEFINE_string(
    "workdir", None, "For doctor: a gs:// folder to try to write to."
)
absl_flags.DEFINE_float(
    "poll_seconds", 30.0, "From one look at a state to the next.", 0.001
)


# A training or an audit in the words of a job.
def _verb(words: list[str], job: list[str]) -> str:
    from ib_keras.errors import UserError
    from ib_keras.errors import unknown_name

    verb = words[0] if words else ""
    if verb not in VERBS:
        raise unknown_name("verb", verb, VERBS, "Name a verb first.")
    if len(words) > 1 or bool(job) != (verb == "run"):
        raise UserError(
            f"Arguments of {verb} are not understood",
            received=" ".join([*words[1:], "--", *job]),
            expected="flags alone, and of run a command after --",
            fix="Write --flag=value, and run -- python -m launch.train ...",
        )
    return verb


def _run(vm, job: Sequence[str]) -> int:
    from launch.cloud.vm import cpu_warning

    chosen = absl_flags.FLAGS
    retries = chosen.retries
    if warning := cpu_warning(job):
        print(warning, file=sys.stderr)
    if retries and not vm.gcloud.dry_run:
        status = vm.keep_running(job, chosen.worker, retries)
        print(f"The job ended with status {status}.")
        return status
    vm.start(job, chosen.worker)
    if retries:
        print("# When the VM is lost: delete, create, install, and this again.")
    elif not vm.gcloud.dry_run:
        print("It runs by itself now: see status and logs.")
    return 0


def _status(vm) -> int:
    from launch.cloud.vm import READY

    state = vm.state()
    if not vm.gcloud.dry_run:
        print(f"{vm.settings.name}: {state}", flush=True)
    return _remote(vm, "status") if state == READY else 0


def _remote(vm, *words: str) -> int:
    """Runs a verb of `run_on_vm.sh`, whose output goes to the user."""
    return vm.gcloud.stream(vm.on_vm(*words, worker=absl_flags.FLAGS.worker))


def _logs(vm) -> int:
    chosen = absl_flags.FLAGS
    with contextlib.suppress(KeyboardInterrupt):
        verb = "follow" if chosen.follow else "log"
        return _remote(vm, verb, str(chosen.lines))
    return 0


def _doctor(vm) -> int:
    workdir = absl_flags.FLAGS.workdir
    more = [f"--workdir={workdir}"] if workdir else []
    return _remote(vm, "exec", "python", "-m", "launch.doctor", "--vm", *more)


VERBS: dict[str, Callable[..., int | None]] = {
    "create": lambda vm: vm.create(),
    "install": lambda vm: vm.install(),
    "run": _run,
    "status": _status,
    "logs": _logs,
    "stop": lambda vm: _remote(vm, "stop"),
    "doctor": _doctor,
    "delete": lambda vm: vm.delete(),
}


def main(words: list[str]) -> int:
    """Does what the first of the words says; the rest is a job's."""
    from ib_keras.errors import Interrupted
    from launch.cloud import settings as settings_lib
    from launch.cloud.gcloud import Gcloud
    from launch.cloud.vm import VM
    from launch.cloud.vm import check_checkout

    chosen = absl_flags.FLAGS
    # absl drops the first "--", so the job is what follows it in the command.
    typed = sys.argv
    job = typed[typed.index("--") + 1 :] if "--" in typed else []
    words = words[: len(words) - len(job)]
    verb = _verb(words, job)
    given = {name: getattr(chosen, name) for name in _REMEMBERED}
    settings = settings_lib.load().updated(**given)
    settings.check("project", "zone", "name")
    has_retries = job and chosen.retries
    if verb == "create" or has_retries:
        settings.check("type")
        settings.software()
    if verb == "install" or has_retries:
        check_checkout()
    # Also those of a dry run, which is a rehearsal: see the guide.
    settings_lib.save(settings)
    gcloud = Gcloud(dry_run=chosen.dry_run, pause=chosen.poll_seconds / 6)
    vm = VM(settings, gcloud, chosen.poll_seconds)
    try:
        return VERBS[verb](vm, *([job] if job else [])) or 0
    except KeyboardInterrupt:
        raise Interrupted(
            "Interrupted. What was asked of the cloud goes on there: run the "
            "same command again, or see status."
        ) from None


if __name__ == "__main__":
    flags.run(main, takes_words=True)
