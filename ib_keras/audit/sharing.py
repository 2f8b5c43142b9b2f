"""One audit by several processes: each attacks its own share of the examples.

Shares are slices of the list of examples. An attack draws by an example's
place in the whole list, so in mean mode the numbers are those of one process,
up to rounding. Each process saves its progress in its own folder, below the
audit folder that all of them share; when all are done the chief merges them,
runs the diagnostics and writes what one process would have written.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ib_keras import files
from ib_keras import strategy as strategies
from ib_keras import workdirs
from ib_keras.attacks import ledger as ledgers
from ib_keras.errors import UserError

_FOLDER = "worker_"


@dataclasses.dataclass(frozen=True)
class Team:
    """The processes of an audit, as one of them sees them.

    Attributes:
        strategy: That of the run; None for TensorFlow's default device.
        index: Number of this process; 0 is the chief.
        count: How many there are; 1 unless the strategy has workers.
    """

    strategy: tf.distribute.Strategy | None
    index: int
    count: int

    @classmethod
    def of(cls, strategy: tf.distribute.Strategy | None) -> "Team":
        """The team that a strategy has."""
        return cls(strategy, *strategies.place(strategy))

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the audit folder."""
        return self.index == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is only one process."""
        return self.count == 1

    @property
    def devices(self) -> tf.distribute.Strategy | None:
        """The strategy of this process: one device if there are several."""
        return self.strategy if self.is_alone else None

    def wait(self) -> None:
        """Waits until all processes have arrived here."""
        if not self.is_alone:
            strategies.wait_for_all(self.strategy)

    def share(self, num_examples: int, index: int) -> tuple[int, int]:
        """First and last position of the share of a process."""
        return (
            num_examples * index // self.count,
            num_examples * (index + 1) // self.count,
        )

    def folder(self, folder: str, index: int) -> str:
        """The folder of a process' progress of an audit in `folder`."""
        return files.join(folder, f"{_FOLDER}{index}_of_{self.count}")

    def check(self, config: Mapping[str, Any], num_examples: int) -> None:
        """Refuses an audit that this team cannot share.

        Args:
            config: What has to be the same for all, JSON values.
            num_examples: Of the audit.

        Raises:
            UserError: If there are fewer examples than processes, or these
                audit different things.
        """
        if num_examples < self.count:
            raise UserError(
                "There are fewer examples than workers",
                received=f"{num_examples} examples for {self.count} workers",
                expected="one example a worker or more",
                fix="Raise --config.num_examples, or start fewer workers.",
            )
        if self.is_alone:
            return
        text = json.dumps(config, sort_keys=True)
        # Few enough bits to be exact in the sums of floats that compare it.
        digest = int(hashlib.sha256(text.encode()).hexdigest()[:4], 16)
        strategies.check_agreement(
            self.strategy, digest, "digest of config and model", "this audit"
        )

    def check_same_folder(self, workdir: str, name: str) -> None:
        """Refuses a worker that does not see the files of the chief.

        Args:
            workdir: The audit folder.
            name: Of a file that exists.

        Raises:
            UserError: If it is not.
        """
        if not files.exists(files.join(workdir, name)):
            raise UserError(
                "The workers do not see the same files",
                received=f"no {name} of the chief's in {workdir}",
                expected="a folder that all workers share",
                fix="Put --workdir on a shared file system or on gs://.",
            )

    @contextlib.contextmanager
    def lock(
        self, workdir: str, say: Callable[[str], None]
    ) -> Iterator[workdirs.Lock]:
        """Locks the folder that this process writes, by `workdirs.lock`."""
        if not self.is_chief:
            workdir = files.make_folder(self.folder(workdir, self.index))
        with workdirs.lock(workdir, say) as held:
            yield held

    def attack(
        self, audits: Sequence[Any], should_stop: Callable[[], bool]
    ) -> None:
        """Attacks this process' share, and saves its progress for the chief.

        Args:
            audits: `radius.Audit` of each radius.
            should_stop: Called after every batch; true stops.

        Raises:
            Interrupted: If it was stopped; its progress is saved.
        """
        for audit in audits:
            if not audit.is_done:
                self._part(audit, self.index).attack_and_save(should_stop)

    def gather(self, audit: Any) -> ledgers.Progress:
        """Combines the ledgers and statistics of all processes.

        Args:
            audit: `radius.Audit` of one radius.

        Raises:
            UserError: If one has saved none, or has not finished.
        """
        parts, proved = [], []
        for index in range(self.count):
            part = self._part(audit, index)
            # There is nothing to report: it is read, not resumed.
            part.quiet = True
            progress = part.restore()
            if progress.position.stage < len(audit.stages):
                raise UserError(
                    "A worker has not saved its progress",
                    received=f"no finished progress in {part.folder}",
                    expected="that of every worker, in a folder that all "
                    "workers share",
                    fix="Put --workdir on a shared file system or on gs://, "
                    "and start all workers again.",
                )
            parts.append(progress)
            proved.append(part.certificates)
        audit.take_certificates(proved)
        return ledgers.merge(parts)

    def _part(self, audit, index):
        """The audit of one process' share."""
        first, last = self.share(len(audit.subject.labels), index)
        return audit.of_share(first, last, self.folder(audit.folder, index))
