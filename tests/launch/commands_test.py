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
    assert sorted(os.listdir(folder / "audit")) == [
        "config.json",
        "examples.npz",
        "report.html",
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


# Commands that end before TensorFlow computes anything share one import of it:
# each is a fork of a process that has it.
FORKS = """
import json, os, runpy, sys
import ib_keras.audit.report, ib_keras.audit.runner, ib_keras.training.loop

for index, (module, arguments) in enumerate(json.load(open("cases.json"))):
    child = os.fork()
    if child == 0:
        for name, number in (("out", 1), ("err", 2)):
            file = os.open(f"{index}.{name}", os.O_WRONLY | os.O_CREAT)
            os.dup2(file, number)
        os.chdir(sys.argv[1])
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(f"{index}.status", "w") as file:
        file.write(str(status))
"""


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
            "The SavedModel is damaged or incomplete",
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
            "num_restarts is not a count",
        ),
    }


def test_commands_end_as_they_should(done, tmp_path):
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
    listed = cases(folder)
    with open(tmp_path / "cases.json", "w") as file:
        json.dump([(f"launch.{m}", a) for m, a, _, _ in listed.values()], file)
    environment = dict(os.environ, PYTHONPATH=str(runs.ROOT))
    environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    subprocess.run(
        [sys.executable, "-c", FORKS, str(runs.ROOT)],
        cwd=tmp_path,
        env=environment,
        timeout=300,
        check=True,
    )
    problems = []
    for index, (claim, (_, _, status, words)) in enumerate(listed.items()):
        output, errors, received = (
            (tmp_path / f"{index}.{name}").read_text()
            for name in ("out", "err", "status")
        )
        said = output if status == 0 else errors
        lines = [line for line in errors.splitlines() if line.strip()]
        if int(received) != status or words not in said:
            problems.append((claim, received, output, errors))
        elif status == 2 and not (
            len(lines) == 1
            and lines[0].startswith("Error: ")
            and all(f"{w}: " in errors for w in ("Received", "Expected", "Fix"))
        ):
            problems.append((claim, errors))
    assert not problems
    assert runs.snapshot(folder) == before
