"""A VM from its creation to its end, and a job on it that survives the VM.

A VM is asked for by a queued resource of its name, as Google advises: the
request waits in line until there is a VM, and a job that finds the VM gone
deletes the request and makes another. Syntax of the commands:
https://cloud.google.com/sdk/gcloud/reference/compute/tpus
"""

import pathlib
import re
import shlex
from collections.abc import Sequence

from ib_keras.errors import UserError
from launch.cloud.gcloud import Gcloud
from launch.cloud.gcloud import GcloudError
from launch.cloud.settings import Settings

# On the VM, under the user's home.
FOLDER = "ib_keras_vm"
_SCRIPT = f"{FOLDER}/code/launch/run_on_vm.sh"
# Here, in the current folder, and what a VM needs of a checkout.
_ARCHIVE = ".ib_keras_tpu_vm.tgz"
_ROOT = pathlib.Path(__file__).parents[2]
_PARTS = (
    *("configs", "ib_keras", "launch"),
    *("LICENSE", "README.md", "pyproject.toml", "setup.py"),
)

# States of a VM, by what they mean; all others pass by themselves. See
# https://docs.cloud.google.com/tpu/docs/reference/rest/v2/projects.locations
READY = "READY"
LOST = ("FAILED", "SUSPENDED", "PREEMPTED", "TERMINATED", "NOT_FOUND")
STOPPED = ("STOPPED", "STOPPING", "HIDDEN", "HIDING")

# Exit statuses after which the same command goes on: interrupted with
# everything saved, and no step ended for too long.
RESUMABLE = (75, 76)
_JOB = re.compile(r"ib_keras_job (\S+) (none|running|lost|exited (\d+))")

# Jobs of ours, and how they say that they use a TPU.
_OURS = re.compile(r"\b(?:launch\.|ib_keras )(train|audit|sweep)\b")
_NAMES_TPU = re.compile(r"--?(tpu\b|strategy[= ]tpu\b)")


def cpu_warning(job: Sequence[str]) -> str | None:
    """What to say of a job that would leave the TPU alone; None of others."""
    text = " ".join(job)
    found = _OURS.search(text)
    if found is None or _NAMES_TPU.search(text):
        return None
    fix = "Add --tpu=local to it."
    if found[1] == "sweep":
        fix = "A sweep has no --tpu: run its trainings one by one."
    return f"Warning: {found[1]} would use the VM's CPU alone. {fix}"


def job_status(printed: str) -> int | None:
    """The exit status of a job on all its workers; None while it runs.

    One that failed decides over one that can go on, and that one over those
    that are done; a process that vanished can go on.

    Args:
        printed: What `run_on_vm.sh status` printed on each worker.
    """
    jobs = _JOB.findall(printed)
    if not jobs or any(state == "running" for _, state, _ in jobs):
        return None
    statuses = [int(status or RESUMABLE[0]) for _, _, status in jobs]
    failed = [s for s in statuses if s and s not in RESUMABLE]
    return failed[0] if failed else max(statuses)


class VM:
    """What can be done with the VM of some settings.

    Args:
        settings: With project, zone and name; to create it, with type.
        gcloud: Runs the commands.
        poll: Seconds from one look at a state to the next.
    """

    def __init__(self, settings: Settings, gcloud: Gcloud, poll: float = 30.0):
        self.settings = settings
        self.gcloud = gcloud
        self.poll = poll
        self._last_state = ""

    def _tpus(self, group: str, verb: str, *more: str) -> list[str]:
        names = [] if verb == "scp" else [f"{self.settings.name}"]
        # Without --quiet it would ask, and wait for an answer forever.
        place = (f"--zone={self.settings.zone}", "--quiet")
        words = ["gcloud", "compute", "tpus", group, verb, *names, *place]
        return [*words, f"--project={self.settings.project}", *more]

    def on_vm(self, *words: str, worker: str = "all") -> list[str]:
        """The command that runs a verb of `run_on_vm.sh` on workers."""
        return self._ssh(shlex.join(["bash", _SCRIPT, *words]), worker)

    def _ssh(self, command, worker="all"):
        flags = f"--worker={worker}", f"--command={command}"
        return self._tpus("tpu-vm", "ssh", *flags)

    def state(self) -> str:
        """The state of the queued resource until it is active, then the VM's.

        "NOT_FOUND" where there is neither.
        """
        describe = self.gcloud.describe
        request = describe(self._tpus("queued-resources", "describe"))
        if request is not None and request["state"]["state"] != "ACTIVE":
            return request["state"]["state"]
        node = describe(self._tpus("tpu-vm", "describe"))
        return "NOT_FOUND" if node is None else node.get("state", "UNKNOWN")

    def create(self) -> None:
        """Asks for the VM and waits until it is ready.

        A request that is in line keeps its place.

        Raises:
            GcloudError: If the request is refused, or fails.
        """
        settings = self.settings
        words = self._tpus(
            *("queued-resources", "create", f"--node-id={settings.name}"),
            f"--accelerator-type={settings.type}",
            f"--runtime-version={settings.software()}",
            *(["--spot"] if settings.spot else []),
        )
        self.gcloud.run(words, timeout=1800.0, done_if="exists")
        self._check_ready(self._wait())

    def _wait(self) -> str:
        """Waits for a state that does not pass, and says those that do."""
        while True:
            state = self.state()
            if self.gcloud.dry_run:
                return READY
            if state != self._last_state:
                print(f"{self.settings.name}: {state}", flush=True)
            self._last_state = state
            if state in (READY, *LOST, *STOPPED):
                return state
            self.gcloud.sleep(self.poll)

    def _check_ready(self, state: str) -> None:
        said = f"{self.settings.name}: {state}"
        if state in STOPPED:
            raise UserError(
                "The VM was stopped",
                received=said,
                expected="READY",
                fix="Start it with gcloud compute tpus tpu-vm start.",
            )
        if state in LOST:
            raise GcloudError("lost", "The VM is gone", said)

    def install(self) -> None:
        """Copies the checkout to all workers and installs it there.

        Raises:
            UserError: If this is an installed copy of ib_keras, no checkout.
            GcloudError: If a command fails.
        """
        check_checkout()
        pack = ["tar", "-czf", _ARCHIVE, "--exclude=__pycache__"]
        self.gcloud.run([*pack, "-C", str(_ROOT), *_PARTS])
        place = f"{self.settings.name}:{_ARCHIVE}"
        send = self._tpus("tpu-vm", "scp", _ARCHIVE, place, "--worker=all")
        self.gcloud.run(send, timeout=900.0)
        new = f"{FOLDER}/new"
        install = self._ssh(
            f"rm -rf {new} && mkdir -p {new} && tar -xzf {_ARCHIVE} -C {new} "
            f"&& bash {new}/launch/run_on_vm.sh install"
        )
        self.gcloud.run(install, timeout=3600.0)

    def start(self, job: Sequence[str], worker: str = "all") -> None:
        """Starts a job, unless this very one is running."""
        self.gcloud.run(self.on_vm("start", *job, worker=worker))

    def delete(self) -> None:
        """Deletes the queued resource and its VM; none is fine.

        A request goes only by force while it has a VM, and one that failed
        counts against the quota until it is deleted.
        """
        for words in (
            self._tpus("queued-resources", "delete", "--force"),
            self._tpus("tpu-vm", "delete"),  # If it was made without one.
        ):
            self.gcloud.run(words, timeout=1800.0, done_if="missing")

    def keep_running(
        self, job: Sequence[str], worker: str, retries: int
    ) -> int:
        """Runs a job to its end, on a new VM whenever the VM is lost.

        Args:
            job: The command, which goes on by itself when run again.
            worker: "all", or the number of one.
            retries: How often to begin again.

        Returns:
            The exit status of the job.
        """
        while True:
            try:
                self._begin(job, worker)
                status = self._wait_for_job(worker)
                if status not in RESUMABLE or not retries:
                    return status
                why = f"The job ended with status {status}"
            except GcloudError as error:
                if error.kind in ("refused", "exists") or not retries:
                    raise
                why = f"{error.what}: {error.received}"
            retries -= 1
            print(f"{why}. Again; {retries} retries left.", flush=True)
            self.gcloud.sleep(self.poll)

    def _begin(self, job, worker):
        """Starts the job, on a new VM where the old one is lost."""
        state = self._wait()
        if state in LOST:
            self.delete()
            self.create()
        else:
            self._check_ready(state)
        try:
            self.start(job, worker)
        except GcloudError as error:
            if error.kind != "absent":
                raise
            self.install()
            self.start(job, worker)

    def _wait_for_job(self, worker) -> int:
        while True:
            self._check_ready(self._wait())
            words = self.on_vm("status", worker=worker)
            status = job_status(self.gcloud.run(words))
            if status is not None:
                return status
            self.gcloud.sleep(self.poll)


def check_checkout() -> None:
    """Refuses an installed copy, of which there is nothing to send.

    Raises:
        UserError: If so.
    """
    if not (_ROOT / "setup.py").exists():
        raise UserError(
            "There is no checkout to install",
            received=f"{_ROOT}, which is an installed copy",
            expected="a checkout, with setup.py",
            fix="Clone the repository and run this command there.",
        )
