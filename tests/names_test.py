"""The names at the top of the package: short, lazy, and the real things."""

import ast
import importlib
import inspect
import json
import os
import pathlib
import pydoc
import subprocess
import sys

import pytest

import ib_keras
from tests.support import runs

# What `import ib_keras` must leave alone.
HEAVY = ("tensorflow", "keras", "tensorflow_probability", "numpy", "jinja2")


def python(source, **environment):
    return subprocess.run(
        [sys.executable, "-c", source],
        cwd=runs.ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_importing_the_package_and_asking_for_its_names_is_light():
    done = python(
        "import ib_keras, sys, json\n"
        "assert set(ib_keras.__all__) <= set(dir(ib_keras))\n"
        f"print(json.dumps([n for n in {HEAVY} if n in sys.modules]))"
    )
    assert json.loads(done.stdout) == [], done.stderr


@pytest.mark.parametrize(
    ("name", "home", "there"),
    [
        ("VIB", "bottlenecks.vib", "VIB"),
        ("CEB", "bottlenecks.ceb", "CEB"),
        ("Deterministic", "bottlenecks.deterministic", "Deterministic"),
        ("IBClassifier", "classifier", "IBClassifier"),
        ("VIBLayer", "bottlenecks.layer", "VIBLayer"),
        ("CEBLayer", "bottlenecks.layer", "CEBLayer"),
        ("DiagonalGaussian", "layers", "DiagonalGaussian"),
        ("AuditCallback", "audit.callback", "AuditCallback"),
        ("RateCallback", "training.callback", "RateCallback"),
        ("attack", "attacks.runner", "run"),
    ],
)
def test_a_short_name_is_what_the_deep_path_has(name, home, there):
    module = importlib.import_module(f"ib_keras.{home}")
    assert getattr(ib_keras, name) is getattr(module, there)


def test_every_name_that_is_listed_is_there_and_documented():
    for name in ib_keras.__all__:
        value = getattr(ib_keras, name)
        assert name == "__version__" or inspect.getdoc(value), name


def test_editors_are_told_of_the_same_names():
    """The imports for type checkers, the table and __all__ say one thing."""
    tree = ast.parse(pathlib.Path(ib_keras.__file__).read_text("utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If)
        and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    told = {}
    for node in block.body:
        for alias in node.names:
            home = node.module.removeprefix("ib_keras").strip(".")
            name = alias.asname or alias.name
            if not home:
                told[name] = alias.name
            elif name == alias.name:
                told[name] = home
            else:
                told[name] = f"{home}:{alias.name}"
    assert told == ib_keras._HOMES
    assert set(ib_keras.__all__) == {*told, "__version__"}


def test_all_distribution_layers_are_at_the_top():
    from ib_keras import layers

    public = {
        name
        for name, value in vars(layers).items()
        if inspect.isclass(value)
        and value.__module__ == layers.__name__
        and not name.startswith("_")
    }
    assert public <= set(ib_keras.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'VAE'"):
        _ = ib_keras.VAE


def test_help_shows_the_short_forms():
    text = pydoc.render_doc(ib_keras, renderer=pydoc.plaintext)
    for part in ("class VIBLayer", "class IBClassifier", "attack", "export"):
        assert part in text


@pytest.mark.parametrize(
    "source",
    [
        "import ib_keras.audit.callback; import ib_keras",
        "import ib_keras; ib_keras.audit; import ib_keras.audit.callback",
        "import ib_keras; from ib_keras.audit import statistics",
    ],
)
def test_audit_is_a_package_and_a_function_in_any_order(source):
    process = runs.Process(
        code="import sys, types\n"
        "for name in [n for n in sys.modules if n.startswith('ib_keras')]:\n"
        "    del sys.modules[name]\n"
        f"{source}\n"
        "from ib_keras.audit import statistics\n"
        "assert isinstance(ib_keras.audit, types.ModuleType)\n"
        "assert ib_keras.audit is sys.modules['ib_keras.audit']\n"
        "assert callable(ib_keras.audit) and statistics.compare\n"
        "assert ib_keras.audit.run.__module__ == 'ib_keras.audit.function'"
    )
    assert process.wait() == 0, process.read("errors")


# --- Keras' other backends ---------------------------------------------------


def test_parts_that_need_keras_say_which_backend_in_one_line(tmp_path):
    for module in (
        "ib_keras.classifier",
        "ib_keras.bottlenecks.vib",
        "ib_keras.layers",
        "ib_keras.audit.callback",
        "ib_keras.training.loop",
    ):
        done = python(f"import {module}", KERAS_BACKEND="torch")
        *_, last = done.stderr.strip().splitlines()
        assert last.startswith("ib_keras.errors.UserError: ib_keras.")
        assert 'backend "torch"' in last
        assert "Set KERAS_BACKEND=tensorflow" in last
        # Nothing of Keras' own inside.
        assert "site-packages" not in done.stderr


def test_names_at_the_top_say_it_too():
    done = python("import ib_keras; ib_keras.VIBLayer", KERAS_BACKEND="jax")
    assert 'backend "jax"' in done.stderr.strip().splitlines()[-1]


def test_the_backend_of_the_config_file_counts_and_yields(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    home = {"KERAS_HOME": str(tmp_path)}
    source = "import ib_keras.schedules"
    unset = "import os; os.environ.pop('KERAS_BACKEND', 0)"
    done = python(f"{unset}; {source}", **home)
    assert 'backend "jax"' in done.stderr
    source = "from ib_keras import backend; print(backend.name())"
    done = python(source, **home, KERAS_BACKEND="tensorflow")
    assert done.stdout == "tensorflow\n", done.stderr


def test_parts_that_need_no_keras_do_not_care():
    done = python(
        "import ib_keras\n"
        "from ib_keras.audit import verify\n"
        "import tensorflow as tf\n"
        "f = lambda x: tf.reshape(x, [-1, 2]) * [[-1.0, 1.0]]\n"
        "x = [[[[0.5], [0.5]]]]\n"
        "print(ib_keras.attack(f, x, [1], 'fgs', epsilon=0.1).is_robust)",
        KERAS_BACKEND="torch",
    )
    assert done.stdout == "[ True]\n", done.stderr
