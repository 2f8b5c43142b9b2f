"""One process at a time in an audit folder, and none that hangs."""

import json
import os
import time

import pytest

from ib_keras import watchdog
from ib_keras import workdirs
from ib_keras.audit import runner
from ib_keras.audit import subject as subjects
from tests.support import marks
from tests.support import runs

pytestmark = pytest.mark.commands


def config(**changes):
    """FGS on 16 digits in batches of 8."""
    return runs.audit_config(
        "fgs_epsilons", num_examples=16, batch_size=8, **changes
    )


def audit(workdir, asked=None, **more):
    model = runs.digits_model("vib")
    return runner.audit(
        asked or config(), model, str(workdir), quiet=True, **more
    )


# The lock.


def test_a_folder_in_use_is_refused_and_not_touched(tmp_path):
    """At once, and again where the other came while the model was loaded."""
    audit(tmp_path)
    before = runs.snapshot(tmp_path)
    assert workdirs.LOCK_FILE not in before
    (tmp_path / "summary.json").unlink()
    with workdirs.lock(str(tmp_path), print):
        error = runs.refused(audit, tmp_path)
        assert error.what == "The workdir is in use by another process"
        assert f"process {os.getpid()}" in error.received
        subject = subjects.load(config(), runs.digits_model("vib"))
        error = runs.refused(
            runner.audit_subject, config(), subject, str(tmp_path), quiet=True
        )
        assert error.what == "The workdir is in use by another process"
        assert not (tmp_path / "summary.json").exists()
    audit(tmp_path)
    assert list(runs.snapshot(tmp_path)) == list(before)


def test_a_lock_that_is_taken_over_stops_the_audit(tmp_path):
    """As after a host that slept: asked after every batch."""
    stolen = []

    def steal():
        stolen.append(tmp_path)
        owner = json.loads((tmp_path / workdirs.LOCK_FILE).read_text())
        assert owner["pid"] == os.getpid()
        return False

    real = workdirs.Lock.check

    def check(self):
        if stolen:
            self._lost = {"pid": 1, "host": "elsewhere"}
        real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workdirs.Lock, "check", check)
        error = runs.refused(audit, tmp_path, should_stop=steal)
    assert "process 1 on elsewhere" in error.received
    assert len(stolen) == 1
    assert not (tmp_path / "summary.json").exists()


def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path):
    audit(tmp_path)
    (tmp_path / "summary.json").unlink()
    owner = workdirs._this_process() | {"pid": 2**30, "token": "gone"}
    (tmp_path / workdirs.LOCK_FILE).write_text(json.dumps(owner))
    audit(tmp_path)
    assert not (tmp_path / workdirs.LOCK_FILE).exists()


# The watchdog.

# An audit whose model, or whose diagnostics, never answer again.
HANGING = """
import json, sys, time
from ib_keras.audit import diagnostics, runner
from ib_keras.attacks import engine

def the_call_that_hangs(*unused, **more):
    time.sleep(1000)

model, workdir, config, where = sys.argv[1:]
if where == "attack":
    engine._Run._judge_claims = the_call_that_hangs
else:
    diagnostics._ask = the_call_that_hangs
runner.audit(
    json.loads(config), model, workdir, watchdog_minutes=6 / 60, quiet=True
)
"""


@pytest.mark.parametrize(
    "where", marks.others_slow(["attack", "diagnostics"], ("attack",))
)
def test_an_audit_that_hangs_ends_with_all_stacks_and_resumes(tmp_path, where):
    asked = config()
    if where == "diagnostics":
        asked["diagnostics"]["set"] = "quick"
    given = (runs.digits_model("vib"), tmp_path, json.dumps(asked), where)
    began = time.monotonic()
    process = runs.Process(*given, code=HANGING)
    assert process.wait() == watchdog.EXIT_STATUS
    assert time.monotonic() - began < 90
    said = process.read("errors")
    assert "No call of the model has ended for 0.1 minutes" in said
    assert "in the_call_that_hangs" in said
    assert "The same command resumes" in said
    asked["diagnostics"]["set"] = "none"
    assert audit(tmp_path, asked)["num_examples"] == 16


def test_calls_beat_for_a_watchdog_that_they_do_not_know(monkeypatch):
    ended = []
    monkeypatch.setattr(watchdog.os, "_exit", ended.append)
    watchdog.beat()  # Without a watchdog.
    with watchdog.Watchdog(0.4), watchdog.Watchdog(0.0):
        for _ in range(12):
            time.sleep(0.1)
            watchdog.beat()
    assert ended == []
    assert watchdog._watching == []
