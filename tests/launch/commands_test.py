"""The real commands, as a user types them."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
TRAIN = ("launch.train", "--config=configs/digits_vib.py:smoke")


def run(module, *arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        **more,
    )


def error_line(done):
    """The one line of a refused command."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [x for x in done.stderr.splitlines() if x.startswith("Error: ")]
    assert len(lines) == 1, done.stderr
    for part in ("Received:", "Expected:", "Fix:"):
        assert part in lines[0]
    return lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained smoke model's workdir, and what training printed."""
    workdir = tmp_path_factory.mktemp("train") / "run"
    done = run(*TRAIN, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir, done


@pytest.fixture(scope="module")
def audited(trained, tmp_path_factory):
    workdir, _ = trained
    folder = tmp_path_factory.mktemp("audit") / "audit"
    done = run(
        "launch.audit",
        "--config=configs/audits/pgd_restarts.py",
        f"--saved_model={workdir}/saved_model",
        f"--workdir={folder}",
        "--config.num_examples=20",
        "--config.stages.pgd.num_restarts=2",
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_training_leaves_what_the_readme_says(trained):
    workdir, done = trained
    for name in (
        "config.json",
        "result.json",
        "metrics.jsonl",
        "saved_model/saved_model.pb",
        "saved_model/assets/ib_keras.json",
    ):
        assert (workdir / name).stat().st_size > 0, name
    result = json.loads((workdir / "result.json").read_text())
    assert f"accuracy {result['accuracy']:.4f}" in done.stdout
    assert str(workdir / "saved_model") in done.stdout
    rows = (workdir / "metrics.jsonl").read_text().splitlines()
    names = set().union(*(json.loads(row) for row in rows))
    assert names >= {
        *("step", "epoch", "kind", "loss", "cross_entropy", "rate"),
        *("beta", "learning_rate", "gradient_norm", "examples_per_second"),
        *("accuracy", "accuracy_stochastic"),
    }


def test_the_same_command_again_has_nothing_left_to_do(trained):
    workdir, _ = trained
    before = (workdir / "result.json").stat().st_mtime_ns
    done = run(*TRAIN, f"--workdir={workdir}")
    assert done.returncode == 0
    assert "Nothing left to do" in done.stdout
    assert (workdir / "result.json").stat().st_mtime_ns == before


def test_a_workdir_of_another_config_is_refused_and_left_alone(trained):
    workdir, _ = trained
    before = sorted(p.name for p in workdir.iterdir())
    done = run(*TRAIN, "--config.bottleneck.beta=0.5", f"--workdir={workdir}")
    line = error_line(done)
    assert "bottleneck.beta=0.5" in line and "0.01" in line
    assert sorted(p.name for p in workdir.iterdir()) == before


def test_an_audit_writes_its_folder_and_says_what_it_found(audited):
    folder, done = audited
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("summary.json", "examples.npz", "report.html", "config.json"):
        assert (folder / name).exists()
    assert f"{summary['robust_accuracy']:.4f}" in done.stdout
    assert summary["command"].startswith("python -m launch.audit ")
    assert summary["num_examples"] == 20
    # The other radius of the protocol is an audit folder of its own.
    assert (folder / "epsilon_0.1" / "examples.npz").exists()
    arrays = np.load(folder / "examples.npz")
    assert arrays["is_robust"].mean() == summary["robust_accuracy"]


def test_reports_of_one_and_of_several(audited, tmp_path):
    folder, _ = audited
    page = tmp_path / "page.html"
    both = f"{folder},{folder / 'epsilon_0.1'}"
    done = run("launch.report", f"--workdir={both}", f"--output={page}")
    assert done.returncode == 0, done.stderr
    assert "<h1" in page.read_text()
    assert "<script" not in page.read_text()


def test_a_plan_prints_a_cost_and_writes_nothing(trained, tmp_path):
    workdir, _ = trained
    done = run(
        "launch.audit",
        "--config=configs/audits/aa_mt.py",
        f"--saved_model={workdir}/saved_model",
        f"--workdir={tmp_path / 'none'}",
        "--config.num_examples=10",
        "--plan",
    )
    assert done.returncode == 0, done.stderr
    # 5 x 101 + 5 x 101 + 10 x 9 x 200, for each of ten examples.
    counts = [
        int(x.replace(",", ""))
        for x in re.findall(r"([\d,]+) gradient", done.stdout)
    ]
    assert counts == [5050, 5050, 180000]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.bottleneck.betta=1"], ["betta", "beta"]),
        (["--config.num_epochs=many"], ["many"]),
        (["--confg=configs/digits_vib.py"], ["confg"]),
        (["--config=configs/digits_vib.py:smok"], ["smok", "smoke"]),
        (["--config=configs/nothing.py"], ["nothing.py"]),
        (["extra"], ["extra"]),
        (["--config.bottleneck.name=vibe"], ["vibe", "vib", "ceb"]),
        (["--config.data.name=mnits"], ["mnits", "mnist"]),
        (["--config.optim.name=adm"], ["adm", "adam"]),
        (["--strategy=tpuu"], ["tpuu", "one_device"]),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, words, tmp_path):
    workdir = tmp_path / "never"
    done = run(*TRAIN, *arguments, f"--workdir={workdir}")
    line = error_line(done)
    for word in words:
        assert word in line
    assert not list(tmp_path.rglob("*.npz"))


def test_missing_flags_are_named():
    line = error_line(run("launch.train", "--workdir=/nowhere/at/all"))
    assert "config" in line
    line = error_line(run("launch.audit", "--workdir=x"))
    assert "saved_model" in line or "config" in line


def test_a_missing_model_is_named(tmp_path):
    done = run(
        "launch.audit",
        "--config=configs/audits/pgd_madry.py",
        f"--saved_model={tmp_path}/none",
        f"--workdir={tmp_path}/audit",
    )
    assert "none" in error_line(done)
    assert not (tmp_path / "audit").exists()


def test_sigterm_saves_and_the_same_command_ends_the_run(tmp_path):
    workdir = tmp_path / "run"
    command = [
        *("launch.train", "--config=configs/digits_deterministic.py:smoke"),
        *("--config.num_epochs=4000", "--config.checkpoint.every_steps=100000"),
        *("--config.eval.every_epochs=4000", f"--workdir={workdir}"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    deadline = time.monotonic() + 120
    while not (workdir / "config.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(6)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    assert "resumes" in stderr
    saved = list((workdir / "checkpoints").iterdir())
    assert len(saved) == 1
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "Resuming at step" in done.stdout
    assert json.loads((workdir / "result.json").read_text())["step"] == 16000
