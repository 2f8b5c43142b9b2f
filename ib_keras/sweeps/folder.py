"""The folder of a sweep: its paths, its owner and the state of its runs."""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

import filelock

from ib_keras import files
from ib_keras import workdirs
from ib_keras.errors import UserError
from ib_keras.sweeps import plan as plans
from ib_keras.sweeps import records
from ib_keras.sweeps.plan import Plan
from ib_keras.sweeps.plan import Run
from ib_keras.training import settings

SWEEP_FILE = "sweep.json"
LOCK_FILE = "sweep.lock"
TABLE_FILE = "table.csv"
RUNS, RECORDS = "runs", "records"
LOG_FILE = "log.txt"

# Such as "train: 40/600 step, 1.5 min left, loss 0.3", without the values.
_PROGRESS = re.compile(r"[^:]+: (\d+/\d+ \w+(?:, [\d.]+ min left)?)")

# States of a run that has no record.
TO_DO, RESUMABLE = "to do", "resumable"


class Folder:
    """The paths of a sweep's folder.

    Args:
        path: The folder, which need not be there yet. A local one, for it is
            locked, and its logs are written line by line.

    Raises:
        UserError: If it is remote, or a file.
    """

    def __init__(self, path: str):
        if not path or "://" in path or os.path.isfile(path):
            raise UserError(
                "The workdir of a sweep is not a local folder",
                received=f'"{path}"',
                expected="a folder of this machine, which need not be there",
                fix="Choose another --workdir; copy its records/ when done.",
            )
        self.path = path

    def run(self, name: str) -> str:
        """The folder of a run."""
        return files.join(self.path, RUNS, name)

    def record(self, name: str) -> str:
        """The record of a run."""
        return files.join(self.path, RECORDS, f"{name}.json")

    def log(self, run: Run) -> str:
        """The log of a run."""
        return files.join(self.run(run.name), LOG_FILE)

    def how_far(self, run: Run) -> str:
        """The progress of a run, from the end of its log; may be empty."""
        try:
            with open(self.log(run), "rb") as log:
                log.seek(max(os.path.getsize(log.name) - 500, 0))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        found = _PROGRESS.match(lines[-1]) if lines else None
        return f", {found[1]}" if found else ""

    @property
    def table(self) -> str:
        """The table of all runs."""
        return files.join(self.path, TABLE_FILE)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the folder for this process; the kernel unlocks it at its end.

        Raises:
            UserError: If another sweep runs in it.
        """
        files.make_folder(self.path)
        path = files.join(self.path, LOCK_FILE)
        try:
            held = filelock.FileLock(path).acquire(timeout=0)
        except filelock.Timeout as error:
            raise UserError(
                "Another sweep runs in this folder",
                received=f"{path}, which is held",
                expected="one sweep at a time",
                fix="Wait for it or stop it, or choose another --workdir.",
            ) from error
        with held:
            yield

    def check(self, plan: Plan) -> None:
        """Refuses a folder of another sweep; writes nothing.

        Raises:
            UserError: If it is one, or holds something else, or a run or a
                record in it is of another config or cannot be read.
        """
        path = files.join(self.path, SWEEP_FILE)
        if files.exists(path):
            there = _identity(files.read_json(path))
            for name, here in _identity(plan.to_json()).items():
                before = there.get(name)
                if before == here:
                    continue
                raise UserError(
                    "The folder is that of another sweep",
                    received=f"{name} {here!r}",
                    expected=f"{name} {before!r}, as in {path}",
                    fix="Choose another --workdir, or give the config it was "
                    "made by.",
                )
        else:
            self._check_is_ours()
        for run in plan.runs:
            self.state(run)

    def _check_is_ours(self):
        ours = {LOCK_FILE, RUNS, RECORDS, TABLE_FILE}
        strange = [
            name
            for name in files.listdir(self.path)
            if name not in ours and not files.is_leftover(name)
        ]
        if strange:
            raise UserError(
                "The workdir holds something else",
                received=f"{self.path} with {', '.join(strange[:3])}, and no "
                f"{SWEEP_FILE}",
                expected="a new or empty folder, or one of an earlier sweep",
                fix="Choose another --workdir.",
            )

    def claim(self, plan: Plan) -> None:
        """Writes `sweep.json`, if its content would change."""
        path = files.join(self.path, SWEEP_FILE)
        content = plan.to_json()
        if not files.exists(path) or files.read_json(path) != content:
            files.write_json(path, content)

    def state(self, run: Run) -> tuple[str, dict[str, Any] | None]:
        """The state of a run.

        Returns:
            Its status and its record. A run without a record, or whose record
            lacks audits that were added to the plan, is "to do" or
            "resumable", or "failed" where these failed; that record is given
            too.

        Raises:
            UserError: If its record or its folder is of another config, or
                cannot be read.
        """
        path = self.record(run.name)
        record = None
        if files.exists(path):
            record = records.read(path)
            # A failed run has no results, so its audits may be corrected.
            if record["status"] != records.FAILED:
                if records.check(record, run, path):
                    return record["status"], record
        folder = self.run(run.name)
        workdirs.check(folder, run.config, settings.MAY_DIFFER)
        if record is not None and records.has_failed(record):
            return records.FAILED, record
        begun = files.exists(files.join(folder, workdirs.CONFIG_FILE))
        return (RESUMABLE if begun else TO_DO), record

    def is_finished(self, run: Run) -> bool:
        """Whether nothing is left to do; failed runs are tried again."""
        return self.state(run)[0] in (records.DONE, records.DIVERGED)


def _identity(sweep) -> dict[str, Any]:
    """The fields by which `sweep.json` identifies a sweep."""
    sweep = sweep if isinstance(sweep, dict) else {}
    overrides = sweep.get("overrides")
    return {
        "config": sweep.get("config"),
        "preset": sweep.get("preset"),
        "overrides": plans.matters(overrides)
        if isinstance(overrides, dict)
        else overrides,
    }
