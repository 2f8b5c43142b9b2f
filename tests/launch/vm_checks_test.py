"""The checks of `launch.doctor --vm`, on machines that are made up."""

import importlib.metadata
import json
import sys

import pytest

from launch.cloud import checks
from tests.support import runs

REQUIREMENTS = [
    "keras<3.16,>=3.12",
    'tensorflow==2.20.0; extra == "cpu"',
    'tf_keras<2.21,>=2.20; extra == "cpu"',
    'tensorflow-tpu==2.20.0; extra == "tpu"',
    'libtpu<0.0.32,>=0.0.14; extra == "tpu"',
    'tensorflow-io-gcs-filesystem<1,>=0.37; extra == "gcs"',
    'pytest<10,>=9; extra == "test"',
]
VERSIONS = {
    "keras": "3.15.1",
    "tf_keras": "2.20.1",
    "tensorflow-tpu": "2.20.0",
    "libtpu": "0.0.31",
    "tensorflow-io-gcs-filesystem": "0.37.1",
}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"libtpu": "0.0.32"}, "libtpu 0.0.32, not <0.0.32,>=0.0.14"),
        ({"libtpu": None}, "libtpu is not there"),
        ({"tensorflow": "2.20.0"}, "installed over tensorflow-tpu"),
        ({"keras": "3.9"}, "keras 3.9, not <3.16,>=3.12"),
    ],
)
def test_the_stack_is_the_required_one(changes, problem):
    found, says = checks.stack(REQUIREMENTS, (VERSIONS | changes).get)
    assert bool(found) == bool(problem)
    assert problem in found
    assert "tensorflow-tpu 2.20.0" in says


def test_the_requirements_are_those_of_setup_py():
    names = []
    requirements = importlib.metadata.requires("ib_keras")
    assert checks.stack(requirements, names.append)[0]
    assert {"libtpu", "tensorflow-tpu", "keras", "tf_keras"} <= set(names)
    assert not {"pytest", "ruff", "cleverhans"} & set(names)
    assert "not installed" in checks.stack([], names.append)[0]


def test_devices():
    assert "none in /dev" in checks.devices(0, None)[0]
    late = checks.devices(2, lambda: (None, "no answer in 90 s"))
    assert late[0] == "2, but TensorFlow: no answer in 90 s"
    fine = checks.devices(2, lambda: (4, ""))
    assert fine == ("", "2, 4 cores in TensorFlow.")


def test_questions_to_python_end():
    ask = checks.ask_python
    code = "import sys; print('noise'); print(len(sys.argv))"
    assert ask(code, "x") == (2, "")
    value, why = ask("import os; os.abort()")
    assert value is None
    assert "status -6" in why
    value, why = ask("raise SystemExit('no right to write')")
    assert (value, why) == (None, "status 1, no right to write")
    value, why = ask("import time; time.sleep(30)", seconds=0.3)
    assert (value, why[:18]) == (None, "no answer in 0.3 s")


def test_a_remote_workdir_is_written_and_read(monkeypatch, capsys):
    """What the process runs, on a file system that `open` cannot see."""
    import tensorflow as tf

    folder = "ram://vm_checks/runs"
    monkeypatch.setattr(sys, "argv", ["-c", folder])
    exec(compile(checks._WRITE_AND_READ, "question", "exec"), {})
    assert json.loads(capsys.readouterr().out) is True
    assert tf.io.gfile.listdir(folder) == []


def test_the_doctor_prints_a_line_each():
    """Here there is no chip, so nothing that imports TensorFlow is asked."""
    process = runs.Process("--vm", module="launch.doctor", tensorflow=False)
    assert process.wait() == 2
    stack, chips = process.read("output").splitlines()
    assert stack.startswith("FAILED stack: ")
    assert chips.startswith("FAILED chips: none in /dev")
