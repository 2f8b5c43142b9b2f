"""Tasks in their order, and done in this process without Dask."""

import os
import pathlib
import subprocess
import sys

from ib_keras.cluster import schedulers
from ib_keras.cluster import tasks
from ib_keras.cluster.tasks import Task
from tests.support import cluster_tasks
from tests.support import runs


def task(name, *after, group="", folder=""):
    arguments = {"folder": str(folder), "name": name}
    return Task(name, cluster_tasks.CALL, arguments, after, group)


def take_all(queue, group="", busy=()):
    taken = []
    while (found := queue.take(group, busy)) is not None:
        taken.append(found.key)
        queue.set_done(found)
    return taken


def test_a_task_comes_after_those_before_it():
    listed = [task("a", "c", "b"), task("b", "c"), task("c"), task("d", "old")]
    assert take_all(tasks.Queue(listed)) == ["c", "d", "b", "a"]


def test_a_process_goes_on_with_its_group_and_leaves_those_of_others():
    listed = [
        task("a0", group="a"),
        task("b0", group="b"),
        task("a1", group="a"),
        task("c0", group="c"),
    ]
    queue = tasks.Queue(listed)
    assert queue.take("b", ["a"]).key == "b0"
    assert queue.take("b", ["a"]).key == "c0"
    assert queue.take("b", ["a"]).key == "a0"
    assert queue.take("a", ["a"]).key == "a1"
    assert queue.take() is None
    queue.give_back(listed[1])
    assert queue.take().key == "b0"


def test_tasks_in_this_process(tmp_path):
    listed = [task(n, folder=tmp_path) for n in ("a", "bad_b")]
    listed.append(task("c", "bad_b", folder=tmp_path))
    found = list(tasks.run_here(listed, lambda: False))
    assert [(o.task.key, o.status) for o in found] == [
        ("a", tasks.DONE),
        ("bad_b", tasks.FAILED),
    ]
    assert found[1].error.startswith("UserError: Planted.")


def test_stopping_in_this_process(tmp_path):
    def should_stop():
        return pathlib.Path(tmp_path, "long_b").exists()

    listed = [task(n, folder=tmp_path) for n in ("a", "long_b", "c")]
    found = list(tasks.run_here(listed, should_stop))
    assert [o.status for o in found] == [tasks.DONE, tasks.INTERRUPTED]


def test_a_task_that_raises_does_not_end_the_others(tmp_path):
    listed = [task(n, folder=tmp_path) for n in ("raise_a", "b")]
    found = list(tasks.run_here(listed, lambda: False))
    assert [o.status for o in found] == [tasks.FAILED, tasks.DONE]
    assert found[0].error == "MemoryError: planted"
    assert "in do" in found[0].trace


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "7")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    schedulers.share_cores(3)
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "2"
    assert os.environ["TF_NUM_INTEROP_THREADS"] == "7"  # As the user says.


def test_schedulers_that_are_none_are_refused():
    for name in ("", "Local", "tcp://host", "host:8786", "http://host:8786"):
        error = runs.refused(schedulers.check, name)
        assert error.received == f"--scheduler={name}"


def test_a_local_path_with_a_remote_scheduler_is_refused():
    for scheduler in ("tcp://10.0.0.2:8786", "slurm"):
        error = runs.refused(schedulers.check, scheduler, ["/a", "studies/b"])
        assert error.received == f"studies/b with --scheduler={scheduler}"
        schedulers.check(scheduler, ["/a", "gs://bucket/b"])
    schedulers.check("local", ["studies/b"])


def test_without_the_extra_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(schedulers.importlib.util, "find_spec", lambda n: None)
    monkeypatch.setitem(sys.modules, "distributed", None)
    error = runs.refused(schedulers.check, "local")
    assert error.fix == 'Run pip install "ib_keras[cluster]".'


def test_nothing_here_imports_dask_before_it_is_used():
    code = (
        "import sys, ib_keras.cluster.engine\n"
        "print({'dask', 'distributed', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"
