"""Figures from sweeps with invented numbers: what is drawn and what is said."""

import io
import json
import pathlib
import warnings

import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
from PIL import Image

from ib_keras import figures
from ib_keras.figures import reading
from tests.support import drawings
from tests.support import marks
from tests.support import runs
from tests.support import sweep_folder

CONFIGS = {
    1: "mnist_vib",
    2: "mnist_vib",
    3: "cifar10_ceb",
    4: "cifar10_ceb",
    5: "toy_overlap_vib",
    7: "toy_tsipras_vib",
    8: "mnist_vib",
    9: "cifar10_vib",
    10: "cifar10_ceb",
    11: "ib_adversarial",
}


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")
    values = {"cifar10_vib": (1e-3, 1e-2)}
    return [
        reading.load(
            str(
                sweep_folder.make(
                    folder / config,
                    config,
                    seeds=2,
                    values=values.get(config),
                )
            )
        )
        for config in sorted(set(CONFIGS.values()))
    ]


@pytest.mark.parametrize("number", figures.FIGURES)
def test_each_figure_is_written_in_all_formats(number, sweeps, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Of a layout that does not fit.
        paths, notes = figures.write(number, sweeps, str(tmp_path / "new"))
    assert paths == [
        f"{tmp_path}/new/figure_{number}{ending}"
        for ending in (".pdf", ".svg", ".png", ".csv", ".md")
        if ending != ".md" or number not in (4, 6, 10)
    ]
    assert notes == ()
    contents = [pathlib.Path(path).read_bytes() for path in paths]
    pdf, svg, png, table = contents[:4]
    assert pdf.startswith(b"%PDF")
    assert b"CreationDate" not in pdf
    assert b"/Type3" not in pdf
    assert b"FontFile2" in pdf  # Embedded TrueType.
    assert b"<dc:date>" not in svg
    width, _ = Image.open(io.BytesIO(png)).size
    assert width in (990, 2040)  # 3.3 and 6.8 inches.
    assert len(table.splitlines()) > 10
    assert list((tmp_path / "new").iterdir()) != []


@pytest.mark.parametrize("number", marks.others_slow([1, 4, 6], ("4",)))
def test_equal_records_give_equal_bytes(number, sweeps, tmp_path):
    for name in ("a", "b"):
        figures.write(number, sweeps, str(tmp_path / name))
    assert runs.snapshot(tmp_path / "a") == runs.snapshot(tmp_path / "b")


def test_a_program_keeps_its_own_figures_and_settings(sweeps, tmp_path):
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        figures.write(2, sweeps, str(tmp_path / "theirs"))
    figures.write(2, sweeps, str(tmp_path / "plain"))
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == []
    first, second = (runs.snapshot(tmp_path / n) for n in ("theirs", "plain"))
    assert first == second


@pytest.mark.parametrize("number", figures.FIGURES)
def test_nothing_lies_outside_of_the_paper(number, sweeps):
    with figures.style.settings():
        drawn = figures.draw(number, sweeps)
        made = drawn.figure
        made.draw_without_rendering()
        box = made.get_tightbbox(made.canvas.get_renderer())  # Inches.
    width, height = made.get_size_inches()
    assert 0 <= box.x0 < 0.2
    assert 0 <= box.y0 < 0.1
    assert width - 0.2 < box.x1 <= width
    assert height - 0.1 < box.y1 <= height


def test_figure_1_has_a_point_for_each_run_radius_and_mode(sweeps):
    drawn = figures.draw(1, sweeps)
    found = drawings.rows(drawn)
    # 5 betas, 2 seeds, 2 modes, 3 radii, and 2 twins at 3 radii.
    assert len(found) == 5 * 2 * 2 * 3 + 2 * 3
    (sweep,) = [s for s in sweeps if s.config == "mnist_vib"]
    run = sweep.done[3]
    (row,) = [
        r
        for r in found
        if (r["run"], r["panel"], r["mode"]) == (run.name, "b", "stochastic")
    ]
    curve = run.record["audits"]["fgs_stochastic"]["epsilon_curve"]
    assert float(row["y"]) == pytest.approx(curve[1]["robust_accuracy"])
    assert float(row["x"]) == run.labels["beta"]
    assert row["model_sha256"] == run.sha256[:12]
    assert row["num_examples"] == "1000"
    low, high = curve[1]["robust_accuracy_ci95"]
    assert float(row["ci_low"]) == pytest.approx(low)
    assert float(row["ci_high"]) == pytest.approx(high)
    assert r"$\epsilon=0.35$" in drawings.texts(drawn)
    assert "one answer for all, 12.6%" in drawings.texts(drawn)


def test_what_is_drawn_is_what_the_csv_says(sweeps):
    drawn = figures.draw(1, sweeps)
    axes = drawn.figure.axes[0]
    dots = [
        y
        for line in axes.get_lines()
        if line.get_marker() in ("o", "^")
        for y in line.get_ydata()
    ]
    listed = [
        100 * float(r["y"])
        for r in drawings.rows(drawn)
        if r["panel"] == "a" and r["model"] == "vib"
    ]
    assert sorted(dots) == pytest.approx(sorted(listed), abs=1e-6)
    twins = [
        100 * float(r["y"])
        for r in drawings.rows(drawn)
        if r["panel"] == "a" and r["model"] == "deterministic"
    ]
    level = axes.get_lines()[-1].get_ydata()
    assert list(level) == pytest.approx([np.mean(twins)] * 2, abs=1e-6)


@pytest.mark.parametrize(("number", "epsilon"), [(2, 0.2), (8, 0.1)])
def test_restarts_are_those_at_beta_001(number, epsilon, sweeps):
    found = drawings.rows(figures.draw(number, sweeps))
    (sweep,) = [s for s in sweeps if s.config == "mnist_vib"]
    assert {r["run"] for r in found} == {
        run.name for run in sweep.done if run.labels.get("beta", 0.01) == 0.01
    }
    assert len(found) == 4 * 100
    run = next(r for r in sweep.done if r.labels.get("beta") == 0.01)
    (curve,) = [
        row["restart_curve"]
        for row in run.record["audits"]["restarts"]["epsilon_curve"]
        if row["epsilon"] == epsilon
    ]
    ys = [float(r["y"]) for r in found if r["run"] == run.name]
    assert ys == pytest.approx(curve)


def test_surfaces_are_those_of_the_model_that_scores_highest(sweeps):
    (sweep,) = [s for s in sweeps if s.config == "cifar10_ceb"]
    models = [run for run in sweep.done if not run.is_twin]
    best = max(
        models, key=lambda r: r.record["audits"]["aa_mt"]["robust_accuracy"]
    )
    for number, count in ((4, 1), (10, 3)):
        drawn = figures.draw(number, sweeps)
        found = drawings.rows(drawn)
        assert {r["run"] for r in found} == {best.name}
        chosen = best.record["landscapes"][:count]
        listed = [
            float(r["cross_entropy"]) for r in found if r["is_ball"] == "0"
        ]
        expected = [one["cross_entropy"] for one in chosen]
        assert listed == pytest.approx(np.ravel(expected).tolist())
        assert f"{best.labels['rho']:g}, seed" in drawings.caption(drawn)


def test_surfaces_may_have_holes_and_be_flat(tmp_path):
    folder = sweep_folder.make(tmp_path, "cifar10_ceb", seeds=1, values=(2.0,))
    name = "ceb_rho_2_seed_0"
    record = json.loads((folder / "records" / f"{name}.json").read_text())
    (one, two, three) = record["landscapes"]
    one["cross_entropy"][3][4] = None
    two["cross_entropy"] = np.zeros((41, 41)).tolist()
    three["image"] = None
    sweep_folder.change(folder, name, landscapes=[one, two, three])
    drawn = figures.draw(10, [reading.load(str(folder))])
    assert figures.style.save(drawn.figure)[".png"]


def test_figure_6_has_samples_where_the_paper_has_them():
    found = drawings.rows(figures.draw(6, []))
    for panel, agrees in (("test", 0.9), ("adversarial", 0.0)):
        own = [r for r in found if r["panel"] == panel]
        assert len(own) == 1000
        y, x1, x2 = (
            np.array([float(r[name]) for r in own])
            for name in ("y", "x1", "x2")
        )
        assert set(y) == {-1.0, 1.0}
        assert (np.sign(x1) == y).all()
        assert 9.5 < np.abs(x1).max() <= 10
        assert 0.95 < np.abs(x2).max() <= 1
        share = np.mean(np.sign(x2) == y)
        # Four standard errors of 1,000 draws; exact where the share is 0.
        assert abs(share - agrees) <= 4 * np.sqrt(agrees * (1 - agrees) / 1000)
