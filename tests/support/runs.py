"""Small runs on the digits, other people's SavedModels, and what both leave."""

import atexit
import contextlib
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from configs import digits_ceb
from configs import digits_deterministic
from configs import digits_vib
from configs.audits import fgs_epsilons
from configs.audits import pgd_restarts
from ib_keras import files
from ib_keras.data.source import DataSource
from ib_keras.errors import UserError
from ib_keras.training import loop

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
IMAGE_SHAPE = (8, 8, 1)

_TRAINING = {
    "vib": digits_vib,
    "ceb": digits_ceb,
    "deterministic": digits_deterministic,
}
_AUDITS = {"fgs_epsilons": fgs_epsilons, "pgd_restarts": pgd_restarts}


def plain(config, changes: dict[str, Any]) -> dict[str, Any]:
    """A config as nested JSON values, with fields changed by dotted names."""
    values = json.loads(config.to_json())
    for name, value in changes.items():
        section = values
        *sections, field = name.split(".")
        for part in sections:
            section = section[part]
        section[field] = value
    return values


def train_config(bottleneck="vib", **changes) -> dict[str, Any]:
    """Some 110 steps that teach a small network most of the digits."""
    changes = {
        "num_epochs": 5,
        "num_samples": 4,
        "encoder.hidden_units": [32],
        "bottleneck.latent_dim": 8,
        "optim.learning_rate": 1e-2,
        "averaging.decay": 0.9,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    return plain(_TRAINING[bottleneck].get_config(), changes)


def smoke_config(bottleneck="deterministic", **changes) -> dict[str, Any]:
    """Eight steps of hardly any weights: 64 random images in batches of 16."""
    changes = {
        "encoder": {"name": "linear"},
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    return plain(_TRAINING[bottleneck].get_config("smoke"), changes)


def audit_config(protocol="pgd_restarts", **changes) -> dict[str, Any]:
    """An audit of seconds at a radius where about half of the digits fall."""
    changes = {
        "num_examples": 60,
        "batch_size": 16,
        "chunk_steps": 4,
        "threat_model.epsilon": 0.1,
        "epsilon_curve": [],
        "diagnostics.set": "none",
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    if protocol == "pgd_restarts":
        short = {
            "stages.pgd.num_restarts": 3,
            "stages.pgd.attack.num_steps": 8,
            "stages.pgd.attack.step_size": 0.03,
        }
        changes = short | changes
    return plain(_AUDITS[protocol].get_config(), changes)


@functools.cache
def digits_run(bottleneck="vib") -> str:
    """The workdir of a finished training, made once a session; read only."""
    folder = tempfile.mkdtemp(prefix="ib_keras_tests_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    loop.train(
        train_config(bottleneck),
        folder,
        provenance={"git_commit": COMMIT},
        quiet=True,
    )
    return folder


def digits_model(bottleneck="vib") -> str:
    """The SavedModel of `digits_run`."""
    return os.path.join(digits_run(bottleneck), loop.SAVED_MODEL)


def random_model_metadata(**changes) -> dict[str, Any]:
    """Metadata of a two-class model of random images, 4x4x1."""
    data = {"name": "random_images", "image_shape": [4, 4, 1]}
    return {
        "format_version": 1,
        "input_shape": [4, 4, 1],
        "num_classes": 2,
        "num_samples": None,
        "config": {"data": {**data, "num_classes": 2, "num_test": 48}},
        **changes,
    }


def foreign_model(path, metadata=None, **endpoints) -> str:
    """Exports functions of images as other code might, with our metadata."""
    metadata = random_model_metadata() if metadata is None else metadata
    asset = os.path.join(tempfile.mkdtemp(dir=os.path.dirname(path)), "a")
    asset = os.path.join(os.path.dirname(asset), "ib_keras.json")
    files.write_json(asset, metadata)
    spec = tf.TensorSpec([None, *metadata["input_shape"]], tf.float32)
    module = tf.Module()
    module.metadata = tf.saved_model.Asset(asset)
    for name, function in endpoints.items():
        setattr(module, name, tf.function(function, input_signature=[spec]))
    tf.saved_model.save(module, str(path))
    shutil.rmtree(os.path.dirname(asset))
    return str(path)


def bright_or_dark(images) -> tf.Tensor:
    """Logits of two classes, by the mean pixel."""
    brightness = tf.reduce_mean(images, axis=[1, 2, 3]) - 0.5
    return tf.stack([-brightness, brightness], axis=1) * 10.0


def plant_data(monkeypatch, images, labels, num_classes=10) -> dict[str, str]:
    """Makes arrays a data part; returns its section."""
    source = DataSource(
        name="planted",
        description="planted",
        image_shape=tuple(images.shape[1:]),
        class_names=tuple(f"class {i}" for i in range(num_classes)),
        load=lambda split: (images, labels),
    )
    module = types.ModuleType("planted.data")
    module.build = lambda: source
    monkeypatch.setitem(sys.modules, "planted", types.ModuleType("planted"))
    monkeypatch.setitem(sys.modules, "planted.data", module)
    return {"name": "planted.data"}


def refused(function, *arguments, **more) -> UserError:
    """Calls what must be refused by one clear line, and returns the error."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **more)
    text = str(caught.value)
    assert "\n" not in text
    assert text.count("Received: ") == 1
    assert text.count("Expected: ") == 1
    assert text.count("Fix: ") == 1
    return caught.value


def snapshot(folder) -> dict[str, bytes | None]:
    """The content of a folder; None for a folder."""
    root = pathlib.Path(folder)
    return {
        path.relative_to(root).as_posix(): (
            path.read_bytes() if path.is_file() else None
        )
        for path in sorted(root.rglob("*"))
    }


def metrics(workdir) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl but for what a clock measured."""
    lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        row.pop("examples_per_second", None)
    return rows


def checkpoint(workdir, step=None) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint, the last by default, without the clock's."""
    folder = pathlib.Path(workdir) / "checkpoints"
    name = sorted(p.name for p in folder.glob("step-*.npz"))[-1]
    if step is not None:
        name = f"step-{step:010d}.npz"
    arrays = files.read_npz(folder / name)
    arrays.pop("header.json")
    return arrays


def assert_equal_arrays(received, expected):
    """Bit for bit, names, types and shapes too."""
    assert list(received) == list(expected)
    for name, array in expected.items():
        assert received[name].dtype == array.dtype, name
        assert received[name].shape == array.shape, name
        assert received[name].tobytes() == array.tobytes(), name


class Clock:
    """A `should_stop` that says yes at the n-th question, once."""

    def __init__(self, at):
        self.at = at
        self.asked = 0

    def __call__(self):
        self.asked += 1
        return self.asked == self.at


class Killed(BaseException):
    """The end of a process, as the code that it hits sees it."""


class DyingDisk:
    """`tf.io.gfile`, until the process dies at its n-th change of the disk.

    After that nothing reaches the disk any more, so no clean-up does either.

    Args:
        real: `tf.io.gfile`.
        at: Which change is never made, from 1; 0 for none.
        half: Whether only writes count, and half of the bytes arrive.
        error: What is raised instead, once, where the process lives on.
    """

    def __init__(self, real, at, half=False, error=None):
        self.real = real
        self.at = at
        self.half = half
        self.error = error
        self.num_changes = 0
        self.is_dead = False

    def die(self):
        if self.error is not None:
            raise self.error
        self.is_dead = True
        raise Killed

    def __getattr__(self, name):
        function = getattr(self.real, name)

        def call(*arguments, **more):
            if self.is_dead:
                raise Killed
            writes = name == "GFile" and "w" in arguments[1]
            moves = name in ("rename", "makedirs", "remove", "rmtree")
            if writes or (moves and not self.half):
                self.num_changes += 1
                if self.num_changes == self.at:
                    if writes and self.half:
                        return _HalfFile(self, function(*arguments, **more))
                    self.die()
            return function(*arguments, **more)

        return call


class _HalfFile:
    def __init__(self, disk, file):
        self.disk, self.file = disk, file

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.close()
        self.disk.die()


# Reads jobs, one a line, and runs each in a fork of its own. Nothing computes
# before a fork, since TensorFlow's threads would not survive it.
_FORKS = """
import json, os, sys

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(job["cwd"])
        for name, number in (("output", 1), ("errors", 2)):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(os.path.join(job["folder"], name), flags), number)
        sys.argv = job["argv"]
        exec(compile(job["code"], "job", "exec"), {"__name__": "job"})
        sys.exit(0)
    print("pid", child, flush=True)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("status", status, flush=True)
"""

# What is imported before the forks.
_LIBRARY = """
import ib_keras.audit.report, ib_keras.audit.runner, ib_keras.training.loop
"""
# Where an import of TensorFlow is a fault. No module that defines flags is
# imported, since a command defines them when it runs.
_NO_TENSORFLOW = """
import importlib.machinery, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras"):
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        print(f"imported {spec.name}", file=sys.stderr)
        raise SystemExit(99)

sys.meta_path.insert(0, Blocker())
import configs.common, launch.flags, launch.outcomes
import ib_keras.audit.settings, ib_keras.training.settings
"""

_COMMAND = """
import runpy, sys
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


class Process:
    """A program in a process of its own; one at a time, and wait for it.

    It is a fork of a process that has imported what it needs, which saves the
    seconds that the import takes.

    Args:
        arguments: Of the program.
        module: What to run as `python -m module` would.
        code: What to run as `python -c code` would.
        cwd: The folder it runs in.
        tensorflow: Whether it may import TensorFlow; it ends with status 99
            where it does and may not.
    """

    _servers = {}
    _last = None

    def __init__(
        self, *arguments, module=None, code=None, cwd=ROOT, tensorflow=True
    ):
        self._server = server = self._serve(tensorflow)
        if self._last is not None and self._last.status is None:
            with contextlib.suppress(ProcessLookupError):
                self._last.send(signal.SIGKILL)  # Its test has failed.
            self._last.wait()
        self.folder = tempfile.mkdtemp(dir=server.folder.name)
        for name in ("output", "errors"):
            pathlib.Path(self.folder, name).touch()
        argv = [module or "-c", *map(str, arguments)]
        code = _COMMAND if module else code
        job = {"argv": argv, "code": code, "folder": self.folder}
        job["cwd"] = str(cwd)
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        self.pid = self._answer("pid")
        self.status = None
        Process._last = self

    @classmethod
    def _serve(cls, tensorflow):
        if tensorflow not in cls._servers:
            imports = _LIBRARY if tensorflow else _NO_TENSORFLOW
            server = subprocess.Popen(
                [sys.executable, "-c", imports + _FORKS],
                cwd=ROOT,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            server.folder = tempfile.TemporaryDirectory()
            cls._servers[tensorflow] = server
            atexit.register(cls._end, server)
        return cls._servers[tensorflow]

    @staticmethod
    def _end(server):
        server.stdin.close()
        server.wait()
        server.stdout.close()
        server.folder.cleanup()

    def send(self, number):
        """Sends a signal to it."""
        os.kill(self.pid, number)

    def read(self, name) -> str:
        """What it has written so far: its "output" or its "errors"."""
        return pathlib.Path(self.folder, name).read_text()

    def wait(self) -> int:
        """Waits for its end, for its exit status, or minus the signal."""
        if self.status is None:
            self.status = self._answer("status")
        return self.status

    def _answer(self, to):
        word, number = self._server.stdout.readline().split()
        assert word == to
        return int(number)

    def wait_for(self, condition):
        """Waits for something to become true while it runs."""
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, self.read("errors")
            time.sleep(0.005)


def command(module, *arguments):
    """Exit status, output and errors of a command, which shows no trace."""
    process = Process(*arguments, module=module)
    status = process.wait()
    errors = process.read("errors")
    assert "Traceback" not in errors
    return status, process.read("output"), errors


def start(module, *arguments) -> subprocess.Popen:
    """A command as it is typed, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
