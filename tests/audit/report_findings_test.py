"""Tests for what the report says of verdict, findings, noise and safety."""

import json
import re

import numpy as np
import pytest

from ib_keras import files
from ib_keras.audit import report
from ib_keras.audit import statistics
from ib_keras.audit.report import classes
from ib_keras.audit.report import links
from ib_keras.audit.report import page as pages
from ib_keras.audit.report import text
from ib_keras.errors import UserError
from tests.support import audit_folder
from tests.support.html_page import check_accessible
from tests.support.html_page import check_self_contained
from tests.support.html_page import write_page


@pytest.fixture
def folder(tmp_path):
    path = str(tmp_path / "audit")
    audit_folder.write(path)
    return path


def rewrite(folder, name, change) -> None:
    path = files.join(folder, name)
    content = files.read_json(path)
    change(content)
    files.write_text(path, json.dumps(content))


def between(words: str, start: str, end: str) -> str:
    return words.split(start, 1)[1].split(end, 1)[0]


@pytest.mark.parametrize(
    "label, words",
    [
        ("believable", "✓ The number can be believed"),
        (
            "upper_bound",
            "▲ Upper bound only: signs of gradient obfuscation",
        ),
        ("invalid", "✕ Invalid"),
    ],
)
def test_verdict_comes_first_in_words(tmp_path, folder, label, words):
    found = audit_folder.write_findings(folder, label)
    page = write_page([folder], tmp_path)
    check_self_contained(page)
    check_accessible(page)
    verdict = between(page.words, " Verdict ", " Numbers ")
    assert verdict.startswith(words)
    assert found["verdict"]["sentence"] in verdict
    for reason in found["verdict"]["decided_by"]:
        assert f"{reason['id']}: {reason['why']}" in verdict
    for step in found["verdict"]["next"]:
        assert step in verdict


def test_reasons_show_their_status_and_lead_to_their_findings(tmp_path, folder):
    audit_folder.write_findings(folder)
    page = write_page([folder], tmp_path)
    verdict = between(page.words, " What decided it ", " What to do next ")
    assert re.findall(r"(. \w+) (D\d+):", verdict) == [
        ("▲ warn", "D3"),
        ("✕ fail", "D6"),
    ]
    anchor = re.search(r'<a href="#([^"]*)">D6</a>', page.source).group(1)
    row = page.source.split(f'<tr id="{anchor}">')[1].split("</tr>")[0]
    assert "Do restarts converge?" in row


def test_without_diagnostics_there_is_no_verdict(tmp_path, folder):
    page = write_page([folder], tmp_path)
    assert "– No verdict: diagnostics were not run" in page.words
    assert "An upper bound: accuracy under the attacks" in page.words
    assert "Findings" not in page.words


def test_failures_come_first_and_what_passes_is_folded(tmp_path, folder):
    audit_folder.write_findings(folder)
    page = write_page([folder], tmp_path)
    assert (
        "Findings: ✕ 1 fail, ▲ 1 warn, ✓ 3 pass, – 1 not applicable "
        in page.words
    )
    checks = [row[0] for row in page.rows if re.search(r" D\d+$", row[0])]
    assert checks == [
        "✕ fail D6",
        "▲ warn D3",
        "✓ pass D1",
        "✓ pass D23",
        "✓ pass D24",
        "– not applicable D20",
    ]
    opened = page.source.split('<details class="fold">')[0]
    assert "Do restarts converge?" in opened
    assert "Do iterative attacks beat one step?" not in opened


def test_finding_shows_all_that_it_holds(tmp_path, folder):
    audit_folder.write_findings(folder)
    page = write_page([folder], tmp_path)
    row = next(row for row in page.rows if row[0] == "✕ fail D6")
    assert row[2:] == ["−0.042", "0.005"]
    for words in (
        "Do restarts converge?",
        "From 10 to 20 restarts robust accuracy fell by 4.2 points",
        "Next: Run 100 restarts or more.",
        "Examples: 2, 7, 11",
        "Carlini et al. 2019, section 4.9, arXiv:1902.06705",
        "robust accuracy",
        "0.8, 0.7, 0.5",
    ):
        assert words in row[1]
    assert '<a href="https://arxiv.org/abs/1902.06705" rel="' in page.source


def test_examples_of_findings_lead_to_their_pictures(tmp_path, folder):
    audit_folder.write_findings(folder)
    page = write_page([folder], tmp_path)
    assert "In findings" in page.words
    for row in (2, 7, 11):
        assert f'<a href="#audit0-example{row}">{row}</a>' in page.source
        card = page.source.split(f'id="audit0-example{row}"')[1]
        shown = f'<span class="muted">example {row}</span>'
        assert shown in card.split("</article>")[0]


def test_examples_not_shown_are_numbers_without_a_link(tmp_path, folder):
    audit_folder.write_findings(folder)
    wrong = files.read_npz(files.join(folder, "examples.npz"))
    row = int(np.flatnonzero(wrong["clean_prediction"] != wrong["label"])[0])

    def change(content):
        content["findings"][0]["examples"] = [row]

    rewrite(folder, "findings.json", change)
    page = write_page([folder], tmp_path)
    assert f"<p>Examples: {row}</p>" in page.source


def test_worst_examples_have_the_extreme_margins(folder):
    audit = report.load.load(folder)
    chosen = report.page.examples.choose(audit, None)
    worst = {g.title: g for g in chosen.groups}["Worst"].cards
    margin, robust = audit.examples["margin"], audit.examples["is_robust"]
    broken = ~robust & (audit.examples["broken_by_stage"] >= 0)
    expected = np.sort(margin[broken])[::-1][:2].tolist()
    expected.append(margin[robust].max())
    np.testing.assert_array_equal([margin[c.row] for c in worst], expected)
    rows = [card.row for group in chosen.groups for card in group.cards]
    assert len(set(rows)) == len(rows) == len(chosen.shown)


def test_modes_are_crossed_and_fresh_noise_is_shown(tmp_path, folder):
    audit_folder.write_findings(folder)
    page = write_page([folder], tmp_path)
    start = page.rows.index(
        ["Attacked in", "Judged in mean", "Judged in stochastic"]
    )
    low, high = map(text.percent, statistics.wilson_interval(27, 40))
    assert page.rows[start + 1] == [
        "mean",
        "50.0%35.2% to 64.8%",
        f"67.5%{low} to {high}",
    ]
    assert [row[0] for row in page.rows[start + 1 : start + 4]] == [
        "mean",
        "stochastic",
        "fixed noise",
    ]
    fresh = between(page.words, "Fresh noise: ", " Examples ")
    assert "✓ pass D23: Is robustness a property of the image" in fresh
    assert "One draw is right on 61.5% on average" in fresh
    assert "num draws 20 mean 0.615 every draw 0.6" in fresh


def test_classes_are_counted(folder):
    audit = report.load.load(folder)
    shown = classes.describe(audit)
    examples = audit.examples
    assert sum(row.num_examples for row in shown.rows) == 40
    assert shown.num_classes == len(shown.rows) == 10
    for label, row in enumerate(shown.rows):
        own = examples["label"] == label
        assert row.name == str(label)
        assert row.robust_accuracy == examples["is_robust"][own].mean()
        right = examples["clean_prediction"][own] == label
        assert row.clean_accuracy == right.mean()
        wrong = examples["adversarial_prediction"][own]
        wrong = wrong[wrong != label].tolist()
        if wrong:
            name, count = re.match(
                r"(\d+) \((\d+)\)", row.mistaken_for
            ).groups()
            assert wrong.count(int(name)) == int(count)
            assert int(count) == max(map(wrong.count, wrong))
        else:
            assert row.mistaken_for == text.MISSING


def test_of_many_classes_the_least_robust_are_shown(tmp_path):
    folder = str(tmp_path / "many")
    audit_folder.write(folder, num_examples=300, num_classes=40)
    audit = report.load.load(folder)
    shown = classes.describe(audit)
    examples = audit.examples
    accuracies = sorted(
        examples["is_robust"][examples["label"] == label].mean()
        for label in np.unique(examples["label"])
    )
    assert sorted(r.robust_accuracy for r in shown.rows) == accuracies[:10]
    page = write_page([folder], tmp_path)
    assert f"The 10 least robust of {shown.num_classes} classes." in page.words


def test_model_facts_are_shown(tmp_path, folder):
    facts = {
        "kind": "saved_model",
        "signature": "serving_default",
        "outputs": "log_probabilities",
        "input_range": [-1, 1],
        "layout": "channels_first",
        "notes": ["Inputs are transposed.", "x" * 5000],
    }
    rewrite(folder, "summary.json", lambda s: s["model"].update(facts))
    words = write_page([folder], tmp_path).words
    for shown in (
        "Kind saved_model",
        "Signature serving_default",
        "Outputs log_probabilities",
        "Layout channels_first",
        "Input range −1 to 1",
        "Inputs are transposed.",
    ):
        assert shown in words
    assert "x" * 399 + "…" in words


@pytest.mark.parametrize("place", ["file", "summary"])
@pytest.mark.parametrize("has_exceptions", [False, True])
def test_exceptions_lower_the_header(tmp_path, folder, place, has_exceptions):
    safety = audit_folder.write_safety(folder, has_exceptions=has_exceptions)
    if place == "summary":
        files.remove(files.join(folder, "safety.json"))
        del safety["ops"]
        rewrite(folder, "summary.json", lambda s: s.update(safety=safety))
    page = write_page([folder], tmp_path)
    check_accessible(page)
    header = page.source.split("</header>")[0]
    assert ("loaded with exceptions" in header) is has_exceptions
    words = between(page.words, "Safety of loading", "Protocol and")
    assert "rules version 1" in words and "ab" * 32 in words
    assert ("▲ Accepted with exceptions" in words) is has_exceptions
    assert ("ReadFile in function serving_default" in words) is has_exceptions
    assert ("Operations, allowed Conv2D, MatMul" in words) is (place == "file")


def test_without_a_scan_the_page_says_so(tmp_path, folder):
    words = write_page([folder], tmp_path).words
    assert "No scan of the model's files is recorded." in words


@pytest.mark.parametrize(
    "command, folder",
    [
        ("python -m launch.audit --workdir=audits/a --x=1", "audits/a"),
        ("python -m launch.audit --workdir audits/a", "audits/a"),
        ("python -m launch.audit '--workdir=my audits/a'", "'my audits/a'"),
        ("python -m launch.audit --workdir='a;rm b'", "'a;rm b'"),
        ("python -m launch.audit --workdir=", "AUDIT_FOLDER"),
        ("an 'open quote", "AUDIT_FOLDER"),
        ("", "AUDIT_FOLDER"),
        (None, "AUDIT_FOLDER"),
    ],
)
def test_verify_command_names_the_folder_of_the_audit(command, folder):
    assert pages._workdir(command) == folder


def test_page_says_how_to_verify(tmp_path, folder):
    words = write_page([folder], tmp_path).words
    assert "python -m launch.verify --workdir=audits/mnist_vib" in words


@pytest.mark.parametrize(
    "source, parts",
    [
        (
            "Carlini et al. 2019, arXiv:1902.06705, section 4.8",
            [
                ("Carlini et al. 2019, ", None),
                ("arXiv:1902.06705", "https://arxiv.org/abs/1902.06705"),
                (", section 4.8", None),
            ],
        ),
        (
            "doi:10.1145/1234.5678.",
            [
                ("doi:10.1145/1234.5678", "https://doi.org/10.1145/1234.5678"),
                (".", None),
            ],
        ),
        (
            "see https://github.com/fra31/auto-attack/pull/105.",
            [
                ("see ", None),
                (
                    "https://github.com/fra31/auto-attack/pull/105",
                    "https://github.com/fra31/auto-attack/pull/105",
                ),
                (".", None),
            ],
        ),
        (
            "Athalye et al. 2018, section 3",
            [
                (
                    "Athalye et al. 2018, section 3",
                    "https://arxiv.org/abs/1802.00420",
                )
            ],
        ),
        (
            "Korshunova et al. 2021, figure 2; IBM ART, security curve",
            [
                (
                    "Korshunova et al. 2021, figure 2",
                    "https://arxiv.org/abs/2107.05712",
                ),
                ("; ", None),
                (
                    "IBM ART, security curve",
                    "https://github.com/Trusted-AI/"
                    "adversarial-robustness-toolbox",
                ),
            ],
        ),
        ("START 2018", [("START 2018", None)]),
        ("our own", [("our own", None)]),
        ("", []),
        ("https://evil.example/x", [("https://evil.example/x", None)]),
        (
            "https://arxiv.org.evil.example/x",
            [("https://arxiv.org.evil.example/x", None)],
        ),
        (
            "https://arxiv.org@evil.example/",
            [("https://arxiv.org@evil.example/", None)],
        ),
        ("http://arxiv.org/abs/1", [("http://arxiv.org/abs/1", None)]),
        ("javascript:alert(1)", [("javascript:alert(1)", None)]),
    ],
)
def test_only_known_hosts_are_linked(source, parts):
    assert [tuple(part) for part in links.split(source)] == parts


HOSTILE = (
    "<script>alert(1)</script>",
    "{{7*7}}{% for x in y %}",
    '"><img src=http://evil.example/x onerror=alert(1)>',
    'https://arxiv.org/"onmouseover="alert(1)',
    "abc\u202edcba\u200f\u0000",
    "y" * 1_000_000,
)


@pytest.mark.parametrize("words", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_findings_and_scans_are_text_and_no_more(
    tmp_path, folder, words
):
    audit_folder.write_findings(folder)
    audit_folder.write_safety(folder, has_exceptions=True)

    def change_findings(content):
        content["set"] = content["seed"] = words
        verdict = content["verdict"]
        verdict["sentence"] = words
        verdict["decided_by"] = [{"id": words, "why": words}] * 500
        verdict["next"] = [words] * 500
        for finding in content["findings"]:
            for name in ("id", "question", "evidence", "advice", "source"):
                finding[name] = words
            finding["data"][words] = words
            finding["data"][words[:50]] = 1
            finding["data"]["numbers"] = list(range(1000))
        matrix = content["findings"][4]["data"]
        matrix["rows"] = matrix["columns"] = [words] * 40
        matrix["robust_accuracy"] = [[0.5] * 40] * 40
        content["findings"] *= 25

    def change_safety(content):
        content["allow_ops"] = content["exceptions"] = [words] * 500
        content["notes"] = [words] * 500
        content["ops"] = {f"{n}{words}": [words] * 50 for n in range(500)}
        content["files"] = {f"{n}{words}": words for n in range(500)}

    def change_summary(content):
        for name in ("kind", "signature", "outputs", "layout"):
            content["model"][name] = words
        content["model"]["notes"] = [words] * 500

    if len(words) > 1000:  # The same page from 1,000 copies of less.
        words = words[:5000]
    rewrite(folder, "findings.json", change_findings)
    rewrite(folder, "safety.json", change_safety)
    rewrite(folder, "summary.json", change_summary)
    page = write_page([folder], tmp_path)
    check_self_contained(page)
    check_accessible(page)
    assert len(page.source) < 500_000
    assert not re.search("[\u200f\u202e\u0000]", page.source)
    assert text.clean(words, 600) in page.words
    assert "50 findings more in findings.json." in page.words


def test_old_reports_need_no_new_files_and_equal_folders_equal_bytes(tmp_path):
    sources = []
    for name in ("a", "b"):
        folder = str(tmp_path / name)
        audit_folder.write(folder)
        audit_folder.write_findings(folder)
        audit_folder.write_safety(folder)
        sources.append(write_page([folder], tmp_path).source)
    assert sources[0] == sources[1]


@pytest.mark.parametrize("name", ["findings.json", "safety.json"])
@pytest.mark.parametrize("data", [b"", b'{"status": "acc', b"[]", b"\xff\xfe"])
def test_damaged_file_is_a_user_error(tmp_path, folder, name, data):
    files.write_bytes(files.join(folder, name), data)
    with pytest.raises(UserError, match=name):
        write_page([folder], tmp_path)
    assert not (tmp_path / "report.html").exists()


def set_in_first(name, value):
    return lambda content: content["findings"][0].update({name: value})


def set_in_matrix(name, value):
    return lambda content: content["findings"][4]["data"].update({name: value})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("format_version"), 'without "format_version"'),
        (lambda c: c.update(format_version=2), "of a later format"),
        (lambda c: c.pop("verdict"), 'without "verdict"'),
        (lambda c: c["verdict"].update(label="fine"), "one of believable"),
        (lambda c: c["verdict"].update(label=["x"]), "one of believable"),
        (lambda c: c["verdict"].update(next="x"), "a text|a list"),
        (lambda c: c["verdict"].update(decided_by=["D6"]), "an object"),
        (lambda c: c.pop("findings"), 'without "findings"'),
        (lambda c: c["findings"][0].pop("id"), r'findings\[0\] without "id"'),
        (set_in_first("status", "passed"), "one of pass, warn, fail"),
        (set_in_first("value", "0.5"), "a finite number"),
        (set_in_first("value", 10**400), "a finite number"),
        (set_in_first("examples", [40]), "an example that is not there"),
        (set_in_first("examples", [-1]), "a whole number"),
        (set_in_first("data", []), "an object"),
        (set_in_matrix("robust_accuracy", None), 'without "robust_accuracy"'),
        (set_in_matrix("rows", ["mean"]), "1 lists of 2 numbers"),
        (set_in_matrix("robust_accuracy", [[1, 2]] * 3), "from 0 to 1"),
    ],
)
def test_wrong_field_of_findings_is_a_user_error(
    tmp_path, folder, change, message
):
    audit_folder.write_findings(folder)
    rewrite(folder, "findings.json", change)
    with pytest.raises(UserError, match=message):
        write_page([folder], tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("status"), 'without "status"'),
        (lambda c: c.update(status="refused"), "one of accepted"),
        (lambda c: c.update(notes="x"), "a text|a list"),
        (lambda c: c.update(ops=[]), "an object"),
        (lambda c: c["ops"].update(allowed="x"), "a text|a list"),
        (lambda c: c["files"].update(name=3), "a text"),
    ],
)
def test_wrong_field_of_safety_is_a_user_error(
    tmp_path, folder, change, message
):
    audit_folder.write_safety(folder)
    rewrite(folder, "safety.json", change)
    with pytest.raises(UserError, match=message):
        write_page([folder], tmp_path)


@pytest.mark.parametrize(
    "facts, message",
    [
        ({"input_range": [0]}, "a list|of 2"),
        ({"input_range": "01"}, "a list|of 2"),
        ({"kind": 3}, "a text"),
        ({"notes": [3]}, "a text|a list"),
    ],
)
def test_wrong_fact_of_the_model_is_a_user_error(
    tmp_path, folder, facts, message
):
    rewrite(folder, "summary.json", lambda s: s["model"].update(facts))
    with pytest.raises(UserError, match=message):
        write_page([folder], tmp_path)


VERDICTS = ("▲ upper bound", "✓ believable", "not judged: no diagnostics")


def test_comparison_shows_verdicts_and_paired_tests(tmp_path):
    first, second, third = (str(tmp_path / name) for name in "abc")
    one = audit_folder.write(first, hardness=40, model="first")
    audit_folder.write_findings(first)
    audit_folder.write_safety(first, has_exceptions=True)
    two = audit_folder.write(second, hardness=2, model="second")
    audit_folder.write_findings(second, "believable")
    audit_folder.write(third, seed=3)  # Other examples: nothing to pair.
    page = write_page([first, second, third], tmp_path)
    check_self_contained(page)
    check_accessible(page)
    own = [row for row in page.rows if row[-1] in VERDICTS]
    assert [row[-1] for row in own[:3]] == list(VERDICTS)
    assert "A first vib · beta 0.01 ▲ loaded with exceptions" in page.words
    a, b = (content.examples["is_robust"] for content in (one, two))
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    assert only_a > only_b
    row = next(row for row in page.rows if row[0] == "B second, mean")
    assert row[1] == "A first, mean"
    assert row[4:7] == [
        str(only_b),
        str(only_a),
        f"−{100 * (only_a - only_b) / 40:.1f}",
    ]
    low, high = statistics.mcnemar(b, a).difference_ci95
    assert row[7] == f"{text.points(low)} to {text.points(high)}"
    # All discordant pairs on one side: by hand, 2 / 2**n.
    assert only_b == 0 and row[8] == text.p_value(2 / 2**only_a)
    assert (
        "C is not compared: first was attacked on other examples" in page.words
    )


@pytest.mark.parametrize(
    "shown, expected",
    [
        (text.figure(None), "–"),
        (text.figure(True), "yes"),
        (text.figure(0), "0"),
        (text.figure(-3.0), "−3"),
        (text.figure(12345678), "12,345,678"),
        (text.figure(0.0123456), "0.01235"),
        (text.figure(1e20), "1e+20"),
        (text.points(-0.045), "−4.5"),
        (text.points(0.1), "+10.0"),
        (text.p_value(0.0314), "0.031"),
        (text.p_value(1e-7), "below 0.001"),
        (text.p_value(1.0), "1"),
    ],
)
def test_figures(shown, expected):
    assert shown == expected
