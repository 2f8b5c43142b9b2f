"""Figure 11: what is drawn, and McNemar's tests of its table by hand."""

import json

import numpy as np
import pytest
from scipy import stats

from ib_keras import figures
from ib_keras.audit import statistics
from ib_keras.errors import UserError
from ib_keras.figures import reading
from tests.support import drawings
from tests.support import sweep_folder

SEEDS, IMAGES = 2, 50


@pytest.fixture
def folder(tmp_path):
    return sweep_folder.make(
        tmp_path / "sweep", "ib_adversarial", seeds=SEEDS, num_examples=IMAGES
    )


def draw(folder):
    return figures.draw(11, [reading.load(str(folder))])


def table(drawn):
    """The rows of McNemar's table by objective, bottleneck, mode, epsilon."""
    lines = [line for line in drawn.table.splitlines() if line[:1] == "|"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [len(row) for row in rows] == [9] * len(rows)
    return {tuple(row[:4]): row[4:] for row in rows[2:]}


def robust(folder, name, audit):
    record = json.loads((folder / "records" / f"{name}.json").read_text())
    return np.array(list(record["audits"][audit]["is_robust"])) == "1"


def test_every_accuracy_is_drawn_once_and_clean_accuracy_at_zero(folder):
    rows = drawings.rows(draw(folder))
    # Bottlenecks have two modes and the baseline one; 0 and three radii.
    assert len(rows) == 5 * SEEDS * (4 * 2 + 1) * 4
    keys = [tuple(r[k] for k in ("panel", "mode", "x", "run")) for r in rows]
    assert len(set(keys)) == len(keys)
    (row,) = [
        r
        for r in rows
        if r["run"] == "ceb_rho_3_trades_seed_1"
        and (r["mode"], r["x"]) == ("stochastic", "0.2")
    ]
    share = robust(folder, row["run"], "fast_ensemble_stochastic_0.2").mean()
    assert float(row["y"]) == pytest.approx(share)
    assert (row["model"], row["panel"]) == ("ceb rho=3", "d")
    assert {float(r["y"]) for r in rows if r["x"] == "0"} == {0.98}


def test_the_table_has_mcnemars_test_of_each_seed(folder):
    found = table(draw(folder))
    assert len(found) == 5 * 4 * 2 * 3
    row = found["pgd_at", "vib beta=0.001", "stochastic", "0.3"]
    only_baseline, only_bottleneck, p_values = 0, 0, []
    for seed in range(SEEDS):
        a = robust(
            folder,
            f"vib_beta_0.001_pgd_at_seed_{seed}",
            "fast_ensemble_stochastic_0.3",
        )
        b = robust(
            folder,
            f"deterministic_pgd_at_seed_{seed}",
            "fast_ensemble_mean_0.3",
        )
        only_baseline += (b & ~a).sum()
        only_bottleneck += (a & ~b).sum()
        discordant = (a ^ b).sum()
        test = stats.binomtest(int((a & ~b).sum()), int(discordant))
        p_values.append(f"{test.pvalue:.2g}")
    assert row[0] == f"{SEEDS} x {IMAGES}"
    assert row[1:3] == [str(only_baseline), str(only_bottleneck)]
    difference = 100 * (only_bottleneck - only_baseline) / SEEDS / IMAGES
    assert row[3].startswith(f"{difference:+.1f} [")
    assert [p.rstrip("*") for p in row[4].split(", ")] == p_values


def test_a_star_is_for_what_is_left_after_holms_correction(folder):
    name = "vib_beta_0.01_cure_seed_0"
    record = json.loads((folder / "records" / f"{name}.json").read_text())
    audit = record["audits"]["fast_ensemble_mean_0.1"]
    audit["is_robust"] = "0" * IMAGES
    sweep_folder.change(folder, name, audits=record["audits"])
    stars = {
        key: row[4].split(", ")
        for key, row in table(draw(folder)).items()
        if "*" in row[4]
    }
    (p_values,) = stars.values()
    assert list(stars) == [("cure", "vib beta=0.01", "mean", "0.1")]
    assert p_values[0].endswith("*")
    assert not p_values[1].endswith("*")


def test_a_bottleneck_without_its_baseline_is_not_compared(folder):
    (folder / "records" / "deterministic_trades_seed_0.json").unlink()
    found = table(draw(folder))
    row = found["trades", "ceb rho=1", "mean", "0.2"]
    assert row[0] == f"1 x {IMAGES}"
    assert found["cure", "ceb rho=1", "mean", "0.2"][0] == f"2 x {IMAGES}"


def test_an_objective_without_runs_says_so(folder):
    for path in (folder / "records").glob("*trades*"):
        path.unlink()
    drawn = draw(folder)
    assert drawings.texts(drawn).count("no run") == 2  # One in each mode.
    assert any("trades" in note for note in drawn.notes)


def test_a_model_looks_alike_in_all_panels(folder):
    """Also where another of its kind is missing."""
    for path in (folder / "records").glob("vib_beta_0.001_trades*"):
        path.unlink()
    drawn = draw(folder)
    (legend,) = drawn.figure.legends
    expected = {line.get_color() for line in legend.get_lines()}
    colors = [{x.get_color() for x in a.lines} for a in drawn.figure.axes]
    gone = [expected - found for found in colors]
    assert [len(g) for g in gone] == [0, 0, 0, 1, 0] * 2
    (missing,) = gone[3]
    by_text = {
        text.get_text(): line.get_color()
        for text, line in zip(
            legend.get_texts(), legend.get_lines(), strict=True
        )
    }
    assert missing == by_text[r"VIB $\beta$=0.001"]


def test_records_without_examples_are_drawn_and_not_compared(folder):
    for path in (folder / "records").iterdir():
        record = json.loads(path.read_text())
        for audit in record["audits"].values():
            del audit["is_robust"]
        path.write_text(json.dumps(record))
    drawn = draw(folder)
    assert drawn.table == ""
    assert len(drawn.rows) == 5 * SEEDS * (4 * 2 + 1) * 4


def test_the_table_is_behind_the_means_in_the_file(folder, tmp_path):
    sweeps = [reading.load(str(folder))]
    figures.write(11, sweeps, str(tmp_path / "figures"))
    text = (tmp_path / "figures" / "figure_11.md").read_text()
    assert text.endswith(f"\n\n{draw(folder).table}")
    means = text.partition("\n\n")[0].splitlines()
    assert means[0].startswith("| model | x | a, mean | a, stochastic | b, ")


def test_the_caption_says_by_which_protocol(folder):
    (caption,) = draw(folder).figure.texts
    said = " ".join(caption.get_text().split())
    assert "Robust accuracy under fast_ensemble in per cent" in said


def test_audits_by_two_protocols_are_not_drawn_together(folder):
    name = "vib_beta_0.01_cure_seed_0"
    record = json.loads((folder / "records" / f"{name}.json").read_text())
    for audit in record["audits"].values():
        audit["protocol"] = "aa_mt"
    sweep_folder.change(folder, name, audits=record["audits"])
    with pytest.raises(UserError, match="aa_mt and fast_ensemble"):
        draw(folder)


def test_of_two_protocols_the_stronger_is_drawn(folder):
    for path in (folder / "records").iterdir():
        record = json.loads(path.read_text())
        for name, audit in list(record["audits"].items()):
            weaker = {**audit, "protocol": "aa_mt", "robust_accuracy": 0.125}
            record["audits"][f"aa_mt {name}"] = weaker
        path.write_text(json.dumps(record))
    drawn = draw(folder)
    assert "under AA+MT" in " ".join(drawn.figure.texts[0].get_text().split())
    accuracies = {float(r["y"]) for r in drawings.rows(drawn) if r["x"] != "0"}
    assert accuracies == {0.125}


def test_a_sweep_without_the_audits_is_refused(folder):
    for path in (folder / "records").iterdir():
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"audits": {}})
        )
    with pytest.raises(UserError, match="Figure 11 has nothing to draw"):
        draw(folder)


def test_holm_corrects_as_by_hand():
    p_values = [0.01, 0.04, 0.03, 0.005]
    # Ascending 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, never descending.
    expected = [0.03, 0.06, 0.06, 0.02]
    assert statistics.holm(p_values) == pytest.approx(expected)
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []
