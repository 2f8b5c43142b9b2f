"""README.md tells the truth: its blocks run, and so do those of a guide."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from tests.support import manual

ROOT = pathlib.Path(__file__).parent.parent
README = "README.md"
GUIDE = "docs/guides/keras_user.md"
FILES = "docs/reference/files.md"
# Files that there are at times only: of a writer, an interruption, arrays.
AT_TIMES = {"lock.json", "partial.npz", "data.npz"}


@pytest.fixture
def checkout(tmp_path):
    """A folder like a checkout, so that what commands write is not in ours."""
    for name in ("configs", "ib_keras", "launch"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run(checkout, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_shell_blocks_run_and_write_the_files_that_are_documented(checkout):
    (block,) = manual.blocks(README, "bash")
    for line in block.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line)
        assert program == "python"
        run(checkout, *arguments)
    assert (checkout / "audits" / "page.html").stat().st_size > 0
    check_files("A training", checkout / "runs" / "digits_vib")
    audit = checkout / "audits" / "digits_vib"
    check_files("An audit", audit)
    summary = json.loads((audit / "summary.json").read_text())
    assert set(summary) == documented("summary.json")
    findings = json.loads((audit / "findings.json").read_text())
    text = manual.text(FILES).split("### findings.json")[1]
    named = set(re.findall(r"`(\w+)`", text.split("## A sweep")[0]))
    for fields in (findings, findings["verdict"], *findings["findings"]):
        assert set(fields) <= named


def documented(heading):
    """What the first column of a table names."""
    rows = manual.table(FILES, heading)
    return {name for row in rows for name in manual.names(row[0])}


def check_files(heading, folder):
    named = {name.partition("/")[0] for name in documented(heading)}
    there = {
        re.sub("^epsilon_.*", "epsilon_X", path.name)
        for path in folder.iterdir()
    }
    assert there == named - AT_TIMES


@pytest.mark.parametrize(
    ("path", "checks"),
    [
        (README, ["result.verdict is not None"]),
        (
            GUIDE,
            [
                "found.clean_accuracy > 0.9",
                "found.robust_accuracy < found.clean_accuracy",
                "result.verdict is not None",
            ],
        ),
    ],
    ids=["readme", "guide"],
)
def test_python_blocks_run(checkout, path, checks):
    found = manual.blocks(path, "python")
    assert found
    run(checkout, "-c", "\n".join([*found, *(f"assert {c}" for c in checks)]))
