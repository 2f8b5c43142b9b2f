"""A command line that cannot be used is one clear line and exit status 2."""

import io
import json
import os
import pkgutil
import signal
import subprocess
import sys

import pytest
from absl import flags as absl_flags

import ib_keras
from launch import console
from tests.support import runs


def run(*arguments, **program):
    """Runs a command or a program; its exit status, output and errors."""
    process = runs.Process(*arguments, **program, tensorflow=False)
    return process.wait(), process.read("output"), process.read("errors")


VIB = "--config=configs/digits_vib.py"
FGS = "--config=configs/audits/fgs_epsilons.py"

# By claim: the module, its arguments but for --workdir, and what the line says.
REFUSED = {
    "a misspelt flag": (
        "train",
        [VIB, "--stratgy=mirrored"],
        ["'stratgy'", "Did you mean: strategy"],
    ),
    "an argument that is no flag": ("train", [VIB, "extra"], ["extra"]),
    "no config": ("train", [], ["Received: no --config."]),
    "a config that is not there": (
        "train",
        ["--config=configs/digits_vibb.py"],
        ["digits_vibb", 'Did you mean "configs/digits_vib.py"?'],
    ),
    "an unknown field": (
        "train",
        [VIB, "--config.sed=1"],
        ['"--config.sed"', 'Did you mean "--config.seed"?', "num_epochs"],
    ),
    "an unknown field of a section": (
        "train",
        [VIB, "--config.optim.lerning_rate=0.1"],
        [
            '"--config.optim.lerning_rate"',
            'Did you mean "--config.optim.learning_rate"?',
            "--config.optim.beta_1, --config.optim.beta_2",
        ],
    ),
    "an unknown section": (
        "train",
        [VIB, "--config.optimm.learning_rate=0.1"],
        ['Did you mean "--config.optim"?'],
    ),
    "an unknown field after a blank": (
        "audit",
        ["--config", FGS[9:], "--config.num_exampels", "3", "--saved_model=x"],
        ['Did you mean "--config.num_examples"?'],
    ),
    "an unknown field of a stage": (
        "audit",
        [FGS, "--config.stages.fgs.num_restart=3", "--saved_model=x"],
        ['Did you mean "--config.stages.fgs.num_restarts"?'],
    ),
    "a field of a value": ("train", [VIB, "--config.seed.x=1"], ["seed.x"]),
    "a text for a number": (
        "train",
        [VIB, "--config.num_epochs=abc"],
        ["--config.num_epochs=abc"],
    ),
    "a fraction for a count": (
        "train",
        [VIB, "--config.train.batch_size=2.5"],
        ["--config.train.batch_size=2.5"],
    ),
    "an unknown preset": (
        "train",
        [f"{VIB}:smok"],
        ['Received: preset "smok". Expected: one of (none), cpu, smoke'],
    ),
    "a preset where there is none": (
        "audit",
        [f"{FGS}:smoke", "--saved_model=x"],
        ["get_config()"],
    ),
    "no model": ("audit", [FGS], ["Received: no --saved_model."]),
}


def assert_one_line(errors):
    assert errors.count("\n") == 1
    assert "Traceback" not in errors
    assert errors.startswith("Error: ")
    parts = [errors.index(f"{p}: ") for p in ("Received", "Expected", "Fix")]
    assert parts == sorted(parts)


@pytest.mark.parametrize(
    ("module", "arguments", "words"), REFUSED.values(), ids=REFUSED.keys()
)
def test_a_wrong_command_line_is_one_clear_line(
    tmp_path, module, arguments, words
):
    workdir = tmp_path / "workdir"
    status, output, errors = run(
        *arguments, f"--workdir={workdir}", module=f"launch.{module}"
    )
    assert status == 2
    assert output == ""
    assert_one_line(errors)
    for word in words:
        assert word in errors
    assert not workdir.exists()


@pytest.mark.parametrize("module", ["train", "audit", "report"])
def test_a_command_without_a_workdir_says_so(module):
    arguments = {"train": [VIB], "audit": [FGS, "--saved_model=x"]}
    status, _, errors = run(
        *arguments.get(module, []), module=f"launch.{module}"
    )
    assert status == 2
    assert_one_line(errors)
    assert "--workdir" in errors


BROKEN = {
    "an import that fails": ("import not_there\n", "not_there"),
    "a syntax error": ("def get_config(:\n", "invalid syntax"),
    "no get_config": ("x = 1\n", "get_config"),
    "an error inside": (
        "def get_config():\n    return 1 / 0\n",
        "ZeroDivisionError: division by zero",
    ),
}


@pytest.mark.parametrize(("text", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_config_file_is_one_clear_line(tmp_path, text, words):
    path = tmp_path / "config.py"
    path.write_text(text)
    status, _, errors = run(
        f"--config={path}", "--workdir=x", module="launch.train"
    )
    assert status == 2
    assert_one_line(errors)
    assert words in errors


def test_help_says_what_a_command_is_for_and_lists_its_flags():
    _, output, errors = run("--help", module="launch.train")
    assert output.startswith("Trains a bottleneck by a config and exports it.")
    for flag in ("--config", "--workdir", "--[no]quiet", "--strategy"):
        assert f"\n  {flag}" in output
    assert errors == ""


# The frame, around a command that does what it is told.
FRAME = """
import os, signal, sys
from ib_keras import errors
from launch import console
from launch import flags

def main():
    stop = flags.StopRequest()
    what = sys.argv[1].removeprefix("--what=")
    details = dict(received="a", expected="b", fix="c")
    if what == "user":
        raise errors.UserError("planted", **details)
    if what == "unsafe":
        raise errors.UnsafeError("planted", **details)
    if what == "fault":
        raise RuntimeError("planted")
    if what == "interrupted":
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        raise errors.Interrupted("planted")
    if what == "insist":
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGTERM)
    return {"done": None, "status": 4}.get(what)

flags.flags.DEFINE_string("what", None, "")
flags.run(main)
"""


@pytest.mark.parametrize(
    ("what", "expected", "line"),
    [
        ("done", 0, ""),
        ("status", 4, ""),
        ("user", 2, "Error: planted. Received: a. Expected: b. Fix: c\n"),
        ("unsafe", 3, "Error: planted. Received: a. Expected: b. Fix: c\n"),
        ("interrupted", 75, "planted\n"),
        ("insist", -signal.SIGTERM, ""),
    ],
)
def test_each_end_has_its_status(what, expected, line):
    status, _, errors = run(f"--what={what}", code=FRAME)
    assert (status, errors) == (expected, line)


def test_a_fault_of_ours_is_status_1_with_a_traceback():
    status, _, errors = run("--what=fault", code=FRAME)
    assert status == 1
    assert "Traceback" in errors
    assert "RuntimeError: planted" in errors


def test_a_command_line_is_told_as_it_was_typed():
    code = """
from launch import console
from launch import flags
flags.flags.DEFINE_string("workdir", None, "")
flags.run(lambda: print(flags.command_line()))
"""
    status, output, _ = run("--workdir=a folder", code=code)
    assert status == 0
    assert output == "python -c '--workdir=a folder'\n"


def test_the_installed_script_is_told_by_its_name(tmp_path):
    script = tmp_path / "ib_keras"
    script.write_text(
        "from launch import flags\n"
        "flags.run(lambda words: print(flags.command_line()), takes_words=True)"
    )
    done = subprocess.run(
        [sys.executable, script, "audit", "a folder"],
        env=os.environ | {"PYTHONPATH": str(runs.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "ib_keras audit 'a folder'\n", done.stderr


def test_the_commit_is_that_of_the_checkout(monkeypatch, tmp_path):
    code = "from launch import flags; print(flags.git_commit())"
    _, output, _ = run(code=code)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if head.returncode:
        assert output == "None\n"
    else:
        assert output == head.stdout
    # Where there is no git there is no commit, and no error.
    no_path = f"import os; os.environ['PATH'] = {str(tmp_path)!r}\n"
    status, output, _ = run(code=no_path + code)
    assert (status, output) == (0, "None\n")


def test_the_library_defines_no_flags():
    """None of its modules, once all are imported."""
    folders = ib_keras.__path__
    imported = []
    for module in pkgutil.walk_packages(folders, "ib_keras."):
        try:
            __import__(module.name)
        except ImportError as error:
            assert "ib_keras" not in str(error.name)  # An optional library.
        else:
            imported.append(module.name)
    assert len(imported) > 40
    defined = absl_flags.FLAGS.flags_by_module_dict()
    assert not [name for name in defined if name.startswith("ib_keras")]


def test_flags_are_defined_in_launch():
    """With a command imported, all but absl's own are of launch."""
    code = """
import json
from launch import audit
from absl import flags
print(json.dumps({name: [flag.name for flag in found]
    for name, found in flags.FLAGS.flags_by_module_dict().items()}))
"""
    _, output, _ = run(code=code)
    found = json.loads(output)
    ours = {name for name in found if not name.startswith("absl.")}
    assert all(name.startswith("launch.") for name in ours)
    flags = {flag for name in ours for flag in found[name]}
    assert {"config", "workdir", "quiet", "strategy", "saved_model"} <= flags


def test_the_console_shows_text_alone(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    console.protect()
    console.protect()
    print("after \x1b[1A\x1b[2Kpgd\u202e:\tbroken\r")
    sys.stderr.writelines(["\x07x", "\ud800y\n"])
    assert stream.getvalue() == "after [1A[2Kpgd:\tbroken\r\nxy\n"
