"""launch.study as it is typed: refused, done, killed, resumed, as a table."""

import json
import os
import pathlib
import signal
import time

import pytest

from ib_keras.audit import runner
from ib_keras.audit import verify
from tests.audit import shards_test
from tests.launch.early_errors_test import refused
from tests.studies import plan_test
from tests.support import runs

pytestmark = pytest.mark.commands

pytest.importorskip("distributed")

CONFIG = """
from configs import common

def get_config():
    return common.study(
        models=({models},),
        protocols={{"both": {{"protocol": "pgd_restarts"}} | {both}}},
        examples_per_part={size},
    )
"""


def write_config(folder, models, size=None, **changes):
    """A study of one protocol, which `shards_test.config` gives."""
    asked = shards_test.config(**changes)
    kept = ("num_examples", "batch_size", "chunk_steps", "threat_model")
    both = {name: asked[name] for name in kept}
    both["epsilon_curve"] = (0.05,)
    both["diagnostics"] = {"set": "none"}
    both["stages"] = {"pgd": asked["stages"]["pgd"]}
    models = ", ".join(map(repr, models))
    path = folder / "study.py"
    path.write_text(CONFIG.format(models=models, both=both, size=size))
    return f"--config={path}"


def assert_is_audit(place, folder, model):
    """The same as the folder of `launch.audit` by the same protocol."""
    asked = shards_test.config()
    asked["stages"] = {"pgd": asked["stages"]["pgd"]}
    summary, _ = shards_test.read(place)
    commit = summary["versions"].get("git_commit")
    runner.audit(asked, model, str(folder), git_commit=commit, quiet=True)
    shards_test.assert_same(place, folder)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no --config"),
        (["CONFIG", "--scheduler=pbs"], "--scheduler=pbs"),
        (["CONFIG", "--config.examples_per_part=0"], "examples_per_part=0"),
        (["CONFIG", "--config.examples_per_part=13"], "num_examples=12"),
        (["CONFIG", "--config.models=('none/*',)"], "No model matches"),
        (["CONFIG", "--scheduler=slurm", "--workdir=here"], "current folder"),
        (["--table"], "A file is missing"),
    ],
)
def test_refused_before_tensorflow_and_dask(tmp_path, arguments, says):
    model = plan_test.write_model(tmp_path / "model", num_classes=10)
    config = write_config(tmp_path, [model])
    given = [config if word == "CONFIG" else word for word in arguments]
    workdir = f"--workdir={tmp_path / 'study'}"
    if not any(word.startswith("--workdir") for word in given):
        given.append(workdir)
    assert says in refused("study", *given)
    assert not (tmp_path / "study").exists()


def start(*arguments):
    return runs.start("launch.study", *arguments)


def command(*arguments, status=0):
    process = start(*arguments)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == status, errors[-2000:]
    assert "Traceback" not in errors
    return output, errors


@pytest.mark.slow
def test_a_study_is_the_audits_of_launch_audit(tmp_path):
    """In unequal parts; then a table and a report of it."""
    model = runs.digits_model("vib")
    config = write_config(tmp_path, [f"vib={model}"], size=5)
    study = tmp_path / "study"
    output, _ = command(config, f"--workdir={study}", "--workers=2")
    assert "Audits: 1 of 1 are done" in output
    assert "  vib/both: clean " in output and ", no verdict" in output
    place = study / "audits" / "vib" / "both"
    assert_is_audit(place, tmp_path / "one", model)
    assert "probe" in json.loads((place / "safety.json").read_text())
    assert verify.verify(str(place)).ok
    assert "Content-Security-Policy" in (place / "report.html").read_text()
    output, _ = command(f"--workdir={study}", "--table")
    assert "summaries.parquet with 2 rows, and 24 examples" in output
    output, _ = command(config, f"--workdir={study}")
    assert "Audits: 1 of 1 are done" in output
    done = runs.command("launch.report", f"--workdir={study}", "--format=csv")
    assert done[0] == 0
    output, _ = command(config, f"--workdir={tmp_path / 'new'}", "--plan")
    assert "vib/both: 3 parts, " in output
    assert not (tmp_path / "new").exists()


def workers(process):
    """The workers of a study that have loaded TensorFlow."""
    found = []
    listed = pathlib.Path(f"/proc/{process.pid}/task")
    for children in listed.glob("*/children"):
        for pid in map(int, children.read_text().split()):
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"spawn_main" in words:
                found.append(pid)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", ["kill a worker", "end a worker", "kill the driver", "interrupt"]
)
def test_a_study_survives(tmp_path, what):
    """In the middle of a part; the numbers are those of one process."""
    model = runs.digits_model("vib")
    # Long enough to be hit, and saved on the way.
    config = write_config(tmp_path, [f"vib={model}"], size=6)
    study = tmp_path / "study"
    place = study / "audits" / "vib" / "both"
    process = start(config, f"--workdir={study}", "--workers=1", "--quiet")
    deadline = time.monotonic() + 300
    while not list(place.glob("part_*/epsilon_0.05/partial.npz")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    if what == "kill the driver":
        process.send_signal(signal.SIGKILL)
    elif what == "interrupt":
        os.killpg(process.pid, signal.SIGINT)
    else:
        (worker,) = workers(process)
        number = "SIGKILL" if what == "kill a worker" else "SIGTERM"
        os.kill(worker, getattr(signal, number))
    process.communicate(timeout=300)
    assert process.returncode == {
        "kill the driver": -signal.SIGKILL,
        "interrupt": 75,
    }.get(what, 0)
    command(config, f"--workdir={study}", "--workers=2")
    assert_is_audit(place, tmp_path / "one", model)
    assert not (study / "failures.jsonl").exists()
