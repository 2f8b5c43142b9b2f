r"""Whether a long audit grows: memory, handles, threads, folders left behind.

python -m benchmarks.memory_growth --saved_model=DIR [--num_examples=10000]
    [--num_restarts=50] [--output=results/memory_growth.json]

One audit of MNIST in a process of its own, whose temporary folder nobody else
uses. From the first batch of the attacks to the end its memory (without mapped
files), open handles and threads are asked ten times a second; the medians of
the first and of the last tenth are compared. What is left in the temporary
folder is listed after success, an error, SIGTERM and SIGKILL, and
after the run that follows.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import meter

MEASURES = ("megabytes", "handles", "threads")


def _sample(pid: int) -> dict[str, float]:
    """Memory, handles and threads of a process at this moment."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    about = dict(
        line.split(":", 1) for line in status.splitlines() if ":" in line
    )
    return {
        "megabytes": int(about["RssAnon"].split()[0]) / 1024,
        "handles": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(about["Threads"]),
    }


class Audits:
    """Starts audits whose temporary files are in a folder of their own."""

    def __init__(self, options, scratch):
        self._options = options
        self.scratch = pathlib.Path(scratch)
        self.temporary = self.scratch / "tmp"
        self.temporary.mkdir()

    def start(self, name: str, *more: str) -> subprocess.Popen:
        """Starts the audit of a workdir."""
        command = [
            sys.executable,
            "-m",
            "launch.audit",
            "--config=configs/audits/pgd_restarts.py",
            f"--saved_model={self._options.saved_model}",
            f"--workdir={self.scratch / name}",
            f"--config.num_examples={self._options.num_examples}",
            f"--config.stages.pgd.num_restarts={self._options.num_restarts}",
            "--config.diagnostics.set=none",
            "--quiet",
            *more,
        ]
        return subprocess.Popen(
            command,
            cwd=meter.ROOT,
            env={**os.environ, "TMPDIR": str(self.temporary)},
            stdout=subprocess.DEVNULL,
        )

    def has_begun(self, name: str) -> bool:
        """Whether the attacks have saved anything yet."""
        return any((self.scratch / name).glob("*.npz"))

    def left(self) -> list[str]:
        """What there is in the temporary folder."""
        return sorted(os.listdir(self.temporary))


def watch(audits: Audits) -> dict[str, dict[str, float]]:
    """Runs an audit to its end; medians of the first and of the last tenth."""
    samples = []
    process = audits.start("whole")
    while process.poll() is None:
        if samples or audits.has_begun("whole"):
            with contextlib.suppress(OSError, KeyError):
                samples.append(_sample(process.pid))
        time.sleep(0.1)
    if process.returncode or len(samples) < 20:
        sys.exit(f"The audit ended by {process.returncode}.")
    tenth = len(samples) // 10
    return {
        measure: {
            "first tenth": statistics.median(s[measure] for s in part),
            "last tenth": statistics.median(s[measure] for s in last),
        }
        for measure in MEASURES
        for part, last in [(samples[:tenth], samples[-tenth:])]
    }


def interrupt(audits: Audits, number: signal.Signals) -> list[str]:
    """What is left when a signal ends an audit after its first batch."""
    process = audits.start(number.name)
    while process.poll() is None and not audits.has_begun(number.name):
        time.sleep(0.05)
    process.send_signal(number)
    process.wait()
    return audits.left()


def main():
    """Measures and writes the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saved_model", required=True)
    parser.add_argument("--num_examples", type=int, default=10_000)
    parser.add_argument("--num_restarts", type=int, default=50)
    parser.add_argument("--output")
    options = parser.parse_args()
    options.saved_model = os.path.abspath(options.saved_model)
    with tempfile.TemporaryDirectory() as scratch:
        audits = Audits(options, scratch)
        found = {"growth": watch(audits), "left": {}}
        left = found["left"]
        left["after success"] = audits.left()
        audits.start("error", "--config.mode=planted").wait()
        left["after an error"] = audits.left()
        left["after SIGTERM"] = interrupt(audits, signal.SIGTERM)
        left["after SIGKILL"] = interrupt(audits, signal.SIGKILL)
        for name in left["after SIGKILL"]:
            # The next run takes away what has been there for a minute.
            os.utime(audits.temporary / name, (0, 0))
        audits.start("error", "--config.mode=planted").wait()
        audits.start("SIGKILL").wait()
        left["after the next run"] = audits.left()
    text = json.dumps(found, indent=2)
    print(text)
    if options.output:
        pathlib.Path(options.output).write_text(text + "\n")


if __name__ == "__main__":
    main()
