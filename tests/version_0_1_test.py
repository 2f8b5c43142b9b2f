"""What version 0.1 wrote is read by this version.

The folders are those of tests/fixtures/v0_1, whose README says how they were
made. What is compared with is what 0.1 computed.
"""

import os
import pathlib
import shutil
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import ib_keras
from configs import digits_ceb
from configs import digits_deterministic
from configs import digits_vib
from configs.audits import pgd_restarts
from ib_keras import files
from ib_keras import workdirs
from ib_keras.audit import formats
from ib_keras.audit import one_example
from ib_keras.audit import report
from ib_keras.audit import runner
from ib_keras.audit import settings
from ib_keras.audit import verify
from ib_keras.figures import reading
from ib_keras.training import loop
from tests.support import runs

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "v0_1"
CONFIGS = {
    "vib": digits_vib,
    "ceb": digits_ceb,
    "deterministic": digits_deterministic,
}
# Audit -> its model.
AUDITS = {
    "mean": "runs/vib/saved_model",
    "stochastic": "runs/vib/saved_model",
    "curve": "runs/ceb/saved_model",
    "keras_file": "keras/ceb.keras",
}
# The flags of make.sh.
TRAINING = {
    "num_epochs": 5,
    "num_samples": 4,
    "encoder.hidden_units": [16],
    "bottleneck.latent_dim": 4,
    "optim.learning_rate": 0.01,
    "averaging.decay": 0.9,
    "checkpoint.keep": 1,
}
AUDIT = {
    "num_examples": 40,
    "threat_model.epsilon": 0.1,
    "stages.pgd.num_restarts": 3,
    "stages.pgd.attack.num_steps": 8,
    "stages.pgd.attack.step_size": 0.03,
    "epsilon_curve": [],
}


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> pathlib.Path:
    """The folder that 0.1 wrote to; read only."""
    folder = tmp_path_factory.mktemp("v0_1")
    with zipfile.ZipFile(FIXTURES / "folders.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def answers() -> dict[str, np.ndarray]:
    """What 0.1 answered for a few images."""
    return files.read_npz(FIXTURES / "predictions.npz")


def assert_answers(received, expected):
    assert np.abs(expected).max() > 0.5  # Or closeness says nothing.
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-5)


# --- Models -------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_keras_files_answer_as_they_did(old, answers, name, tmp_path):
    model = keras.saving.load_model(old / f"keras/{name}.keras")
    model.save(tmp_path / "again.keras")
    again = keras.saving.load_model(tmp_path / "again.keras")
    for loaded in (model, again):
        images = answers["images"]
        assert_answers(loaded(images), answers[f"{name}/keras/mean"])
        if loaded.is_stochastic:
            noise = {"noise_seed": answers["seed"], "num_samples": 5}
            received = loaded(images, mode="stochastic", **noise)
            assert_answers(received, answers[f"{name}/keras/stochastic"])


@pytest.mark.parametrize("name", CONFIGS)
def test_checkpoints_are_exported_as_they_were(old, answers, name, tmp_path):
    """The exports of 0.1 itself are loaded where their audits are verified."""
    workdir = tmp_path / "run"
    shutil.copytree(old / "runs" / name, workdir)
    before = files.read_json(workdir / "result.json")
    (workdir / "result.json").unlink()
    shutil.rmtree(workdir / "saved_model")
    config = files.read_json(workdir / "config.json")
    result = loop.train(config, str(workdir), quiet=True)
    assert result["step"] == before["step"]
    for value in ("loss", "accuracy", "rate"):
        assert result[value] == pytest.approx(before[value], abs=1e-5)
    exported = tf.saved_model.load(str(workdir / "saved_model"))
    images = answers["images"]
    received = exported.mean(images)
    assert_answers(received, answers[f"{name}/saved_model/mean"])


# --- Trainings ----------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_the_command_of_0_1_has_nothing_left_to_do(old, name, capsys):
    workdir = old / "runs" / name
    before = runs.snapshot(workdir)
    config = runs.plain(CONFIGS[name].get_config(), TRAINING)
    result = loop.train(config, str(workdir))
    assert "Nothing left to do" in capsys.readouterr().out
    assert result == files.read_json(workdir / "result.json")
    assert runs.snapshot(workdir) == before


# --- Audits -------------------------------------------------------------------


@pytest.mark.parametrize("name", AUDITS)
def test_audits_are_verified(old, name):
    folder, model = old / "audits" / name, old / AUDITS[name]
    # Fewer draws than a last judgement takes are raised to those.
    result = verify.verify(str(folder), str(model), num_draws=20)
    assert result.failed == (), result.checks
    assert len(result.checks) > 15


def test_a_touched_audit_is_not_verified(old, tmp_path):
    folder = tmp_path / "touched"
    shutil.copytree(old / "audits/mean", folder)
    summary = files.read_json(folder / "summary.json")
    summary["robust_accuracy"] += 1 / 40
    files.write_json(folder / "summary.json", summary)
    result = verify.verify(str(folder), str(old / AUDITS["mean"]))
    assert "counts" in result.failed


@pytest.mark.parametrize("name", AUDITS)
def test_audits_are_read(old, name):
    folder = str(old / "audits" / name)
    summary = files.read_json(os.path.join(folder, "summary.json"))
    result = ib_keras.audit.load(folder)
    assert result.robust_accuracy == summary["robust_accuracy"]
    assert 0 < result.robust_accuracy < 1
    findings = os.path.join(folder, "findings.json")
    verdict = None
    if files.exists(findings):
        verdict = files.read_json(findings)["verdict"]["label"]
    assert result.verdict == verdict


def test_audits_are_reported_on_one_page(old, tmp_path):
    folders = [str(old / "audits" / name) for name in AUDITS]
    path = report.write(folders, str(tmp_path / "page.html"))
    page = pathlib.Path(path).read_text("utf-8")
    for folder in folders:
        summary = files.read_json(os.path.join(folder, "summary.json"))
        assert f"{100 * summary['robust_accuracy']:.1f}%" in page
    assert "pgd_restarts" in page and "fgs_epsilons" in page


@pytest.mark.parametrize("name", formats.names())
def test_audits_are_reported_in_every_format(old, name, tmp_path):
    folder = str(old / "audits/mean")
    written = formats.write([folder], name, str(tmp_path / "report"))
    summary = files.read_json(os.path.join(folder, "summary.json"))
    text = pathlib.Path(written.path).read_text("utf-8")
    assert f"{100 * summary['robust_accuracy']:.1f}" in text or (
        str(summary["robust_accuracy"]) in text
    )


@pytest.mark.parametrize("name", AUDITS)
def test_every_example_is_shown(old, name, tmp_path):
    folder = str(old / "audits" / name)
    examples = files.read_npz(os.path.join(folder, "examples.npz"))
    robust = examples["is_robust"]
    for index in (int(np.argmax(robust)), int(np.argmin(robust))):
        found = one_example.OneExample(folder, index)
        said = "\n".join(found.lines())
        assert f"label {examples['label'][index]}," in said
        assert "Distance linf" in said  # So the clean images were found.
    picture = tmp_path / "example.png"
    found.write_picture(str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_command_of_an_audit_has_nothing_left_to_do(old, capsys):
    folder = old / "audits/mean"
    before = files.read_json(folder / "summary.json")
    config = runs.plain(pgd_restarts.get_config(), AUDIT)
    there = files.read_json(folder / "config.json")["audit"]
    new = {name for name, *_ in workdirs.differences(there, config)}
    assert new == set(settings.ADDED)
    model = str(old / AUDITS["mean"])
    assert runner.audit(config, model, str(folder)) == before
    assert "Nothing left to do" in capsys.readouterr().out


# --- Sweeps -------------------------------------------------------------------


def test_sweeps_are_read_and_listed(old):
    names = {"vib_beta_0.01_seed_0", "deterministic_seed_0"}
    found = reading.load(str(old / "sweep"))
    # Eight steps on random images: both count as collapsed.
    assert {run.name for run in found.collapsed} == names
    assert found.planned.keys() > names
    status, listed, _ = runs.command(
        "launch.sweep",
        "--config=configs/digits_vib.py:smoke",
        f"--workdir={old}/sweep",
        "--list",
    )
    assert status == 0
    lines = dict(line.split(maxsplit=1) for line in listed.splitlines())
    done = {name for name in lines if lines[name].startswith("done")}
    assert done == names
