"""Every config is plain, parses as its docstring says, and trains."""

import ast
import importlib
import json
import pathlib
import shlex
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

from ib_keras import plugins
from ib_keras.audit import protocol
from ib_keras.audit import settings as audit_settings
from ib_keras.training import loop
from ib_keras.training import settings
from ib_keras.types import ThreatModel
from tests.support import config_digests
from tests.support import runs

pytestmark = pytest.mark.commands


def names(folder):
    return sorted(
        path.stem
        for path in (runs.ROOT / folder).glob("*.py")
        if path.stem not in ("__init__", "common")
    )


TRAINING = names("configs")
AUDITS = names("configs/audits")
ALL = [f"configs.{name}" for name in TRAINING] + [
    f"configs.audits.{name}" for name in AUDITS
]


SHAPES = {
    "mnist": (28, 28, 1),
    "cifar10": (32, 32, 3),
    "digits": (8, 8, 1),
    "toy_overlap": (1, 2, 1),
    "toy_tsipras": (1, 101, 1),
}
TOYS = ("toy_overlap", "toy_tsipras")
# Whose smoke takes long, or has the parts of another data set's.
SLOW = ("cifar10", "mnist", "toy_overlap", "digits_ceb", "digits_d")
# The experiments of the paper and digits; those of others are tested too.
OURS = [
    f"{data}_{bottleneck}"
    for data in ("mnist", "cifar10", "digits")
    for bottleneck in ("vib", "ceb", "deterministic")
] + [f"{data}_{model}" for data in TOYS for model in ("vib", "linear")]


def get(module, *arguments):
    return importlib.import_module(module).get_config(*arguments)


def values(config):
    return json.loads(config.to_json())


def test_there_is_a_config_for_each_data_set_and_bottleneck():
    assert set(OURS) <= set(TRAINING)
    assert {"fgs_epsilons", "pgd_restarts", "aa_mt"} <= set(AUDITS)


def test_no_config_and_no_sweep_has_changed():
    """Else the folders of runs that were begun with it do not go on.

    Is it meant, then: python -m tests.support.config_digests
    """
    meant, found = config_digests.read(), config_digests.compute()
    assert {key: found.get(key) for key in meant} == meant


@pytest.mark.parametrize("preset", ["", "cpu", "smoke"])
@pytest.mark.parametrize("name", [n for n in OURS if "_vib" not in n])
def test_models_of_a_data_set_differ_in_their_bottleneck_alone(name, preset):
    data = name.rpartition("_")[0]
    config, vib = (
        values(get(f"configs.{n}", preset)) for n in (name, f"{data}_vib")
    )
    del config["bottleneck"], vib["bottleneck"]
    assert config == vib


def is_plain(value):
    if isinstance(value, ml_collections.ConfigDict | dict):
        return all(is_plain(value[key]) for key in value)
    if isinstance(value, tuple):
        return all(is_plain(item) for item in value)
    return value is None or type(value) in (str, int, float, bool)


@pytest.mark.parametrize("module", ALL)
def test_a_config_holds_plain_values_alone(module):
    config = get(module)
    assert is_plain(config)
    for key in config:
        assert type(config[key]) is not list
    assert values(config) == values(get(module))  # A new one at each call.
    assert config is not get(module)


@pytest.mark.parametrize("name", TRAINING)
def test_a_full_config_is_one_that_training_reads(name):
    config = values(get(f"configs.{name}"))
    settings.check_values(config)
    plugins.build(
        "bottlenecks", config["bottleneck"], num_classes=10, steps_per_epoch=9
    )
    loop.build_optimizer(config["optim"], config["averaging"]["decay"], 9)


@pytest.mark.parametrize("name", OURS)
def test_a_config_has_the_parts_of_its_name(name):
    config = values(get(f"configs.{name}"))
    data, model = name.rsplit("_", 1)
    assert config["data"]["name"] == data
    bottleneck = {"linear": "deterministic"}.get(model, model)
    assert config["bottleneck"]["name"] == bottleneck
    if data != "cifar10":
        encoder = plugins.build(
            "encoders", config["encoder"], image_shape=SHAPES[data]
        )
        # The linear encoder gives the features themselves.
        width = config["encoder"].get("hidden_units", SHAPES[data][1:2])[-1]
        assert encoder.output_shape[1:] == (width,)


@pytest.mark.parametrize("name", AUDITS)
def test_a_protocol_is_one_that_an_audit_reads(name):
    config = values(get(f"configs.audits.{name}"))
    audit_settings.check(config)
    assert config["protocol"] == name
    stages = protocol.build_stages(config)
    assert [stage.name for stage in stages] == list(config["stages"])
    for stage in stages:
        section = config["stages"][stage.name]
        assert stage.num_restarts == section["num_restarts"]
    for epsilon in [
        config["threat_model"]["epsilon"],
        *config["epsilon_curve"],
    ]:
        ThreatModel(config["threat_model"]["norm"], epsilon)


# The paper's settings, by its text; see also DESIGN.
MNIST = {
    "num_epochs": 200,
    "num_samples": 12,
    "encoder": {"name": "mlp", "hidden_units": [1024, 1024]},
    "bottleneck.latent_dim": 256,
    "decoder.initializer": "glorot_uniform",
    "optim": {
        "name": "adam",
        "learning_rate": 1e-4,
        "beta_1": 0.5,
        "beta_2": 0.999,
        "decay_factor": 0.97,
        "decay_every_epochs": 2,
    },
    "averaging.decay": 0.999,
    "train.batch_size": 100,
    "train.augment": False,
    "input.normalisation": "minus_one_one",
}
CIFAR10 = {
    "num_epochs": 1000,
    "num_samples": 12,
    "encoder": {"name": "preact_resnet18", "hidden_units": [1024, 1024]},
    "bottleneck.latent_dim": 256,
    "optim": {
        "name": "adam",
        "learning_rate": 0.012,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "decay_factor": 0.3,
        "decay_every_epochs": 250,
    },
    "averaging.decay": 0.0,
    "train.batch_size": 1024,
    "train.augment": True,
    "input.normalisation": "train_statistics",
}
TOY = {
    "num_samples": 12,
    "encoder": {"name": "linear"},
    "decoder.initializer": "zeros",
    "optim": {
        "name": "sgd",
        "learning_rate": 0.003,
        "momentum": 0.9,
        "nesterov": True,
        "decay_factor": 1.0,
        "decay_every_epochs": 1,
    },
    "averaging.decay": 0.0,
    "data.num_examples": 10_000,
    "train.split": "train",
    "train.batch_size": 1024,
    "train.augment": False,
    "eval.split": "test",
    "eval.other_splits": ["adversarial"],
    "input.normalisation": "features",
}
BY_CONFIG = {
    "toy_overlap_vib": {"num_epochs": 1000, "bottleneck.latent_dim": 2},
    "toy_overlap_linear": {"num_epochs": 1000, "bottleneck.latent_dim": None},
    "toy_tsipras_vib": {"num_epochs": 200, "bottleneck.latent_dim": 25},
    "toy_tsipras_linear": {"num_epochs": 200, "bottleneck.latent_dim": None},
    "cifar10_vib": {
        "bottleneck.anneal_epochs": 100.0,
        "bottleneck.initial_beta": 1e-8,
    },
    "cifar10_ceb": {
        "bottleneck.anneal_epochs": 4.0,
        "bottleneck.initial_rho": 100.0,
    },
    "mnist_vib": {"bottleneck.anneal_epochs": 0.0},
    "mnist_ceb": {"bottleneck.anneal_epochs": 0.0},
}


@pytest.mark.parametrize("name", [n for n in OURS if "digits" not in n])
def test_the_settings_are_the_papers(name):
    config = values(get(f"configs.{name}"))
    settings = {"mnist": MNIST, "cifar10": CIFAR10, "toy": TOY}
    settings = settings[name.partition("_")[0]] | BY_CONFIG.get(name, {})
    for field, expected in settings.items():
        value = config
        for part in field.split("."):
            value = value[part]
        assert value == expected, field


@pytest.mark.parametrize("name", TRAINING)
def test_an_unknown_preset_lists_those_there_are(name):
    with pytest.raises(ValueError) as error:
        get(f"configs.{name}", "smok")
    assert 'Received preset "smok"' in str(error.value)
    assert "smoke" in str(error.value).partition("Expected")[2]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * name.startswith(SLOW))
        for name in TRAINING
    ],
)
def test_the_smoke_of_a_config_trains(tmp_path, name):
    """All the parts of the full config, in seconds: on random images.

    What is drawn needs no stand-in.
    """
    full, smoke = (
        values(get(f"configs.{name}", preset)) for preset in ("", "smoke")
    )
    for section in ("encoder", "bottleneck", "optim"):
        assert smoke[section]["name"] == full[section]["name"]
    for section in ("input", "averaging", "optim"):
        assert smoke[section] == full[section]
    result = loop.train(smoke, str(tmp_path), quiet=True)
    if name in OURS:
        data = name.rsplit("_", 1)[0]
        stand_in = data if data in TOYS else "random_images"
        assert smoke["data"]["name"] == stand_in
        source = plugins.build("data", smoke["data"])
        assert source.image_shape == SHAPES[data]
    assert result["step"] == 8
    assert result["num_eval_examples"] == 32
    assert np.isfinite(result["loss"])
    assert (tmp_path / "saved_model" / "saved_model.pb").exists()


def commands():
    """The commands of all docstrings, by file."""
    found = {}
    for name in ALL:
        path = runs.ROOT / f"{name.replace('.', '/')}.py"
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        start = text.index("python -m ")
        command = text[start:].partition("\n\n")[0].replace("\\\n", " ")
        found[name] = shlex.split(command)
    return found


# Parses the command lines that it reads, each in a process of its own.
PARSE = """
import importlib, json, os, sys
from launch import flags

for module, *arguments in json.load(sys.stdin):
    if os.fork() == 0:
        importlib.import_module(module)
        flags._parse([module, *arguments])
        config = flags.config_values()
        print(json.dumps([config, flags.FLAGS.workdir]), flush=True)
        os._exit(0)
    os.wait()
"""


def what_runs(name):
    """The command that a config is for, and the folder of what it makes."""
    if ".audits." in name:
        return "audit", "audits"
    is_study = name == "configs.ib_adversarial"  # One training says nothing.
    return ("sweep", "sweeps") if is_study else ("train", "runs")


def test_the_command_of_a_docstring_is_that_of_its_config():
    lines = []
    for name, command in commands().items():
        assert command[:2] == ["python", "-m"]
        assert command[2] == f"launch.{what_runs(name)[0]}"
        assert f"--config={name.replace('.', '/')}.py" in command
        lines.append(command[2:])
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        input=json.dumps(lines),
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stderr == ""
    parsed = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(parsed) == len(ALL)
    for name, (config, workdir) in zip(commands(), parsed, strict=True):
        assert config == values(get(name))
        assert pathlib.PurePath(workdir).parts[0] == what_runs(name)[1]
