"""`launch.verify`, as it is typed."""

import functools
import json
import pathlib
import shutil

import pytest

from ib_keras.audit import runner
from tests.support import runs

pytestmark = pytest.mark.commands


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    """The folder of a small audit; read only."""
    folder = str(tmp_path_factory.mktemp("verify") / "audit")
    config = runs.audit_config("fgs_epsilons", num_examples=16)
    runner.audit(config, runs.digits_model("vib"), folder, quiet=True)
    return folder


command = functools.partial(runs.command, "launch.verify")


def test_an_honest_audit_is_told_line_by_line(audit, tmp_path):
    before = runs.snapshot(audit)
    output = tmp_path / "checks.json"
    status, said, _ = command(f"--workdir={audit}", f"--output={output}")
    assert status == 0
    *lines, last = said.splitlines()
    checks = json.loads(output.read_text())["checks"]
    told = [line for line in lines if line.startswith("ok ")]
    assert len(told) == len(checks)
    assert last == f"All {len(checks)} checks hold."
    assert runs.snapshot(audit) == before


@pytest.mark.slow
def test_quiet_says_nothing_of_an_honest_audit(audit):
    assert command(f"--workdir={audit}", "--quiet")[:2] == (0, "")


def test_a_touched_audit_ends_with_2_and_names_what(audit, tmp_path):
    folder = tmp_path / "touched"
    shutil.copytree(audit, folder)
    path = pathlib.Path(folder, "summary.json")
    summary = json.loads(path.read_text())
    summary["robust_accuracy"] += 1 / 16
    path.write_text(json.dumps(summary))
    output = tmp_path / "checks.json"
    status, said, errors = command(
        f"--workdir={folder}", "--quiet", f"--output={output}"
    )
    assert (status, said) == (2, "")
    failures = [x for x in errors.splitlines() if x.startswith("FAILED")]
    (failure,) = failures
    assert failure.startswith("FAILED counts: robust_accuracy is ")
    assert "has false claims: 1 of " in errors
    assert json.loads(output.read_text())["failed"] == ["counts"]


def test_a_folder_that_is_no_audit_ends_with_2(tmp_path):
    status, said, errors = command(f"--workdir={tmp_path}")
    assert (status, said) == (2, "")
    assert "Error: A file is missing. Received: " in errors
