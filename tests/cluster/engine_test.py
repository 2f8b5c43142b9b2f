"""Tasks that are done, fail, die and stop, on workers of this machine."""

import os
import signal
import threading
import time

import pytest

from ib_keras.cluster import engine
from ib_keras.cluster import schedulers
from ib_keras.cluster import tasks
from ib_keras.cluster.tasks import Task
from tests.support import cluster_tasks
from tests.support import runs

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def client():
    with schedulers.connect("local", 2, retries=1) as made:
        yield made


@pytest.fixture
def do(client, tmp_path):
    """Does tasks of these names; the outcomes by name."""

    def call(*names, should_stop=lambda: False, after=None, group=""):
        listed = [
            Task(
                name,
                cluster_tasks.CALL,
                {"folder": str(tmp_path), "name": name},
                (after or {}).get(name, ()),
                group,
            )
            for name in names
        ]
        made = engine.Engine(client, retries=1)
        made.check(wait=60)
        deadline = time.monotonic() + 120

        def asks_to_stop():
            assert time.monotonic() < deadline, "the tasks do not end"
            return should_stop()

        return {o.task.key: o for o in made.run(listed, asks_to_stop)}

    return call


def begun(tmp_path, name):
    return len(cluster_tasks.pids(tmp_path, name))


def test_tasks_are_done_once_and_in_their_order(do, tmp_path):
    found = do("a", "b", "c", after={"a": ("b",), "b": ("c",)})
    assert list(found) == ["c", "b", "a"]
    for name, outcome in found.items():
        assert outcome.status == tasks.DONE
        assert outcome.value == {"name": name}
        assert outcome.tries == begun(tmp_path, name) == 1
        assert outcome.worker.startswith("tcp://127.0.0.1:")


def test_what_cannot_be_mended_is_not_tried_again(do, tmp_path):
    found = do("bad_a", "b", "c", after={"c": ("bad_a",)})
    assert found["bad_a"].status == tasks.FAILED
    assert found["bad_a"].error.startswith("UserError: Planted. Received: 1")
    assert found["bad_a"].tries == begun(tmp_path, "bad_a") == 1
    assert found["b"].status == tasks.DONE
    assert "c" not in found
    assert not begun(tmp_path, "c")


def test_other_errors_are_tried_again(do, tmp_path):
    found = do("raise_a", "odd_b")
    assert found["raise_a"].status == tasks.FAILED
    assert found["raise_a"].error == "MemoryError: planted"
    assert 'raise MemoryError("planted")' in found["raise_a"].trace
    assert found["raise_a"].tries == begun(tmp_path, "raise_a") == 2
    assert found["odd_b"].status == tasks.DONE
    assert begun(tmp_path, "odd_b") == 2


def test_a_task_that_ends_its_workers_fails_alone(do, tmp_path):
    others = [f"slow_{i}" for i in range(6)]
    found = do("die_a", "once_b", *others)
    failed = [n for n, o in found.items() if o.status == tasks.FAILED]
    assert failed == ["die_a"]
    # Once more if it only waited at a worker that the other has ended.
    assert begun(tmp_path, "die_a") in (2, 3)
    assert 1 <= found["die_a"].tries <= 3
    assert found["die_a"].error.startswith("The worker was lost ")
    assert found["die_a"].worker.startswith("tcp://127.0.0.1:")
    assert set(found) == {"die_a", "once_b", *others}
    # And once more for each time that its result was lost with a worker that
    # the other has ended.
    most = 2 + begun(tmp_path, "die_a")
    assert 2 <= begun(tmp_path, "once_b") <= most


def test_no_other_thread_draws_from_the_generator_of_a_training(do):
    """Keras draws initial weights from Python's own, and so does Dask."""
    found = do("draw_a")
    assert found["draw_a"].value == {"is_same": True}


def test_a_worker_that_gets_sigterm_saves_and_another_goes_on(do, tmp_path):
    def end():
        while not begun(tmp_path, "leave_a"):
            time.sleep(0.02)
        time.sleep(0.2)
        (pid,) = cluster_tasks.pids(tmp_path, "leave_a")
        os.kill(pid, signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    found = do("leave_a", "b")
    thread.join()
    assert {o.status for o in found.values()} == {tasks.DONE}
    assert (tmp_path / "leave_a.saved").exists()
    assert begun(tmp_path, "leave_a") == 2


def test_stopping_lets_active_tasks_save_and_drops_the_rest(
    do, client, tmp_path
):
    # The worker that left in the test before is being replaced.
    client.wait_for_workers(2, timeout=60)

    def should_stop():
        return bool(begun(tmp_path, "long_b"))

    found = do("long_a", "long_b", "c", should_stop=should_stop)
    assert not found
    assert (tmp_path / "long_a.saved").exists()
    assert (tmp_path / "long_b.saved").exists()
    assert not begun(tmp_path, "c")


def test_the_workers_are_back_and_share_the_tasks(do, client, tmp_path):
    deadline = time.monotonic() + 60
    while len(client.nthreads()) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    names = [f"slow_{i}" for i in range(4)]
    found = do(*names)
    assert len({o.worker for o in found.values()}) == 2


def test_a_worker_is_renewed_after_some_tasks(client, tmp_path):
    made = engine.Engine(client, retries=1, renew_after=2)
    made.check(60)
    arguments = {"folder": str(tmp_path)}
    listed = [
        Task(n, cluster_tasks.CALL, arguments | {"name": n})
        for n in ("a", "b", "c", "d", "e", "f")
    ]
    found = list(made.run(listed, lambda: False))
    assert {o.status for o in found} == {tasks.DONE}
    by_worker = [o.worker for o in found]
    # One more where it had its next task already.
    assert max(map(by_worker.count, by_worker)) <= 3


def test_a_worker_of_another_version_is_refused(client, monkeypatch):
    monkeypatch.setattr(engine, "__version__", "9.9")
    error = runs.refused(engine.Engine(client).check, 60)
    assert error.what == "A worker has another version of ib_keras"
    assert error.expected == "9.9"


def test_a_worker_that_does_not_see_the_folder_is_refused(client, tmp_path):
    made = engine.Engine(client, seen=str(tmp_path / "study.json"))
    error = runs.refused(made.check, 60)
    assert error.what == "A worker does not see the workdir"
    (tmp_path / "study.json").touch()
    made.check(60)


def test_workers_of_several_threads_are_refused():
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        dashboard_address=None,
        worker_dashboard_address=None,
    ) as cluster:
        address = cluster.scheduler_address
        with distributed.Client(cluster, set_as_default=False) as client:
            error = runs.refused(engine.Engine(client).check, 60)
    assert error.received.startswith("2 threads of ")
    assert address


def test_a_worker_may_be_lost_while_it_is_greeted(do, monkeypatch):
    """Dask then fails to send it what all workers get."""
    add, calls = engine.Engine._add_signals, []

    def lose_once(self):
        calls.append(1)
        if len(calls) == 1:
            raise distributed.comm.core.CommClosedError("planted")
        add(self)

    monkeypatch.setattr(engine.Engine, "_add_signals", lose_once)
    assert do("slow_a", "slow_b")["slow_b"].status == tasks.DONE
    assert len(calls) >= 2


def test_without_any_worker_it_gives_up():
    """Rather than wait for ever for a process that does not come back."""
    with (
        distributed.LocalCluster(
            n_workers=0, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        made = engine.Engine(client, patience=0.5)
        task = Task("a", cluster_tasks.CALL, {})
        error = runs.refused(list, made.run([task], lambda: False))
    assert (
        error.what == "All workers are lost, and none has come in their place"
    )
    assert error.received == "no worker for 0.5 s"


def test_no_scheduler_at_the_address(monkeypatch):
    monkeypatch.setattr(schedulers, "_TIMEOUT", 0.5)
    connect = schedulers.connect("tcp://127.0.0.1:9", 1, 1)
    error = runs.refused(connect.__enter__)
    assert error.what == "No scheduler answers at this address"
    assert "tcp://127.0.0.1:9" in error.received
