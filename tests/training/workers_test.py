"""Two processes on loopback train as one does, and survive a loss."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from ib_keras import strategy as strategies
from ib_keras.training import loop
from tests.support import runs

# Quick tests of the same promises, on two devices of one process and without
# TensorFlow, are in tests/strategy_test.py and tests/rendezvous_test.py.
pytestmark = pytest.mark.slow

# A short training, said to be at the step it has come to.
_WORKER = """
import json, sys

config, workdir, timeout = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
from ib_keras import errors
from ib_keras import strategy
from ib_keras.training import loop

try:
    devices = strategy.get("multi_worker", timeout=float(timeout))
    loop.train(config, workdir, strategy=devices, quiet=True)
except (errors.UserError, errors.Interrupted) as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.stderr.flush()
    import os
    os._exit(error.exit_status)
"""


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for opened in sockets:
        opened.close()
    return ports


def config(bottleneck, num_steps, **changes):
    return runs.smoke_config(
        bottleneck,
        **{
            "num_epochs": num_steps / 4,
            "train__log_every_steps": 1,
            "steps_per_call": 5,
            "checkpoint__every_steps": 5,
            "eval__every_epochs": num_steps / 4,
            "encoder": {"name": "mlp", "hidden_units": [8]},
            **changes,
        },
    )


class Workers:
    """Two processes of one run, killed at the end whatever happens."""

    def __init__(self, config, workdir, who=(0, 1), timeout=60.0):
        self.ports = free_ports(2)
        self.started = [
            subprocess.Popen(
                [sys.executable, "-c", _WORKER]
                + [json.dumps(config), str(workdir), str(timeout)],
                env=os.environ | self.environment(index),
                cwd=runs.ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in who
        ]

    def environment(self, index):
        addresses = [f"127.0.0.1:{port}" for port in self.ports]
        task = {"type": "worker", "index": index}
        cluster = {"cluster": {"worker": addresses}, "task": task}
        return {"TF_CONFIG": json.dumps(cluster), "TF_CPP_MIN_LOG_LEVEL": "3"}

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        for process in self.started:
            process.kill()
            process.wait()
            process.stderr.close()

    def wait(self, timeout=120):
        """The exit statuses, and what was written of errors."""
        deadline = time.monotonic() + timeout
        said = [
            process.communicate(timeout=deadline - time.monotonic())[1]
            for process in self.started
        ]
        return [process.returncode for process in self.started], said


def losses(workdir):
    rows = runs.metrics(workdir)
    return [row["loss"] for row in rows if row["kind"] == "train"]


def newest_step(workdir):
    folder = pathlib.Path(workdir) / "checkpoints"
    steps = [
        int(match[1])
        for name in (os.listdir(folder) if folder.is_dir() else ())
        if (match := re.match(r"step-(\d+)\.npz$", name))
    ]
    return max(steps, default=0)


@pytest.mark.parametrize("bottleneck", ["vib"])
def test_two_workers_train_as_one_replica_does(bottleneck, tmp_path):
    """With noise too, and the evaluation: the same numbers to 1e-5."""
    short = config(bottleneck, 10)
    one, two = tmp_path / "one", tmp_path / "two"
    strategy = strategies.get("one_device")
    expected = loop.train(short, str(one), strategy=strategy, quiet=True)
    with Workers(short, two) as workers:
        statuses, said = workers.wait()
        assert statuses == [0, 0], said
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    result = json.loads((two / "result.json").read_text())
    for name in ("loss", "rate", "accuracy", "accuracy_stochastic"):
        assert result[name] == pytest.approx(expected[name], rel=1e-5)


def test_a_killed_worker_is_detected_and_both_finish_after_a_restart(tmp_path):
    long, workdir = config("vib", 300), tmp_path / "run"
    with Workers(long, workdir) as workers:
        deadline = time.monotonic() + 90
        while newest_step(workdir) < 10:
            assert time.monotonic() < deadline
            assert workers.started[0].poll() is None
            time.sleep(0.02)
        workers.started[1].send_signal(signal.SIGKILL)
        statuses, said = workers.wait()
    assert statuses == [75, -signal.SIGKILL]
    assert "A worker was lost" in said[0]
    reached = newest_step(workdir)
    assert 10 <= reached < 300
    with Workers(long, workdir) as workers:
        statuses, said = workers.wait()
        assert statuses == [0, 0], said
    assert newest_step(workdir) == 300
    assert len(losses(workdir)) == 300


@pytest.mark.parametrize("alone", [0, 1])
def test_a_worker_that_never_comes_is_named_in_time(alone, tmp_path):
    began = time.monotonic()
    with Workers(config("vib", 4), tmp_path / "run", (alone,), 1.0) as workers:
        statuses, said = workers.wait(60)
        missing = workers.ports[1 - alone]
    assert statuses == [2]
    assert f"127.0.0.1:{missing} within 1 seconds" in said[0]
    assert time.monotonic() - began < 45
    assert not (tmp_path / "run").exists()
