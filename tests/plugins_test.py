import importlib
import pathlib
import sys

import keras
import numpy as np
import pytest

from ib_keras import plugins
from ib_keras.errors import UserError
from tests.support import models

PACKAGES = ("attacks", "bottlenecks", "data", "encoders")


def error_text(function, *arguments, **more) -> str:
    with pytest.raises(UserError) as error:
        function(*arguments, **more)
    return str(error.value)


@pytest.fixture
def plant(monkeypatch, tmp_path):
    """A function that drops a file into a package, for the time of one test."""
    planted = []

    def drop(package, name, source):
        module = importlib.import_module(f"ib_keras.{package}")
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.setattr(
            module, "__path__", [*module.__path__, str(tmp_path)]
        )
        planted.append((module, name))
        plugins.names.cache_clear()
        importlib.invalidate_caches()

    yield drop
    for module, name in planted:
        sys.modules.pop(f"{module.__name__}.{name}", None)
        vars(module).pop(name, None)
    monkeypatch.undo()
    plugins.names.cache_clear()


def test_the_parts_of_the_paper_are_found():
    assert set(plugins.names("bottlenecks")) >= {"ceb", "deterministic", "vib"}
    assert {"linear", "mlp", "preact_resnet18"} <= set(
        plugins.names("encoders")
    )


def test_a_module_without_build_is_no_part():
    folder = pathlib.Path(importlib.import_module("ib_keras").__path__[0])
    assert (folder / "bottlenecks" / "base.py").exists()
    assert "base" not in plugins.names("bottlenecks")
    assert "__init__" not in plugins.names("bottlenecks")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_new_file_in_a_package_is_a_part_without_another_edit(package, plant):
    before = plugins.names(package)
    source = "def build(size, shift=1):\n    return ('planted', size + shift)\n"
    plant(package, "planted_part", source)
    assert set(plugins.names(package)) - set(before) == {"planted_part"}
    section = {"name": "planted_part", "size": 3}
    assert plugins.build(package, section) == ("planted", 4)
    assert "planted_part" in error_text(plugins.load, package, "no_such_part")


def test_the_parts_are_read_and_not_imported_to_be_listed(plant):
    source = "raise RuntimeError('imported')\ndef build():\n    pass\n"
    plant("encoders", "explosive", source)
    assert "explosive" in plugins.names("encoders")


def test_a_planted_encoder_trains_and_loads_by_its_name_alone(plant, tmp_path):
    source = """
import keras

@keras.saving.register_keras_serializable(package="planted")
class Double(keras.layers.Layer):
    def call(self, x):
        return keras.ops.reshape(2.0 * x, (-1, 16))

def build(image_shape):
    return keras.Sequential([keras.Input(image_shape), Double()])
"""
    plant("encoders", "planted_encoder", source)
    model = models.build(encoder={"name": "planted_encoder"})
    images, labels = models.data(8)
    model.compile("sgd", run_eagerly=True)
    model.fit(images, labels, verbose=0)
    path = str(tmp_path / "model.keras")
    model.save(path)
    expected = model.predict(images, verbose=0)
    # As in a process that has not imported the file.
    keras.saving.get_custom_objects().pop("planted>Double")
    del sys.modules["ib_keras.encoders.planted_encoder"]
    loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), expected)
    keras.saving.get_custom_objects().pop("planted>Double")


def test_an_unknown_part_lists_the_parts_and_suggests_the_nearest():
    text = error_text(plugins.load, "bottlenecks", "vip")
    for name in plugins.names("bottlenecks"):
        assert name in text
    assert 'Did you mean "vib"' in text
    assert text.startswith("No bottleneck has this name.")


@pytest.mark.parametrize("name", ["", "VIB", ".", "..", ".vib", "vib.", "a/b"])
def test_what_is_no_name_of_a_part_is_a_user_error(name):
    text = error_text(plugins.load, "bottlenecks", name)
    assert f'"{name}"' in text and "vib" in text


def test_an_unknown_argument_lists_the_arguments_and_suggests_the_nearest():
    section = {"name": "vib", "bata": 0.1}
    text = error_text(
        plugins.build, "bottlenecks", section, num_classes=3, steps_per_epoch=1
    )
    assert 'Did you mean "beta"' in text
    assert "scale_shift" in text and "latent_dim" in text
    # What the caller gives is not for the config to set.
    assert "num_classes" not in text


def test_a_missing_argument_is_named():
    text = error_text(plugins.build, "bottlenecks", {"name": "ceb", "rho": 1.0})
    assert "Received: rho." in text
    assert "also num_classes, steps_per_epoch" in text


def test_a_section_without_a_name_lists_the_names():
    text = error_text(plugins.build, "encoders", {"hidden_units": (3,)})
    assert "hidden_units" in text and "one of linear, mlp" in text


def test_arguments_arrive_at_build():
    encoder = plugins.build(
        "encoders",
        {"name": "mlp", "hidden_units": (7, 5)},
        image_shape=(2, 2, 1),
    )
    shapes = [weight.shape for weight in encoder.weights]
    assert shapes == [(4, 7), (7,), (7, 5), (5,)]


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """A package of the user's, elsewhere on the path."""
    folder = tmp_path / "my_project_of_tests"
    folder.mkdir()
    (folder / "part.py").write_text(
        "def build(**arguments):\n    return arguments\n"
    )
    (folder / "no_part.py").write_text("x = 1\n")
    (folder / "broken.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    for name in list(sys.modules):
        if name.startswith(folder.name):
            del sys.modules[name]


def test_a_part_may_live_in_the_users_own_code(own_code):
    section = {"name": f"{own_code}.part", "anything": 1}
    assert plugins.build("attacks", section, more=2) == {
        "anything": 1,
        "more": 2,
    }


def test_a_module_of_the_user_without_build_is_refused(own_code):
    text = error_text(plugins.load, "attacks", f"{own_code}.no_part")
    assert "has no build()" in text


@pytest.mark.parametrize(
    ("name", "missing"),
    [("not_there", "not_there"), ("broken", "no_such_module_anywhere")],
)
def test_a_module_that_cannot_be_imported_says_why(own_code, name, missing):
    text = error_text(plugins.load, "attacks", f"{own_code}.{name}")
    assert f"No module named '{missing}'" in text.replace(f"{own_code}.", "")
    assert "PYTHONPATH" in text


def test_a_module_of_the_user_may_fail_in_any_way(own_code, tmp_path):
    """The place is named, so that it can be mended."""
    folder = tmp_path / own_code
    (folder / "bad.py").write_text("\n1 / 0\n")
    text = error_text(plugins.load, "data", f"{own_code}.bad")
    assert "ZeroDivisionError at" in text and "bad.py:2" in text
    (folder / "late.py").write_text("def build(a):\n    return {}[a]\n")
    section = {"name": f"{own_code}.late", "a": 1}
    text = error_text(plugins.build, "data", section)
    assert "KeyError" in text and "late.py:2" in text


def test_a_module_needs_no_dot_where_the_name_is_free(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    source = "def build(size):\n    return size\n"
    (tmp_path / "own_part_of_tests.py").write_text(source)
    (tmp_path / "npz.py").write_text(source)
    section = {"name": "own_part_of_tests", "size": 3}
    plugins.check("data", section)
    assert "own_part_of_tests" not in sys.modules
    assert plugins.build("data", section) == 3
    sys.modules.pop("own_part_of_tests")
    assert not plugins.is_ours("data", "own_part_of_tests")
    # Ours come first, and what is importable is no part for that.
    assert plugins.load("data", "npz").__name__ == "ib_keras.data.npz"
    for name in ("json", "antigravity"):
        assert "No data has this name" in error_text(plugins.load, "data", name)


def test_a_module_beside_that_cannot_be_found_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_part_of_tests.py").write_text("def build(): pass\n")
    text = error_text(plugins.load, "data", "own_part_of_tests")
    assert "is not searched" in text and "PYTHONPATH" in text


def test_a_part_and_what_it_needs_in_one_word(own_code, tmp_path):
    expand = plugins.expand
    short = {"name": "npz:a/b:c.npz", "description": "mine"}
    full = {"name": "npz", "path": "a/b:c.npz", "description": "mine"}
    assert expand("data", short) == full == expand("data", full)
    (tmp_path / own_code / "two.py").write_text("def build(rows, n=1): pass\n")
    section = {"name": f"{own_code}.two:x", "rows": None}
    assert expand("data", section)["rows"] == "x"
    for name, said in (
        ("npz:", "Nothing follows the colon"),
        ("mnist:x", "takes nothing behind a colon"),
        ("mpz:x", 'Did you mean "npz"?'),
    ):
        assert said in error_text(expand, "data", {"name": name})
    twice = {"name": "npz:a", "path": "b"}
    assert "given twice" in error_text(expand, "data", twice)


def test_what_the_caller_gives_is_not_for_the_config():
    section = {"name": "mlp", "image_shape": (2, 2, 1)}
    text = error_text(plugins.check, "encoders", section, image_shape=None)
    assert "No argument of encoders part mlp" in text
