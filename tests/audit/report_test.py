"""Tests for the report: true, safe, self-contained, and read by everybody."""

import base64
import copy
import gc
import io
import re

import matplotlib
import numpy as np
import PIL.Image
import pytest

from ib_keras import files
from ib_keras.audit import report
from ib_keras.audit import statistics
from ib_keras.audit.report import charts
from ib_keras.audit.report import pictures
from ib_keras.audit.report import text
from ib_keras.errors import UserError
from tests.support import audit_folder
from tests.support.html_page import CSP
from tests.support.html_page import Page
from tests.support.html_page import check_accessible
from tests.support.html_page import check_self_contained
from tests.support.html_page import write_page


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "audit")


@pytest.fixture
def content(folder):
    return audit_folder.write(folder)


def rewrite_summary(folder, change) -> None:
    path = files.join(folder, "summary.json")
    summary = files.read_json(path)
    change(summary)
    files.write_json(path, summary)


def rewrite_examples(folder, change) -> None:
    path = files.join(folder, "examples.npz")
    examples = files.read_npz(path)
    change(examples)
    files.write_npz(path, examples)


def test_page_is_self_contained(tmp_path, folder, content):
    page = write_page([folder], tmp_path, {folder: content.clean_images})
    check_self_contained(page)
    policies = [
        attrs["content"]
        for attrs in page.named("meta")
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == [CSP]
    assert page.source.index(CSP) < page.source.index("<style>")


def test_page_is_accessible(tmp_path, folder, content):
    page = write_page([folder], tmp_path, {folder: content.clean_images})
    check_accessible(page)
    assert len(page.named("img")) == 3 * 12
    assert page.source.count("✕ broken") == 8
    assert page.source.count("✓ robust") == 4
    assert "prefers-color-scheme: dark" in page.source
    assert "@media print" in page.source


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2 defines it, of "#rrggbb"."""
    values = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in values
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_contrast(tmp_path, folder, content, scheme):
    page = write_page([folder], tmp_path)
    roots = re.findall(r":root \{(.*?)\}", page.source, re.DOTALL)
    root = roots[["light", "dark"].index(scheme)]
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", root))
    paper = luminance(colors.pop("paper"))
    for unread in ("line", "quiet"):
        del colors[unread]
    assert len(colors) == 11
    for name, color in colors.items():
        low, high = sorted([paper, luminance(color)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, name


def test_headline_is_that_of_the_summary(tmp_path, folder, content):
    page = write_page([folder], tmp_path)
    summary = content.summary
    big = re.findall(r'<dd class="big">(.*?)</dd>', page.source)
    assert big == [
        f"{100 * summary['robust_accuracy']:.1f}%",
        f"{100 * summary['clean_accuracy']:.1f}%",
        "ε = 0.2",
        "40",
    ]
    low, high = summary["robust_accuracy_ci95"]
    assert f"95% interval {100 * low:.1f}% to {100 * high:.1f}%" in page.words
    assert "L∞ ball" in page.words and "mean mode" in page.words
    assert (
        "An upper bound: accuracy under the attacks listed below; a stronger "
        "attack can only lower it." in page.words
    )


def test_certified_pages_say_between_what_the_truth_is(
    tmp_path, folder, content
):
    summary = audit_folder.write_certificates(folder, count=5)
    page = write_page([folder], tmp_path, {folder: content.clean_images})
    check_self_contained(page)
    check_accessible(page)
    robust = f"{100 * summary['robust_accuracy']:.1f}%"
    assert f"The truth is between 12.5% and {robust} on these" in page.words
    assert "Examples that are proved robust were not attacked." in page.words
    assert "An upper bound:" not in page.words
    assert "nothing here is a proof" not in page.words
    widths = dict(
        re.findall(
            r'<rect class="(\w+)" x="[\d.]+" y="0" width="([\d.]+)"',
            page.source,
        )
    )
    assert float(widths["proved"]) == 125.0
    assert sum(map(float, widths.values())) == pytest.approx(1000, abs=0.2)
    assert "✓ certified" in page.words


def test_a_model_without_bounds_has_a_sentence(tmp_path, folder, content):
    audit_folder.write_certificates(folder)

    def forget(summary):
        summary["certified_accuracy"] = None
        summary["certification"]["reason"] = "operation Round has no <bounds>."

    rewrite_summary(folder, forget)
    page = write_page([folder], tmp_path)
    assert "Not certified: operation Round has no <bounds>." in page.words
    assert "An upper bound:" in page.words


def test_stages_table_is_that_of_the_summary(tmp_path, folder, content):
    page = write_page([folder], tmp_path)
    expected = [
        [
            f"{position}. {stage['name']} pgd · loss "
            f"{stage['attack']['loss']} · num_steps 40 · step_size 0.01",
            f"{100 * stage['robust_accuracy']:.1f}%",
            "10",
            str(stage["num_attacked"]),
            str(stage["num_broken"]),
            f"{stage['gradient_evaluations']:,}",
            f"{stage['seconds']:.1f} s",
        ]
        for position, stage in enumerate(content.summary["stages"], 1)
    ]
    total = f"{content.summary['gradient_evaluations']:,}"
    stages = [row for row in page.rows if len(row) == 7]
    assert stages[2:4] == expected
    assert stages[4][5] == total


def test_numbers_of_charts_are_those_of_the_summary(tmp_path, folder):
    content = audit_folder.write(folder, stages={"pgd_ce": 8})
    page = write_page([folder], tmp_path)
    curve = content.summary["stages"][0]["restart_curve"]
    rows = []
    for restart, accuracy in enumerate(curve, 1):
        low, high = statistics.wilson_interval(round(40 * accuracy), 40)
        rows.append(
            [
                str(restart),
                text.percent(accuracy),
                f"{text.percent(low)} to {text.percent(high)}",
            ]
        )
    start = page.rows.index(["Restarts", "Accuracy", "95% interval"])
    assert page.rows[start + 1 : start + 9] == rows
    start = page.rows.index(["Epsilon", "Accuracy", "95% interval"])
    accuracies = [row[:2] for row in page.rows[start + 1 : start + 6]]
    points = {0: content.summary["clean_accuracy"]}
    points[0.2] = content.summary["robust_accuracy"]
    for point in content.summary["epsilon_curve"]:
        points[point["epsilon"]] = point["robust_accuracy"]
    assert accuracies == [
        [f"{epsilon:g}", text.percent(points[epsilon])]
        for epsilon in sorted(points)
    ]


def line_heights(svg: str) -> np.ndarray:
    """The y coordinates of the first thick line of a chart."""
    path = re.search(
        r'<path d="([^"]*)"[^>]*stroke: var\(--series-0\)', svg
    ).group(1)
    return np.array([float(y) for y in re.findall(r"[ML] \S+ (\S+)", path)])


def test_drawn_line_is_at_the_height_of_its_numbers(tmp_path, folder):
    content = audit_folder.write(folder, stages={"pgd_ce": 8})
    audit = report.load.load(folder)
    heights = line_heights(charts.restarts([audit], "x").svg)
    curve = np.array(content.summary["stages"][0]["restart_curve"])
    assert len(np.unique(curve)) > 3
    slope = (heights[-1] - heights[0]) / (curve[-1] - curve[0])
    assert slope < 0
    np.testing.assert_allclose(
        heights, heights[0] + slope * (curve - curve[0]), atol=1e-3
    )


def test_restarts_of_all_stages_follow_each_other(folder):
    content = audit_folder.write(folder, stages={"one": 3, "two": 2})
    chart = charts.restarts([report.load.load(folder)], "x")
    curves = [stage["restart_curve"] for stage in content.summary["stages"]]
    assert [(row[1], row[2]) for row in chart.rows] == [
        (str(restart), text.percent(accuracy))
        for restart, accuracy in enumerate(curves[0] + curves[1], 1)
    ]
    assert ">stage 1<" in chart.svg and ">stage 2<" in chart.svg


@pytest.mark.parametrize("num_restarts, is_log", [(10, False), (11, True)])
def test_axis_is_logarithmic_beyond_ten_restarts(folder, num_restarts, is_log):
    audit_folder.write(folder, stages={"pgd_ce": num_restarts})
    chart = charts.restarts([report.load.load(folder)], "x")
    assert ("Log scale" in chart.note) is is_log


def test_a_thousand_restarts_are_thinned_but_keep_both_ends(folder):
    content = audit_folder.write(folder, stages={"pgd_ce": 1000})
    chart = charts.restarts([report.load.load(folder)], "x")
    curve = content.summary["stages"][0]["restart_curve"]
    assert len(chart.rows) <= 12 and len(chart.svg) < 60_000
    assert chart.rows[0][1:3] == ("1", text.percent(curve[0]))
    assert chart.rows[-1][1:3] == ("1,000", text.percent(curve[-1]))


def decode(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(PIL.Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_the_images_at_native_pixels(tmp_path, folder, channels):
    content = audit_folder.write(folder, image_shape=(6, 9, channels))
    page = write_page([folder], tmp_path, {folder: content.clean_images})
    row = int(np.flatnonzero(content.examples["broken_by_stage"] >= 0)[0])
    clean, adversarial, change = page.named("img")[:3]
    for attrs, image in (
        (clean, content.clean_images[row]),
        (adversarial, content.examples["adversarial_images"][row]),
    ):
        pixels = np.rint(255 * image).astype(np.uint8)
        shown = decode(attrs["src"]).reshape(pixels.shape)
        np.testing.assert_array_equal(shown, pixels)
        assert (attrs["width"], attrs["height"]) == ("9", "6")
    label = content.examples["label"][row]
    predicted = content.examples["adversarial_prediction"][row]
    assert adversarial["alt"] == (
        f"Adversarial, example {row}, label {label}, predicted {predicted}"
    )
    assert "change ×2.5" in change["alt"]


def test_difference_shows_epsilon_as_full_contrast():
    clean = np.full((1, 3, 1), 0.5)
    adversarial = clean + np.array([-0.1, 0.0, 0.05]).reshape(1, 3, 1)
    shown, gain = pictures.difference(clean, adversarial, "linf", 0.1)
    np.testing.assert_allclose(shown.ravel(), [0, 0.5, 0.75], atol=1e-9)
    assert gain == pytest.approx(5)
    shown, gain = pictures.difference(clean, adversarial, "l2", 2.0)
    np.testing.assert_allclose(shown.ravel(), [0, 0.5, 0.75], atol=1e-9)
    shown, gain = pictures.difference(clean, clean, "linf", 0.1)
    np.testing.assert_array_equal(shown, 0.5)
    assert gain == 0


def test_card_says_what_broke_the_example(tmp_path, folder, content):
    page = write_page([folder], tmp_path)
    examples = content.examples
    row = int(np.flatnonzero(examples["broken_by_stage"] >= 0)[0])
    stage = content.summary["stages"][examples["broken_by_stage"][row]]
    assert page.words.split("✕ broken")[1].startswith(
        f" example {row} adversarial Label {examples['label'][row]} "
        f"Predicted {examples['clean_prediction'][row]} → "
        f"{examples['adversarial_prediction'][row]} "
        f"Margin {text.signed(examples['margin'][row])} "
        f"Broken by {stage['name']}, "
        f"restart {examples['broken_by_restart'][row] + 1}, "
        f"step {examples['broken_at_step'][row]}"
    )


def test_wrong_share_and_target_are_shown_where_known(tmp_path, folder):
    content = audit_folder.write(folder, class_names=list("abcdefghij"))
    row = np.flatnonzero(content.examples["broken_by_stage"] >= 0)[0]

    def change(examples):
        examples["wrong_share"] = np.full(40, 0.75)
        examples["broken_by_target"][row] = 4

    rewrite_examples(folder, change)
    words = write_page([folder], tmp_path).words
    assert words.count("target e") == 1
    assert "Wrong in" not in words
    judged = {"mode": "stochastic", "num_judge_samples": 20}
    rewrite_summary(folder, lambda summary: summary.update(judged))
    words = write_page([folder], tmp_path).words
    assert words.count("Wrong in 75.0% of draws") == 12


@pytest.mark.parametrize(
    "is_robust, margin, share, words",
    [
        (True, 0.87, 0.48, "Robust although its margin is above 0"),
        (True, -0.5, 0.48, ""),
        (True, -0.5, 0.52, "Barely robust: wrong in 52.0% of fresh draws"),
        (False, -0.1, 0.6, "Broken although its margin is below 0"),
        (False, 0.1, 0.6, ""),
    ],
)
def test_an_outcome_that_looks_odd_is_explained(
    tmp_path, folder, is_robust, margin, share, words
):
    content = audit_folder.write(folder, mode="stochastic")
    rows = np.flatnonzero(
        content.examples["is_robust"] == is_robust
        if is_robust
        else content.examples["broken_by_stage"] >= 0
    )

    def change(examples):
        examples["margin"][rows] = margin
        examples["wrong_share"][rows] = share

    rewrite_examples(folder, change)
    judged = {"num_judge_samples": 25}
    rewrite_summary(folder, lambda summary: summary.update(judged))
    page = write_page([folder], tmp_path)
    if words:
        assert words in page.words
        assert page.words.count(words) <= 12
    else:
        assert "although" not in page.words and "Barely" not in page.words
    if is_robust and margin > 0:
        assert "It is wrong in 48.0% of fresh draws" in page.words


def test_what_was_not_attacked_is_neither_broken_nor_adversarial(
    tmp_path, folder
):
    content = audit_folder.write(folder, seed=1)
    examples = content.examples
    wrong = examples["clean_prediction"] != examples["label"]
    row = int(np.flatnonzero(wrong)[0])
    findings = audit_folder.write_findings(folder)
    findings["findings"][2]["examples"] = [row]
    files.write_json(files.join(folder, "findings.json"), findings)
    page = write_page([folder], tmp_path, {folder: content.clean_images})
    start = page.source.index(f'-example{row}" class="card')
    card = page.source[start:].split("</article>")[0]
    assert "wrong before any attack" in card
    assert "broken" not in card.lower() and "adversarial" not in card.lower()
    shown = {word for word in ("nearest miss", "not attacked") if word in card}
    assert shown == {"not attacked"}


def test_break_at_the_start_and_logits_not_finite_have_words(tmp_path, folder):
    content = audit_folder.write(folder)
    row = np.flatnonzero(content.examples["broken_by_stage"] >= 0)[0]

    def change(examples):
        examples["broken_at_step"][row] = 0
        examples["adversarial_prediction"][row] = -1

    rewrite_examples(folder, change)
    card = write_page([folder], tmp_path).words.split("✕ broken")[1]
    assert "→ not finite" in card
    assert ", at the start" in card


def test_without_clean_images_the_page_says_so(tmp_path, folder, content):
    note = "The clean images are not stored with the audit"
    assert note in write_page([folder], tmp_path).words
    clean = {folder: content.clean_images}
    assert note not in write_page([folder], tmp_path, clean).words


def test_large_pictures_are_reduced_and_the_page_says_so(tmp_path, folder):
    content = audit_folder.write(
        folder, num_examples=30, image_shape=(224, 160, 3)
    )
    findings = audit_folder.write_findings(folder)
    findings["findings"][1]["examples"] = [3, 4, 5, 8, 9]
    files.write_json(files.join(folder, "findings.json"), findings)
    page = write_page([folder], tmp_path, {folder: content.clean_images})
    image = page.named("img")[0]
    assert (image["width"], image["height"]) == ("40", "56")
    assert "reduced from 224 × 160 pixels" in page.words
    assert len(page.source.encode()) <= 1_500_000


def test_pictures_of_pure_noise_fit_the_budget(tmp_path, folder):
    images = np.random.default_rng(0).random((60, 64, 64, 3), np.float32)
    content = audit_folder.write(folder, images=images)
    findings = audit_folder.write_findings(folder)
    findings["findings"][1]["examples"] = [3, 4, 5, 8, 9]
    files.write_json(files.join(folder, "findings.json"), findings)
    page = write_page([folder], tmp_path, {folder: content.clean_images})
    assert len(page.named("img")) == 3 * (12 + 6)
    # Four landscapes of at most 60 kB each come on top.
    assert len(page.source.encode()) <= 1_500_000 - 240_000


def test_reduction_averages_blocks(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_SIDE", 2)
    image = np.arange(16.0).reshape(4, 4, 1)
    np.testing.assert_allclose(
        pictures.reduce(image)[..., 0], [[2.5, 4.5], [10.5, 12.5]]
    )
    assert pictures.reduce(image[:1]).shape == (1, 2, 1)


def test_a_thousand_examples_fit_the_budget(tmp_path, folder):
    content = audit_folder.write(
        folder,
        num_examples=1000,
        image_shape=(32, 32, 3),
        class_names=["x" * 1_000_000] * 10,
    )
    audit_folder.write_findings(folder)
    audit_folder.write_safety(folder)
    page = write_page([folder], tmp_path, {folder: content.clean_images})
    assert len(page.named("img")) == 3 * (12 + 3)
    assert len(page.source.encode()) <= 1_500_000


HOSTILE = (
    "<script>alert(1)</script>",
    "{{7*7}}{% for x in y %}",
    '"><img src=http://evil.example/x onerror=alert(1)>',
    "$\\frac{1}{$ & </svg></style>",
    "abc\u202edcba\u200f\u0000\ud800",
    "y" * 1_000_000,
)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_text_and_no_more(tmp_path, folder, name):
    audit_folder.write(folder, class_names=[name] * 10, model=name[:50])

    def change(summary):
        summary["protocol"] = summary["command"] = summary["seed"] = name
        summary["protocol_version"] = name
        summary["stages"][0]["name"] = name
        summary["stages"][0]["attack"] = {name: name}
        summary["dataset"] = {"name": name, "split": name, name: [name]}
        summary["versions"] = {name: name}
        summary["model"]["sha256"] = name
        summary["model"]["metadata"]["config"] = {name: [name]}

    rewrite_summary(folder, change)
    page = write_page([folder], tmp_path)
    check_self_contained(page)
    check_accessible(page)
    assert len(page.named("img")) == 12
    assert len(page.source) < 200_000
    assert not re.search("[\u200f\u202e\u0000]", page.source)
    shown = text.clean(name, 24)
    assert f"Label {shown} Predicted {shown} → {shown}" in page.words


def test_long_names_end_in_an_ellipsis():
    assert text.clean("y" * 1_000_000, 24) == "y" * 23 + "…"
    assert text.clean("y" * 24, 24) == "y" * 24
    assert text.clean("a \u202e\n\tb") == "a b"
    assert text.clean("\u202e" * 1_000_000 + "b", 24) == "…"
    assert text.clean_lines("a\n  b\u200f") == "a\n  b"


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"class_names": "abc", "step": float("inf"), "clean_accuracy": []},
        {"class_names": [None, {}, 3], "step": 10**300, "config": "text"},
        {"class_names": ["a"], "clean_accuracy": 10**300, "config": [1]},
    ],
)
def test_senseless_metadata_does_no_harm(tmp_path, folder, metadata):
    audit_folder.write(folder)
    summary = files.read_json(files.join(folder, "summary.json"))
    summary["model"]["metadata"] = metadata
    files.write_text(
        files.join(folder, "summary.json"), report.page.json.dumps(summary)
    )
    page = write_page([folder], tmp_path)
    check_accessible(page)
    assert "Clean accuracy at export" not in page.words


def test_equal_audits_give_equal_bytes(tmp_path, folder, content):
    clean = {folder: content.clean_images}
    first = write_page([folder], tmp_path, clean).source
    assert write_page([folder], tmp_path, clean).source == first


def test_settings_of_the_program_are_not_used_and_not_changed(
    tmp_path, folder, content
):
    plain = write_page([folder], tmp_path).source
    settings = {"xtick.top": True, "svg.fonttype": "path", "font.size": 4}
    with matplotlib.rc_context(settings):
        before = copy.deepcopy(dict(matplotlib.rcParams))
        assert write_page([folder], tmp_path).source == plain
        assert dict(matplotlib.rcParams) == before


def test_collecting_garbage_goes_on_after_a_page(tmp_path, folder, content):
    for is_enabled in (False, True):
        (gc.enable if is_enabled else gc.disable)()
        try:
            write_page([folder], tmp_path)
            assert gc.isenabled() is is_enabled
        finally:
            gc.enable()


def test_folders_may_be_remote(folder, content):
    remote = "ram://report_test/audit"
    files.make_folder(remote)
    for name in files.listdir(folder):
        data = files.read_bytes(files.join(folder, name))
        files.write_bytes(files.join(remote, name), data)
    path = "ram://report_test/pages/report.html"
    assert report.write([remote], path) == path
    assert Page(files.read_text(path)).named("h1")
    assert files.listdir("ram://report_test/pages") == ["report.html"]


OPTIONAL_FIELDS = (
    "protocol_version num_samples num_judge_samples gradient_evaluations "
    "num_nonfinite_examples num_zero_gradient_examples seconds seed model "
    "dataset versions command epsilon_curve"
).split()
OPTIONAL_ARRAYS = (
    "wrong_share margin broken_by_restart broken_by_target broken_at_step "
    "gradient_evaluations"
).split()


@pytest.mark.parametrize("mode", ["mean", "stochastic"])
def test_page_does_without_what_is_optional(tmp_path, folder, mode):
    audit_folder.write(folder, mode=mode)

    def change(summary):
        for name in OPTIONAL_FIELDS:
            del summary[name]
        summary["stages"] = [
            {key: stage[key] for key in ("name", "robust_accuracy")}
            for stage in summary["stages"]
        ]

    rewrite_summary(folder, change)
    rewrite_examples(
        folder, lambda examples: [examples.pop(key) for key in OPTIONAL_ARRAYS]
    )
    page = write_page([folder], tmp_path)
    check_accessible(page)
    assert "Accuracy against epsilon" not in page.words
    assert "Margin" not in page.words
    assert "None" not in page.words


def test_unknown_fields_and_arrays_are_ignored(tmp_path, folder, content):
    plain = write_page([folder], tmp_path).source
    rewrite_summary(folder, lambda summary: summary.update(novelty=[1]))
    rewrite_examples(
        folder, lambda examples: examples.update(novelty=np.ones(3))
    )
    assert write_page([folder], tmp_path).source == plain


@pytest.mark.parametrize(
    "name",
    "protocol threat_model mode num_examples clean_accuracy robust_accuracy "
    "robust_accuracy_ci95 stages".split(),
)
def test_missing_field_is_named(tmp_path, folder, content, name):
    rewrite_summary(folder, lambda summary: summary.pop(name))
    with pytest.raises(UserError, match=f'summary.json without "{name}"'):
        write_page([folder], tmp_path)


@pytest.mark.parametrize(
    "name",
    "index label clean_prediction is_robust adversarial_prediction "
    "broken_by_stage adversarial_images".split(),
)
def test_missing_array_is_named(tmp_path, folder, content, name):
    rewrite_examples(folder, lambda examples: examples.pop(name))
    with pytest.raises(UserError, match=f'examples.npz without "{name}"'):
        write_page([folder], tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.update(robust_accuracy=1.5), "from 0 to 1"),
        (lambda s: s.update(robust_accuracy=True), "from 0 to 1"),
        (lambda s: s.update(robust_accuracy="0.1"), "from 0 to 1"),
        (lambda s: s.update(num_examples=10.5), "a whole number"),
        (lambda s: s.update(num_examples=41), r"shape \(41,\)"),
        (lambda s: s.update(num_examples=0), r"shape \(0,\)"),
        (lambda s: s.update(robust_accuracy_ci95=[0.4]), "a list of 2"),
        (lambda s: s.update(robust_accuracy_ci95=[0.4, 0.1]), r"\[low, high"),
        (lambda s: s.update(mode=3), "a text"),
        (lambda s: s.update(stages={}), "a list"),
        (lambda s: s.update(stages=["pgd"]), r"stages\[0\] = 'pgd'"),
        (lambda s: s["stages"][1].pop("name"), r'stages\[1\] without "name"'),
        (
            lambda s: s["stages"][0].update(restart_curve=[0.5, None]),
            r"restart_curve\[1\] = None",
        ),
        (lambda s: s["threat_model"].update(norm="l7"), "No norm"),
        (lambda s: s["threat_model"].update(epsilon=-1), "0 or more"),
        (lambda s: s["epsilon_curve"][0].pop("epsilon"), r"curve\[0\] without"),
        (lambda s: s.update(seconds=10**30), "a finite number"),
    ],
)
def test_wrong_field_is_a_user_error(
    tmp_path, folder, content, change, message
):
    rewrite_summary(folder, change)
    with pytest.raises(UserError, match=message):
        write_page([folder], tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "name, array",
    [
        ("label", np.zeros(39, np.int32)),
        ("label", np.zeros(40, np.float32)),
        ("is_robust", np.zeros(40, np.int32)),
        ("margin", np.zeros((40, 2), np.float32)),
        ("adversarial_images", np.zeros((39, 8, 8, 1), np.float32)),
        ("adversarial_images", np.zeros((40, 64), np.float32)),
        ("adversarial_images", np.zeros((40, 0, 8, 1), np.float32)),
        ("adversarial_images", np.full((40, 8, 8, 1), 255, np.uint8)),
        ("adversarial_images", np.full((40, 8, 8, 1), np.nan, np.float32)),
        ("adversarial_images", np.full((40, 8, 8, 1), 1.1, np.float32)),
    ],
)
def test_wrong_array_is_a_user_error(tmp_path, folder, content, name, array):
    rewrite_examples(folder, lambda examples: examples.update({name: array}))
    with pytest.raises(UserError, match=f"examples.npz: {name}, shape"):
        write_page([folder], tmp_path)


@pytest.mark.parametrize("name", ["summary.json", "examples.npz"])
@pytest.mark.parametrize("fault", ["absent", "cut", "empty", "noise"])
def test_missing_or_damaged_file_is_a_user_error(
    tmp_path, folder, content, name, fault
):
    path = files.join(folder, name)
    data = files.read_bytes(path)
    files.remove(path)
    faults = {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "noise": data[:300] + b"\xff" * 40 + data[340:],
    }
    if fault in faults:
        files.write_bytes(path, faults[fault])
    with pytest.raises(UserError, match=name):
        write_page([folder], tmp_path)


def test_a_missing_folder_is_a_user_error(tmp_path, folder, content):
    with pytest.raises(UserError, match="no .*nowhere"):
        write_page([tmp_path / "nowhere"], tmp_path)
    with pytest.raises(UserError, match="summary.json"):
        write_page([files.join(folder, "summary.json")], tmp_path)
    for senseless in ([], folder):
        with pytest.raises(UserError, match="no audit to report"):
            report.write(senseless, str(tmp_path / "report.html"))


def test_clean_images_of_another_audit_are_refused(tmp_path, folder, content):
    clean = content.clean_images
    with pytest.raises(UserError, match="shape"):
        write_page([folder], tmp_path, {folder: clean[1:]})
    with pytest.raises(UserError, match="at most epsilon, 0.2"):
        write_page([folder], tmp_path, {folder: clean[::-1].copy()})
    with pytest.raises(UserError, match="No audit folder has this name"):
        write_page([folder], tmp_path, {folder + "x": clean})


def test_clean_images_within_an_l2_ball_are_accepted(tmp_path, folder):
    content = audit_folder.write(folder, norm="l2", epsilon=1.5)
    page = write_page([folder], tmp_path, {folder: content.clean_images})
    assert "L2 ball" in page.words
    with pytest.raises(UserError, match="at most epsilon, 1.5"):
        write_page(
            [folder], tmp_path, {folder: content.clean_images[::-1].copy()}
        )


def test_files_that_disagree_are_reported(tmp_path, folder, content):
    warning = "Files disagree"
    assert warning not in write_page([folder], tmp_path).words
    rewrite_summary(folder, lambda summary: summary.update(robust_accuracy=0.9))
    assert warning in write_page([folder], tmp_path).words


def test_nonfinite_values_and_zero_gradients_are_reported(
    tmp_path, folder, content
):
    assert "▲" not in write_page([folder], tmp_path).words

    def change(summary):
        summary["stages"][0]["num_nonfinite"] = 7
        summary["num_nonfinite_examples"] = 5
        summary["num_zero_gradient_examples"] = 1

    rewrite_summary(folder, change)
    words = write_page([folder], tmp_path).words
    assert "▲ not finite: 7" in words
    assert "not finite on 5 examples." in words
    assert "on 1 example some gradient was exactly zero" in words


def test_reproduction_holds_the_exact_command(tmp_path, folder, content):
    page = write_page([folder], tmp_path)
    assert content.summary["command"] in page.source
    assert content.summary["model"]["sha256"] in page.source
    assert "ib_keras 0.1.0 · tensorflow 2.20.0" in page.words
    assert "mnist · split test · description MNIST" in page.words
    assert "Seed 0" in page.words


def write_three(tmp_path):
    """Three audits that differ; the last has no epsilon curve."""
    first, second, third = (str(tmp_path / name) for name in "abc")
    contents = [
        audit_folder.write(first, seed=1, model="first"),
        audit_folder.write(second, seed=2, model="second", mode="stochastic"),
        audit_folder.write(
            third, seed=3, model="third", radii=(), stages={"pgd_ce": 7}
        ),
    ]
    return [first, second, third], contents


def test_several_audits_are_compared_first(tmp_path):
    folders, contents = write_three(tmp_path)
    page = write_page(folders, tmp_path)
    check_self_contained(page)
    check_accessible(page)
    rows = iter(page.rows[1:])
    for letter, content in zip("ABC", contents, strict=True):
        summary = content.summary
        name = summary["model"]["path"].split("/")[1]
        points = [(0.2, summary["robust_accuracy_ci95"], summary)]
        points += [
            (point["epsilon"], point["robust_accuracy_ci95"], point)
            for point in summary["epsilon_curve"]
        ]
        first = [
            f"{letter} {name} vib · beta 0.01",
            summary["mode"],
            "pgd_restarts v1",
            "40",
            text.percent(summary["clean_accuracy"]),
        ]
        for epsilon, (low, high), point in sorted(points, key=lambda p: p[0]):
            is_own = epsilon == 0.2
            spent = text.count(summary["gradient_evaluations"])
            assert next(rows) == [
                *first,
                f"L∞, ε = {epsilon:g}",
                text.percent(point["robust_accuracy"]),
                f"{text.percent(low)} to {text.percent(high)}",
                spent if is_own else "unknown",
                "not judged: no diagnostics" if is_own else "not judged",
            ]
            first = []
    sections = [a for a in page.named("details") if a.get("class") == "audit"]
    assert len(sections) == 3
    assert "these audits differ in mode, attacks or restarts." in page.words


def test_overlays_hold_a_line_for_each_audit_that_has_one(tmp_path):
    folders, _ = write_three(tmp_path)
    audits = [report.load.load(folder) for folder in folders]
    restarts = charts.restarts(audits, "x")
    assert {row[0] for row in restarts.rows} == set("ABC")
    epsilons = charts.epsilons(audits, "linf", "y")
    assert {row[0] for row in epsilons.rows} == set("AB")
    for letter, color in (("A", 0), ("B", 1)):
        assert f">{letter}</text>" in epsilons.svg
        assert f"stroke: var(--series-{color})" in epsilons.svg
    assert ">C</text>" not in epsilons.svg
    assert charts.epsilons(audits, "l2", "z") is None


def test_norms_do_not_share_an_epsilon_axis(tmp_path):
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    audit_folder.write(first)
    audit_folder.write(second, norm="l2", epsilon=1.5, radii=(0.5, 1.0))
    page = write_page([first, second], tmp_path)
    overlays = page.source.split('<details class="audit">')[0]
    assert overlays.count("Accuracy against epsilon") == 2
    assert "differ in norm, epsilon." in page.words


def test_equal_audits_may_be_compared_without_a_warning(tmp_path):
    folders, _ = write_three(tmp_path)
    page = write_page([folders[0], folders[0]], tmp_path)
    check_accessible(page)
    assert "Compare with care" not in page.words


def test_audits_beyond_the_alphabet_have_letters():
    assert [charts.letter(n) for n in (0, 25, 26, 51, 52)] == [
        "A",
        "Z",
        "AA",
        "AZ",
        "BA",
    ]


@pytest.mark.parametrize(
    "shown, expected",
    [
        (text.percent(0.1234), "12.3%"),
        (text.percent(0.0), "0.0%"),
        (text.percent(0.0004), "0.04%"),
        (text.percent(0.9996), "99.96%"),
        (text.count(1234567), "1,234,567"),
        (text.count(None), "–"),
        (text.duration(12.34), "12.3 s"),
        (text.duration(185), "3 min 5 s"),
        (text.duration(3725), "1 h 2 min"),
        (text.duration(None), "–"),
        (text.signed(-2.314), "−2.31"),
        (text.signed(float("nan")), "not finite"),
        (text.epsilon(0.2), "0.2"),
        (text.epsilon(8 / 255), "8/255"),
        (text.epsilon(0.5), "0.5"),
        (text.epsilon(0.12345), "0.1235"),
        (text.class_name(1, ["cat", "dog"]), "dog"),
        (text.class_name(2, ["cat", "dog"]), "2"),
        (text.class_name(-1, ["cat", "dog"]), "not finite"),
    ],
)
def test_words_and_numbers(shown, expected):
    assert shown == expected
