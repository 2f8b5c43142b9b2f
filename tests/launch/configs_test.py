"""Every config: its command parses, and its smoke run trains and exports."""

import importlib
import pathlib
import re
import shlex

import pytest

from ib_keras import plugins
from ib_keras.audit import runner
from ib_keras.training import loop

ROOT = pathlib.Path(__file__).parents[2]
EXPERIMENTS = sorted(
    path.stem
    for path in (ROOT / "configs").glob("*_*.py")
    if not path.stem.startswith("_")
)
PROTOCOLS = sorted(
    path.stem
    for path in (ROOT / "configs" / "audits").glob("*.py")
    if path.stem != "__init__"
)


def test_the_experiments_of_the_paper_are_all_there():
    expected = {
        f"{data}_{bottleneck}"
        for data in ("mnist", "cifar10", "digits")
        for bottleneck in ("deterministic", "vib", "ceb")
    }
    assert set(EXPERIMENTS) == expected
    assert set(PROTOCOLS) == {
        *("aa_mt", "autoattack_standard", "fgs_epsilons"),
        *("pgd_madry", "pgd_restarts"),
    }


@pytest.mark.parametrize(
    "path",
    [f"configs/{name}.py" for name in EXPERIMENTS]
    + [f"configs/audits/{name}.py" for name in PROTOCOLS],
)
def test_the_docstring_begins_with_a_command_that_names_the_file(path):
    name = path.removesuffix(".py").replace("/", ".")
    doc = importlib.import_module(name).__doc__
    command = re.search(r"^python -m (?:.*\\\n)*.*", doc, re.M)[0]
    words = shlex.split(command.replace("\\\n", " "))
    module = "launch.audit" if "audits" in path else "launch.train"
    assert words[:3] == ["python", "-m", module]
    assert f"--config={path}" in words
    assert any(word.startswith("--workdir=") for word in words)
    after = doc[doc.index(command) + len(command) :]
    assert len(after.split()) > 8, "time and expected number"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_paper_s_settings_are_those_of_the_table(name):
    data, bottleneck = name.split("_")
    config = importlib.import_module(f"configs.{name}").get_config()
    assert config.bottleneck.name == bottleneck
    if data == "digits":
        return
    assert (config.bottleneck.latent_dim, config.num_samples) == (256, 12)
    assert config.encoder.hidden_units == (1024, 1024)
    if data == "mnist":
        expected = (200, 100, 1e-4, 0.5, 0.999, 0.97, 2, 0.999)
    else:
        expected = (1000, 1024, 0.012, 0.9, 0.999, 0.3, 250, 0.0)
    assert expected == (
        config.num_epochs,
        config.train.batch_size,
        config.optim.learning_rate,
        config.optim.beta_1,
        config.optim.beta_2,
        config.optim.decay_factor,
        config.optim.decay_every_epochs,
        config.averaging.decay,
    )
    assert config.train.augment == (data == "cifar10")
    if data == "cifar10" and bottleneck != "deterministic":
        epochs = {"vib": 100.0, "ceb": 4.0}[bottleneck]
        assert config.bottleneck.anneal_epochs == epochs
    if name == "cifar10_ceb":
        assert config.bottleneck.initial_rho == 100.0
    if name == "cifar10_vib":
        assert config.bottleneck.initial_beta == 1e-8


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_smoke_trains_and_exports(name, tmp_path):
    config = importlib.import_module(f"configs.{name}").get_config("smoke")
    if config.encoder.name == "preact_resnet18":
        # The network is tested by itself; tracing it takes the whole minute.
        config.encoder.name = "mlp"
    result = loop.train(config.to_dict(), str(tmp_path / "run"), quiet=True)
    assert result["step"] == 8
    assert 0.0 <= result["accuracy"] <= 1.0
    assert (tmp_path / "run" / "saved_model" / "saved_model.pb").exists()


def test_a_smoke_step_of_the_residual_network_trains(tmp_path):
    config = importlib.import_module("configs.cifar10_ceb").get_config("smoke")
    config.data.num_train = config.data.num_test = 16
    config.num_epochs = 1
    result = loop.train(config.to_dict(), str(tmp_path / "run"), quiet=True)
    assert result["step"] == 1


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_stages_of_a_protocol_can_be_built(name):
    module = importlib.import_module(f"configs.audits.{name}")
    stages = runner.build_stages(module.get_config().to_dict())
    assert stages
    for stage in stages:
        assert stage.config["name"] in plugins.names("attacks")


def test_aa_mt_is_the_paper_s_ensemble_and_budget():
    config = importlib.import_module("configs.audits.aa_mt").get_config()
    stages = runner.build_stages(config.to_dict())
    from ib_keras.attacks.runner import Runner

    each = [Runner.most_gradients(stage, 10) for stage in stages]
    assert each == [505, 505, 18000]
    assert abs(config.threat_model.epsilon - 8 / 255) < 1e-12


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="smoke"):
        importlib.import_module("configs.mnist_vib").get_config("smok")
