"""Models side by side: their names, their baseline, and what the pairs show."""

import itertools
import math
import pathlib
import re

import numpy as np
import pytest

from ib_keras import files
from ib_keras.audit import folder as folders
from ib_keras.audit.report import charts
from ib_keras.audit.report import load
from ib_keras.audit.report import names
from ib_keras.audit.report import pairs
from ib_keras.audit.report import svg
from tests.support import audit_folder
from tests.support import runs
from tests.support.html_page import check_accessible
from tests.support.html_page import check_self_contained
from tests.support.html_page import write_page


@pytest.fixture
def make(tmp_path):
    """Writes an audit of the same examples under a name, and reads it."""

    def write(name, robust=None, **arguments):
        folder = str(tmp_path / name)
        audit_folder.write(folder, **{"model": name, "radii": ()} | arguments)
        if robust is not None:
            set_robust(folder, robust)
        return load.load(folder)

    return write


def set_robust(folder, robust) -> None:
    path = files.join(folder, folders.EXAMPLES)
    arrays = files.read_npz(path)
    files.write_npz(path, {**arrays, "is_robust": np.array(robust, bool)})


def change(audit, **fields):
    """The audit read again after its summary was changed."""
    path = files.join(audit.folder, folders.SUMMARY)
    files.write_json(path, files.read_json(path) | fields)
    return load.load(audit.folder)


def sign_test(first, second):
    """Two-sided, by counting all ways the coins can fall."""
    tosses = first + second
    rarer = sum(math.comb(tosses, k) for k in range(min(first, second) + 1))
    return min(1.0, 2 * rarer / 2**tosses)


# Names.


@pytest.mark.parametrize(
    "paths, expected",
    [
        (["runs/mnist_vib/saved_model/"], ["mnist_vib"]),
        (["gs://bucket/model"], ["model"]),
        ([None], ["unnamed model"]),
        (["saved_model"], ["saved_model"]),
        (["a/saved_model", "b/saved_model"], ["a", "b"]),
        (["x/vib/0/saved_model", "x/ceb/0/saved_model"], ["vib/0", "ceb/0"]),
        (["vib/0", "vib/1", "ceb/1"], ["0", "vib/1", "ceb/1"]),
        (["run", "a/run", "b/a/run"], ["run", "a/run", "b/a/run"]),
    ],
)
def test_a_name_is_the_part_of_a_path_that_differs(make, paths, expected):
    audits = []
    for place, path in enumerate(paths):
        audit = make(f"audit{place}")
        audits.append(change(audit, model={"path": path, "sha256": f"{place}"}))
    found = names.of(audits)
    # Where one path is the end of another, the other has more of its own.
    assert found == expected
    assert len(set(found)) == len(found)


def test_models_at_one_path_are_distinguished_by_their_hashes(make):
    audits = [
        change(make(f"audit{n}"), model={"path": "run", "sha256": f"{n}" * 64})
        for n in range(2)
    ]
    assert names.of(audits) == ["run (0000000)", "run (1111111)"]


def test_a_model_at_two_paths_has_one_name(make):
    audits = [
        change(make(f"audit{n}"), model={"path": path, "sha256": "a" * 64})
        for n, path in enumerate(("here/vib/saved_model", "there/saved_model"))
    ]
    assert names.of(audits) == ["vib", "vib"]


def test_audits_of_one_model_have_labels_of_their_own(make):
    audits = [
        make(f"audit{place}", model="vib", mode=mode, protocol=protocol)
        for place, (mode, protocol) in enumerate(
            (("mean", "fgs"), ("stochastic", "fgs"), ("mean", "fgs"))
        )
    ]
    assert names.labels(audits) == [
        "vib, fgs, mean (1)",
        "vib, fgs, stochastic",
        "vib, fgs, mean (2)",
    ]


# Baselines.


def found(compared) -> list[tuple[str, str]]:
    return [pair.names for pair in compared.pairs]


def test_the_deterministic_twin_is_the_baseline(make):
    audits = [make("vib"), make("twin", bottleneck="deterministic")]
    compared = pairs.compare(audits)
    assert found(compared) == [("vib", "twin")]
    assert compared.note == "The baseline is twin, the deterministic twin."


def test_without_a_deterministic_model_the_first_is_the_baseline(make):
    compared = pairs.compare([make("vib"), make("ceb"), make("other")])
    assert found(compared) == [("ceb", "vib"), ("other", "vib")]
    assert "None of these models is known to be a deterministic" in (
        compared.note
    )
    assert "first, vib, is the baseline; --baseline" in compared.note


def test_each_model_has_the_deterministic_one_trained_alike(make):
    audits = [
        make(f"{kind}{seed}", bottleneck=kind, training={"seed": seed})
        for kind in ("vib", "deterministic")
        for seed in (0, 1)
    ]
    lonely = make("lonely", training={"seed": 2})
    compared = pairs.compare([*audits, lonely])
    assert found(compared) == [
        ("vib0", "deterministic0"),
        ("vib1", "deterministic1"),
        ("lonely", "deterministic0"),
    ]
    assert compared.note.startswith("2 models are deterministic; each other")
    assert "lonely: no deterministic model was trained so" in compared.note


def test_deterministic_models_alone_are_compared_with_the_first(make):
    compared = pairs.compare(
        [make(name, bottleneck="deterministic") for name in "ab"]
    )
    assert found(compared) == [("b", "a")]
    assert "All models are deterministic" in compared.note


@pytest.mark.parametrize("wanted", ["folder", "name", "path"])
def test_a_baseline_is_asked_for_by_folder_name_or_path(make, wanted):
    audits = [make("vib"), make("twin", bottleneck="deterministic")]
    words = {
        "folder": audits[0].folder + "/",
        "name": "vib",
        "path": "runs/vib/saved_model",
    }
    compared = pairs.compare(audits, words[wanted])
    assert found(compared) == [("twin", "vib")]
    assert compared.note == "The baseline is vib."


def test_a_baseline_that_is_no_model_of_the_page_is_refused(make):
    audits = [make("vib"), make("twin")]
    error = runs.refused(pairs.compare, audits, "tvin")
    assert '"tvin"' in str(error) and "--baseline" in str(error)
    assert audits[0].folder in str(error)


def test_audits_of_one_model_have_no_baseline(make):
    audits = [make("vib"), make("other", model="vib", mode="stochastic")]
    assert pairs.compare(audits).note.startswith("All audits are of one model")
    assert pairs.sentences(audits[:1]) == []


# Pairs.


@pytest.mark.parametrize(("first", "second"), [(9, 1), (4, 4), (0, 7), (0, 0)])
def test_a_pair_is_tested_example_by_example(make, first, second):
    rest = 40 - first - second
    audits = [
        make("vib", [1] * first + [0] * second + [1] * rest),
        make(
            "twin",
            [0] * first + [1] * second + [1] * rest,
            bottleneck="deterministic",
        ),
    ]
    (pair,) = pairs.compare(audits).pairs
    assert (pair.test.only_a, pair.test.only_b) == (first, second)
    expected = sign_test(first, second)
    assert pair.test.p_value == pytest.approx(expected, rel=1e-9)
    assert pair.differences == ()


def test_pairs_share_protocol_and_mode(make):
    grid = list(itertools.product(("fgs", "pgd"), ("mean", "stochastic")))
    audits = [
        make(f"{model}_{protocol}_{mode}", model=model, protocol=protocol,
             mode=mode)
        for model in ("vib", "ceb")
        for protocol, mode in grid
    ]  # fmt: skip
    compared = pairs.compare(audits, "vib")
    assert [(p.protocol, p.modes) for p in compared.pairs] == [
        (f"{protocol} v1", (mode, mode)) for protocol, mode in grid
    ]
    assert all(audits[p.audit].mode == p.modes[0] for p in compared.pairs)
    assert [p.baseline for p in compared.pairs] == [0, 1, 2, 3]
    assert "not adjusted for the 4 comparisons" in compared.caution


def test_a_deterministic_model_is_compared_with_every_mode(make):
    audits = [
        make("mean", model="vib"),
        make("stochastic", model="vib", mode="stochastic"),
        make("twin", bottleneck="deterministic"),
    ]
    modes = [pair.modes for pair in pairs.compare(audits).pairs]
    assert modes == [("mean", "mean"), ("stochastic", "mean")]
    modes = [pair.modes for pair in pairs.compare(audits, "vib").pairs]
    assert modes == [("mean", "mean"), ("mean", "stochastic")]


@pytest.mark.parametrize(
    "arguments, why",
    [
        ({"protocol": "other"}, "vib was not audited by other v1"),
        ({"mode": "stochastic"}, "vib was not audited in stochastic mode"),
        ({"epsilon": 0.1}, "vib was attacked at no such radius"),
        ({"norm": "l2"}, "vib was attacked at no such radius"),
        ({"num_examples": 30}, "vib was attacked on other examples"),
    ],
)
def test_audits_without_a_pair_have_a_reason(make, tmp_path, arguments, why):
    audits = [make("vib"), make("ceb", **arguments)]
    compared = pairs.compare(audits)
    assert (compared.pairs, compared.unpaired) == ((), ((1, why),))
    assert pairs.sentences(audits)[-1] == f"ceb: not compared, {why}."
    page = write_page([a.folder for a in audits], tmp_path)
    assert f"B is not compared: {why}." in page.words


def test_other_attacks_or_restarts_are_noted(make, tmp_path):
    audits = [make("vib"), make("ceb", stages={"pgd_ce": 3})]
    (pair,) = pairs.compare(audits).pairs
    assert pair.differences == ("attacks or restarts",)
    assert str(pair).endswith("They also differ in attacks or restarts.")
    page = write_page([a.folder for a in audits], tmp_path)
    assert "▲ other attacks or restarts" in page.words


def test_all_radii_that_both_kept_are_compared(make):
    audits = [make(name, radii=(0.05, 0.1)) for name in ("vib", "ceb")]
    for audit, robust in zip(audits, ([1] * 40, [0] * 40), strict=True):
        inner = folders.radius(audit.folder, 0.1)
        audit_folder.write(inner, epsilon=0.1, radii=())
        set_robust(inner, robust)
    compared = pairs.compare(audits)
    assert [pair.epsilon for pair in compared.pairs] == [0.1, 0.2]
    assert compared.pairs[0].test.difference == -1
    assert compared.pairs[1].test.difference == 0


def test_the_page_shows_each_pair_with_its_numbers(make, tmp_path):
    audits = [
        make("vib", [1] * 9 + [0] * 31, mode="stochastic"),
        make("twin", [0] * 30 + [1] * 10, bottleneck="deterministic"),
    ]
    page = write_page([a.folder for a in audits], tmp_path)
    check_self_contained(page)
    check_accessible(page)
    start = page.rows.index(["pgd_restarts v1, L∞, ε = 0.2"])
    (pair,) = pairs.compare(audits).pairs
    row = page.rows[start + 1]
    assert row[:2] == ["A vib, stochastic", "B twin, mean"]
    assert row[4:7] == ["9", "10", "−2.5"]
    assert row[8] == f"{pair.test.p_value:.2g}"
    assert "The baseline is twin, the deterministic twin." in page.words


def test_the_page_takes_a_baseline(make, tmp_path):
    audits = [make("vib"), make("twin", bottleneck="deterministic")]
    path = str(tmp_path / "page.html")
    where = [audit.folder for audit in audits]
    pages = runs.command(
        "launch.report",
        f"--workdir={','.join(where)}",
        f"--output={path}",
        "--baseline=vib",
    )
    assert pages[0] == 0, pages
    assert "The baseline is vib." in pathlib.Path(path).read_text()


# Charts.


def ys(drawing) -> list[str]:
    """The labels of the vertical axis."""
    return re.findall(r">(\d[\d.]*%)</text>", drawing)


def test_a_chart_shows_the_part_that_its_lines_are_in(make):
    audit = make("vib")
    curve = [0.30, 0.27, 0.26, 0.25]
    stage = dict(files.read_json(f"{audit.folder}/summary.json")["stages"][0])
    stage |= {"restart_curve": curve, "num_restarts": 4}
    audit = change(audit, stages=[stage])
    chart = charts.restarts([audit], "x")
    assert ys(chart.full) == ["0%", "25%", "50%", "75%", "100%"]
    assert ">clean</text>" in chart.full
    # The intervals of 12 and of 10 in 40 are from 14% to 45%.
    shown = [float(label.rstrip("%")) for label in ys(chart.svg)]
    assert 10 <= min(shown) and max(shown) <= 50
    assert ">clean</text>" not in chart.svg
    assert "Zoomed: " in chart.note and "full range is below" in chart.note


def test_a_chart_that_needs_the_full_range_has_it_alone(make):
    audit = make("vib")
    stage = dict(files.read_json(f"{audit.folder}/summary.json")["stages"][0])
    stage |= {"restart_curve": [0.9, 0.3, 0.1], "num_restarts": 3}
    chart = charts.restarts([change(audit, stages=[stage])], "x")
    assert chart.full is None and "Zoomed" not in chart.note
    assert ys(chart.svg) == ["0%", "25%", "50%", "75%", "100%"]


def test_accuracy_against_epsilon_is_zoomed_without_clean(make):
    audit = make("vib")
    curve = [
        {"epsilon": epsilon, "robust_accuracy": accuracy}
        for epsilon, accuracy in ((0.1, 0.25), (0.2, 0.2), (0.3, 0.05))
    ]
    audit = change(audit, epsilon_curve=curve, robust_accuracy=0.2)
    chart = charts.epsilons([audit], "linf", "x")
    assert chart.full is not None
    assert len(chart.rows) == 4  # The numbers have clean accuracy, too.
    assert ">0</text>" in chart.full and ">0</text>" not in chart.svg


def positions(drawing) -> list[tuple[float, float, float]]:
    """Left end, height and width of each label of one or two letters."""
    found = re.findall(
        r'<text[^>]*?transform="translate\(([\d.]+) ([\d.]+)\)[^"]*"[^>]*>'
        r"([A-Z]{1,2})</text>",
        drawing,
    ) + re.findall(
        r'<text[^>]*? x="([\d.]+)" y="([\d.]+)"[^>]*>([A-Z]{1,2})</text>',
        drawing,
    )
    return [(float(x), float(y), 8 * len(word)) for x, y, word in found]


@pytest.mark.parametrize("num_lines", [2, 6, 11])
@pytest.mark.parametrize("height", [0.0, 0.5, 1.0])
def test_labels_at_the_ends_do_not_overlap(num_lines, height):
    series = [
        svg.Series(
            charts.letter(n),
            n,
            (svg.Point(1, 0.5), svg.Point(8 + 0.2 * (n % 3), height)),
        )
        for n in range(num_lines)
    ]
    drawing = svg.draw(series, "x", x_label="x", limits=(1, 9))
    found = positions(drawing)
    assert len(found) == num_lines
    for (x, y, width), (other_x, other_y, _) in itertools.combinations(
        sorted(found), 2
    ):
        assert other_x - x >= width or abs(other_y - y) >= 11
    assert all(0 < y < 3.2 * 72 for _, y, _ in found)


def test_labels_without_space_are_left_to_the_legend():
    series = [
        svg.Series(charts.letter(n), n, (svg.Point(1, 0.5), svg.Point(9, 0.5)))
        for n in range(40)
    ]
    drawing = svg.draw(series, "x", x_label="x", limits=(1, 9))
    assert positions(drawing) == []


def test_the_legend_names_every_line(make, tmp_path):
    audits = [make("vib", radii=(0.1,)), make("ceb", radii=(0.1,))]
    page = write_page([a.folder for a in audits], tmp_path)
    said = "mean, pgd_restarts v1, L∞, ε = 0.2"
    assert f"A vib, {said} B ceb, {said}" in page.words
    swatches = [a for a in page.named("svg") if a.get("class") == "swatch"]
    assert len(swatches) == 2
    assert svg.swatch(0) != svg.swatch(1) != svg.swatch(6)


@pytest.mark.parametrize(
    "radii, shown", [((4, 8, 16), True), ((1, 2, 3, 4, 5, 40), False)]
)
def test_radii_are_labelled_on_their_axis_if_there_is_space(make, radii, shown):
    audit = make(
        "vib", epsilon=8 / 255, radii=tuple(radius / 255 for radius in radii)
    )
    drawing = charts.epsilons([audit], "linf", "x").svg
    for radius in radii:
        assert (f">{radius}/255</text>" in drawing) is shown


def test_short_stages_go_without_a_number():
    line = svg.Series("", 0, tuple(svg.Point(x, 0.5) for x in (1, 1000)))
    drawing = svg.draw(
        [line], "x", x_label="x", limits=(1, 1000), marks=(0, 990, 995)
    )
    assert ">1</text>" in drawing
    assert ">2</text>" not in drawing and ">3</text>" not in drawing
