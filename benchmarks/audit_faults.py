r"""Faults of audits, reports and verification: what each ends as.

python -m benchmarks.audit_faults [--only=REGEX] [--stride=4]

A small audit runs in a real process. Faults of three kinds are tried:

* of the disk and the process, at each of its changes of the disk, by
  `faulty_disk.c`: the disk is full, or read-only, from then on; the process is
  killed in the middle of a write or before a change, or asked to stop; the
  clock is set back by a day. Then the same command runs on a good disk.
* of the folder's owner: two processes at once; locks of a dead process, of a
  number that is used again, of another host; the folder moved elsewhere.
* of the files: each one of an audit that was killed, before it is resumed, and
  of a finished one, before it is verified and reported, is emptied, cut to
  half or by a byte, taken away, or has one bit flipped.

Counted are `points` tried; those whose last run ended `undisturbed`, with the
answer of a run that nothing happened to; those that were `refused` in a
sentence; and all others, which are `wrong`. `raw` counts first runs that ended
with a traceback in place of a sentence. Needs a C compiler and Linux.
"""

import argparse
import collections
import csv
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading

from benchmarks import faults

RESULTS = faults.ROOT / "results" / "audit_faults.csv"
COUNTS = ("points", "undisturbed", "refused", "wrong", "raw")
MODES = {**faults.MODES, "asked to stop": 4, "read-only": 5, "clock back": 6}
_REFUSED = "refused"
# What differs from run to run, or is of the run and not of the model.
_VOLATILE = re.compile(r"seconds|command|git_commit|workdir|started|time|seal")


def make_model(folder: str) -> None:
    """Exports a model of two classes; forks of this process cannot call one."""
    from tests.support import runs

    runs.foreign_model(os.path.join(folder, "model"), mean=runs.bright_or_dark)


def _still(value):
    """JSON values without what differs from run to run."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not _VOLATILE.search(k)}
        return {k: _still(v) for k, v in kept.items()}
    return [_still(v) for v in value] if isinstance(value, list) else value


def audit(workdir) -> tuple[bytes, str]:
    """Audits, or goes on auditing; the arrays, and what the files say."""
    from ib_keras import files
    from ib_keras.audit import folder as folders
    from ib_keras.audit import runner
    from launch import flags
    from tests.support import runs

    stop = flags.StopRequest()
    config = runs.audit_config(
        num_examples=24,
        epsilon_curve=[0.02],
        threat_model__epsilon=0.05,
        stages__pgd__num_restarts=2,
        stages__pgd__attack__num_steps=4,
        diagnostics__set="quick",
        diagnostics__num_examples=8,
    )
    model = os.path.join(os.environ["AUDIT_FAULTS"], "model")
    runner.audit(config, model, workdir, should_stop=stop, quiet=True)
    arrays = files.read_npz(files.join(workdir, folders.EXAMPLES))
    said = [
        _still(files.read_json(files.join(workdir, name)))
        for name in (folders.SUMMARY, folders.FINDINGS)
    ]
    digest = b"".join(
        name.encode() + arrays[name].tobytes() for name in sorted(arrays)
    )
    return digest, json.dumps(said, sort_keys=True)


def report(workdir) -> tuple[bytes, str]:
    """Writes the page of a finished audit; its bytes."""
    from ib_keras.audit import report as pages

    path = pages.write_page([workdir])
    return pathlib.Path(path).read_bytes(), ""


def verify(workdir) -> tuple[bytes, str]:
    """Verifies a finished audit; what the checks say."""
    from ib_keras.audit import verify as verification
    from ib_keras.errors import UserError

    result = verification.verify(workdir)
    if not result.ok:
        raise UserError(
            "The folder is not what it claims",
            received=", ".join(result.failed),
            expected="an audit as it was written",
            fix="Run the audit again.",
        )
    return b"", json.dumps([check.sentence for check in result.checks])


def _refusable(run):
    """A system whose refusal is an answer, too."""

    def answer(workdir):
        from ib_keras.errors import Interrupted
        from ib_keras.errors import UserError

        try:
            return run(workdir)
        except (UserError, Interrupted) as error:
            return _REFUSED.encode(), str(error)

    return answer


SYSTEMS = {run.__name__: _refusable(run) for run in (audit, report, verify)}


def judge(counts, answer, reference):
    """Counts what the last run of a point ended as; says what is wrong."""
    counts["points"] += 1
    if answer == reference:
        end = "undisturbed"
    elif is_refusal(answer):
        end = "refused"
    else:
        end = "wrong"
    counts[end] += 1
    return end


def is_refusal(answer) -> bool:
    """Whether an answer is a sentence about a fault."""
    return answer is not None and answer[0] == _DIGEST_OF_REFUSAL


_DIGEST_OF_REFUSAL = hashlib.sha256(_REFUSED.encode()).hexdigest()


class Bench:
    """One process that runs systems, and finished folders to begin with."""

    def __init__(self, scratch):
        os.environ["AUDIT_FAULTS"] = scratch
        module = "benchmarks.audit_faults"
        make = [sys.executable, "-m", module, "--make", scratch]
        subprocess.run(make, cwd=faults.ROOT, check=True)
        self.runner = faults.Runner(scratch, module)
        self.done = os.path.join(scratch, "done")
        self.scratch = scratch
        self.references = {}
        self.changes = self._run_reference("audit", self.done)
        for name in ("report", "verify"):
            self._run_reference(name, self.copy())
        self.killed = os.path.join(scratch, "killed")
        # So late that there is something to lose, so early that work is left.
        at = max(self.changes * 2 // 3, 1)
        self.runner.run("audit", self.killed, MODES["killed before"], at)

    def _run_reference(self, system, workdir) -> int:
        """Keeps the answer where nothing happens; the changes of the disk."""
        status, answer, changes = self.runner.run(system, workdir)
        if status != 0 or is_refusal(answer):
            errors = pathlib.Path(self.scratch, "errors").read_text()
            sys.exit(f"{system}: {answer} {errors}")
        self.references[system] = answer
        return changes

    def copy(self, of=None) -> str:
        """A copy of a folder, which the next call removes."""
        place = os.path.join(self.scratch, "work")
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(of or self.done, place)
        return place

    def at_each_change(self, system, mode, stride):
        """Yields what each point of a fault of the disk ends as."""
        for at in range(1, 1 << 20, stride):
            place = os.path.join(self.scratch, "work")
            shutil.rmtree(place, ignore_errors=True)
            if system == "report":
                self.copy()
                pathlib.Path(place, "report.html").unlink(missing_ok=True)
            status, first, changes = self.runner.run(
                system, place, MODES[mode], at
            )
            if changes is not None and changes < at:
                return
            is_raw = status == 1 and first is None
            _, answer, _ = self.runner.run(system, place)
            yield f"change {at}", answer, is_raw

    def altered(self, system, folder):
        """Yields what each file of a folder ends as when it is altered."""
        chance = random.Random(0)
        names = sorted(
            path.relative_to(folder)
            for path in pathlib.Path(folder).rglob("*")
            if path.is_file() and path.name not in ("report.html", "lock.json")
        )
        for name in names:
            data = pathlib.Path(folder, name).read_bytes()
            for what, changed in alterations(data, chance):
                place = pathlib.Path(self.copy(folder), name)
                if changed is None:
                    place.unlink()
                else:
                    place.write_bytes(changed)
                _, answer, _ = self.runner.run(
                    system, os.path.join(self.scratch, "work")
                )
                yield f"{name} {what}", answer, False

    def owners(self):
        """Yields what locks, a second process and a move end as."""
        from ib_keras import workdirs

        this = workdirs._this_process()
        locks = {
            "dead process": {**this, "pid": 1 << 22},
            "number used again": {**this, "started": 1},
            "other start of the host": {**this, "boot": "x"},
            "another host": {**this, "host": "elsewhere"},
            "list": [1],
        }
        for name, lock in locks.items():
            place = self.copy(self.killed)
            path = pathlib.Path(place, workdirs.LOCK_FILE)
            path.write_text(json.dumps(lock))
            yield name, self.runner.run("audit", place)[1], False
        place = self.copy(self.killed)
        moved = f"{place}_moved"
        os.rename(place, moved)
        yield "moved", self.runner.run("audit", moved)[1], False
        shutil.rmtree(moved)

    def two_writers(self):
        """Yields what two processes at one folder end as."""
        other = faults.Runner(
            tempfile.mkdtemp(dir=self.scratch), "benchmarks.audit_faults"
        )
        place = self.copy(self.killed)
        answers = {}

        def run(name, runner):
            answers[name] = runner.run("audit", place)[1]

        both = {"first": self.runner, "second": other}
        threads = [
            threading.Thread(target=run, args=item) for item in both.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        other.close()
        yield from ((name, answers[name], False) for name in both)
        yield "afterwards", self.runner.run("audit", place)[1], False


def alterations(data, chance):
    """(What, bytes) of a file that was damaged; None for one taken away."""
    yield "empty", b""
    yield "half", data[: len(data) // 2]
    yield "less a byte", data[:-1]
    yield "gone", None
    for number in range(4):
        flipped = bytearray(data)
        if flipped:
            at = chance.randrange(8 * len(flipped))
            flipped[at // 8] ^= 1 << at % 8
        yield f"bit {number}", bytes(flipped)


def kinds(bench, stride):
    """(System, fault, points) of the whole table."""
    for system in ("audit", "report"):
        for mode in MODES:
            yield system, mode, bench.at_each_change(system, mode, stride)
    yield "audit", "owners", bench.owners()
    yield "audit", "two writers", bench.two_writers()
    yield "audit", "altered file", bench.altered("audit", bench.killed)
    for system in ("report", "verify"):
        yield system, "altered file", bench.altered(system, bench.done)


def main():
    """Tries all points and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--only", default="")
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--output", default=str(RESULTS))
    options = parser.parse_args()
    if options.make:
        return make_model(options.make)
    if options.serve:
        return faults.serve(options.serve, SYSTEMS)
    with (
        tempfile.TemporaryDirectory() as scratch,
        open(options.output, "w", newline="", buffering=1) as file,
    ):
        bench = Bench(scratch)
        writer = csv.writer(file)
        writer.writerow(["system", "fault", *COUNTS])
        for system, fault, points in kinds(bench, options.stride):
            if not re.search(options.only, f"{system}, {fault}"):
                continue
            counts = collections.Counter()
            for point, answer, is_raw in points:
                end = judge(counts, answer, bench.references[system])
                counts["raw"] += is_raw
                if end == "wrong" or is_raw:
                    print(f"  {system}, {fault}, {point}: {end}", flush=True)
            row = [system, fault, *(counts[name] for name in COUNTS)]
            writer.writerow(row)
            print("  ", *row, flush=True)
        bench.runner.close()


if __name__ == "__main__":
    main()
