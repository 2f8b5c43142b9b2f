"""A data set of one's own, trained on, audited, verified and shown."""

import json
import pathlib

import pytest

from ib_keras import export
from ib_keras.data import digits
from ib_keras.training import loop
from tests.support import own_files
from tests.support import runs

pytestmark = pytest.mark.commands

AUDIT = (
    "--config=configs/audits/fgs_epsilons.py",
    "--config.num_examples=12",
    "--config.batch_size=12",
    "--config.epsilon_curve=()",
    "--config.diagnostics.set=none",
)


def command(name, *arguments):
    """The output of a command that does what it is asked."""
    status, output, errors = runs.command(f"launch.{name}", *arguments)
    assert status == 0, errors
    return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of all this, with the data and a model of them."""
    folder = tmp_path_factory.mktemp("own")
    command(
        "train",
        "--config=configs/digits_vib.py:smoke",
        "--config.data.name=npz",
        f"--config.data.path={own_files.npz(folder)}",
        f"--config.data.class_names={','.join(own_files.NAMES)}",
        f"--workdir={folder}/run",
    )
    own_files.image_folder(folder)
    digits.build(str(folder / "tfds"))
    return folder


def test_a_training_takes_an_archive_by_flags(folder):
    result = json.loads((folder / "run" / "result.json").read_text())
    assert result["num_train_examples"] == 200
    assert result["num_eval_examples"] == 60
    assert result["dataset"]["description"] == "own.npz"
    metadata = export.read_metadata(f"{folder}/run/{loop.SAVED_MODEL}")
    assert metadata["input_shape"] == list(own_files.SHAPE)
    assert metadata["class_names"] == list(own_files.NAMES)
    # Nothing is left of the random images of the config.
    assert metadata["config"]["data"] == {
        "name": "npz",
        "path": f"{folder}/own.npz",
        "class_names": list(own_files.NAMES),
    }


def ours(folder):
    return f"{folder}/run/{loop.SAVED_MODEL}"


def of_digits(folder):
    return runs.digits_model("vib")


# By name: the model, what is typed of the data, what the summary says of them.
AUDITS = {
    "the model's own": (ours, (), ("npz", "own.npz")),
    "a folder": (
        ours,
        ("name=image_folder:{folder}/photos",),
        ("image_folder", "photos"),
    ),
    "a data set of TFDS": (
        of_digits,
        ("name=tfds:ib_digits", "data_dir={folder}/tfds"),
        ("tfds:ib_digits", "ib_digits (TFDS 1.0.0)"),
    ),
    "a module": (
        of_digits,
        ("name=tests.support.own_data", "split_of=train"),
        ("my digits", "digits of my own"),
    ),
}


def cases():
    """All of them, of which one is quick enough for every day."""
    for name, case in AUDITS.items():
        marks = () if name == "a folder" else pytest.mark.slow
        yield pytest.param(*case, id=name, marks=marks)


@pytest.mark.parametrize(("model", "typed", "said"), cases())
def test_an_audit_of_it_is_verified_and_shown(
    folder, tmp_path, model, typed, said
):
    workdir = f"--workdir={tmp_path}/audit"
    given = [f"--config.dataset.{t.format(folder=folder)}" for t in typed]
    command("audit", *AUDIT, *given, f"--saved_model={model(folder)}", workdir)
    summary = json.loads((tmp_path / "audit" / "summary.json").read_text())
    name, description = said
    assert summary["dataset"] == {
        "name": name,
        "split": "test",
        "description": description,
    }
    assert "checks hold" in command("verify", workdir)
    command("report", workdir, f"--output={tmp_path}/page.html")
    page = pathlib.Path(tmp_path, "page.html").read_text()
    assert name in page and "data:image/png;base64," in page


def test_images_of_another_shape_are_told_how_to_fit(folder, tmp_path):
    status, _, errors = runs.command(
        "launch.audit",
        *AUDIT,
        f"--config.dataset.name=image_folder:{folder}/photos",
        f"--saved_model={runs.digits_model('vib')}",
        f"--workdir={tmp_path}/audit",
    )
    assert status == 2
    assert "images of shape (6, 5, 3)" in errors
    assert "--config.dataset.color_mode=grayscale" in errors
    assert "--config.dataset.image_size=8,8" in errors
