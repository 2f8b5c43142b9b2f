"""README.md tells the truth: its blocks run, in the order they stand."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S)


@pytest.fixture
def checkout(tmp_path):
    """A folder like a checkout, so that what commands write is not in ours."""
    for name in ("configs", "ib_keras", "launch"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_shell_blocks_run(checkout):
    (block,) = blocks("bash")
    commands = shlex.split(block.replace("\\\n", " "))
    lines, line = [], []
    for word in commands:
        if word == "python" and line:
            lines.append(line)
            line = []
        line.append(word)
    for command in [*lines, line]:
        assert command[0] == "python"
        done = subprocess.run(
            [sys.executable, *command[1:]],
            cwd=checkout,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    for name in (
        "summary.json",
        "examples.npz",
        "findings.json",
        "safety.json",
        "report.html",
    ):
        assert (checkout / "audits" / "digits_vib" / name).stat().st_size > 0
    for name in ("page.html", "table.md"):
        assert (checkout / "audits" / name).stat().st_size > 0


def test_python_blocks_run(checkout):
    found = blocks("python")
    assert len(found) == 4
    script = "\n".join(found)
    script += "\nassert found.clean_accuracy > 0.9"
    script += "\nassert found.robust_accuracy < found.clean_accuracy"
    script += "\nassert result.verdict is not None"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_parts_are_those_that_exist():
    from ib_keras import plugins

    for room in ("bottlenecks", "encoders", "data", "attacks"):
        (row,) = re.findall(rf"^\| `ib_keras/{room}` \| (.*) \|$", TEXT, re.M)
        named = set(re.findall(r"`(\w+)`", row))
        assert named == set(plugins.names(room))


def test_commands_named_exist():
    for name in re.findall(r"launch\.(\w+)", TEXT):
        assert (ROOT / "launch" / f"{name}.py").exists(), name
