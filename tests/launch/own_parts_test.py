"""A bottleneck, a data set and their experiment are new files and no edits."""

import importlib
import json

import pytest

from ib_keras import export
from ib_keras.sweeps import plan
from ib_keras.training import loop
from ib_keras.training import settings

pytestmark = pytest.mark.commands

BOTTLENECK = '''
"""VIB whose weight is told as its strength."""
from ib_keras.bottlenecks import vib

def build(num_classes, steps_per_epoch, latent_dim, strength):
    return vib.VIB(latent_dim, beta=1e-3 * strength, name="bottleneck")
'''
DATA = '''
"""Bright and dark images."""
import numpy as np
from ib_keras.data import arrays

def build(num_examples):
    labels = np.arange(num_examples) % 2
    images = np.full((num_examples, 5, 5, 1), 64, np.uint8)
    images[labels == 1] = 192
    return arrays.make(
        "my_data", train=(images, labels), test=(images, labels)
    )
'''
EXPERIMENT = """
import ml_collections

from configs import common
from configs.sweeps import grid

def get_config(preset=""):
    common.check_preset(preset)
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.num_epochs = 3
    config.num_samples = 2
    config.steps_per_call = 10
    config.precision = "float32"
    config.data = dict(name="my_data", num_examples=40)
    config.input = dict(normalisation="minus_one_one")
    config.encoder = dict(name="mlp", hidden_units=(16,))
    config.bottleneck = dict(name="my_bottleneck", latent_dim=4, strength=1.0)
    config.decoder = dict(initializer="glorot_uniform")
    config.optim = dict(
        name="adam", learning_rate=0.01, decay_factor=1.0, decay_every_epochs=1
    )
    config.averaging = dict(decay=0.0)
    config.train = dict(
        split="train", batch_size=8, augment=False, log_every_steps=5
    )
    config.eval = dict(
        split="test", other_splits=(), batch_size=8, every_epochs=1.0
    )
    config.checkpoint = dict(every_steps=100, keep=1)
    if preset == "smoke":
        common.smoke(config, image_shape=(5, 5, 1))
    return config

def sweep(add, preset=""):
    for strength in (0.5, 2.0):
        grid.add_seeds(
            add,
            2,
            "mine",
            {"strength": strength},
            audits={"fgs": {"protocol": "fgs_epsilons"}},
        )
    grid.add_seeds(add, 1, "default")
    return "Nothing."
"""


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """The module of the experiment, which lies where nothing is ours."""
    for name, text in (
        ("my_bottleneck", BOTTLENECK),
        ("my_data", DATA),
        ("my_experiment", EXPERIMENT),
    ):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("my_experiment")


def values(config):
    return json.loads(config.to_json())


def make_plan(experiment, preset=""):
    return plan.make(
        "my_experiment",
        preset,
        experiment.sweep,
        lambda module, presets: values(experiment.get_config(presets)),
        lambda name: values(
            importlib.import_module(f"configs.audits.{name}").get_config()
        ),
    )


def test_new_parts_are_planned_and_trained(experiment, tmp_path):
    runs = {run.name: run for run in make_plan(experiment).runs}
    assert list(runs) == [
        "mine_strength_0.5_seed_0",
        "mine_strength_0.5_seed_1",
        "mine_strength_2_seed_0",
        "mine_strength_2_seed_1",
        "default_seed_0",
    ]
    run = runs["mine_strength_2_seed_1"]
    assert run.labels == {"model": "mine", "strength": 2.0, "seed": 1}
    assert run.config["bottleneck"]["strength"] == 2.0
    assert run.config["seed"] == 1
    assert list(run.audits) == ["fgs"]
    default = runs["default_seed_0"]
    assert default.config == values(experiment.get_config())
    assert not default.audits
    settings.check_values(run.config)
    result = loop.train(run.config, str(tmp_path / "run"), quiet=True)
    assert result["num_eval_examples"] == 40
    assert result["accuracy"] == 1.0
    metadata = export.read_metadata(f"{tmp_path}/run/{loop.SAVED_MODEL}")
    assert metadata["config"]["bottleneck"] == run.config["bottleneck"]


def test_the_smoke_of_new_parts_is_that_of_all(experiment):
    for run in make_plan(experiment, "smoke").runs:
        settings.check_values(run.config)
        assert run.config["data"]["name"] == "random_images"
        assert run.config["data"]["image_shape"] == [5, 5, 1]
        assert run.config["bottleneck"]["name"] == "my_bottleneck"
