"""Studies that are stopped, killed and resumed, by calls without TensorFlow."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from ib_keras.cluster import schedulers
from ib_keras.errors import Interrupted
from ib_keras.studies import folder
from ib_keras.studies import study
from tests.studies import plan_test
from tests.support import runs
from tests.support import study_calls

pytest.importorskip("distributed")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "CALLS", "tests.support.study_calls")
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(name, "1")
    for name in ("one", "two"):
        plan_test.write_model(tmp_path / "models" / name, name)
    return tmp_path


def make_plan(root, *models, size=3, diagnostics="quick"):
    names = models or ("one", "two")
    paths = [str(root / "models" / name) for name in names]
    protocols = {"fgs": {"protocol": "fgs_epsilons", "num_examples": 8}}
    protocols["fgs"]["diagnostics"] = {"set": diagnostics}
    asked = plan_test.config(
        *paths, protocols=protocols, examples_per_part=size
    )
    return plan_test.make(asked, root / "study")


def run(root, plan=None, **more):
    plan = plan or make_plan(root)
    more = {"num_workers": 2, "retries": 1, "quiet": True} | more
    return study.run(plan, str(root / "study"), **more)


def plant(root, **deeds):
    """What happens in parts, by names such as one_0 for that from 0 on."""
    ends = {0: 3, 3: 6, 6: 8}
    found = {}
    for name, deed in deeds.items():
        model, _, first = name.partition("_")
        key = f"{model}/fgs {first}-{ends.get(int(first or 0))}"
        found[key if first else f"check {root}/models/{model}"] = deed
    (root / "deeds.json").write_text(json.dumps(found))


def begun(root):
    """How often each part was begun."""
    place = root / "begun"
    names = sorted(os.listdir(place)) if place.exists() else []
    return {n: len((place / n).read_text().split()) for n in names}


def failures(root):
    path = root / "study" / folder.FAILURES
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


ONCE = {
    f"{model}_fgs {part}": 1
    for model in ("one", "two")
    for part in ("0-3", "3-6", "6-8")
}


def test_every_part_is_attacked_once_and_merged(root):
    keys = []
    result = run(root, on_outcome=lambda o: keys.append(o.task.key))
    assert (result.num_done, result.num_jobs) == (2, 2)
    assert result.failures == ()
    assert begun(root) == ONCE
    assert len(keys) == len(set(keys)) == result.num_tasks == 12
    assert keys.index("merge:one/fgs") > keys.index("attack:one/fgs:6-8")
    assert 0 < result.busy_seconds
    places = [place for *_, place in folder.finished(str(root / "study"))]
    assert places == [f"{root}/study/audits/{m}/fgs" for m in ("one", "two")]
    # Again, there is nothing left to do, and nothing is connected.
    again = run(root, scheduler="tcp://127.0.0.1:9")
    assert again.num_done == 2
    assert begun(root) == ONCE


def test_a_part_that_ends_every_worker_fails_alone(root):
    plant(root, one_3="die", two_0="once")
    result = run(root)
    assert result.num_done == 1
    (failure,) = failures(root)
    assert failure["job"] == "one/fgs"
    assert failure["step"] == "attack"
    assert failure["range"] == [3, 6]
    assert 1 <= failure["tries"] <= 3
    assert failure["error"].startswith("The worker was lost ")
    assert failure["worker"].startswith("tcp://127.0.0.1:")
    # Others were begun again at most where an answer was lost with a worker.
    assert set(begun(root)) == set(ONCE)
    count = begun(root)["one_fgs 3-6"]
    assert count in (2, 3)
    assert 2 <= begun(root)["two_fgs 0-3"] <= 2 + count
    # The same command tries it again, and nothing else.
    plant(root)
    assert run(root).num_done == 2
    assert failures(root) == []
    assert begun(root)["one_fgs 3-6"] == count + 1


def test_an_unsafe_model_fails_once_and_others_go_on(root):
    plant(root, two="unsafe")
    result = run(root)
    assert result.num_done == 1
    (failure,) = failures(root)
    assert (failure["job"], failure["step"]) == ("two", "check")
    assert failure["tries"] == 1
    assert failure["error"].startswith("UnsafeError: Planted.")
    assert not [name for name in begun(root) if name.startswith("two")]


def test_stopping_saves_and_the_same_call_goes_on(root):
    plant(root, one_0="wait")

    def should_stop():
        return "one_fgs 0-3" in begun(root)

    with pytest.raises(Interrupted, match="0 of 2 audits"):
        run(root, num_workers=1, should_stop=should_stop)
    assert (root / "saved").exists()
    assert begun(root) == {"one_fgs 0-3": 1}
    (root / "go").touch()
    assert run(root).num_done == 2
    assert begun(root) == ONCE | {"one_fgs 0-3": 2}


_DRIVER = """
import sys
from ib_keras.studies import study
from tests.studies import study_test
import pathlib
study.CALLS = "tests.support.study_calls"
if __name__ == "__main__":
    study_test.run(pathlib.Path(sys.argv[1]), num_workers=1)
"""


def test_the_driver_is_killed_and_the_same_command_goes_on(root):
    plant(root, one_3="wait")
    script = root / "driver.py"
    script.write_text(_DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), str(root)],
        cwd=runs.ROOT,
        env=os.environ | {"PYTHONPATH": str(runs.ROOT)},
    )
    try:
        deadline = time.monotonic() + 120
        while "one_fgs 3-6" not in begun(root):
            assert time.monotonic() < deadline
            assert driver.poll() is None
            time.sleep(0.05)
        (worker,) = study_calls.begun(root, "one_fgs 3-6")
    finally:
        driver.kill()
        driver.wait()
    deadline = time.monotonic() + 30
    while pathlib.Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline  # It ends with its driver.
        time.sleep(0.05)
    (root / "go").touch()
    assert run(root).num_done == 2
    assert failures(root) == []
    assert set(begun(root)) == set(ONCE)
    assert begun(root)["one_fgs 3-6"] == 2


def test_a_worker_that_gets_sigterm_hands_its_part_over(root):
    plant(root, one_0="wait")

    def end():
        while not study_calls.begun(root, "one_fgs 0-3"):
            time.sleep(0.02)
        (pid,) = study_calls.begun(root, "one_fgs 0-3")
        os.kill(pid, signal.SIGTERM)
        while not (root / "saved").exists():
            time.sleep(0.02)
        (root / "go").touch()

    thread = threading.Thread(target=end)
    thread.start()
    result = run(root)
    thread.join()
    assert result.num_done == 2
    assert begun(root) == ONCE | {"one_fgs 0-3": 2}


def test_a_cluster_that_is_there(root):
    with schedulers.connect("local", 2, 1) as client:
        address = client.scheduler.address
        assert run(root, scheduler=address).num_done == 2
    assert begun(root) == ONCE


def test_no_scheduler_leaves_nothing(root, monkeypatch):
    monkeypatch.setattr(schedulers, "_TIMEOUT", 0.5)
    error = runs.refused(run, root, scheduler="tcp://127.0.0.1:9")
    assert error.what == "No scheduler answers at this address"
    assert not (root / "study").exists()


def test_a_study_that_runs_is_not_run_twice(root):
    plant(root, one_0="wait")
    errors = []

    def again():
        while not study_calls.begun(root, "one_fgs 0-3"):
            time.sleep(0.02)
        errors.append(runs.refused(run, root, num_workers=1))
        (root / "go").touch()

    thread = threading.Thread(target=again)
    thread.start()
    assert run(root).num_done == 2
    thread.join()
    assert errors[0].what == "The workdir is in use by another process"
    assert begun(root) == ONCE
