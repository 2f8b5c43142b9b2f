"""A VM from its creation to its end, and a job on it that survives the VM."""

import dataclasses
import re

from ib_keras.errors import UserError
from launch.cloud import commands
from launch.cloud import states
from launch.cloud.gcloud import ATTEMPTS
from launch.cloud.gcloud import Gcloud
from launch.cloud.gcloud import GcloudError
from launch.cloud.settings import Settings

# Statuses after which the same command goes on: interrupted with everything
# saved, and no step ended for too long.
RESUMABLE = (75, 76)
_JOB = re.compile(r"ib_keras_job (\S+) (none|running|lost|exited (\d+))")


@dataclasses.dataclass(frozen=True)
class Worker:
    """What the job is doing on one worker.

    Args:
        host: Name of the worker.
        state: "none", "running", "lost" (its process is gone) or "exited".
        status: Exit status, once it has ended.
    """

    host: str
    state: str
    status: int | None = None


def read_workers(printed: str) -> list[Worker]:
    """The workers that the output of `run_on_vm.sh status` tells of."""
    return [
        Worker(host, state.split()[0], int(status) if status else None)
        for host, state, status in _JOB.findall(printed)
    ]


def overall(workers: list[Worker]) -> int | None:
    """The exit status of a job on all its workers; None while it runs.

    One that failed decides over one that can go on, and that one over those
    that are done; a process that vanished can go on.
    """
    if not workers or any(w.state == "running" for w in workers):
        return None
    statuses = [RESUMABLE[0] if w.status is None else w.status for w in workers]
    failed = [s for s in statuses if s and s not in RESUMABLE]
    return failed[0] if failed else max(statuses)


class VM:
    """What can be done with the VM of some settings.

    Args:
        settings: With project, zone and name.
        gcloud: Runs the commands.
        root: Folder of the checkout to install.
        poll: Seconds from one look at a state to the next.
    """

    def __init__(
        self, settings: Settings, gcloud: Gcloud, *, root: str, poll: float
    ):
        self.settings = settings
        self.gcloud = gcloud
        self.root = root
        self.poll = poll
        # Until this has made a new VM, whoever made it has installed it.
        self._is_installed = True

    def state(self) -> str:
        """The state of the queued resource until it is ready, then the VM's."""
        settings, describe = self.settings, self.gcloud.describe
        if settings.request:
            found = describe(commands.describe_request(settings))
            state = states.of_request(found) if found else states.MISSING
            if states.meaning(state) != states.READY:
                return state
        found = describe(commands.describe_node(settings))
        return states.of_node(found) if found else states.MISSING

    def create(self) -> None:
        """Creates the VM and waits until it is ready."""
        # A request that is in the queue keeps its place.
        done_if = ("exists",) if self.settings.request else ()
        words = commands.create(self.settings)
        self._is_installed = self.gcloud.dry_run
        self.gcloud.run(words, timeout=1800.0, done_if=done_if)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Waits through all states before READY, however long.

        Raises:
            GcloudError: If it is lost or stopped instead.
        """
        state = self._settle()
        if not self.gcloud.dry_run and states.meaning(state) != states.READY:
            raise self._gone(state)

    def _settle(self) -> str:
        """Waits for a state that does not pass, and says those that do."""
        last = None
        while True:
            state = self.state()
            if state != last and not self.gcloud.dry_run:
                self.gcloud.say(f"{self.settings.name}: {state}")
            if self.gcloud.dry_run or states.meaning(state) != states.WAITING:
                return state
            last = state
            self.gcloud.sleep(self.poll)

    def install(self) -> None:
        """Copies the checkout to all workers and installs it there."""
        self.gcloud.run(commands.pack(self.root))
        self.gcloud.run(commands.send(self.settings), timeout=900.0)
        words = commands.unpack_and_install(self.settings)
        self.gcloud.run(words, timeout=3600.0)
        self._is_installed = True

    def start(self, job: tuple[str, ...], worker: str) -> None:
        """Starts the job, unless this very one is running."""
        self.gcloud.run(
            commands.on_vm(self.settings, "start", *job, worker=worker)
        )

    def delete(self) -> None:
        """Deletes the VM and its queued resource; none is fine."""
        words = commands.delete(self.settings)
        self.gcloud.run(words, timeout=1800.0, done_if=("missing",))

    def workers(self, worker: str, attempts: int = ATTEMPTS) -> list[Worker]:
        """What the job does on the workers."""
        words = commands.on_vm(self.settings, "status", worker=worker)
        found = read_workers(self.gcloud.run(words, attempts=attempts))
        if not found and not self.gcloud.dry_run:
            raise GcloudError("passing", words, "no worker answered")
        return found

    def wait_for_job(self, worker: str) -> int:
        """Waits for the end of the job; its exit status.

        Raises:
            GcloudError: If the VM is lost, or out of reach.
        """
        failures = 0
        while True:
            state = self.state()
            if states.meaning(state) in (states.LOST, states.STOPPED):
                raise self._gone(state)
            try:
                # The state tells sooner than ssh that a VM is lost.
                status = overall(self.workers(worker, attempts=1))
                failures = 0
            except GcloudError as error:
                failures += 1
                if error.kind != "passing" or failures == ATTEMPTS:
                    raise
                status = None
            if status is not None:
                return status
            self.gcloud.sleep(self.poll)

    def make_ready(self) -> None:
        """Makes a lost VM anew, and installs where that was not done."""
        state = self._settle()
        if states.meaning(state) == states.STOPPED:
            raise self._gone(state)
        if states.meaning(state) == states.LOST:
            if state != states.MISSING or self.settings.request:
                self.delete()
            self.create()
        if not self._is_installed:
            self.install()

    def keep_running(
        self, job: tuple[str, ...], *, worker: str, retries: int
    ) -> int:
        """Runs the job to its end, on a new VM whenever the VM is lost.

        Args:
            job: The command, which goes on by itself when run again.
            worker: "all", or the number of one.
            retries: How often to begin again.

        Returns:
            The exit status of the job.
        """
        while True:
            try:
                self.make_ready()
                self.start(job, worker)
                status = self.wait_for_job(worker)
                if status not in RESUMABLE or not retries:
                    return status
                why = f"The job ended with status {status}"
            except GcloudError as error:
                if not error.may_pass or not retries:
                    raise
                # A VM without our script is one that was never finished.
                self._is_installed &= error.kind != "absent"
                why = f"{error.what}: {error.received}"
            retries -= 1
            self.gcloud.say(f"{why}. Again; {retries} retries left.")
            self.gcloud.sleep(self.poll)

    def _gone(self, state: str) -> UserError:
        if states.meaning(state) == states.STOPPED:
            return UserError(
                "The VM was stopped",
                received=f"{self.settings.name}: {state}",
                expected="READY",
                fix="Start it with gcloud compute tpus tpu-vm start.",
            )
        words = commands.describe_node(self.settings)
        return GcloudError("lost", words, f"{self.settings.name}: {state}")
