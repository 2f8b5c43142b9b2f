"""What needs no TensorFlow is refused before TensorFlow is imported."""

import json
import os
import pathlib

import pytest

from ib_keras import plugins
from ib_keras.errors import UserError
from tests.support import audit_folder
from tests.support import runs


def refused(module, *arguments, cwd=runs.ROOT):
    """The line and the status of a command that may not have TensorFlow."""
    process = runs.Process(
        *arguments, module=f"launch.{module}", cwd=cwd, tensorflow=False
    )
    status = process.wait()
    (line,) = process.read("errors").strip().splitlines()
    assert line.startswith("Error: "), line
    assert "Received:" in line and "Expected:" in line and "Fix:" in line
    assert status == 2
    return line


@pytest.fixture
def model(tmp_path):
    """What looks like a model until it is loaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"")
    return folder


def audit(tmp_path, model, *arguments, workdir="audit", **more):
    return refused(
        "audit",
        "--config=configs/audits/pgd_restarts.py",
        f"--saved_model={model}",
        f"--workdir={tmp_path / workdir}",
        *arguments,
        **more,
    )


@pytest.mark.parametrize(
    "argument, said",
    [
        ("--config.sed=1", "config field"),
        ("--config.seed=-1", "seed=-1. Expected"),
        ("--config.num_examples=0", "num_examples=0. Expected"),
        ("--config.batch_size=0", "batch_size=0. Expected"),
        ("--config.mode=noisy", "No mode has this name"),
        ("--config.threat_model.norm=l3", "No norm has this name"),
        ("--config.threat_model.epsilon=8", "Did you mean 8/255"),
        ("--config.stages.pgd.attack.name=pdg", 'Did you mean "pgd"?'),
        ("--config.stages.pgd.attack.name=fgs", "argument of attacks part fgs"),
        ("--config.stages.pgd.num_restarts=0", "num_restarts=0. Expected"),
        ("--config.dataset.name=mnits", 'Did you mean "mnist"?'),
        ("--config.diagnostics.set=some", "set of diagnostics"),
        ("--config.diagnostics.num_examples=0", "diagnostics.num_examples"),
        ("--config.diagnostics.twin=nowhere", "There is no SavedModel"),
        ("--config.model.layout=first", "No layout has this name"),
        ("--config.model.outputs=odds", "No kind of outputs has this name"),
        ("--config.model.outputs=softmax", 'Did you mean "probabilities"?'),
        ("--config.model.layout=NCHW", 'Did you mean "channels_first"?'),
        ("--config.threat_model.norm=L2", 'Did you mean "l2"?'),
        ("--config.threat_model.norm=Linf", 'Did you mean "linf"?'),
        ("--config.stages.pgd.attack.steps=3", "attack.num_steps"),
        ("--config.stages.pgd.attack.loss=ce", 'mean "cross_entropy"?'),
        ("--config.stages.pgd.attack.num_steps=0", "num_steps is not a count"),
        (
            "--config.stages.pgd.attack.step_size=-1",
            "step_size is not a number",
        ),
        ("--config.num_samples=0", "num_samples=0. Expected"),
        ("--strategy=miror", 'Did you mean "mirrored"?'),
        ("--strategy=mirrored --tpu=local", "but another strategy"),
        ("--strategy=multi_worker", "Take launch.study"),
        ("--tpu=grpc//10.0.0.2:8470", "does not name a TPU"),
        ("--tpu=Local", "does not name a TPU"),
        ("--worker_timeout=-1", "--worker_timeout=-1"),
        ("--watchdog_minutes=-1", "--watchdog_minutes=-1"),
        ("--allow_ops=ReadFil", 'Did you mean "ReadFile"?'),
    ],
)
def test_a_wrong_field_of_an_audit(tmp_path, model, argument, said):
    assert said in audit(tmp_path, model, *argument.split())
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
    off = ("--config.diagnostics.set=none", "--config.dataset.name=digits")
    said = audit(tmp_path, model, *off, "--fail_on=invalid")
    assert "There will be no verdict to fail on" in said


# By what is typed of a data set, what is said.
DATA = {
    "name=npz": "misses arguments",
    "name=npz path=nowhere.npz": "There is no archive of images",
    "name=npz:README.md": "A file is damaged",
    "name=npz:x pth=y": 'Did you mean "--config.{}.path"?',
    "name=image_folder:nowhere": "nowhere: no such folder",
    "name=image_folder:results/mnist_vib/records": "Put the images of each",
    "name=image_folder path=. image_size=big": "not one of images",
    "name=image_folder path=. color_mode=gray": 'mean "grayscale"?',
    "name=tfds": "also tfds_name",
    "name=tfds:": "Nothing follows the colon",
    "name=tfds:fashion_mnits": "such as fashion_mnist",
    "name=tfds:mnist/large": "does not open a data set of this name",
    "name=tfds:mnist image_key=img": 'Did you mean "image"?',
    "name=tfds:celeb_a": "has no classes",
    "name=tfds:imagenette": "such as 224,224",
    "name=tfds:kmnist data_dir=nowhere download=False": "downloads are off",
    "name=mnist data_dir=nowhere download=False": "downloads are off",
    "name=mnist:x": "takes nothing behind a colon",
    "name=my.data": "no such module",
    "name=tests.support.own_data splt_of=x": "split_of",
}


@pytest.mark.parametrize(("typed", "said"), DATA.items(), ids=DATA.keys())
@pytest.mark.parametrize("section", ["dataset", "data"])
def test_a_wrong_data_set(tmp_path, model, section, typed, said):
    given = [f"--config.{section}.{field}" for field in typed.split()]
    if section == "dataset":
        found = audit(tmp_path, model, *given)
    else:
        config = "--config=configs/mnist_vib.py"
        found = refused("train", config, f"--workdir={tmp_path / 'x'}", *given)
    assert said.format(section) in found


def test_a_model_that_names_no_data_set(tmp_path, model):
    assert "Set --config.dataset.name." in audit(tmp_path, model)


def test_a_model_whose_data_set_is_gone(tmp_path, model):
    (model / "assets").mkdir()
    data = {"name": "npz", "path": str(tmp_path / "gone.npz")}
    said = {"format_version": 1, "config": {"data": data}}
    (model / "assets" / "ib_keras.json").write_text(json.dumps(said))
    assert "gone.npz" in audit(tmp_path, model)
    found = audit(tmp_path, model, "--config.dataset.pth=x")
    assert 'Did you mean "path"?' in found
    said["format_version"] = 2
    (model / "assets" / "ib_keras.json").write_text(json.dumps(said))
    assert "Update ib_keras" in audit(tmp_path, model)


def test_a_module_in_the_current_folder(tmp_path):
    """Its arguments are known, and it is not imported."""

    def said(*arguments):
        return refused(
            "train",
            f"--config={runs.ROOT}/configs/digits_vib.py",
            "--config.data.name=my_data",
            "--workdir=run",
            *arguments,
            cwd=tmp_path,
        )

    path = tmp_path / "my_data.py"
    path.write_text("raise SystemExit\n")
    assert "which has no build()" in said()
    path.write_text("raise SystemExit\ndef build(rows, *, seed=0): pass\n")
    assert "also rows" in said()
    listed = "--config.data.name, --config.data.rows, --config.data.seed"
    assert listed in said("--config.data.row=1")


@pytest.mark.parametrize(
    "argument, said",
    [
        ("--config.sed=1", "config field"),
        ("--config.train.batch_size=0", "train.batch_size=0. Expected"),
        ("--config.num_epochs=-1", "num_epochs=-1. Expected"),
        ("--config.data.name=mnits", 'Did you mean "mnist"?'),
        ("--config.encoder.name=mlpp", 'Did you mean "mlp"?'),
        ("--config.encoder.name=linear", "argument of encoders part linear"),
        ("--config.bottleneck.name=vab", 'Did you mean "vib"?'),
        ("--config.bottleneck.name=ceb", "argument of bottlenecks part ceb"),
        ("--config.optim.name=adm", 'Did you mean "adam"?'),
        ("--config.optim.learning_rate=0", "learning_rate is not a number"),
        ("--config.optim.beta_1=2", "optim.beta_1=2"),
        ("--config.optim.decay_every_epochs=0", "decay_every_epochs=0"),
        ("--config.decoder.initializer=glorot", 'Did you mean "glorot_'),
        ("--config.train.split=tran[:100]", 'Did you mean "train"?'),
        ("--config.eval.other_splits=('tset',)", "Correct eval.other_splits"),
        ("--config.averaging.decay=1", "decay is not a number"),
        ("--config.precision=half", "No precision has this name"),
        ("--config.input.normalisation=z", "normalisation has this name"),
        ("--config.encoder.hidden_units=0", "is not a list of counts"),
        ("--config.bottleneck.beta=-1", "beta is not a number"),
        ("--config.bottleneck.rate_estimator=mc", "No rate estimator"),
        ("--config.objective.epsilon=0.1", "mnist_vib.py:pgd_at"),
        ("--strategy=TPUs", 'Did you mean "tpu"?'),
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
    config = "--config=configs/mnist_vib.py:smoke"
    said = refused("sweep", config, given, "--config.num_epochs=-1")
    assert "num_epochs=-1. Expected" in said
    said = refused("sweep", config, given, "--workers=0")
    assert "--workers=0" in said


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
    expected = "does not compare" if "model_card" in flags[0] else '"bib"'
    assert expected in said
    assert runs.snapshot(str(tmp_path)) == before


@pytest.mark.parametrize(
    "argument, said",
    [
        ("verify --num_draws=0", "--num_draws=0"),
        ("verify --tolerance=-1", "--tolerance=-1"),
        ("verify --saved_model=nowhere", "There is no SavedModel"),
        ("verify --allow_ops=ReadFil", 'Did you mean "ReadFile"?'),
        ("verify --output=/dev/null/x", "Cannot make the folder"),
        ("landscape --output=o --grid=4", "--grid=4"),
        ("landscape --output=o --grid=6", "--grid=6"),
        ("landscape --output=o --span=0.5", "--span=0.5"),
        ("landscape --output=o --num_draws=0", "--num_draws=0"),
        ("landscape --output=o --examples=a", "named by its number"),
        ("landscape --output=o --saved_model=nowhere", "is no SavedModel"),
        ("landscape --output=o --allow_ops=ReadFil", '"ReadFile"?'),
        ("landscape --output=/dev/null/x", "Cannot make the folder"),
    ],
)
def test_a_wrong_flag_beside_a_finished_audit(tmp_path, argument, said):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "summary.json").write_text('{"model": {"path": "gone"}}')
    command, *flags = argument.split()
    assert said in refused(command, f"--workdir={tmp_path}", *flags)


def test_an_audit_without_its_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "summary.json").write_text('{"model": {"path": "gone"}}')
    said = refused("verify", f"--workdir={tmp_path}")
    assert "The audited model is not at the path in the summary" in said


def test_an_unknown_format_and_an_unknown_figure(tmp_path):
    said = refused("report", f"--workdir={tmp_path}", "--format=latx")
    assert 'Did you mean "latex"?' in said
    assert "11" in refused("figures", "--figure=11", f"--output={tmp_path}")


@pytest.mark.parametrize(
    "package",
    ["attacks", "data", "encoders", "bottlenecks", "audit.diagnostics"],
)
def test_a_build_is_read_as_it_is(package):
    import inspect

    for name in plugins.names(package):
        read = plugins.parameters(package, name)
        real = inspect.signature(plugins.load(package, name).build).parameters
        assert [p.name for p in read] == list(real)
        for one, other in zip(read, real.values(), strict=True):
            is_needed = other.default is other.empty
            assert (one.default is one.empty) == is_needed
            assert (one.kind is one.VAR_KEYWORD) == (
                other.kind is other.VAR_KEYWORD
            )


def test_a_part_of_the_user_is_not_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    pathlib.Path(tmp_path, "package").mkdir()
    path = tmp_path / "package" / "my_part.py"
    path.write_text("raise SystemExit\n")
    plugins.check("attacks", {"name": "package.my_part", "any": 1})
    path.write_text("raise SystemExit\ndef build(size): pass\n")
    with pytest.raises(UserError, match="argument of attacks part"):
        plugins.check("attacks", {"name": "package.my_part", "any": 1})
    with pytest.raises(UserError, match="no such module"):
        plugins.check("attacks", {"name": "package.your_part"})
    with pytest.raises(UserError, match="misses arguments"):
        plugins.check("encoders", {"name": "mlp"})


@pytest.mark.parametrize(
    "tpu",
    ["local", "node-1", "grpc://10.0.0.2:8470", "grpc://a:1,grpc://b:2"],
)
def test_a_tpu_that_may_exist_is_not_refused_early(tpu):
    from launch import flags

    assert flags._TPU.fullmatch(tpu)


def test_the_strategies_are_those_that_exist():
    from ib_keras import strategy
    from launch import flags

    assert flags.STRATEGIES == strategy.NAMES
