"""Whatever fails, and whenever, a run that is started again ends the same."""

import errno
import json
import os
import random
import re
import signal
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import files
from ib_keras import workdirs
from ib_keras.errors import Interrupted
from ib_keras.errors import UserError
from ib_keras.training import loop
from ib_keras.training.background import Background
from tests.support import fast_runs
from tests.support import marks
from tests.support import runs

pytestmark = pytest.mark.commands

CONFIG = runs.smoke_config("vib", **fast_runs.UNEVEN)
NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
READ_ONLY = tf.errors.PermissionDeniedError(None, None, "Read-only file system")


@pytest.fixture
def fast(monkeypatch):
    fast_runs.install(monkeypatch)


def train(config, workdir, **more):
    return loop.train(config, str(workdir), quiet=True, **more)


def reference(tmp_path):
    train(CONFIG, tmp_path / "reference")
    return fast_runs.outcome(tmp_path / "reference")


FAULTS = {
    "killed before the change": {},
    "cut short and killed": {"half": True},
    "no space": {"error": NO_SPACE},
    "read-only": {"error": READ_ONLY},
}


@pytest.mark.parametrize(
    "fault",
    marks.others_slow(FAULTS, ("cut short and killed",)),
)
def test_every_fault_point_is_survived(fast, tmp_path, monkeypatch, fault):
    """The first change of the disk, the second, ... until none is left."""
    expected = reference(tmp_path)
    num_survived = 0
    for at in range(1, 200):
        workdir = tmp_path / str(at)
        disk = runs.DyingDisk(tf.io.gfile, at, **FAULTS[fault])
        monkeypatch.setattr(files, "gfile", disk)
        error = None
        try:
            train(CONFIG, workdir)
        except runs.Killed:
            pass
        except UserError as caught:
            error = caught
        monkeypatch.setattr(files, "gfile", tf.io.gfile)
        if disk.num_changes < at:
            break
        if error is not None:
            assert_clear_about_the_disk(error)
        is_complete = (workdir / loop.RESULT_FILE).exists()
        train(CONFIG, workdir)
        assert fast_runs.outcome(workdir) == expected, f"at change {at}"
        assert leftovers(workdir / "checkpoints") == []
        # A complete run is not touched, nor the lock of who was killed then.
        assert is_complete or not (workdir / workdirs.LOCK_FILE).exists()
        num_survived += 1
    print(f"{num_survived} of {at - 1} fault points survived")
    assert num_survived == at - 1 == disk.num_changes
    assert num_survived >= (8 if FAULTS[fault].get("half") else 20)


def assert_clear_about_the_disk(error):
    assert error.what.startswith("Cannot ")
    assert "\n" not in str(error)
    is_full = "space" in error.received
    assert ("Free some space" in error.fix) == is_full


def leftovers(folder):
    return [name for name in os.listdir(folder) if files.is_leftover(name)]


@pytest.mark.slow
def test_two_faults_in_a_row_are_survived(fast, tmp_path, monkeypatch):
    """A run that is killed, resumed and killed again, at random changes."""
    expected = reference(tmp_path)
    rng = random.Random(0)
    for trial in range(15):
        workdir = tmp_path / str(trial)
        for _ in range(3):
            disk = runs.DyingDisk(tf.io.gfile, rng.randrange(1, 20))
            monkeypatch.setattr(files, "gfile", disk)
            try:
                train(CONFIG, workdir)
            except runs.Killed:
                pass
            monkeypatch.setattr(files, "gfile", tf.io.gfile)
        train(CONFIG, workdir)
        assert fast_runs.outcome(workdir) == expected


@pytest.mark.parametrize("text", [None, "", '{"step": 1', "null"])
def test_a_run_continues_without_its_log_and_restores_it(fast, tmp_path, text):
    expected = reference(tmp_path)
    workdir = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(CONFIG, workdir, should_stop=runs.Clock(4))
    log = workdir / "metrics.jsonl"
    log.unlink()
    if text is not None:
        log.write_text(text)
    train(CONFIG, workdir)
    assert fast_runs.outcome(workdir) == expected


# In the background.


def test_a_checkpoint_holds_the_values_of_its_step(tmp_path):
    """What is trained on while it is being written does not get into it."""
    variable = tf.keras.Variable(np.zeros(100_000, np.float32), name="v")
    checkpoints = loop.Checkpoints(str(tmp_path))
    write = checkpoints.prepare(1, [variable], {})

    @tf.function
    def step():
        variable.assign_add(tf.ones(100_000))

    step()
    write()
    variable.assign(np.full(100_000, 7, np.float32))
    checkpoints.restore([variable])
    assert (variable.numpy() == 0).all()


def test_the_training_goes_on_while_a_checkpoint_is_written(
    fast, tmp_path, monkeypatch
):
    """Written only once two more calls are over, or the test hangs."""
    is_later = threading.Event()
    real = files.write_npz

    def write(path, arrays):
        if path.endswith("step-0000000005.npz"):
            assert is_later.wait(60)
        real(path, arrays)

    def should_stop():
        names = os.listdir(tmp_path / "run" / "checkpoints")
        asked.append("step-0000000005.npz" in names)
        if len(asked) == 5:  # After steps 2, 3, 4, 5 and 6.
            is_later.set()
        return False

    asked = []
    expected = reference(tmp_path)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    files.write_json(tmp_path / "run" / "config.json", CONFIG)
    monkeypatch.setattr(files, "write_npz", write)
    train(CONFIG, tmp_path / "run", should_stop=should_stop)
    assert asked[:5] == [False] * 5
    assert fast_runs.outcome(tmp_path / "run") == expected


def test_an_error_in_the_background_is_raised_after_the_next_call(
    fast, tmp_path, monkeypatch
):
    changes = fast_runs.UNEVEN | {"checkpoint.every_steps": 2}
    config = runs.smoke_config("vib", **changes)
    asked = []

    def should_stop():
        asked.append(0)
        return False

    def write(path, arrays):
        raise UserError("planted", received=path, expected="", fix="")

    monkeypatch.setattr(files, "write_npz", write)
    with pytest.raises(UserError, match="planted.*step-0000000002.npz"):
        train(config, tmp_path, should_stop=should_stop)
    # Saved after the first call; seen after it, or after the second.
    assert len(asked) in (1, 2)


def test_an_error_ends_no_write_in_flight(tmp_path):
    done = []
    go_on = threading.Event()

    def piece():
        assert go_on.wait(60)
        done.append(1)

    with pytest.raises(KeyError):
        with Background() as background:
            background.run(piece)
            background.check()
            threading.Timer(0.05, go_on.set).start()
            raise KeyError
    assert done == [1]


def test_the_last_error_in_the_background_is_not_lost():
    with pytest.raises(ZeroDivisionError):
        with Background() as background:
            background.run(lambda: 1 / 0)


# Half of a folder.


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "replaced"])
def test_a_partly_moved_model_is_never_taken_for_a_model(
    tmp_path, monkeypatch, is_there
):
    """Remotely a folder is renamed file by file; killed after each of them."""
    graph = tf.Module()
    graph.v = tf.Variable(1.0)
    graph.f = tf.function(lambda: graph.v + 0.0, input_signature=[])

    def write(value):
        graph.v.assign(value)
        return lambda folder: tf.saved_model.save(graph, folder)

    for at in range(1, 40):
        path = f"ram://half_{is_there}_{at}/saved_model"
        if is_there:
            files.write_folder(path, write(1.0))
        disk = runs.DyingDisk(tf.io.gfile, at)
        with monkeypatch.context() as patch:
            patch.setattr(files, "gfile", disk)
            try:
                files.write_folder(path, write(2.0))
            except runs.Killed:
                pass
        try:
            loaded = tf.saved_model.load(path)
            value = float(loaded.f())
        except (OSError, tf.errors.OpError):
            value = None
        if not disk.is_dead:
            assert value == 2.0
            break
        assert value in ((None, 1.0, 2.0) if is_there else (None, 2.0))
        files.write_folder(path, write(3.0))
        loaded = tf.saved_model.load(path)
        assert float(loaded.f()) == 3.0
    assert at > 5


# The clock.


def test_a_clock_that_jumps_back_changes_nothing(
    fast, tmp_path, monkeypatch, capsys
):
    """A day back at every look at it."""
    expected = reference(tmp_path)
    now = [2e9]

    def jump():
        now[0] -= 86400.0
        return now[0]

    monkeypatch.setattr(time, "time", jump)
    monkeypatch.setattr(loop.Progress.__init__, "__defaults__", (0, False, 0.0))
    loop.train(CONFIG, str(tmp_path / "run"))
    assert fast_runs.outcome(tmp_path / "run") == expected
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    speeds = [
        row["examples_per_second"]
        for row in rows
        if "loss" in row and row["kind"] == "train"
    ]
    assert len(speeds) == 3 and min(speeds) > 0
    printed = capsys.readouterr()
    assert "min left" in printed.err
    assert not re.search(r"-[\d.]+ (min|s\b)", printed.err + printed.out)


# Real processes.

REAL = {
    "num_epochs": 400,
    "num_samples": 1,
    "bottleneck.latent_dim": 8,
    "steps_per_call": 10,
    "checkpoint.every_steps": 30,
}


@pytest.mark.slow
def test_sigkill_at_10_moments_and_sigterm_at_3(tmp_path):
    """A run that is ended again and again ends as one that is let alone."""
    workdir = tmp_path / "run"
    rng = random.Random(0)
    numbers = [signal.SIGKILL] * 10 + [signal.SIGTERM] * 3
    rng.shuffle(numbers)
    num_sent = 0
    for number in numbers:
        process = start(workdir)
        time.sleep(rng.uniform(0.2, 6.0))
        process.send(number)
        # Asked to stop before it listens.
        asked = (75, -signal.SIGTERM)
        status = process.wait()
        assert status in ((-number,) if number == signal.SIGKILL else asked)
        num_sent += 1
    # Else there was nothing left to end.
    assert not (workdir / "result.json").exists()
    process = start(workdir)
    assert process.wait() == 0, process.read("errors")
    expected = tmp_path / "reference"
    train(runs.plain(runs.digits_vib.get_config(), REAL), expected)
    runs.assert_equal_arrays(
        runs.checkpoint(workdir), runs.checkpoint(expected)
    )
    assert runs.metrics(workdir) == runs.metrics(expected)
    print(f"{num_sent} of {len(numbers)} signals survived")


def start(workdir):
    return runs.Process(
        "--config=configs/digits_vib.py",
        *(f"--config.{name}={value}" for name, value in REAL.items()),
        f"--workdir={workdir}",
        module="launch.train",
    )
