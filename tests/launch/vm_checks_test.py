"""The checks of `launch.doctor --vm`, on machines that are made up."""

import importlib.metadata
import json
import os
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from launch.cloud import checks
from launch.cloud import machine
from tests.support import runs

REQUIREMENTS = [
    "keras==3.15.1",
    "numpy<2.5,>=2.4",
    'tensorflow==2.20.0; extra == "cpu"',
    'tf_keras==2.20.1; extra == "cpu"',
    'tensorflow-tpu==2.20.0; extra == "tpu"',
    'libtpu<0.0.32,>=0.0.14; extra == "tpu"',
    'tensorflow-io-gcs-filesystem<1,>=0.37; extra == "gcs"',
    'pytest<10,>=9; extra == "test"',
]
VERSIONS = {
    "keras": "3.15.1",
    "numpy": "2.4.2",
    "tf_keras": "2.20.1",
    "tensorflow-tpu": "2.20.0",
    "libtpu": "0.0.31",
    "tensorflow-io-gcs-filesystem": "0.37.1",
}


def stack(**changes):
    versions = VERSIONS | {k.replace("_", "-"): v for k, v in changes.items()}
    return checks.stack(REQUIREMENTS, versions.get)


def test_the_pinned_stack_is_fine():
    check = stack()
    assert check.is_fine
    assert "libtpu 0.0.31" in str(check)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"libtpu": "0.0.32"}, "libtpu 0.0.32, not <0.0.32,>=0.0.14"),
        ({"libtpu": None}, "libtpu is not there"),
        ({"tensorflow": "2.20.0"}, "installed over tensorflow-tpu"),
        ({"keras": "3.9"}, "keras 3.9, not ==3.15.1"),
        ({"tensorflow_tpu": "2.19.1"}, "tensorflow-tpu 2.19.1"),
    ],
)
def test_another_stack_is_not(changes, says):
    check = stack(**changes)
    assert not check.is_fine
    assert says in check.says


def test_the_pins_are_those_of_setup_py():
    """The real metadata reads as the made-up one, libtpu's pin included."""
    requirements = importlib.metadata.requires("ib_keras")
    if requirements is None:
        pytest.skip("ib_keras is not installed")
    names = {}

    def version_of(name):
        names[name] = True
        return None

    assert not checks.stack(requirements, version_of).is_fine
    assert {"libtpu", "tensorflow-tpu", "keras", "tf_keras"} <= set(names)
    assert not {"pytest", "ruff", "cleverhans"} & set(names)
    assert not checks.stack([], version_of).is_fine


def asked(value, why=""):
    return lambda: (value, why)


def test_devices():
    chips = ["/dev/accel0", "/dev/accel1"]
    assert "no chip in /dev" in str(checks.devices([], {}, asked(4)))
    fine = checks.devices(chips, {}, asked(4))
    assert fine.is_fine
    assert "2 chips, 4 cores" in fine.says
    slow = checks.devices(chips, {}, asked(None, "no answer in 90 s."))
    assert not slow.is_fine
    assert "no answer" in slow.says
    assert not checks.devices(chips, {}, asked(0, "none")).is_fine

    def must_not():
        raise AssertionError("would wait for the holder")

    assert checks.devices(chips, {7: "python"}, must_not).is_fine


def test_who_holds_the_chip():
    assert checks.holders({}, None).is_fine
    assert checks.holders({}, "/tmp/libtpu_lockfile").is_fine
    held = checks.holders({7: "python -m launch.train"}, None)
    assert not held.is_fine
    assert "7: python -m launch.train" in held.says


def test_a_process_that_holds_a_file_is_found(tmp_path):
    chip = tmp_path / "accel0"
    chip.touch()
    other = tmp_path / "accel1"
    other.touch()
    code = f"import time; f = open({str(chip)!r}); print(1); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-uc", code], stdout=subprocess.PIPE
    )
    try:
        process.stdout.readline()
        held_by = machine.find_holders([str(chip)])
        assert list(held_by) == [process.pid]
        assert "time.sleep(60)" in held_by[process.pid]
        assert machine.find_holders([str(other)]) == {}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_disk_data_bucket_and_clock():
    assert checks.disk(int(10e9), "/home").is_fine
    assert "9.9 GB free" in checks.disk(int(9.9e9), "/home").says
    assert not checks.disk(int(9.9e9), "/home").is_fine
    assert checks.data("d", asked(["mnist", "cifar10"])).says == (
        "mnist, cifar10 in d."
    )
    assert "not mnist, cifar10" in checks.data("d", asked([])).says
    assert checks.data("d", asked([])).is_fine
    assert not checks.data("gs://d", asked(None, "denied")).is_fine
    assert checks.bucket(None, asked(None)).is_fine
    assert checks.bucket("gs://b", asked("text")).is_fine
    assert "403" in checks.bucket("gs://b", asked(None, "403")).says
    assert checks.clock(None).is_fine
    assert checks.clock(-29.0).is_fine
    assert not checks.clock(31.0).is_fine
    assert "-40 s off" in checks.clock(-40.0).says


def test_nothing_hangs_and_nothing_ends_the_others():
    def hang():
        time.sleep(30)

    def fail():
        raise OSError("no such disk")

    start = time.monotonic()
    found = checks.run(
        [
            ("a", hang),
            ("b", fail),
            ("c", lambda: checks.Check("c", True, "fine.")),
        ],
        seconds=0.2,
    )
    assert time.monotonic() - start < 5
    assert [str(check) for check in found] == [
        "FAILED a: no answer in 0.2 s.",
        "FAILED b: OSError: no such disk",
        "ok     c: fine.",
    ]


def test_questions_to_python_end():
    ask = machine.ask_python
    assert ask("import sys; print('noise'); print(len(sys.argv))", "x") == (
        2,
        "",
    )
    value, why = ask("import os; os.abort()")
    assert value is None
    assert "status -6" in why
    value, why = ask("raise SystemExit('no right to write')")
    assert (value, why) == (None, "status 1, no right to write")
    assert ask("import time; time.sleep(30)", seconds=0.3)[1] == (
        "no answer in 0.3 s."
    )


def test_questions_about_files_reach_remote_folders(monkeypatch, capsys):
    """What the processes run, here on a file system that `open` cannot see."""

    def ask(code, folder):
        monkeypatch.setattr(sys, "argv", ["-c", folder])
        exec(compile(code, "question", "exec"), {"__name__": "question"})
        return json.loads(capsys.readouterr().out)

    folder = "ram://vm_checks/runs"
    assert ask(machine._NAMES_IN, folder) == []
    assert len(ask(machine._WRITE_AND_READ, folder)) == 32
    assert ask(machine._NAMES_IN, folder) == []  # It leaves nothing.
    tf.io.gfile.makedirs(f"{folder}/mnist/3.0.1")
    assert ask(machine._NAMES_IN, folder) == ["mnist"]


def test_the_checks_come_in_order():
    names = [name for name, _ in machine.all_checks(None)]
    assert names == ["stack", "devices", "chip", "disk", "data", "gs", "clock"]


@pytest.mark.slow  # It imports TensorFlow twice; the tests above do not.
def test_the_doctor_prints_a_line_each_in_order(tmp_path):
    """Here the stack is not that of a TPU VM, and the folder can be used."""
    data, workdir = tmp_path / "data", tmp_path / "runs"
    (data / "mnist").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-m", "launch.doctor", "--vm", f"--workdir={workdir}"],
        cwd=runs.ROOT,
        env=os.environ | {"TFDS_DATA_DIR": str(data)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    lines = done.stdout.splitlines()
    names = [line[7:].partition(":")[0] for line in lines]
    assert names == ["stack", "devices", "chip", "disk", "data", "gs", "clock"]
    assert done.returncode == 2
    assert lines[0].startswith("FAILED stack: ")
    assert lines[4].startswith(f"ok     data: mnist in {data}; not cifar10")
    assert lines[5] == f"ok     gs: {workdir} can be written and read."
    assert list(workdir.iterdir()) == []
    assert "Traceback" not in done.stderr
