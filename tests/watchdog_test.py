"""A process that hangs shows its stacks, and ends with its own status."""

import time

from ib_keras import watchdog
from tests.support import fast_runs
from tests.support import runs

# A training whose second call of steps never returns.
HANGING = """
import sys, time
from ib_keras.training import loop
from tests.support import fast_runs, runs

def the_call_that_hangs():
    time.sleep(1000)

class Hanging(fast_runs.FastSteps):
    num_calls = 0

    def train_steps(self, iterator, num_steps):
        self.num_calls += 1
        if self.num_calls == 4:
            the_call_that_hangs()
        return super().train_steps(iterator, num_steps)

loop.Steps = Hanging
loop._Run.iterator = lambda self, start: None
config = runs.smoke_config("vib", **fast_runs.UNEVEN)
loop.train(config, sys.argv[1], watchdog_minutes=1.5 / 60)
"""


def test_a_step_that_hangs_ends_with_all_stacks_and_can_be_resumed(
    tmp_path, monkeypatch
):
    workdir = tmp_path / "run"
    began = time.monotonic()
    process = runs.Process(str(workdir), code=HANGING)
    assert process.wait() == watchdog.EXIT_STATUS == 76
    assert time.monotonic() - began < 60
    said = process.read("errors")
    assert "No training step has ended for 0.025 minutes" in said
    assert "in the_call_that_hangs" in said
    assert "in _watch" in said  # Of every thread, not of one alone.
    assert "The same command resumes" in said
    fast_runs.install(monkeypatch)
    config = runs.smoke_config("vib", **fast_runs.UNEVEN)
    assert runs.loop.train(config, str(workdir), quiet=True)["step"] == 8


def test_beats_keep_it_quiet(monkeypatch):
    ended = []
    monkeypatch.setattr(watchdog.os, "_exit", ended.append)
    with watchdog.Watchdog(0.4) as watch:
        for _ in range(12):
            time.sleep(0.1)
            watch.beat()
    assert ended == []


def test_zero_is_no_watch():
    with watchdog.Watchdog(0.0) as watch:
        watch.beat()
        time.sleep(0.05)
    assert watch._thread is None


def test_a_hang_that_holds_the_interpreter_is_ended_too(tmp_path):
    """One call into C that lets no other Python thread run."""
    code = """
import ctypes
from ib_keras import watchdog
watchdog._GRACE = 0.5
with watchdog.Watchdog(0.5):
    ctypes.PyDLL(None).sleep(60)
"""
    began = time.monotonic()
    process = runs.Process(code=code)
    assert process.wait() == 1
    assert time.monotonic() - began < 30
    assert "Timeout" in process.read("errors")
