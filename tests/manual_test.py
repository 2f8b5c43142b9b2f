"""The manual is whole, and says what the code does."""

import importlib
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from configs.objectives import OBJECTIVES
from ib_keras import plugins
from ib_keras import shipped
from ib_keras.attacks import ledger as ledgers
from ib_keras.attacks import runner
from ib_keras.audit import verdict
from tests.support import manual

PAGES = manual.nav()
PACKAGES = ("attacks", "bottlenecks", "data", "encoders", "objectives")
# Sections of configs that hold a part: section -> package.
SECTIONS = {
    "data": "data",
    "dataset": "data",
    "encoder": "encoders",
    "bottleneck": "bottlenecks",
    "objective": "objectives",
}


def test_every_page_is_in_the_navigation_and_there():
    written = {
        path.relative_to(manual.ROOT).as_posix()
        for path in manual.DOCS.rglob("*")
        if path.suffix in (".md", ".ipynb")
    }
    assert len(PAGES) == len(set(PAGES))
    assert set(PAGES) == written | set(manual.module("hooks").PAGES)
    for page in PAGES:
        assert manual.text(page).startswith("# "), page


@pytest.mark.parametrize("page", [*PAGES, "README.md"])
def test_links_lead_to_files_of_the_repository(page):
    folder = (manual.ROOT / page).parent
    for link in manual.links(page):
        assert (folder / link).exists(), link
        # Not above it, where another checkout may have a file of the name.
        assert (folder / link).resolve().is_relative_to(manual.ROOT), link


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("safety.md", "verification.md", "verification.md"),
        ("guides/data.md", "../reference/a.md#b", "../reference/a.md#b"),
        ("reproduction.md", "../results/x.png", "results/x.png"),
        ("guides/data.md", "../../CHANGELOG.md", "../CHANGELOG.md"),
        ("CHANGELOG.md", "docs/safety.md", "safety.md"),
        ("benchmarks/README.md", "../docs/safety.md#x", "../safety.md#x"),
        ("safety.md", "https://arxiv.org/", "https://arxiv.org/"),
        ("safety.md", "#below", "#below"),
        ("notebooks/a.md", "../guides/data.md", "../guides/data.md"),
        (
            "index.md",
            "notebooks/vib_with_fit.ipynb",
            "notebooks/vib_with_fit.md",
        ),
    ],
)
def test_links_of_the_repository_become_those_of_the_site(page, link, expected):
    hooks = manual.module("hooks")
    assert hooks.relinked(page, f"[a]({link})") == f"[a]({expected})"


# --- Parts -------------------------------------------------------------------


def test_the_reference_has_a_section_for_every_kind_of_part():
    text = manual.text("docs/reference/attacks.md")
    text += manual.text("docs/reference/parts.md")
    assert set(re.findall(r"^::: parts (\w+)$", text, re.M)) == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_part_and_field_is_documented(package):
    parts = manual.module("parts")
    sections = parts.markdown(package)
    for name in plugins.names(package):
        assert f"### `{name}`" in sections
        for field in parts.fields(package, name):
            assert field.meaning, f"{package}.{name}: {field.name}"


def test_a_section_is_what_the_source_says():
    parts = manual.module("parts")
    found = {field.name: field for field in parts.fields("attacks", "pgd")}
    assert list(found) == [
        "num_steps",
        "step_size",
        "loss",
        "random_start",
        "num_eot",
    ]
    assert found["step_size"].default == "0.01"
    assert "pixel units" in found["step_size"].meaning
    section = parts.markdown("attacks").split("### `pgd`")[1]
    assert "project(x + step_size * steepest(gradient))" in section
    assert "*Source:* Madry et al." in section


def test_every_attack_names_its_source():
    sections = manual.module("parts").markdown("attacks").split("### `")[1:]
    assert [s for s in sections if "*Source:*" not in s] == []


def test_the_default_budgets_are_those_of_the_attacks():
    rows = manual.table("docs/reference/attacks.md", "Default budgets")
    expected = []
    for name in plugins.names("attacks"):
        stage = runner.Stage.build({"name": name, "attack": {"name": name}})
        # With two classes there is one target.
        gradients = runner.Runner.most_gradients(stage, 2)
        queries = runner.Runner.most_queries(stage, 2)
        targets = {None: "none", 0: "all others"}.get(
            stage.attack.num_targets, str(stage.attack.num_targets)
        )
        counts = (stage.attack.num_steps, gradients, queries)
        expected.append([f"`{name}`", *map(str, counts), targets])
    assert rows == expected


# --- Configs -----------------------------------------------------------------


def flat(section, prefix=""):
    for name, value in section.items():
        if isinstance(value, dict) and name != "stages":
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def configs(folder):
    """The fields of every config of a folder, with every preset."""
    for name in shipped.config_names(folder):
        module = importlib.import_module(f"{folder.replace('/', '.')}.{name}")
        presets = ((),)
        if folder == "configs":
            presets = (("",), ("cpu",), ("smoke",))
        if name.startswith("mnist"):
            presets += tuple((objective,) for objective in OBJECTIVES)
        for preset in presets:
            yield name, dict(flat(module.get_config(*preset).to_dict()))


def is_of_part(field):
    section, _, name = field.partition(".")
    parts = ("data", "encoder", "bottleneck", "objective")
    return section in parts and name != "name"


def test_every_field_of_a_training_is_documented():
    found = list(configs("configs"))
    paper = dict(next(fields for name, fields in found if name == "mnist_vib"))
    names = {name for _, fields in found for name in fields}
    expected = {
        name: f"`{paper[name]!r}`" if name in paper else "—"
        for name in names
        if not is_of_part(name)
    }
    rows = manual.table("docs/reference/config.md", "Training")
    assert {name.strip("`"): value for name, value, _ in rows} == expected
    assert all(meaning for *_, meaning in rows)


def test_every_field_of_an_audit_is_documented():
    found = [fields for _, fields in configs("configs/audits")]
    expected = {}
    for name in {name for fields in found for name in fields}:
        values = {repr(fields.get(name)) for fields in found}
        expected[name] = f"`{values.pop()}`" if len(values) == 1 else "—"
    rows = manual.table("docs/reference/config.md", "Audits")
    found = {name.strip("`"): value for name, value, _ in rows}
    # A protocol's own, even where those that we ship agree.
    for name in ("protocol_version",):
        found[name] = expected[name] = "—"
    assert found == expected
    assert all(meaning for *_, meaning in rows)


def test_presets_and_protocols_are_those_that_exist():
    rows = manual.table("docs/guides/auditor.md", "Protocols")
    named = [row[0].strip("`") for row in rows]
    assert sorted(named) == shipped.config_names("configs/audits")


# --- Commands ----------------------------------------------------------------

COMMANDS = [
    pytest.param(page, words, id=f"{page}-{i}-{words[0]}")
    for page in (*PAGES, "README.md")
    for i, words in enumerate(manual.commands(page))
]


@pytest.mark.parametrize(("page", "words"), COMMANDS)
def test_commands_have_flags_and_fields_that_exist(page, words):
    command, *arguments = words
    assert (manual.ROOT / "launch" / f"{command}.py").exists()
    known, fields = manual.flags(command), {}
    for argument in arguments:
        if not argument.startswith("--") or argument == "--":
            continue
        flag, _, value = argument[2:].partition("=")
        assert flag.partition(".")[0] in known or flag[2:] in known, argument
        if flag == "config" and value != "...":
            fields = config_fields(command, value)
        elif flag.startswith("config."):
            check_field(fields, flag.removeprefix("config."), value)


def config_fields(command, value):
    path, _, preset = value.partition(":")
    folder = "configs/audits" if command == "audit" else "configs"
    if not path.endswith(".py"):
        assert path in shipped.config_names(folder)
        path = f"{folder}/{path}.py"
    if not (manual.ROOT / path).exists():
        assert "my_" in path, path
        return {}
    name = path.removesuffix(".py").replace("/", ".")
    module = importlib.import_module(name)
    arguments = (preset,) if preset else ()
    return dict(flat(module.get_config(*arguments).to_dict()))


def check_field(fields, name, value):
    if name in fields or name.startswith("stages."):
        fields[name] = value
        return
    section, _, argument = name.partition(".")
    part = fields[f"{section}.name"]
    assert plugins.takes(SECTIONS[section], part, argument), name


def test_the_list_of_commands_is_that_of_launch():
    rows = manual.table("docs/reference/commands.md", "Commands")
    named = {manual.names(row[0])[0]: row[0].endswith("*") for row in rows}
    there = {
        path.stem
        for path in (manual.ROOT / "launch").glob("*.py")
        if "flags.run(" in path.read_text("utf-8") and path.stem != "flags"
    }
    assert set(named) == there
    main = importlib.import_module("ib_keras.__main__")
    assert {name for name in named if named[name]} == set(main.COMMANDS)


# --- Files, pictures, the site -----------------------------------------------


def test_the_ledger_is_documented():
    rows = manual.table("docs/reference/files.md", "examples.npz")
    named = [name for row in rows for name in manual.names(row[0])]
    images, labels = np.zeros((1, 2, 2, 1), np.float32), np.zeros(1, np.int32)
    arrays = ledgers.Ledger.new(images, labels).arrays()
    assert sorted(named) == sorted(["index", *arrays])


def test_the_picture_of_the_verdict_names_the_checks_of_validity():
    picture = manual.text("docs/images/verdict.svg")
    assert " ".join(verdict.VALIDITY) in picture


def test_the_long_description_links_to_no_file():
    done = subprocess.run(
        [sys.executable, "setup.py", "--long-description"],
        cwd=manual.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "# ib_keras" in done.stdout
    targets = re.findall(r"\]\(([^)]*)\)", done.stdout)
    assert targets and all(t.startswith("https://") for t in targets)


def test_the_manual_builds_and_needs_no_network(tmp_path):
    mkdocs = pathlib.Path(sys.executable).with_name("mkdocs")
    site = tmp_path / "site"
    done = subprocess.run(
        [mkdocs, "build", "--quiet", "--site-dir", site],
        cwd=manual.ROOT,
        env={"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (site / "index.html").exists()
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]+src=[\"']?(?:https?:)?//"
        r"|<link[^>]+rel=[\"']?(?:stylesheet|preload|icon)[^>]+href=[\"']?https?:"
    )
    for page in site.rglob("*.html"):
        assert not loaded.search(page.read_text("utf-8")), page
