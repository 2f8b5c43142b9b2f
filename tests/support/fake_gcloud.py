"""A stand-in for `gcloud`: a cloud in a folder, with workers that run bash.

Called as `launch.cloud.gcloud.call` is. The folder has a home for each worker
of the VM, on which ssh runs the command for real; of a Python it has one that
makes venvs without packages and notes what pip is told.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

# States in which a VM has no machine any more.
GONE = ("SUSPENDING", "SUSPENDED", "FAILED", "PREEMPTED", "TERMINATED")
MISSING = 1, "", "ERROR: NOT_FOUND: Resource was not found"
PYTHON = """#!/bin/bash
case "$1 $2 $3" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m uv venv") echo "${@:2}" >>"$PIP_LOG"
    mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
  "-m pip "*) echo "${@:4}" >>"$PIP_LOG" ;;
  *) exec %s "$@" ;;
esac
"""


class FakeCloud:
    """A project without a VM.

    Args:
        folder: Empty.
        workers: How many a VM has.
        lives: The states of each VM that is created: one more at each look,
            the last one stays. "ACTIVE" without end once there are no more.
    """

    def __init__(self, folder: pathlib.Path, workers=1, lives=()):
        self.folder = folder
        self.workers = workers
        self.lives = [list(states) for states in lives]
        self.states = []  # Of the request that exists, now and to come.
        self.node = None
        self.calls = []
        self.failures = []
        self.pip_log = folder / "pip"
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.program("python3.11", PYTHON % sys.executable)

    def program(self, name, text):
        """Puts a program on the PATH of all workers."""
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def fail(self, of, status, said, times=1):
        """Makes the next calls with these words fail."""
        self.failures += [(of, (status, "", said))] * times

    def home(self, worker=0):
        return self.folder / f"worker-{worker}"

    def homes(self):
        return sorted(self.folder.glob("worker-*"))

    def end_workers(self):
        """Takes the machines away, with what runs on them."""
        for home in self.homes():
            with contextlib.suppress(OSError, ValueError):
                pid = (home / "ib_keras_vm/run/pid").read_text().split()[0]
                os.killpg(int(pid), signal.SIGKILL)
            shutil.rmtree(home, ignore_errors=True)

    def __call__(self, words, timeout):
        if words[0] == "tar":
            return subprocess.run(words, cwd=self.folder).returncode, "", ""
        assert words[:3] == ["gcloud", "compute", "tpus"]
        flags = dict(w[2:].partition("=")[::2] for w in words if w[:2] == "--")
        assert {"zone", "project", "quiet"} <= set(flags)
        self.calls.append(call := " ".join(words[3:5]))
        if self.failures and self.failures[0][0] == call:
            return self.failures.pop(0)[1]
        names = [word for word in words[5:] if word[:2] != "--"]
        action = call.replace(" ", "_").replace("-", "_")
        return getattr(self, action)(names, flags)

    def queued_resources_create(self, names, flags):
        if self.states:
            return 1, "", "ERROR: ALREADY_EXISTS: Resource already exists"
        assert flags["runtime-version"]
        self.states = self.lives.pop(0) if self.lives else ["ACTIVE"]
        self.node = flags["node-id"]
        return 0, "", ""

    def queued_resources_describe(self, names, flags):
        if not self.states:
            return MISSING
        state = self.states[0]
        self.states = self.states[1:] or self.states
        if state in GONE:
            self.end_workers()
        elif state == "ACTIVE":
            for index in range(self.workers):
                self.home(index).mkdir(exist_ok=True)
        return 0, json.dumps({"state": {"state": state}}), ""

    def queued_resources_delete(self, names, flags):
        if not self.states:
            return MISSING
        assert "force" in flags
        self.states, self.node = [], None
        self.end_workers()
        return 0, "", ""

    def tpu_vm_describe(self, names, flags):
        if not self.homes():
            return MISSING
        return 0, json.dumps({"state": "READY"}), ""

    def tpu_vm_delete(self, names, flags):
        found = 0, "", ""
        return found if self.homes() else MISSING

    def tpu_vm_scp(self, names, flags):
        source, target = names
        for home in self.homes():
            shutil.copy(self.folder / source, home / target.split(":")[1])
        return 0, "", ""

    def tpu_vm_ssh(self, names, flags):
        assert names == [self.node]
        homes = self.homes()
        if not homes:
            return 1, "", "This TPU cannot be used anymore."
        if flags["worker"] != "all":
            homes = [homes[int(flags["worker"])]]
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        more = {"PATH": path, "PIP_LOG": str(self.pip_log)}
        status, printed, said = 0, "", "SSH: Attempting to connect...\n"
        for home in homes:
            done = subprocess.run(
                ["bash", "-c", flags["command"]],
                cwd=home,
                env=os.environ | more | {"HOME": str(home)},
                capture_output=True,
                text=True,
            )
            status = status or done.returncode
            printed, said = printed + done.stdout, said + done.stderr
        return status, printed, said
