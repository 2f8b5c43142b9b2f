"""The checks of `launch.doctor --vm`, on machines that are made up."""

import importlib.metadata
import json
import subprocess
import sys

import pytest

from launch.cloud import checks

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
    check = checks.stack(REQUIREMENTS, (VERSIONS | changes).get)
    assert bool(check.problem) == bool(problem)
    assert problem in check.problem
    assert str(check)[:6].strip() == ("FAILED" if problem else "ok")


def test_the_requirements_are_those_of_setup_py():
    names = []
    requirements = importlib.metadata.requires("ib_keras")
    assert checks.stack(requirements, names.append).problem
    assert {"libtpu", "tensorflow-tpu", "keras", "tf_keras"} <= set(names)
    assert not {"pytest", "ruff", "cleverhans"} & set(names)
    assert "not installed" in checks.stack([], names.append).problem


def test_devices():
    chips = ["/dev/accel0", "/dev/accel1"]

    def must_not():
        raise AssertionError("would wait for the holder")

    assert "none in /dev" in checks.devices([], {}, must_not).problem
    held = checks.devices(chips, {7: "python -m launch.train"}, must_not)
    assert "held by 7: python -m launch.train" in held.problem
    assert (
        "no answer"
        in checks.devices(
            chips, {}, lambda: (None, "no answer in 90 s.")
        ).problem
    )
    fine = checks.devices(chips, {}, lambda: (4, ""))
    assert str(fine) == "ok     chips: 2, 4 cores, free."


def test_a_process_that_holds_a_file_is_found(tmp_path):
    for name in ("accel0", "accel1"):
        (tmp_path / name).touch()
    chip = str(tmp_path / "accel0")
    code = f"import time; f = open({chip!r}); print(1); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-uc", code], stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        held_by = checks.find_holders([chip])
        process.kill()
    assert list(held_by) == [process.pid]
    assert "time.sleep(60)" in held_by[process.pid]
    assert checks.find_holders([str(tmp_path / "accel1")]) == {}


def test_questions_to_python_end():
    ask = checks.ask_python
    code = "import sys; print('noise'); print(len(sys.argv))"
    assert ask(code, "x") == (2, "")
    value, why = ask("import os; os.abort()")
    assert value is None
    assert "status -6" in why
    value, why = ask("raise SystemExit('no right to write')")
    assert (value, why) == (None, "status 1, no right to write")
    late = ask("import time; time.sleep(30)", seconds=0.3)
    assert late == (None, "no answer in 0.3 s.")


def test_a_remote_workdir_is_written_and_read(monkeypatch, capsys):
    """What the process runs, on a file system that `open` cannot see."""
    import tensorflow as tf

    folder = "ram://vm_checks/runs"
    monkeypatch.setattr(sys, "argv", ["-c", folder])
    exec(compile(checks._WRITE_AND_READ, "question", "exec"), {})
    assert json.loads(capsys.readouterr().out) is True
    assert tf.io.gfile.listdir(folder) == []


def test_the_doctor_prints_a_line_each(monkeypatch):
    """Here there is no chip, and nothing that imports TensorFlow is asked."""
    found = [str(check) for check in checks.all_checks(None)]
    assert [line[7:].partition(":")[0] for line in found] == ["stack", "chips"]
    assert found[1].startswith("FAILED chips: none in /dev")
