"""Workers that do, die, are killed, stop: by workers without TensorFlow."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ib_keras.sweeps import pool
from ib_keras.sweeps.plan import Run
from tests.support import fake_worker


@pytest.fixture
def do(monkeypatch, tmp_path):
    """Does runs of these names; what became of each, and how they died."""
    monkeypatch.setattr(pool.worker, "serve", fake_worker.serve)
    monkeypatch.setattr(pool, "_LOOK_SECONDS", 0.05)
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(name, "1")

    def call(*names, num_workers=1, should_stop=lambda: False, on_look=None):
        ends, deaths = {}, {}
        made = pool.Pool(
            str(tmp_path),
            num_workers,
            on_end=lambda run, word: ends.update({run.name: word}),
            on_death=lambda run, how: deaths.update({run.name: how}),
            on_look=on_look or (lambda at_work: None),
        )
        runs = [Run(name, {}, {}, {}, None) for name in names]
        made.do(runs, should_stop)
        return ends, deaths

    yield call
    # Nobody is left behind.
    for name in os.listdir(tmp_path):
        for pid in fake_worker.pids(tmp_path, name):
            with pytest.raises(ProcessLookupError):
                os.kill(int(pid), 0)


def pids(tmp_path, *names):
    return [fake_worker.pids(tmp_path, name) for name in names]


def test_one_worker_does_all_runs_in_their_order(do, tmp_path):
    ends, deaths = do("a", "bad_b", "c")
    assert ends == {"a": "done", "bad_b": "diverged", "c": "done"}
    assert list(ends) == ["a", "bad_b", "c"]
    assert not deaths
    a, b, c = pids(tmp_path, "a", "bad_b", "c")
    assert a == b == c
    assert len(a) == 1


def test_two_workers_share_the_runs(do, tmp_path):
    seen = []
    ends, _ = do("a", "b", "c", "d", num_workers=2, on_look=seen.append)
    assert set(ends.values()) == {"done"}
    used = {p for pid in pids(tmp_path, "a", "b", "c", "d") for p in pid}
    assert len(used) == 2
    assert seen


def test_a_worker_is_renewed_after_some_runs(do, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "RUNS_PER_WORKER", 2)
    do("a", "b", "c", "d", "e")
    a, b, c, d, e = pids(tmp_path, "a", "b", "c", "d", "e")
    assert a == b != c == d != e


def test_a_run_whose_worker_died_is_tried_again_by_another(do, tmp_path):
    ends, deaths = do("once_a", "b")
    assert ends == {"once_a": "done", "b": "done"}
    assert not deaths
    ((first, second), (b,)) = pids(tmp_path, "once_a", "b")
    assert first != second == b


def test_a_worker_that_is_stopped_gives_its_run_to_another(do, tmp_path):
    ends, deaths = do("leave_a", "b")
    assert ends == {"leave_a": "done", "b": "done"}
    assert not deaths


@pytest.mark.parametrize(
    ("name", "how"),
    [("die_a", "killed by SIGKILL"), ("exit_a", "exit status 76")],
)
def test_a_run_that_kills_twice_is_given_up_and_others_go_on(
    do, tmp_path, name, how
):
    ends, deaths = do(name, "b", "c")
    assert ends == {"b": "done", "c": "done"}
    assert deaths == {name: f"{how}, while training"}
    assert len(pids(tmp_path, name)[0]) == 2


def test_stopping_asks_active_workers_and_drops_the_rest(do, tmp_path):
    def should_stop():
        return bool(pids(tmp_path, "long_b")[0])

    ends, deaths = do(
        "long_a", "long_b", "c", num_workers=2, should_stop=should_stop
    )
    assert ends == {"long_a": "interrupted", "long_b": "interrupted"}
    assert not deaths
    assert pids(tmp_path, "c") == [[]]


def test_signals_are_held_back_from_the_very_first_process():
    """Which also starts Python's tracker of resources: that lets them in."""
    lines = (
        "import signal",
        "from multiprocessing import resource_tracker",
        "from ib_keras.sweeps import pool",
        "with pool._held_back():",
        "    resource_tracker.getfd()",
        "    print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))",
    )
    found = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "SIGINT" in found.stdout and "SIGTERM" in found.stdout


def test_a_signal_to_all_reaches_a_worker_only_through_the_pool(do, tmp_path):
    """Ctrl-C on a terminal goes to the workers too; they leave it to us."""
    asked = []

    def interrupt():
        while not pids(tmp_path, "long_a")[0]:
            time.sleep(0.01)
        os.kill(int(pids(tmp_path, "long_a")[0][0]), signal.SIGINT)
        time.sleep(0.2)
        asked.append(1)

    thread = threading.Thread(target=interrupt)
    thread.start()
    ends, deaths = do("long_a", should_stop=lambda: bool(asked))
    thread.join()
    assert ends == {"long_a": "interrupted"}
    assert not deaths


def test_a_bug_leaves_no_worker(do, tmp_path):
    def on_look(at_work):
        if [(r.name, what) for r, what in at_work] == [("long_a", "training")]:
            raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        do("long_a", on_look=on_look)


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "7")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    pool.share_cores(3)
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "2"
    assert os.environ["TF_NUM_INTEROP_THREADS"] == "7"  # As the user says.
