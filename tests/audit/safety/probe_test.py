"""First calls in a child process, under limits."""

import json
import os
import pathlib

import pytest
import tensorflow as tf

from ib_keras.attacks import devices
from ib_keras.audit import safety
from ib_keras.audit.safety import probe
from ib_keras.errors import UnsafeError
from tests.support import bombs
from tests.support import hostile
from tests.support import runs

pytestmark = pytest.mark.commands

# Standard output is a file there, and the limits let the child write no files:
# so it writes to a pipe, as it does in its real place.
_CHILD = """
import json, os, sys
from ib_keras.audit.safety import child

source, sink = os.pipe()
pid = os.fork()
if pid == 0:
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(source)
    os.close(sink)
    child.main(json.loads(sys.argv[1]))
    os._exit(0)
os.close(sink)
with os.fdopen(source, "rb") as file:
    os.write(1, file.read())
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@pytest.fixture
def quick_child(monkeypatch):
    """Children that are forks, which saves the seconds of an import."""

    class Fork:
        def __init__(self, command, environment):
            self._process = runs.Process(command[-1], code=_CHILD)
            self.output = self.errors = b""
            self._status = None

        def listen(self, is_enough, seconds):
            if self._status is not None:
                return
            self._status = self._process.wait()
            self.output = self._process.read("output").encode()
            self.errors = self._process.read("errors").encode()

        def end(self):
            self.listen(None, 0.0)
            return self._status

    monkeypatch.setattr(probe, "Process", Fork)


def test_the_first_calls_of_an_honest_model(tmp_path, quick_child):
    path = hostile.honest(tmp_path / "model")
    report = safety.check(path)
    assert report.status == "accepted"
    assert report.files == safety.check(path, probe=False).files
    assert report.probe["num_variables"] == 1
    assert not report.probe["changes_variables"]
    by_name = {call["name"]: call for call in report.probe["calls"]}
    assert set(by_name) == {'"serve"', 'signature "serving_default"'}
    for call in by_name.values():
        assert call["batches"] == [[[1, 3]], [[2, 3]]]
        assert call["repeats"]
        assert call["error"] is None
    with safety.loadable(path, report) as folder:
        tf.saved_model.load(folder)


@pytest.mark.slow
def test_the_first_calls_of_a_keras_file(tmp_path, quick_child):
    path = hostile.rewrite(tmp_path / "model.keras")
    (call,) = safety.check(path).probe["calls"]
    assert call["batches"] == [[[1, 3]], [[2, 3]]]


def test_an_endless_loop_is_ended(tmp_path, quick_child):
    make = hostile.BOMBS["endless loop"]
    path = make(tmp_path / "model", tmp_path / "marker")
    limits = safety.Limits(seconds=2.0)
    error = runs.refused(safety.check, path, limits=limits)
    assert isinstance(error, UnsafeError)
    assert "took too long (at most 2 s) while calling" in error.received


def test_a_loop_that_waits_for_the_batches_of_an_audit(tmp_path, quick_child):
    make = bombs.LARGER_BATCHES["endless loop for batches above 2"]
    path = make(tmp_path / "model", None)
    limits = safety.Limits(seconds=2.0)
    report = safety.check(path, limits=limits)
    safety.finish(report)
    sizes = safety.batch_sizes(20)
    report = safety.check(path, limits=limits, batches=sizes)
    error = runs.refused(safety.finish, report)
    assert isinstance(error, UnsafeError)
    assert "on a batch of 5" in error.received
    # There is nobody left to wait for.
    safety.finish(report)


@pytest.mark.parametrize("largest", [1, 2, 7, 8, 9, 20, 100, 128, 1000])
def test_the_batches_of_an_audit_are_all_tried(largest):
    assert set(devices.batch_sizes(largest)) <= set(safety.batch_sizes(largest))


@pytest.mark.slow
def test_a_tensor_over_the_memory_limit_is_ended(tmp_path, quick_child):
    make = hostile.BOMBS["huge tensor"]
    path = make(tmp_path / "model", tmp_path / "marker")
    error = runs.refused(safety.check, path)
    assert isinstance(error, UnsafeError)
    assert "memory" in error.received
    assert "3 GiB" in error.expected


def test_a_refusal_of_the_scan_comes_through(tmp_path, quick_child):
    make, word, _ = hostile.SAVED_MODELS["write in an initialiser"]
    marker = tmp_path / "marker"
    path = make(tmp_path / "model", marker)
    error = runs.refused(safety.check, path)
    assert isinstance(error, UnsafeError)
    assert str(error) == str(runs.refused(safety.check, path, probe=False))
    assert word in error.received
    assert not marker.exists()


@pytest.mark.slow
def test_damage_is_told_as_by_the_static_pass(tmp_path, quick_child):
    path = pathlib.Path(hostile.honest(tmp_path / "model"))
    (path / "saved_model.pb").write_bytes(b"")
    error = runs.refused(safety.check, str(path))
    assert str(error) == str(runs.refused(safety.check, str(path), probe=False))


@pytest.mark.slow
def test_what_was_allowed_may_write(tmp_path, quick_child):
    make, _, _ = hostile.SAVED_MODELS["write in serving"]
    marker = tmp_path / "marker"
    path = make(tmp_path / "model", marker)
    report = safety.check(path, allow_ops=["WriteFile"])
    assert report.exceptions == ["WriteFile"]
    assert marker.read_text() == "planted"


def test_a_model_that_counts_its_calls_is_noted(tmp_path, quick_child):
    module = hostile.Linear(lambda images: count.assign_add(1.0))
    module.count = count = tf.Variable(0.0)
    report = safety.check(hostile.save(tmp_path / "model", module))
    assert report.probe["changes_variables"]
    assert report.ops["writes variables"] == ["AssignAddVariableOp"]
    assert any("changes its own variables" in note for note in report.notes)


@pytest.mark.slow
def test_a_call_that_fails_is_noted(tmp_path, quick_child):
    module = hostile.Linear(
        lambda images: tf.debugging.assert_less(images, -1.0)
    )
    report = safety.check(hostile.save(tmp_path / "model", module))
    assert "InvalidArgumentError" in report.notes[0]


def _said(status, output, errors):
    """A process that has ended after it said something."""

    class Ended:
        def __init__(self, command, environment):
            self.output, self.errors = output, errors

        def listen(self, is_enough, seconds):
            pass

        def end(self):
            return status

    return Ended


def test_a_child_that_cannot_start_is_a_fault_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "Process", _said(1, b"", b"a\nImportError: x"))
    with pytest.raises(RuntimeError, match="ImportError: x"):
        safety.check(hostile.honest(tmp_path / "model"))


@pytest.mark.parametrize(
    "output", ["", "[]\n", "null\n3\n", '{"stage": "scan"}\n']
)
def test_a_child_without_an_answer_is_never_a_pass(
    tmp_path, monkeypatch, output
):
    monkeypatch.setattr(probe, "Process", _said(0, output.encode(), b""))
    with pytest.raises((RuntimeError, UnsafeError)):
        safety.check(hostile.honest(tmp_path / "model"))


def test_the_child_gets_no_credentials(monkeypatch):
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "planted")
    environment = probe._environment("/home/of/child")
    assert "planted" not in environment.values()
    assert environment["HOME"] == "/home/of/child"
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.slow
def test_a_real_child_checks_a_model(tmp_path):
    path = hostile.honest(tmp_path / "model")
    report = safety.check(path)
    assert report.status == "accepted"
    assert json.loads(json.dumps(report.to_json())) == report.to_json()
    make = hostile.BOMBS["endless loop"]
    path = make(tmp_path / "loop", tmp_path / "marker")
    error = runs.refused(safety.check, path, limits=safety.Limits(seconds=2.0))
    assert "took too long (at most 2 s)" in error.received
