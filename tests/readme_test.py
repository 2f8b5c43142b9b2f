"""README.md tells the truth: its blocks run, and so do those of a guide."""

import json
import pathlib
import re
import shlex

import pytest

from tests.support import manual
from tests.support import runs

pytestmark = pytest.mark.commands

ROOT = pathlib.Path(__file__).parent.parent
README = "README.md"
GUIDE = "docs/guides/keras_user.md"
FILES = "docs/reference/files.md"
# Files that there are at times only: of a writer, an interruption, arrays.
AT_TIMES = {"lock.json", "partial.npz", "data.npz"}
# What the tests add to a command, so that it ends soon.
SMALLER = {
    "launch.audit": [
        "--config.stages.pgd.num_restarts=3",
        "--config.stages.pgd.attack.num_steps=10",
    ],
}


@pytest.fixture
def checkout(tmp_path):
    """A folder like a checkout, so that what commands write is not in ours."""
    for name in ("configs", "ib_keras", "launch"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run(checkout, *arguments, **program):
    process = runs.Process(*arguments, cwd=checkout, **program)
    assert process.wait() == 0, process.read("errors")


def test_shell_blocks_run_and_write_the_files_that_are_documented(checkout):
    (block,) = manual.blocks(README, "bash")
    for line in block.replace("\\\n", " ").splitlines():
        python, dash, module, *arguments = shlex.split(line)
        assert (python, dash) == ("python", "-m")
        run(checkout, *arguments, *SMALLER.get(module, []), module=module)
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


@pytest.mark.slow
def test_python_blocks_of_the_guide_run(checkout):
    checks = [
        "found.clean_accuracy > 0.9",
        "found.robust_accuracy < found.clean_accuracy",
        "result.verdict is not None",
    ]
    blocks = manual.blocks(GUIDE, "python")
    code = "\n".join([*blocks, *(f"assert {check}" for check in checks)])
    run(checkout, code=code)


def test_python_of_the_readme_is_that_of_the_guide():
    (block,) = manual.blocks(README, "python")
    guide = iter("\n".join(manual.blocks(GUIDE, "python")).splitlines())
    assert all(line in guide for line in block.splitlines())
