"""A workdir is written by one process at a time, whatever became of it."""

import os
import signal
import socket
import time

import pytest

from ib_keras import files
from ib_keras import workdirs
from tests.support import runs

HOLDING = """
import sys, time
from ib_keras import workdirs
with workdirs.lock(sys.argv[1], print):
    print("held", flush=True)
    time.sleep(1000)
"""


def lock_file(folder):
    return os.path.join(folder, workdirs.LOCK_FILE)


def write_lock(folder, **changes):
    """The lock of a living process, this one's parent, but for changes."""
    owner = {
        "host": socket.gethostname(),
        "boot": workdirs._boot_id(),
        "pid": os.getppid(),
        "started": workdirs._started(os.getppid()),
        "token": "another",
        "renewals": 0,
    }
    files.write_json(lock_file(folder), owner | changes)


def take(folder):
    """Takes and gives back the lock; what was said."""
    said = []
    with workdirs.lock(str(folder), said.append):
        assert os.path.exists(lock_file(folder))
    assert not os.path.exists(lock_file(folder))
    return said


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(workdirs, "_WATCH_SECONDS", 0.3)
    monkeypatch.setattr(workdirs, "_RENEW_SECONDS", 0.05)


def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path):
    process = runs.Process(str(tmp_path), code=HOLDING)
    process.wait_for(lambda: "held" in process.read("output"))
    for function in (
        lambda: workdirs.check_free(str(tmp_path)),
        lambda: take(tmp_path),
        lambda: runs.loop.train(runs.smoke_config(), str(tmp_path)),
    ):
        files.write_json(tmp_path / "config.json", runs.smoke_config())
        began = time.monotonic()
        error = runs.refused(function)
        assert time.monotonic() - began < 2
        assert error.what == "The workdir is in use by another process"
        name = f"process {process.pid} on {socket.gethostname()}"
        assert name in error.received
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert os.path.exists(lock_file(tmp_path))
    workdirs.check_free(str(tmp_path))
    assert take(tmp_path) == [
        f"Taking {tmp_path} over from {name}, which is gone."
    ]


def test_a_thread_of_the_same_process_is_refused_too(tmp_path):
    with workdirs.lock(str(tmp_path), print):
        runs.refused(workdirs.check_free, str(tmp_path))
        runs.refused(take, tmp_path)
    assert take(tmp_path) == []


GONE = {
    "a number that no process has": {"pid": 2**22 + 1},
    "a number used again": {"started": 1},
    "the host was started again": {"boot": "another"},
    "no number": {"pid": None},
}


@pytest.mark.parametrize("changes", GONE.values(), ids=GONE.keys())
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, changes):
    write_lock(tmp_path, **changes)
    workdirs.check_free(str(tmp_path))
    (line,) = take(tmp_path)
    assert line.startswith(f"Taking {tmp_path} over from process ")


def test_the_lock_of_a_running_process_is_kept(tmp_path):
    """What the planted changes alone make a dead one's."""
    write_lock(tmp_path)
    before = runs.snapshot(tmp_path)
    runs.refused(take, tmp_path)
    assert runs.snapshot(tmp_path) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 3}'])
def test_a_damaged_lock_is_ignored(tmp_path, text, impatient):
    (tmp_path / workdirs.LOCK_FILE).write_text(text)
    take(tmp_path)


def test_the_lock_of_another_host_is_watched(tmp_path, impatient):
    write_lock(tmp_path, host="elsewhere")
    workdirs.check_free(str(tmp_path))  # A look at it cannot say.
    watching, taking = take(tmp_path)
    assert "elsewhere; watching for" in watching
    assert taking.endswith("on elsewhere, which is gone.")


def test_the_renewed_lock_of_another_host_is_kept(
    tmp_path, impatient, monkeypatch
):
    """Two hosts: the one that holds it, and the one that comes later."""
    with workdirs.lock(str(tmp_path), print):
        monkeypatch.setattr(workdirs.socket, "gethostname", lambda: "later")
        error = runs.refused(workdirs.lock(str(tmp_path), print).__enter__)
        assert f"process {os.getpid()} on " in error.received
        assert "on later" not in error.received


def test_a_process_that_lost_its_lock_stops_and_leaves_it(tmp_path, impatient):
    with workdirs.lock(str(tmp_path), print) as lock:
        lock.check()
        write_lock(tmp_path)
        deadline = time.monotonic() + 20
        while lock._lost is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "in use" in str(runs.refused(lock.check))
    assert files.read_json(lock_file(tmp_path))["token"] == "another"


@pytest.mark.parametrize("jump", [-86400.0, 86400.0, 1e9])
def test_a_clock_that_jumps_steals_no_lock(tmp_path, monkeypatch, jump):
    write_lock(tmp_path)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + jump)
    os.utime(lock_file(tmp_path), (now - jump, now - jump))
    runs.refused(take, tmp_path)


def test_a_lock_may_be_remote(impatient):
    folder = "ram://workdirs_test/run"
    files.make_folder(folder)
    with workdirs.lock(folder, print):
        assert files.listdir(folder) == [workdirs.LOCK_FILE]
        runs.refused(workdirs.check_free, folder)
        time.sleep(0.2)
        assert files.read_json(lock_file(folder))["renewals"] > 0
    assert files.listdir(folder) == []
