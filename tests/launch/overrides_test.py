"""Overrides as people type them become what absl reads; all else stays."""

import ml_collections
import pytest
from ml_collections import config_dict

from ib_keras.errors import UserError
from launch import overrides


def config():
    return ml_collections.ConfigDict(
        {
            "epsilon": 0.1,
            "count": 10,
            "name": "vib",
            "radii": (0.1,),
            "samples": config_dict.placeholder(int),
            "inner": {"rate": 1.0, "path": config_dict.placeholder(str)},
        }
    )


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["--config.epsilon=8/255"], ["--config.epsilon=0.03137254901960784"]),
        (["--config.inner.rate=1/4"], ["--config.inner.rate=0.25"]),
        (["--config.count=1e3"], ["--config.count=1000"]),
        (["--config.count=2.0"], ["--config.count=2"]),
        (["--config.count", "1e3"], ["--config.count=1000"]),
        (["--config.samples=12.0"], ["--config.samples=12"]),
        (
            ["--config.radii=8/255,0.1"],
            ["--config.radii=0.03137254901960784,0.1"],
        ),
        (["--config.samples=None"], []),
        (["--config.inner.path=None"], []),
        (["--config.radii=None"], ["--config.radii=()"]),
        (["--config.radii", "none"], ["--config.radii=()"]),
    ],
)
def test_convenient_forms_of_numbers_are_understood(typed, meant):
    assert overrides.normalise(typed, config()) == meant


@pytest.mark.parametrize(
    "typed",
    [
        "--config.count=2.5",
        "--config.count=many",
        "--config.epsilon=1/0",
        "--config.name=a/b",
        "--config.name=None",
        "--config.inner.path=8/255",
        "--config.nothing=1e3",
        "--config.name.inner=1e3",
        "--config=configs/audits/aa_mt.py",
        "--workdir=8/255",
        "--config.epsilon",
        "a word",
    ],
)
def test_all_else_stays(typed):
    assert overrides.normalise([typed], config()) == [typed]


def parts():
    found = ml_collections.ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "mnist",
                "data_dir": config_dict.placeholder(str),
                "download": True,
            },
            "stages": {"pgd": {"attack": {"name": "pgd", "num_steps": 3}}},
            "optim": {"name": "adam"},
        }
    )
    return found.lock()


def extended(*arguments):
    """The config as it is with arguments, where absl reads the fields."""
    before, config = parts(), parts()
    rest, added = overrides.take_arguments(arguments, before)
    for word in rest:
        name, _, value = word.removeprefix("--config.").partition("=")
        config.update_from_flattened_dict({name: value})
    overrides.extend(config, before, rest, added)
    assert config.is_locked
    return config.to_dict()


def test_the_arguments_of_another_part_are_taken():
    """Its own remain, and those of the previous part are removed."""
    found = extended("--config.data.name=npz", "--config.data.path=1234")
    assert found["data"] == {"name": "npz", "path": "1234"}
    found = extended("--config.data.name=tfds:kmnist")
    assert found["data"] == {
        "name": "tfds:kmnist",
        "data_dir": None,
        "download": True,
    }
    assert extended()["data"]["name"] == "mnist"


def test_any_section_of_a_part_takes_them():
    attack = "--config.stages.pgd.attack"
    found = extended(f"{attack}.step_size=1/4", f"{attack}.random_start=False")
    assert found["stages"]["pgd"]["attack"] == {
        "name": "pgd",
        "num_steps": 3,
        "step_size": 0.25,
        "random_start": False,
    }


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("image_size=224,224", (224, 224)),
        ("image_size=(8, 9)", (8, 9)),
        ("image_size=[8, 9]", (8, 9)),
        ("image_size=64", 64),
        ("class_names=cat, dog", ("cat", "dog")),
        ("class_names=('a', 'b')", ("a", "b")),
        ("test_fraction=1/5", 0.2),
        ("crop_to_aspect_ratio=true", True),
        ("crop_to_aspect_ratio=False", False),
        ("color_mode=rgb", "rgb"),
        ("description=2024", "2024"),
        ("description=None", None),
    ],
)
def test_a_value_is_what_build_says_that_it_takes(argument, value):
    name = argument.partition("=")[0]
    found = extended(
        "--config.data.name=image_folder:x", f"--config.data.{argument}"
    )
    assert found["data"][name] == value
    assert type(found["data"][name]) is type(value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data.pth=x"], "--config.data.data_dir, --config.data.download"),
        (["data.name=npz", "data.pth=x"], 'mean "--config.data.path"?'),
        (["data.nam=npz"], 'mean "--config.data.name"?'),
        (["data.name=nqz", "data.path=x"], 'mean "npz"?'),
        (["stages.pgd.attack.num_step=1"], "attack.num_steps"),
    ],
)
def test_an_argument_that_build_does_not_take_is_refused(arguments, said):
    with pytest.raises(UserError) as error:
        extended(*(f"--config.{word}" for word in arguments))
    assert said in str(error.value)


@pytest.mark.parametrize(
    "argument", ["--config.optim.lr=1", "--config.sed=1", "--config.data.a.b=1"]
)
def test_fields_of_no_part_are_left_to_absl(argument):
    assert overrides.take_arguments([argument], parts()) == ([argument], {})
