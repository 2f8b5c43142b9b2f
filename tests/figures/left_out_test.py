"""What a figure says of runs that are not in it, and when it is refused."""

import json
import types

import pytest

from ib_keras import figures
from ib_keras.figures import reading
from tests.support import drawings
from tests.support import runs
from tests.support import sweep_folder


def test_the_caption_says_what_the_figure_is_made_of(tmp_path):
    folder = sweep_folder.make(tmp_path, seeds=3, values=(0.001, 0.01))
    sweep_folder.change(
        folder,
        "vib_beta_0.01_seed_0",
        collapsed="collapsed: clean accuracy 0.1135 < 0.5500",
    )
    sweep_folder.change(folder, "vib_beta_0.01_seed_1", status="diverged")
    (folder / "records" / "vib_beta_0.001_seed_2.json").unlink()
    drawn = figures.draw(1, [reading.load(str(folder))])
    said = drawings.caption(drawn)
    assert said.startswith("MNIST. 10 of 200 epochs, ")
    assert "1–2 seeds (baseline: 3 seeds)" in said
    assert "1,000 test images" in said
    assert "6 of 9 runs (1 collapsed, 1 diverged, 1 missing)." in said
    arm = max(
        abs(float(row[end]) - float(row["y"]))
        for row in drawings.rows(drawn)
        for end in ("ci_low", "ci_high")
    )
    assert f"reach at most {100 * arm:.1f} points up or down" in said
    assert "Missing, not begun: vib_beta_0.001_seed_2" in drawn.notes
    left_out = "Left out, collapsed: clean accuracy 0.1135 < 0.5500: "
    assert f"{left_out}vib_beta_0.01_seed_0" in drawn.notes
    assert any("launch.sweep" in note for note in drawn.notes)


def test_runs_that_are_not_alike_are_told_in_the_figure(tmp_path):
    folder = sweep_folder.make(tmp_path, seeds=2, values=(0.01,))
    name = "vib_beta_0.01_seed_1"
    record = json.loads((folder / "records" / f"{name}.json").read_text())
    record["config"]["num_epochs"] = 200
    sweep_folder.change(folder, name, config=record["config"])
    drawn = figures.draw(1, [reading.load(str(folder))])
    assert "Runs are not alike in num_epochs." in drawings.caption(drawn)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: one.pop("ball"),
        lambda one: one["us"].pop(),
        lambda one: one.update(cross_entropy=[[1.0]]),
    ],
)
def test_a_surface_that_is_not_whole_is_told(spoil, tmp_path):
    folder = sweep_folder.make(tmp_path, "cifar10_ceb", seeds=1, values=(2.0,))
    name = "ceb_rho_2_seed_0"
    record = json.loads((folder / "records" / f"{name}.json").read_text())
    spoil(record["landscapes"][0])
    sweep_folder.change(folder, name, landscapes=record["landscapes"])
    error = runs.refused(figures.draw, 4, [reading.load(str(folder))])
    assert name in str(error)


def test_one_seed_has_a_line_and_no_band(tmp_path):
    folder = sweep_folder.make(tmp_path, "cifar10_ceb", seeds=1, values=(3.0,))
    drawn = figures.draw(3, [reading.load(str(folder))])
    assert "deterministic (1 seed)" in drawings.texts(drawn)
    assert not [p for axes in drawn.figure.axes for p in axes.patches]


def test_a_panel_without_its_audit_says_so(tmp_path):
    folder = sweep_folder.make(tmp_path, "cifar10_ceb", seeds=1, values=(3.0,))
    for path in (folder / "records").iterdir():
        record = json.loads(path.read_text())
        del record["audits"]["aa_mt"]
        sweep_folder.write(path, record)
    drawn = figures.draw(3, [reading.load(str(folder))])
    assert "no run has this audit" in drawings.texts(drawn)
    error = runs.refused(figures.draw, 4, [reading.load(str(folder))])
    assert "aa_mt" in str(error)


def test_collapsed_toys_are_shown_as_what_they_are(tmp_path):
    folder = sweep_folder.make(
        tmp_path, "toy_overlap_vib", seeds=2, values=(0.1, 10.0)
    )
    why = "collapsed: clean accuracy 0.5000 < 0.7500"
    sweep_folder.change(folder, "vib_beta_10_seed_0", collapsed=why)
    drawn = figures.draw(5, [reading.load(str(folder))])
    found = drawings.rows(drawn)
    collapsed = {r["run"] for r in found if r["is_collapsed"] == "1"}
    assert collapsed == {"vib_beta_10_seed_0"}
    assert len(found) == 2 * (4 * 2 + 2)
    assert "collapsed" in drawings.texts(drawn)
    assert "6 of 6 runs (1 collapsed and marked)" in drawings.caption(drawn)


def test_all_is_what_the_sweeps_have():
    configs = {c for f in figures.FIGURES.values() for c in f.configs}
    sweeps = [types.SimpleNamespace(config=config) for config in configs]
    assert figures.choose(["all"], sweeps) == list(figures.FIGURES)
    mnist = [s for s in sweeps if s.config == "mnist_vib"]
    assert figures.choose(["all"], mnist) == [1, 2, 6, 8]
    assert figures.choose(["all"], []) == [6]
    assert figures.choose(["10", " 3", "3"], []) == [10, 3]


@pytest.mark.parametrize(
    "asked", [["0"], ["12"], ["one"], [""], [], ["all", "1"], ["1;2"], ["1.0"]]
)
def test_an_unknown_figure_is_refused(asked):
    runs.refused(figures.choose, asked, [])


@pytest.mark.parametrize("number", [n for n in figures.FIGURES if n != 6])
def test_a_figure_without_runs_says_which_command_makes_them(number):
    error = runs.refused(figures.draw, number, [])
    assert error.exit_status == 2
    assert f"--config=configs/{figures.FIGURES[number].configs[0]}.py" in str(
        error
    )


def test_a_figure_whose_runs_all_failed_says_why(tmp_path):
    folder = sweep_folder.make(tmp_path, seeds=1, values=(0.01,))
    for path in (folder / "records").iterdir():
        sweep_folder.change(folder, path.stem, status="failed", error="no disk")
    error = runs.refused(figures.draw, 1, [reading.load(str(folder))])
    assert "vib_beta_0.01_seed_0 failed: no disk" in str(error)
    assert "none counts" in error.fix
    (folder / "records" / "vib_beta_0.01_seed_0.json").unlink()
    error = runs.refused(figures.draw, 1, [reading.load(str(folder))])
    assert error.fix.endswith(f"--workdir={folder}")


def test_the_papers_data_come_before_a_substitute(tmp_path):
    mnist = reading.load(str(sweep_folder.make(tmp_path / "mnist", seeds=2)))
    folder = sweep_folder.make(tmp_path / "digits", seeds=1)
    plan = json.loads((folder / "sweep.json").read_text())
    sweep_folder.write(folder / "sweep.json", plan | {"config": "digits_vib"})
    digits = reading.load(str(folder))
    assert len(drawings.rows(figures.draw(1, [digits]))) == 5 * 2 * 3 + 3
    both = drawings.rows(figures.draw(1, [digits, mnist]))
    assert len(both) == 5 * 2 * 2 * 3 + 2 * 3
