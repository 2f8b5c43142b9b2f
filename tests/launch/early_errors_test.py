"""What needs no TensorFlow is refused before TensorFlow is imported."""

import os
import pathlib
import subprocess
import sys

import pytest

from ib_keras import plugins
from ib_keras.errors import UserError
from tests.support import audit_folder
from tests.support import runs

# Runs a module as `python -m` does, where an import of TensorFlow is a fault.
BLOCKED = """
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras"):
            print(f"imported {name}", file=sys.stderr)
            raise SystemExit(99)
sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def refused(module, *arguments):
    """The line and the status of a command that may not have TensorFlow."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, f"launch.{module}", *arguments],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Error: "), line
    assert "Received:" in line and "Expected:" in line and "Fix:" in line
    assert done.returncode == 2
    return line


@pytest.fixture
def model(tmp_path):
    """What looks like a model until it is loaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"")
    return folder


def audit(tmp_path, model, *arguments, workdir="audit"):
    return refused(
        "audit",
        "--config=configs/audits/pgd_restarts.py",
        f"--saved_model={model}",
        f"--workdir={tmp_path / workdir}",
        *arguments,
    )


@pytest.mark.parametrize(
    "argument, said",
    [
        ("--config.sed=1", "config field"),
        ("--config.seed=-1", "seed is not of its kind"),
        ("--config.num_examples=0", "num_examples is not a count"),
        ("--config.batch_size=0", "batch_size is not a count"),
        ("--config.mode=noisy", "No mode has this name"),
        ("--config.threat_model.norm=l3", "No norm has this name"),
        ("--config.threat_model.epsilon=8", "Did you mean 8/255"),
        ("--config.stages.pgd.attack.name=pdg", 'Did you mean "pgd"?'),
        ("--config.stages.pgd.attack.name=fgs", "argument of attacks part fgs"),
        ("--config.stages.pgd.num_restarts=0", "num_restarts is not a count"),
        ("--config.dataset.name=mnits", 'Did you mean "mnist"?'),
        ("--config.diagnostics.set=some", "set of diagnostics"),
        ("--config.diagnostics.num_examples=0", "diagnostics.num_examples"),
        ("--config.diagnostics.twin=nowhere", "There is no SavedModel"),
        ("--config.model.layout=first", "No layout has this name"),
        ("--config.model.outputs=odds", "No kind of outputs has this name"),
    ],
)
def test_a_wrong_field_of_an_audit(tmp_path, model, argument, said):
    assert said in audit(tmp_path, model, argument)
    assert not (tmp_path / "audit").exists()


def test_a_model_that_is_not_there(tmp_path):
    assert "There is no SavedModel" in audit(tmp_path, tmp_path / "nothing")


def test_a_workdir_that_cannot_be_one(tmp_path, model):
    (tmp_path / "file").write_text("")
    said = audit(tmp_path, model, workdir="file")
    assert "The workdir is not a folder" in said
    said = audit(tmp_path, model, workdir="file/below")
    assert "Cannot make the folder" in said
    said = audit(tmp_path, model, workdir="model")
    assert "The workdir holds something else" in said


def test_a_workdir_of_another_audit(tmp_path, model):
    folder = tmp_path / "audit"
    folder.mkdir()
    (folder / "config.json").write_text('{"audit": {"seed": 5}}')
    said = audit(tmp_path, model)
    assert "The workdir belongs to another config" in said


def test_a_gate_without_diagnostics(tmp_path, model):
    off = "--config.diagnostics.set=none"
    said = audit(tmp_path, model, off, "--fail_on=invalid")
    assert "There will be no verdict to fail on" in said


@pytest.mark.parametrize(
    "argument, said",
    [
        ("--config.sed=1", "config field"),
        ("--config.train.batch_size=0", "batch_size is not a count"),
        ("--config.num_epochs=-1", "num_epochs is not a length"),
        ("--config.data.name=mnits", 'Did you mean "mnist"?'),
        ("--config.encoder.name=mlpp", 'Did you mean "mlp"?'),
        ("--config.encoder.name=linear", "argument of encoders part linear"),
        ("--config.bottleneck.name=vab", 'Did you mean "vib"?'),
        ("--config.bottleneck.name=ceb", "argument of bottlenecks part ceb"),
        ("--config.optim.name=adm", 'Did you mean "adam"?'),
    ],
)
def test_a_wrong_field_of_a_training(tmp_path, argument, said):
    workdir = tmp_path / "run"
    config = "--config=configs/mnist_vib.py"
    found = refused("train", config, f"--workdir={workdir}", argument)
    assert said in found
    assert not workdir.exists()


def test_a_workdir_that_a_training_cannot_have(tmp_path):
    (tmp_path / "other").write_text("")
    said = refused(
        "train", "--config=configs/mnist_vib.py", f"--workdir={tmp_path}"
    )
    assert "The workdir holds something else" in said


def test_a_sweep_of_nothing(tmp_path):
    given = f"--workdir={tmp_path / 'sweep'}"
    said = refused("sweep", "--config=configs/mnist_deterministic.py", given)
    assert "The config has no grid" in said
    said = refused(
        "sweep", "--config=configs/mnist_vib.py", given, "--only=none"
    )
    assert "No run matches" in said


@pytest.mark.parametrize(
    "command",
    [
        ("report",),
        ("report", "--format=csv"),
        ("verify",),
        ("show", "--index=0"),
        ("landscape", "--output=nowhere"),
    ],
    ids=" ".join,
)
def test_a_folder_of_no_audit(tmp_path, command):
    said = refused(*command, f"--workdir={tmp_path}")
    assert f"A file is missing. Received: no {tmp_path}/summary.json" in said
    assert not os.path.exists(runs.ROOT / "nowhere")


@pytest.mark.parametrize(
    "flags",
    [("--format=html",), ("--format=csv",), ("--format=model_card",)],
    ids=" ".join,
)
def test_a_baseline_that_is_not_there(tmp_path, flags):
    audit_folder.write(str(tmp_path), model="vib")
    before = runs.snapshot(str(tmp_path))
    said = refused("report", f"--workdir={tmp_path}", "--baseline=bib", *flags)
    expected = "compares nothing" if "model_card" in flags[0] else '"bib"'
    assert expected in said
    assert runs.snapshot(str(tmp_path)) == before


def test_an_audit_without_its_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "summary.json").write_text('{"model": {"path": "gone"}}')
    said = refused("verify", f"--workdir={tmp_path}")
    assert "The audited model is not where the summary says" in said


def test_a_format_and_a_figure_that_there_are_not(tmp_path):
    said = refused("report", f"--workdir={tmp_path}", "--format=latx")
    assert 'Did you mean "latex"?' in said
    assert "11" in refused("figures", "--figure=11", f"--output={tmp_path}")


@pytest.mark.parametrize(
    "room", ["attacks", "data", "encoders", "bottlenecks", "audit.diagnostics"]
)
def test_a_build_is_read_as_it_is(room):
    import inspect

    for name in plugins.names(room):
        read = plugins._read_parameters(room, name)
        real = inspect.signature(plugins.load(room, name).build).parameters
        assert [p.name for p in read] == list(real)
        for one, other in zip(read, real.values(), strict=True):
            is_needed = other.default is other.empty
            assert (one.default is one.empty) == is_needed
            assert (one.kind is one.VAR_KEYWORD) == (
                other.kind is other.VAR_KEYWORD
            )


def test_a_part_of_the_user_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "my_part.py").write_text("raise SystemExit\n")
    monkeypatch.syspath_prepend(tmp_path)
    pathlib.Path(tmp_path, "room").mkdir()
    plugins.check("attacks", {"name": "room.my_part", "any": 1})
    with pytest.raises(UserError, match="misses arguments"):
        plugins.check("encoders", {"name": "mlp"})
