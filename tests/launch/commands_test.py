"""The commands as they are typed: train, audit, report, and again."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from ib_keras import export
from tests.support import runs

pytestmark = pytest.mark.commands

TRAIN = ["--config=configs/digits_vib.py:smoke", "--config.num_epochs=3"]
AUDIT = [
    "--config=configs/audits/pgd_restarts.py",
    "--config.num_examples=20",
    "--config.epsilon_curve=()",
    "--config.stages.pgd.num_restarts=2",
    "--config.stages.pgd.attack.num_steps=3",
]


def command(module, *arguments):
    """Runs a command as a user does; its output."""
    done = subprocess.run(
        [sys.executable, "-m", f"launch.{module}", *arguments],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a run, of its audit and of a report, and all outputs."""
    folder = tmp_path_factory.mktemp("commands")
    run, audit, page = (str(folder / n) for n in ("run", "audit", "page.html"))
    outputs = {
        "train": command("train", *TRAIN, f"--workdir={run}"),
        "audit": command(
            "audit",
            *AUDIT,
            f"--saved_model={run}/saved_model",
            f"--workdir={audit}",
        ),
        "report": command("report", f"--workdir={audit}", f"--output={page}"),
    }
    return folder, outputs


def read(path):
    return json.loads(pathlib.Path(path).read_text())


def test_train_leaves_a_run_and_says_where(done):
    folder, outputs = done
    run = folder / "run"
    result = read(run / "result.json")
    assert result["step"] == 12
    accuracy = f"accuracy {result['accuracy']:.4f}"
    assert f"Step 12: {accuracy}, accuracy stochastic" in outputs["train"]
    assert f"SavedModel: {run}/saved_model" in outputs["train"]


def test_the_model_says_by_which_command_and_commit(done):
    folder, _ = done
    metadata = export.read_metadata(str(folder / "run" / "saved_model"))
    assert metadata["command"] == " ".join(
        ["python -m launch.train", *TRAIN, f"--workdir={folder}/run"]
    )
    commit = metadata["git_commit"]
    assert commit is None or re.fullmatch("[0-9a-f]{40}", commit)
    assert metadata["config"]["num_epochs"] == 3


def test_audit_says_what_its_summary_says(done):
    folder, outputs = done
    summary = read(folder / "audit" / "summary.json")
    assert summary["protocol"] == "pgd_restarts"
    assert summary["num_examples"] == 20
    assert summary["command"].startswith("python -m launch.audit --config=")
    robust = f"robust accuracy {summary['robust_accuracy']:.4f}"
    assert robust in outputs["audit"]
    assert "after pgd: " in outputs["audit"]
    assert f"Report: {folder}/audit/report.html" in outputs["audit"]
    # Nothing is robust, so no landscape is asked for.
    assert summary["robust_accuracy"] == 0.0
    assert sorted(os.listdir(folder / "audit")) == [
        "config.json",
        "examples.npz",
        "findings.json",
        "report.html",
        "safety.json",
        "summary.json",
    ]


def test_report_writes_a_page_elsewhere(done):
    folder, outputs = done
    page = (folder / "page.html").read_text()
    assert f"Report: {folder}/page.html" in outputs["report"]
    summary = read(folder / "audit" / "summary.json")
    assert "<html" in page
    assert summary["protocol"] in page
    assert "data:image/png;base64," in page


def cases(folder):
    """By claim: the module, its arguments, the status and what is said."""
    run, audit = f"--workdir={folder}/run", f"--workdir={folder}/audit"
    new = f"--workdir={folder}/new"
    model = f"--saved_model={folder}/run/saved_model"
    return {
        "a finished run": ("train", [*TRAIN, run], 0, "Nothing left to do"),
        "a run of another config": (
            "train",
            [*TRAIN, "--config.bottleneck.beta=0.5", run],
            2,
            "Received: bottleneck.beta=0.5. Expected: bottleneck.beta=0.01",
        ),
        "a run in the folder of an audit": (
            "train",
            [*TRAIN, audit],
            2,
            "The workdir belongs to another config",
        ),
        "an unknown strategy": (
            "train",
            [*TRAIN, "--strategy=mirored", new],
            2,
            'Did you mean "mirrored"?',
        ),
        "an unknown part": (
            "train",
            [*TRAIN, "--config.bottleneck.name=viib", new],
            2,
            'Did you mean "vib"?',
        ),
        "an absent data set": (
            "train",
            [
                "--config=configs/mnist_vib.py",
                f"--config.data.data_dir={folder}/nowhere",
                "--config.data.download=False",
                new,
            ],
            2,
            "downloads are off",
        ),
        "a workdir without a name": (
            "train",
            [*TRAIN, "--workdir="],
            2,
            "The workdir is not a folder",
        ),
        "an audit of no model": (
            "audit",
            [*AUDIT, f"--saved_model={folder}/nowhere", new],
            2,
            "There is no SavedModel",
        ),
        "an audit of a workdir": (
            "audit",
            [*AUDIT, f"--saved_model={folder}/run", new],
            2,
            f"Did you mean {folder}/run/saved_model?",
        ),
        "an audit of a damaged model": (
            "audit",
            [*AUDIT, f"--saved_model={folder}/damaged", new],
            2,
            "The model is damaged or incomplete",
        ),
        "a report of nothing": ("report", [new], 2, "A file is missing"),
        "a model of a newer format": (
            "audit",
            [*AUDIT, f"--saved_model={folder}/newer", new],
            2,
            "Update ib_keras",
        ),
        "an audit without examples": (
            "audit",
            [*AUDIT, "--config.stages.pgd.num_restarts=0", model, new],
            2,
            "stages.pgd.num_restarts=0. Expected",
        ),
    }


def test_commands_have_the_right_exit_status(done):
    """Their status, one line, and folders that are as they were."""
    folder, _ = done
    model = folder / "run" / "saved_model"
    for name in ("damaged", "newer"):
        shutil.copytree(model, folder / name)
    graph = folder / "damaged" / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-10])
    asset = folder / "newer" / "assets" / "ib_keras.json"
    asset.write_text(json.dumps({"format_version": 2}))
    before = runs.snapshot(folder)
    problems = []
    for claim, (module, arguments, status, words) in cases(folder).items():
        process = runs.Process(*arguments, module=f"launch.{module}")
        received = process.wait()
        output, errors = process.read("output"), process.read("errors")
        if received != status or words not in (
            output if not status else errors
        ):
            problems.append((claim, received, output, errors))
        elif status == 2 and not is_one_line(errors):
            problems.append((claim, errors))
    assert not problems
    assert runs.snapshot(folder) == before


def is_one_line(errors):
    parts = ("Error: ", "Received: ", "Expected: ", "Fix: ")
    return errors.count("\n") == 1 and all(part in errors for part in parts)
