"""A child that is started before it is asked, and answers that are kept."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from ib_keras.audit import safety
from ib_keras.audit.safety import child
from ib_keras.audit.safety import probe
from ib_keras.errors import UserError
from tests.support import hostile
from tests.support import runs


@pytest.fixture
def jobs(monkeypatch):
    """The jobs of all children, which only read here, in this process."""
    started = []

    class Reader:
        def __init__(self, command, environment):
            self._job = json.loads(command[-1])
            started.append(self._job)
            self.output = self.errors = b""

        def listen(self, is_enough, seconds):
            job = self._job
            report = safety.inspect(
                job["place"],
                job["path"],
                job["allow_ops"],
                safety.Limits(**job["limits"]),
            )
            report.probe = {}
            lines = [{"answer": {"report": report.to_json()}}, {"larger": []}]
            self.output = b"".join(
                json.dumps(line).encode() + b"\n" for line in lines
            )

        def end(self):
            return 0

    monkeypatch.setattr(probe, "Process", Reader)
    return started


def test_a_check_takes_the_child_that_was_started(tmp_path, jobs):
    path = hostile.honest(tmp_path / "model")
    probe.start(path + "/")
    home = pathlib.Path(jobs[0]["home"])
    assert home.is_dir()
    report = safety.check(path)
    assert len(jobs) == 1 and report.probe == {}
    assert not home.exists()


def test_an_answer_is_valid_while_all_files_are(tmp_path, jobs):
    path = hostile.honest(tmp_path / "model")
    first = safety.check(path)
    first.notes.append("ours alone")
    second = safety.check(path)
    assert len(jobs) == 1
    assert second.files == first.files and "ours alone" not in second.notes
    pathlib.Path(path, "assets").mkdir(exist_ok=True)
    pathlib.Path(path, "assets", "more").write_text("x")
    third = safety.check(path)
    assert len(jobs) == 2 and third.files != first.files


def test_other_questions_are_asked_again(tmp_path, jobs):
    path = hostile.honest(tmp_path / "model")
    probe.start(path)
    safety.check(path, limits=safety.Limits(seconds=7.0))
    assert len(jobs) == 2
    safety.check(path, allow_ops=["ReadFile"])
    assert len(jobs) == 3
    same = shutil.copytree(path, tmp_path / "same")
    safety.check(str(same))
    assert len(jobs) == 4
    safety.check(path)
    assert len(jobs) == 4


def test_what_changes_after_the_answer_is_not_loaded(tmp_path, jobs):
    path = hostile.honest(tmp_path / "model")
    report = safety.check(path)
    with open(pathlib.Path(path, "variables", "variables.index"), "ab") as file:
        file.write(b"x")
    with (
        pytest.raises(UserError, match="changed since it was checked"),
        safety.loadable(path, report),
    ):
        pass


def test_no_child_is_started_for_a_remote_model(jobs):
    probe.start("gs://bucket/model")
    assert not jobs


_PARENT = """
import os, signal, sys
from ib_keras.audit.safety import probe
probe.start(sys.argv[1])
(started,) = probe._pending.values()
print(started._process._child.pid, started._home.name, flush=True)
assert "tensorflow" not in sys.modules
"""


@pytest.mark.parametrize(
    "end", ["sys.exit(2)", "raise KeyboardInterrupt", "os.kill(os.getpid(), 9)"]
)
def test_the_child_ends_with_its_parent(tmp_path, end):
    done = subprocess.run(
        [sys.executable, "-c", _PARENT + end, str(tmp_path)],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    pid, home = done.stdout.split()
    assert done.returncode not in (0, 99)
    until = time.monotonic() + 60
    while _lives(int(pid)):
        assert time.monotonic() < until
        time.sleep(0.05)
    if "kill" in end:  # Nobody was left to clean up.
        shutil.rmtree(home)
    assert not os.path.exists(home)


def _lives(pid):
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_the_child_needs_no_keras():
    # Imported here it has what it imports; a fresh one is asked.
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from ib_keras import lazy; lazy.tensorflow();"
            f" import {child.__name__};"
            " found = {'keras', 'tensorflow_probability', 'matplotlib'};"
            " sys.exit(len(found & set(sys.modules)))",
        ],
        cwd=runs.ROOT,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0
