"""What needs no TensorFlow is refused before TensorFlow is imported."""

import pathlib
import subprocess
import sys

import pytest

from ib_keras import plugins
from ib_keras.audit import diagnostics
from ib_keras.audit import settings
from ib_keras.errors import UserError
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


def test_sets_are_those_of_the_diagnostics():
    assert settings.SETS == diagnostics.SETS


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
