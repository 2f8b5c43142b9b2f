"""The layers of the code, its other rules, and what the package promises.

A module imports only from layers below. Each file is read with `ast`, never
imported, so that a broken or slow module cannot hide an import. The planted
cases show that every rule works.
"""

import ast
import fnmatch
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Top-level modules of ib_keras, from the lowest layer up; a new one goes into
# the lowest layer that can hold it. A layer imports the layers under it.
LAYERS = (
    (
        "arguments",
        "backend",
        "errors",
        "introspection",
        "lazy",
        "notebook",
        "rendezvous",
        "schemas",
        "seeds",
        "shipped",
        "types",
        "version",
    ),
    (
        "batch_norm",
        "files",
        "frozen",
        "layers",
        "optimizers",
        "plugins",
        "schedules",
        "strategy",
    ),
    ("metadata", "progress", "watchdog", "workdirs"),
    ("attacks", "bottlenecks", "certify", "cluster", "data", "encoders"),
    ("objectives",),
    ("classifier", "export", "modes"),
    ("audit", "tracking", "training"),
    ("studies", "sweeps"),
    ("figures",),
    ("__init__", "__main__", "launch"),
)
# Layers whose modules may import one another; those of the others may not.
TOP = len(LAYERS) - 1
OPEN_LAYERS = (0, 5, TOP)
LAYER_OF = {name: i for i, names in enumerate(LAYERS) for name in names}

# Folders that are no packages of a wheel, so that the library cannot import
# them.
CHECKOUT_ONLY = ("launch", "configs", "benchmarks", "tests", "tpu_check")
# Of these the wheel has copies, in a private folder of the package, which
# ib_keras/__main__.py runs and nothing imports.
SHIPPED = ("launch", "configs")

# What is made of Keras: attacks see a function, never a model.
KERAS = (
    "keras",
    "tf_keras",
    "tensorflow.keras",
    "ib_keras.layers",
    "ib_keras.optimizers",
)
DASK = ("dask", "dask_jobqueue", "distributed")
FLAGS = ("absl.flags", "ml_collections.config_flags")
SEEN_BY_CONFIGS = (
    "ml_collections",
    "configs.common",
    "configs.objectives",
    "configs.sweeps",
)
# And by `configs.common`, which makes an audit's config of its schema.
SEEN_BY_COMMON = (
    "dataclasses",
    "ib_keras.schemas",
    "ib_keras.audit.config",
)
# What configs share, which a new part must not have to edit; of all parts they
# may name the stand-in of `:smoke` alone.
SHARED_BY_CONFIGS = ("configs/common.py", "configs/sweeps/grid.py")
STAND_IN = "random_images"

# Not in `output` nor OUTPUT, but in tpu, TPUStrategy, is_tpu and CloudTPU.
SAYS_TPU = re.compile(r"(?<![A-Z])TPU|Tpu|(?<![A-Za-z])tpus?(?![a-z])")

# Python files that pytest collects, or that hold what tests share.
TEST_FILES = ("*_test.py", "conftest.py", "__init__.py")
SHARED_BY_TESTS = ("contracts", "fixtures", "support")


def source_paths() -> list[str]:
    return sorted(
        path.relative_to(ROOT).as_posix()
        for top in ("ib_keras", "launch", "configs")
        for path in (ROOT / top).rglob("*.py")
    )


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in packages)


def own_name(path: str) -> str:
    """The entry of LAYERS for a file: its top, or its own module."""
    parts = pathlib.PurePosixPath(path).with_suffix("").parts
    return parts[1] if parts[0] == "ib_keras" else parts[0]


def walk(node: ast.AST, *, only_at_import: bool = False) -> Iterator[ast.AST]:
    """The nodes of a file; at wish only those that run when it is imported."""
    yield node
    for child in ast.iter_child_nodes(node):
        if only_at_import:
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) in (
                "TYPE_CHECKING",
                "typing.TYPE_CHECKING",
            ):
                continue
        yield from walk(child, only_at_import=only_at_import)


def imports(path: str, source: str, **walk_arguments) -> list[tuple[int, str]]:
    """Lists `(line, dotted name)`; `from a import b` counts as `a.b`."""
    package = pathlib.PurePosixPath(path).parent.parts
    found = []
    for node in walk(ast.parse(source), **walk_arguments):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1]
            parts = above if node.level else ()
            base = ".".join((*parts, node.module or "")).strip(".")
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            is_import = ast.unparse(node.func).endswith(
                ("import_module", "__import__")
            )
            name = node.args[0]
            is_known = isinstance(name, ast.Constant)
            names = [str(name.value)] if is_import and is_known else []
        else:
            continue
        found.extend((node.lineno, name) for name in names)
    return found


def why_not(own: str, target: str) -> str | None:
    """Why the module `own` of ib_keras may not import `target`, if so."""
    if target == own:
        return None
    here, there = LAYER_OF[own], LAYER_OF[target]
    if there > here:
        return f"{target} is in a layer above {own}"
    if there == here and here not in OPEN_LAYERS:
        return f"{own} and {target} are in one layer and may not import"
    return None


def check_layers(path: str, source: str) -> list[str]:
    """Imports are from lower layers, and inside of the package."""
    own = own_name(path)
    if own == "configs":
        return []
    if own not in LAYER_OF:
        return [f"{path}: {no_layer(own)}"]
    problems = []
    for line, name in imports(path, source):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        why = None
        if top in CHECKOUT_ONLY and path.startswith("ib_keras/"):
            why = "no wheel holds it"
        elif top in ("benchmarks", "tests"):
            why = "nothing imports what measures or tests it"
        elif top == "ib_keras" and target in LAYER_OF:
            why = why_not(own, target)
        elif top == "ib_keras" and LAYER_OF[own] < TOP:
            why = f"not a module below, or {no_layer(target)}"
        if why:
            problems.append(f"{path}:{line} imports {name}: {why}")
    return problems


def no_layer(name: str) -> str:
    return (
        f"ib_keras.{name} has no layer; add it to LAYERS in"
        " tests/package_test.py, on the lowest layer that can hold it"
    )


def check_init_is_lazy(path: str, source: str) -> list[str]:
    """`import ib_keras` imports the lowest layer alone, and no framework."""
    if path != "ib_keras/__init__.py":
        return []
    return [
        f"{path}:{line} imports {name} when it is imported; do so inside a"
        " function, such as __getattr__"
        for line, name in imports(path, source, only_at_import=True)
        if is_within(name, ("ib_keras", "tensorflow", *KERAS))
        and not is_within(name, tuple(f"ib_keras.{n}" for n in LAYERS[0]))
    ]


def check_attacks_never_see_keras(path: str, source: str) -> list[str]:
    if not path.startswith(("ib_keras/attacks/", "ib_keras/certify/")):
        return []
    used = [
        (node.lineno, ast.unparse(node))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr == "keras"
    ]
    used += [
        (line, name)
        for line, name in imports(path, source)
        if is_within(name, KERAS)
    ]
    return [
        f"{path}:{line} uses {name}: attacks see a function, never a model"
        for line, name in used
    ]


def check_only_launchers_see_flags(path: str, source: str) -> list[str]:
    if path.startswith("launch/") or path == "ib_keras/__main__.py":
        return []
    return [
        f"{path}:{line} imports {name}: flags are read in launch/ and in"
        " ib_keras/__main__.py alone"
        for line, name in imports(path, source)
        if is_within(name, FLAGS)
    ]


def check_only_the_cluster_sees_dask(path: str, source: str) -> list[str]:
    if path.startswith("ib_keras/cluster/"):
        return []
    return [
        f"{path}:{line} imports {name}: only ib_keras/cluster knows Dask"
        for line, name in imports(path, source)
        if is_within(name, DASK)
    ]


def check_configs_are_plain(path: str, source: str) -> list[str]:
    if not path.startswith("configs/"):
        return []
    seen = SEEN_BY_CONFIGS
    if path == "configs/common.py":
        seen += SEEN_BY_COMMON
    if path == "configs/ib_adversarial.py":
        seen += ("configs.mnist_vib",)  # Whose trainings are those of MNIST.
    return [
        f"{path}:{line} imports {name}: configs import only {', '.join(seen)}"
        for line, name in imports(path, source)
        if not is_within(name, seen)
    ]


def part_names() -> set[str]:
    """The encoders, bottlenecks and data sets, by their files."""
    return {
        path.stem
        for top in ("encoders", "bottlenecks", "data")
        for path in (ROOT / "ib_keras" / top).glob("*.py")
        if "\ndef build(" in path.read_text(encoding="utf-8")
    }


def check_shared_configs_name_no_part(path: str, source: str) -> list[str]:
    """So that adding a part edits no file but its own and its configs."""
    if path not in SHARED_BY_CONFIGS:
        return []
    names = "|".join(sorted(part_names() - {STAND_IN}))
    is_named = re.compile(rf"(?<![a-z0-9])({names})(?![a-z0-9])")
    return [
        f"{path}:{getattr(node, 'lineno', '?')} says {text!r}: a config of its"
        " own says what is special to a part"
        for node in ast.walk(ast.parse(source))
        for text in strings(node)
        if is_named.search(text)
    ]


def strings(node: ast.AST) -> Iterator[str]:
    """The names and texts that a node itself holds."""
    for _, value in ast.iter_fields(node):
        values = value if isinstance(value, list) else [value]
        yield from (item for item in values if isinstance(item, str))


def check_only_strategy_says_tpu(path: str, source: str) -> list[str]:
    # The command tpu_vm is named in the list of commands.
    may = ("ib_keras/strategy.py", "ib_keras/__main__.py")
    if not path.startswith("ib_keras/") or path in may:
        return []
    tree = ast.parse(source)
    # A text as a statement is a docstring or a comment.
    comments = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return [
        f"{path}:{getattr(node, 'lineno', '?')} says {text!r}: only"
        " ib_keras/strategy.py knows what a TPU is"
        for node in ast.walk(tree)
        if id(node) not in comments
        for text in strings(node)
        if SAYS_TPU.search(text)
    ]


RULES = (
    check_layers,
    check_init_is_lazy,
    check_attacks_never_see_keras,
    check_only_launchers_see_flags,
    check_only_the_cluster_sees_dask,
    check_configs_are_plain,
    check_shared_configs_name_no_part,
    check_only_strategy_says_tpu,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_sources_keep_the_rules_of_the_structure(rule):
    paths = source_paths()
    assert "ib_keras/errors.py" in paths
    problems = []
    for path in paths:
        source = (ROOT / path).read_text(encoding="utf-8")
        problems.extend(rule(path, source))
    assert not problems, "\n" + "\n".join(problems)


# By rule, files that break it and files that keep it, as (path, source).
FORBIDDEN = {
    check_layers: (
        ("ib_keras/attacks/pgd.py", "from ib_keras.audit import runner"),
        ("ib_keras/files.py", "def f():\n    import ib_keras.classifier"),
        ("ib_keras/data/mnist.py", "from ..training import loop"),
        ("ib_keras/data/__init__.py", "from .. import classifier"),
        ("ib_keras/plugins.py", "importlib.import_module('ib_keras.data')"),
        (
            "ib_keras/types.py",
            "if TYPE_CHECKING:\n    from ib_keras import data",
        ),
        # Sideways.
        ("ib_keras/encoders/mlp.py", "from ib_keras import bottlenecks"),
        ("ib_keras/audit/runner.py", "from ib_keras.training import loop"),
        ("ib_keras/strategy.py", "from ib_keras import files"),
        # Out of the table.
        ("ib_keras/export.py", "import ib_keras"),
        ("ib_keras/export.py", "from ib_keras import gadgets"),
        ("ib_keras/gadgets.py", "import math"),
        # Out of the library.
        ("ib_keras/__init__.py", "def f():\n    from launch import train"),
        ("ib_keras/__main__.py", "from launch import train"),
        ("ib_keras/training/loop.py", "from configs import common"),
        ("launch/train.py", "import tests.support"),
    ),
    check_init_is_lazy: (
        ("ib_keras/__init__.py", "from ib_keras.data import mnist"),
        (
            "ib_keras/__init__.py",
            "try:\n    from . import audit\nfinally: pass",
        ),
        ("ib_keras/__init__.py", "import tensorflow as tf"),
    ),
    check_attacks_never_see_keras: (
        ("ib_keras/attacks/pgd.py", "from keras import ops"),
        ("ib_keras/attacks/pgd.py", "from tensorflow import keras"),
        ("ib_keras/attacks/pgd.py", "loss = tf.keras.losses.mse"),
        ("ib_keras/attacks/base.py", "from ib_keras import layers"),
    ),
    check_only_launchers_see_flags: (
        ("ib_keras/training/loop.py", "from absl import flags"),
        ("ib_keras/files.py", "from absl.flags import DEFINE_string"),
        ("configs/mnist_vib.py", "from ml_collections import config_flags"),
    ),
    check_only_the_cluster_sees_dask: (
        ("ib_keras/audit/shards.py", "def f():\n    import dask"),
        ("launch/audit.py", "from distributed import Client"),
    ),
    check_configs_are_plain: (
        ("configs/mnist_vib.py", "from ib_keras import schedules"),
        ("configs/audits/aa_mt.py", "from configs import mnist_vib"),
        ("configs/sweeps/grid.py", "from configs.mnist_vib import get_config"),
    ),
    check_shared_configs_name_no_part: (
        ("configs/common.py", "if name == 'vib':\n    beta = 0.01"),
        ("configs/common.py", "def mnist(preset):\n    return preset"),
        ("configs/sweeps/grid.py", "FIELD = {'ceb': 'rho'}"),
    ),
    check_only_strategy_says_tpu: (
        ("ib_keras/training/loop.py", "tf.distribute.TPUStrategy()"),
        ("ib_keras/audit/runner.py", "is_tpu = False"),
        ("ib_keras/audit/runner.py", "def f(tpu):\n    return 1"),
        ("ib_keras/audit/runner.py", "x = f'{device}: TPU'"),
    ),
}

ALLOWED = {
    check_layers: (
        ("ib_keras/audit/runner.py", "from ib_keras import files, attacks"),
        ("ib_keras/attacks/apgd.py", "from ib_keras.attacks import pgd"),
        ("ib_keras/attacks/apgd.py", "from . import pgd"),
        ("ib_keras/types.py", "from ib_keras.errors import UserError"),
        ("ib_keras/export.py", "from ib_keras import classifier"),
        ("ib_keras/__init__.py", "def f():\n    from ib_keras import audit"),
        ("launch/train.py", "from ib_keras import training, __version__"),
        ("launch/train.py", "import ib_keras\nfrom launch import flags"),
    ),
    check_init_is_lazy: (
        ("ib_keras/__init__.py", "from ib_keras.version import __version__"),
        ("ib_keras/__init__.py", "def f():\n    from ib_keras import audit"),
        ("ib_keras/__init__.py", "if TYPE_CHECKING:\n    import ib_keras.data"),
    ),
    check_attacks_never_see_keras: (
        ("ib_keras/attacks/pgd.py", "import tensorflow as tf\ntf.sign(0.)"),
        ("ib_keras/encoders/mlp.py", "import keras"),
    ),
    check_only_launchers_see_flags: (
        ("launch/flags.py", "from ml_collections import config_flags"),
        ("ib_keras/__main__.py", "from absl import flags"),
        ("ib_keras/audit/runner.py", "from absl import logging"),
    ),
    check_only_the_cluster_sees_dask: (
        ("ib_keras/cluster/worker.py", "import distributed"),
        ("launch/sweep.py", "from ib_keras.cluster import engine"),
    ),
    check_configs_are_plain: (
        ("configs/mnist_vib.py", "from configs import common"),
        ("configs/mnist_vib.py", "from ml_collections import config_dict"),
        ("configs/mnist_vib.py", "from configs.sweeps import grid"),
        ("configs/common.py", "from ib_keras import schemas"),
    ),
    check_shared_configs_name_no_part: (
        ("configs/common.py", "config.data = dict(name='random_images')"),
        ("configs/mnist_vib.py", "config.bottleneck = dict(name='vib')"),
        ("configs/sweeps/mnist.py", "def mnist():\n    pass"),
    ),
    check_only_strategy_says_tpu: (
        ("ib_keras/audit/runner.py", '"""On a TPU."""\nx = 1  # not a TPU'),
        ("ib_keras/audit/runner.py", "OUTPUT = output = 'outputs'"),
        ("ib_keras/strategy.py", "tf.distribute.TPUStrategy()"),
        ("ib_keras/__main__.py", 'COMMANDS = ("tpu_vm",)'),
    ),
}


def cases(table: dict) -> list:
    return [
        pytest.param(rule, *case, id=f"{rule.__name__}-{': '.join(case)}")
        for rule, listed in table.items()
        for case in listed
    ]


@pytest.mark.parametrize(("rule", "path", "source"), cases(FORBIDDEN))
def test_a_planted_fault_is_caught(rule, path, source):
    problems = rule(path, source)
    assert problems
    assert all(problem.startswith(path) for problem in problems)


@pytest.mark.parametrize(("rule", "path", "source"), cases(ALLOWED))
def test_what_the_structure_allows_is_not_caught(rule, path, source):
    assert rule(path, source) == []


def test_every_rule_has_planted_cases():
    assert set(FORBIDDEN) == set(ALLOWED) == set(RULES)


def test_a_module_without_a_layer_is_told_where_to_go():
    (problem,) = check_layers("ib_keras/gadgets/core.py", "")
    assert "add it to LAYERS in tests/package_test.py" in problem


def uncollected(paths: list[str]) -> list[str]:
    """Files under tests/ that pytest would pass over in silence."""
    return [
        path
        for path in paths
        if not any(
            fnmatch.fnmatch(pathlib.PurePosixPath(path).name, pattern)
            for pattern in TEST_FILES
        )
        and pathlib.PurePosixPath(path).parts[1] not in SHARED_BY_TESTS
    ]


def test_every_test_file_is_collected():
    paths = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("*.py")
    ]
    assert "tests/package_test.py" in paths
    assert uncollected(paths) == []


def test_a_test_file_with_another_name_is_noticed():
    paths = [
        "tests/a_test.py",
        "tests/contracts/suite.py",
        "tests/x/b_tests.py",
    ]
    assert uncollected(paths) == ["tests/x/b_tests.py"]


def constants(path: str) -> dict:
    """The literal values that a module assigns, without importing it."""
    values = {}
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except (AttributeError, ValueError):
                continue
    return values


def test_the_versions_agree():
    version = constants("ib_keras/version.py")["__version__"]
    in_setup = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[([^\]]+)\]", changelog, re.MULTILINE)
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in citation
    released = [name for name in headings if name.lower() != "unreleased"]
    assert in_setup.stdout.split()[-1] == version
    assert released[:1] == [version]


def test_the_base_requirements_leave_tensorflow_to_the_extras():
    # tf_keras, and the extra `tf` of TFP, require the distribution
    # `tensorflow`, which overwrites the files of tensorflow-tpu.
    required = constants("setup.py")["INSTALL_REQUIRES"]
    names = {re.match(r"[\w.-]+(\[.*?\])?", line)[0] for line in required}
    assert "tensorflow-probability" in names
    assert names.isdisjoint({"tensorflow", "tf_keras", "tf-keras"})
    assert "tensorflow-probability[tf]" not in names


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that `make build` would make, and the folder of its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for top in ("ib_keras", *SHIPPED):
        shutil.copytree(ROOT / top, source / top, ignore=ignored)
    (source / "tests").mkdir()
    (source / "tests" / "__init__.py").touch()
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = "-m pip wheel -qq --no-deps --no-build-isolation --wheel-dir .."
    subprocess.run(
        [sys.executable, *command.split(), "."], cwd=source, check=True
    )
    (path,) = folder.glob("*.whl")
    return path, source


def test_the_wheel_holds_the_library_and_its_commands_and_nothing_else(wheel):
    path, source = wheel
    packed = {
        name
        for name in zipfile.ZipFile(path).namelist()
        if ".dist-info/" not in name
    }
    library, commands = (
        {
            file.relative_to(source).as_posix()
            for top in tops
            for file in (source / top).rglob("*")
            if file.is_file()
        }
        for tops in (("ib_keras",), SHIPPED)
    )
    inside = {f"ib_keras/_commands/{name}" for name in commands}
    assert {"launch/audit.py", "configs/audits/aa_mt.py"} <= commands
    assert packed == library | inside, "__init__.py, or setup.py?"


def script(site) -> pathlib.Path:
    """The script `ib_keras`, as pip writes it for a wheel."""
    (info,) = site.glob("*.dist-info")
    (entry,) = importlib.metadata.PathDistribution(info).entry_points
    assert (entry.group, entry.name) == ("console_scripts", "ib_keras")
    path = site.parent / entry.name
    path.write_text(
        f"from {entry.module} import {entry.attr}\n{entry.attr}()\n"
    )
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel's folder, and a function that runs its commands.

    Without a checkout, from a folder whose names could hide ours.
    """
    folder = tmp_path_factory.mktemp("installed")
    site, elsewhere = folder / "site", folder / "elsewhere"
    zipfile.ZipFile(wheel[0]).extractall(site)
    for top in SHIPPED:
        (elsewhere / top).mkdir(parents=True)
        (elsewhere / top / "__init__.py").write_text("raise ImportError")

    def run(*arguments, program=("-m", "ib_keras")):
        return subprocess.run(
            [sys.executable, *program, *arguments],
            cwd=elsewhere,
            env=os.environ | {"PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
        )

    return site, run


@pytest.mark.parametrize("is_script", [False, True])
def test_an_installed_wheel_has_commands_and_protocols(installed, is_script):
    site, run = installed
    program = [str(script(site))] if is_script else ["-m", "ib_keras"]
    done = run("audit", "--config=fgs_epsilons", "--help", program=program)
    assert done.stderr == ""
    assert done.stdout.startswith("Audits a SavedModel by a protocol.")
    assert "python -m ib_keras audit --config=" in done.stdout
    assert f"{site}/ib_keras/_commands/launch/audit.py:" in done.stdout
    assert {path.name for path in site.iterdir() if path.is_dir()} == {
        "ib_keras",
        *(path.name for path in site.glob("*.dist-info")),
    }


def test_an_installed_wheel_plans_sweeps(installed):
    """A name that no run has is refused by those there are, in a second."""
    _, run = installed
    done = run("sweep", "--config=digits_vib", "--workdir=x", "--only=nobody")
    assert "a part of names such as vib_beta_0.0001_seed_0" in done.stderr
