"""The manual's sources: its pages, their links, tables and commands."""

import functools
import importlib.util
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@functools.cache
def module(name: str) -> ModuleType:
    """A Python file of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def nav() -> list[str]:
    """The pages that mkdocs.yml lists, by their paths in the repository."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    hooks = module("hooks")
    elsewhere = hooks.notebooks() | {page: page for page in hooks.PAGES}
    return [
        elsewhere.get(page, f"docs/{page}") for page in _leaves(config["nav"])
    ]


def _leaves(tree) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
        return
    for node in tree.values() if isinstance(tree, dict) else tree:
        yield from _leaves(node)


def text(page: str) -> str:
    """The text of a page, by its path in the repository."""
    if page.endswith(".ipynb"):
        return module("hooks").notebook(ROOT / page)
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, languages: str) -> list[str]:
    """The code blocks of a page, of languages as in `bash|console`."""
    pattern = rf"^```(?:{languages})\n(.*?)^```"
    return re.findall(pattern, text(page), re.M | re.S)


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    below = re.split(rf"^#+ {re.escape(heading)}$", text(page), flags=re.M)[1]
    lines = re.search(r"(?:^\|.*\n)+", below, re.M)[0].splitlines()
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines[2:]
    ]


def names(cell: str) -> list[str]:
    """What a cell writes as code."""
    return re.findall(r"`([^`]+)`", cell)


def links(page: str) -> list[str]:
    """The links of a page to files, without what follows `#`."""
    prose = re.sub(r"^```.*?^```", "", text(page), flags=re.M | re.S)
    return re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", prose)


def commands(page: str) -> list[list[str]]:
    """The words of each command of ours that a page's blocks show.

    They begin with the command's name, such as "audit". A command in another
    one's arguments is one of its own.
    """
    shown = "".join(blocks(page, "bash|console"))
    lines = shown.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        line = re.sub(r"^\$ ", "", line)
        line = re.sub(r"python -m launch\.|\bib_keras (?=\w)", "\0 ", line)
        words = shlex.split(line, comments=True)
        while "\0" in words:
            words = words[words.index("\0") + 1 :]
            end = words.index("\0") if "\0" in words else len(words)
            found.append([word.rstrip(";") for word in words[:end]])
    return found


@functools.cache
def flags(command: str) -> set[str]:
    """The flags of a command, as it says itself."""
    done = subprocess.run(
        [sys.executable, "-m", f"launch.{command}", "--helpxml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return set(re.findall(r"<name>(\w+)</name>", done.stdout))
