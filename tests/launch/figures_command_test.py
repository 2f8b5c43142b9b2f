"""The command that draws figures, as it is typed."""

import os
import subprocess
import sys

import pytest

from tests.support import runs
from tests.support import sweep_folder

pytestmark = pytest.mark.commands


def figures(*arguments, cwd):
    """Runs the command; its status, output and errors."""
    done = subprocess.run(
        [sys.executable, "-m", "launch.figures", *map(str, arguments)],
        cwd=cwd,
        env=os.environ
        | {"PYTHONPATH": str(runs.ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep in which one run is missing."""
    folder = sweep_folder.make(
        tmp_path_factory.mktemp("sweep") / "mnist", values=(0.01,), seeds=2
    )
    (folder / "records" / "vib_beta_0.01_seed_1.json").unlink()
    return folder


def test_some_figures_are_drawn_and_told(folder, tmp_path):
    status, output, errors = figures(
        "--figure=1,8", f"--runs={folder}", cwd=tmp_path
    )
    assert (status, errors) == (0, "")
    assert "Figure 1: figures/figure_1.pdf, figures/figure_1.svg" in output
    assert "  Missing, not begun: vib_beta_0.01_seed_1" in output
    assert sorted(os.listdir(tmp_path / "figures")) == [
        f"figure_{number}{ending}"
        for number in (1, 8)
        for ending in (".csv", ".md", ".pdf", ".png", ".svg")
    ]


@pytest.mark.slow
def test_all_draws_what_the_runs_have_and_a_bad_folder_stops_nothing(
    folder, tmp_path
):
    before = runs.snapshot(folder)
    status, output, errors = figures(
        "--figure=all",
        f"--runs={folder}",
        f"--runs={tmp_path}/none",
        f"--output={tmp_path}/out",
        cwd=tmp_path,
    )
    assert status == 2
    drawn = [
        line.partition(":")[0]
        for line in output.splitlines()
        if line.startswith("Figure ")
    ]
    assert drawn == ["Figure 1", "Figure 2", "Figure 6", "Figure 8"]
    assert errors.count("\n") == 1
    assert f"{tmp_path}/none, without sweep.json" in errors
    assert runs.snapshot(folder) == before


def test_a_figure_that_cannot_be_drawn_stops_no_other(folder, tmp_path):
    status, output, errors = figures(
        "--figure=3,2", f"--runs={folder}", cwd=tmp_path
    )
    assert status == 2
    assert "Figure 2:" in output
    assert "Figure 3 has no runs" in errors
    assert "python -m launch.sweep --config=configs/cifar10_ceb.py" in errors


def test_an_unknown_figure_is_refused(tmp_path):
    status, output, errors = figures("--figure=11", cwd=tmp_path)
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    for word in ("Received: ", "Expected: ", "Fix: "):
        assert errors.count(word) == 1
    assert not list(tmp_path.iterdir())
