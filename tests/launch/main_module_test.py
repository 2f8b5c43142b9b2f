"""The commands through the package: python -m ib_keras COMMAND."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

import ib_keras
from tests.support import runs

pytestmark = pytest.mark.commands

ROOT = str(runs.ROOT)

main_module = importlib.import_module("ib_keras.__main__")


def run(*arguments, cwd=None):
    """Runs `python -m ib_keras`; its status, output and errors."""
    done = subprocess.run(
        [sys.executable, "-m", "ib_keras", *map(str, arguments)],
        cwd=cwd or runs.ROOT,
        env=os.environ | {"PYTHONPATH": ROOT, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def assert_one_line(errors):
    assert errors.count("\n") == 1
    parts = ["Error: ", "Received: ", "Expected: ", "Fix: "]
    assert sorted(parts, key=errors.index) == parts


def test_help_lists_commands_and_protocols():
    for word in ("--help", "-h", "help"):
        status, output, errors = run(word)
        assert (status, errors) == (0, "")
    lines = output.splitlines()
    for name in ("audit", "report", "train", "doctor"):
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.endswith(".")
    (line,) = [line for line in lines if line.startswith("Configs of audit")]
    assert "aa_mt, autoattack_standard, fast_ensemble" in line
    assert "common" not in output


def test_every_command_exists():
    for name in main_module.COMMANDS:
        assert (runs.ROOT / "launch" / f"{name}.py").exists(), name


def test_without_a_command_the_help_is_an_error():
    status, output, errors = run()
    assert (status, output) == (2, "")
    assert errors.startswith("Usage: python -m ib_keras COMMAND")


def test_the_version_is_that_of_the_package():
    expected = (0, f"ib_keras {ib_keras.__version__}\n", "")
    assert run("--version") == expected


def test_an_unknown_command_suggests_the_nearest():
    status, output, errors = run("adit", "--config=aa_mt")
    assert (status, output) == (2, "")
    assert_one_line(errors)
    assert 'Did you mean "audit"?' in errors


def test_an_unknown_config_suggests_the_nearest():
    status, output, errors = run("audit", "--config=aa_tm")
    assert (status, output) == (2, "")
    assert_one_line(errors)
    assert 'Did you mean "aa_mt"?' in errors


AA_MT = f"{ROOT}/configs/audits/aa_mt.py"


@pytest.mark.parametrize(
    ("command", "given", "expected"),
    [
        ("audit", ["--config=aa_mt"], [f"--config={AA_MT}"]),
        ("audit", ["--config", "aa_mt"], ["--config", AA_MT]),
        ("audit", ["-config=aa_mt", "--x=y"], [f"-config={AA_MT}", "--x=y"]),
        ("audit", ["--config=aa_mt:x"], [f"--config={AA_MT}:x"]),
        # The path of a checkout, where there is none.
        ("audit", ["--config=configs/audits/aa_mt.py"], [f"--config={AA_MT}"]),
        (
            "train",
            ["--config=digits_vib:smoke"],
            [f"--config={ROOT}/configs/digits_vib.py:smoke"],
        ),
        # What is no name of ours stays as it is.
        ("audit", ["--config=own/x.py"], ["--config=own/x.py"]),
        ("audit", ["--config=x.py"], ["--config=x.py"]),
        ("audit", ["--config.seed=1"], ["--config.seed=1"]),
        ("audit", ["--workdir", "aa_mt"], ["--workdir", "aa_mt"]),
        ("report", ["--config=aa_mt"], ["--config=aa_mt"]),
    ],
)
def test_a_config_is_found_by_its_name(
    monkeypatch, tmp_path, command, given, expected
):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "own/x.py", tmp_path / "x.py"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert main_module.resolve(command, given) == expected


def test_a_users_own_file_comes_before_ours(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = pathlib.Path("configs/audits/aa_mt.py")
    path.parent.mkdir(parents=True)
    path.touch()
    given = [f"--config={path}"]
    assert main_module.resolve("audit", given) == given


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """An audit by the package's command, from an empty folder."""
    empty = tmp_path_factory.mktemp("empty")
    model = runs.foreign_model(
        tmp_path_factory.mktemp("model") / "saved_model",
        mean=runs.bright_or_dark,
    )
    arguments = [
        "--config=fgs_epsilons",
        "--config.num_examples=20",
        "--config.epsilon_curve=()",
        "--config.diagnostics.set=none",
        f"--saved_model={model}",
        "--workdir=out",
    ]
    return empty, arguments, run("audit", *arguments, cwd=empty)


@pytest.mark.slow
def test_an_audit_runs_from_an_empty_folder(audited):
    empty, arguments, (status, output, errors) = audited
    assert status == 0, errors
    assert "Verdict: none, for no diagnostics were run." in output
    assert "Report: out/report.html" in output
    assert [path.name for path in empty.iterdir()] == ["out"]
    summary = json.loads((empty / "out" / "summary.json").read_text())
    typed = " ".join(["python -m ib_keras audit", *arguments])
    # A shell would take the parentheses of the tuple for its own.
    quoted = typed.replace(
        "--config.epsilon_curve=()", "'--config.epsilon_curve=()'"
    )
    assert summary["command"] == quoted


def audit_again(audited, *more):
    """The same command in a quick process; its status, output and errors."""
    empty, arguments, _ = audited
    arguments = [a.replace("=out", f"={empty}/out") for a in arguments[1:]]
    config = f"--config={ROOT}/configs/audits/fgs_epsilons.py"
    process = runs.Process(config, *arguments, *more, module="launch.audit")
    return process.wait(), process.read("output"), process.read("errors")


def test_fail_on_sets_the_status_by_the_verdict(audited):
    verdict = {
        "label": "upper_bound",
        "sentence": "A stronger attack lowers it.",
        "decided_by": [{"id": "D6", "why": "Restarts broke 3 more."}],
        "next": ["Run aa_mt."],
    }
    found = {"format_version": 1, "verdict": verdict, "findings": []}
    path = audited[0] / "out" / "findings.json"
    path.write_text(json.dumps(found))
    try:
        status, output, errors = audit_again(audited, "--fail_on=upper_bound")
    finally:
        path.unlink()
    assert status == 4, errors
    assert "Verdict: Upper bound only: signs of gradient" in output
    assert "  D6: Restarts broke 3 more.\n  Next: Run aa_mt." in output


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        # A gate that nothing would reach.
        ("--fail_on=invalid", "--config.diagnostics.set=quick"),
        ("--max_hours=0", "longer than --max_hours"),
    ],
)
def test_an_audit_is_refused_before_it_begins(audited, flag, said):
    new = f"--workdir={audited[0]}/new"
    status, output, errors = audit_again(audited, new, flag)
    assert (status, output) == (2, "")
    assert_one_line(errors)
    assert said in errors
    assert not (audited[0] / "new").exists()


def test_doctor_says_what_a_bug_report_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    status, output, errors = run("doctor", cwd=tmp_path)
    assert status == 0, errors
    for words in (
        f"ib_keras {ib_keras.__version__} in ",
        f"  tensorflow {tf.__version__}\n",
        "  CPU /physical_device:CPU:0",
        f"  {tmp_path}\n  mnist: prepared, 3.0.1\n  cifar10: not there\n",
        f"  TFDS_DATA_DIR={tmp_path}\n",
    ):
        assert words in output
