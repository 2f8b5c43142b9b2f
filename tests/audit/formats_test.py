"""Tests for the formats: read back by the tools that they are for."""

import json
import math
import pathlib
import re
import shutil
import subprocess

import markdown
import numpy as np
import pandas as pd
import pytest
import yaml

from ib_keras import files
from ib_keras.audit import formats
from ib_keras.audit.formats import latex
from ib_keras.audit.formats import markdown as own_markdown
from ib_keras.audit.formats import verdicts
from ib_keras.audit.report import load
from tests.support import audit_folder
from tests.support import runs

HOSTILE = "a|b & 50% of_it <script>x</script> `~^\\{}$#*[1] \u202eé名"


def judge(folder, label="upper_bound", **changes):
    """Puts a verdict into an audit folder."""
    verdict = {
        "label": label,
        "sentence": f"The verdict is {label}",
        "decided_by": [{"id": "D6", "why": "5 | more broke & failed"}],
        "next": ["Run aa_mt"],
        **changes,
    }
    files.write_json(
        files.join(folder, "findings.json"),
        {"format_version": 1, "verdict": verdict, "findings": []},
    )


def change(folder, **fields):
    """Changes fields of a summary, by dotted names with __ for dots."""
    path = files.join(folder, "summary.json")
    summary = files.read_json(path)
    for name, value in fields.items():
        section = summary
        *sections, field = name.split("__")
        for part in sections:
            section = section[part]
        section[field] = value
    files.write_json(path, summary)


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "audit")


@pytest.fixture
def content(folder):
    return audit_folder.write(folder, num_examples=50)


def text(folders, name) -> str:
    folders = [folders] if isinstance(folders, str) else folders
    return files.read_text(formats.write(folders, name).path)


def wilson(successes, trials):
    """The score interval by its closed form."""
    z = 1.959963984540054
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = share * (1 - share) / trials + z * z / (4 * trials**2)
    half = z * math.sqrt(spread) / (1 + z * z / trials)
    return centre - half, centre + half


def test_the_formats_are_found_by_their_files():
    assert formats.names() == (
        "csv",
        "latex",
        "markdown",
        "model_card",
        "robustbench",
    )


def test_an_unknown_format_is_refused_with_the_nearest(folder, content):
    error = runs.refused(formats.write, [folder], "markdwon")
    assert 'Did you mean "markdown"?' in str(error)


@pytest.mark.parametrize("folders", [[], "audits/one"])
def test_no_list_of_folders_is_refused(folders):
    runs.refused(formats.write, folders, "csv")


@pytest.mark.parametrize("name", formats.names())
def test_equal_folders_give_equal_bytes_where_they_are_told(
    tmp_path, folder, content, name
):
    first = formats.write([folder], name)
    path = str(tmp_path / "new" / "file")
    second = formats.write([folder], name, path)
    assert second.path == path
    assert files.read_bytes(path) == files.read_bytes(first.path)
    assert pathlib.Path(first.path).parent == pathlib.Path(folder)


def test_csv_holds_the_numbers_of_the_summary(folder, content):
    judge(folder)
    text(folder, "csv")
    table = pd.read_csv(
        pathlib.Path(folder) / "audit.csv", dtype={"model_sha256": str}
    )
    assert table.epsilon.tolist() == [0.05, 0.1, 0.2, 0.3]
    row = table[table.epsilon == 0.2].iloc[0]
    summary = content.summary
    for field in (
        "protocol",
        "protocol_version",
        "mode",
        "num_examples",
        "clean_accuracy",
        "robust_accuracy",
        "gradient_evaluations",
    ):
        assert row[field] == summary[field], field
    assert (row.norm, row.epsilon) == ("linf", 0.2)
    assert row.version == summary["versions"]["ib_keras"]
    assert row.restarts == 20
    assert row.verdict == "upper bound"
    assert row.model_sha256 == summary["model"]["sha256"]
    for name in ("clean", "robust"):
        count = round(summary[f"{name}_accuracy"] * 50)
        expected = wilson(count, 50)
        received = row[f"{name}_low"], row[f"{name}_high"]
        np.testing.assert_allclose(received, expected, atol=1e-9)


def test_other_radii_have_their_own_budget_and_no_verdict(folder, content):
    judge(folder)
    inner = files.join(folder, "epsilon_0.1")
    inside = audit_folder.write(inner, num_examples=50, epsilon=0.1, radii=())
    text(folder, "csv")
    table = pd.read_csv(pathlib.Path(folder) / "audit.csv", index_col="epsilon")
    assert (
        table.gradient_evaluations[0.1]
        == (inside.summary["gradient_evaluations"])
    )
    assert table.robust_accuracy[0.1] == inside.summary["robust_accuracy"]
    # Without their folder the budget is not known, and not invented.
    assert np.isnan(table.gradient_evaluations[0.05])
    assert set(table.verdict.drop(0.2)) == {"not judged"}


@pytest.mark.parametrize("start", "=+-@＝＠")
def test_csv_holds_no_formulas(folder, start):
    audit_folder.write(folder, model=f"{start}1+1")
    table = text(folder, "csv")
    assert f"\n'{start}1+1," in table


def markdown_rows(source) -> list[list[str]]:
    """The table as another library reads it."""
    page = markdown.markdown(source, extensions=["tables"])
    assert page.count("<table>") == 1
    return [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    ]


def test_markdown_is_a_table_with_each_number_beside_its_budget(
    folder, content
):
    judge(folder)
    source = text(folder, "markdown")
    head, *lines = markdown_rows(source)
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    (row,) = [row for row in rows if row["Epsilon"] == "0.2"]
    summary = content.summary
    robust = summary["robust_accuracy"]
    low, high = wilson(round(robust * 50), 50)
    assert row["Robust accuracy (95%)"] == (
        f"{100 * robust:.1f}% (+{100 * (high - robust):.1f}"
        f"/−{100 * (robust - low):.1f})"
    )
    assert row["Protocol"] == "pgd_restarts v1"
    assert row["ib_keras"] == "0.1.0"
    assert (row["n"], row["Mode"], row["Norm"]) == ("50", "mean", "L∞")
    assert row["Restarts"] == "20"
    spent = f"{summary['gradient_evaluations']:,}"
    assert row["Gradient evaluations"] == spent
    assert row["Verdict"] == "upper bound"
    assert (
        "signs of gradient obfuscation. The verdict is upper_bound." in source
    )
    assert "- D6: 5 \\| more broke \\& failed." in source
    assert "- Next: Run aa_mt." in source


def test_markdown_shows_foreign_text_as_it_is(folder):
    audit_folder.write(folder)
    change(folder, model__path=f"runs/{HOSTILE.replace('/', ' ')}/saved_model")
    source = text(folder, "markdown")
    cells = {row[0] for row in markdown_rows(source)[1:]}
    assert len({len(row) for row in markdown_rows(source)}) == 1
    (cell,) = cells
    assert "<script" not in cell
    assert "\u202e" not in source
    for part in ("a|b", "50%", "of_it", "[1]"):
        assert part in cell


@pytest.mark.parametrize("value", ["_a_", "a_b", "__init__", "[a](b)", "*x*"])
def test_escaped_markdown_is_read_back(value):
    page = markdown.markdown(own_markdown.escape(value))
    assert page == f"<p>{value}</p>"


def test_without_diagnostics_nothing_is_judged(folder, content):
    for name in ("csv", "markdown", "latex", "model_card"):
        assert "not judged" in text(folder, name)
    assert json.loads(text(folder, "robustbench"))["unreliable"] is None


@pytest.mark.parametrize("fields", [{"mode": "stochastic"}])
def test_stochastic_rows_say_how_many_samples(folder, content, fields):
    change(folder, **fields)
    assert "stochastic, S = 12" in text(folder, "markdown")


def latex_rows(source) -> list[list[str]]:
    body = source.partition("\\midrule\n")[2].partition("\\bottomrule")[0]
    return [
        re.split(r"(?<!\\)&", line.removesuffix(r"\\"))
        for line in body.strip().splitlines()
    ]


def test_latex_has_as_many_cells_in_each_row(folder, content):
    judge(folder)
    change(folder, model__path=f"runs/{HOSTILE.replace('/', ' ')}/saved_model")
    source = text(folder, "latex")
    assert source.isascii()
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", source)[1]
    rows = latex_rows(source)
    assert {len(row) for row in rows} == {len(columns)} == {13}
    summary = content.summary
    spent = f"{summary['gradient_evaluations']:,}".replace(",", r"\,")
    (row,) = [row for row in rows if row[5].strip() == "0.2"]
    assert row[-2].strip() == spent
    assert row[-1].strip() == "upper bound"
    assert f"${100 * summary['robust_accuracy']:.1f}^{{+" in row[9]


def test_every_latex_special_is_escaped():
    escaped = latex.escape(r"&%$#_{}~^\<>|[*é名")
    assert escaped == (
        r"\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
        r"\textless{}\textgreater{}\textbar{}{[}{*}e?"
    )


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
@pytest.mark.parametrize("model", ["plain", HOSTILE, "[2pt] x", "* x"])
def test_latex_compiles(folder, tmp_path, model):
    audit_folder.write(folder)
    change(folder, model__path=f"runs/{model.replace('/', ' ')}/saved_model")
    judge(folder, sentence="a \\ b % c \n d")
    text(folder, "latex")
    (tmp_path / "page.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}"
        "\\input{audit/audit}\\end{document}"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "booktabs.sty' not found" in done.stdout:
        pytest.skip("no booktabs here")
    assert done.returncode == 0, done.stdout[-800:]
    assert (tmp_path / "page.pdf").exists()


def front_matter(card) -> dict:
    empty, front, body = card.split("---\n", 2)
    assert empty == ""
    assert body.startswith("\n# ")
    return yaml.safe_load(front)


def test_the_card_has_what_the_hub_reads(folder, content):
    judge(folder)
    card = text(folder, "model_card")
    front = front_matter(card)
    assert front["library_name"] == "ib_keras"
    assert front["datasets"] == ["ylecun/mnist"]
    assert front["metrics"] == ["accuracy"]
    (model,) = front["model-index"]
    assert model["name"] == "mnist_vib"
    (result,) = model["results"]
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"]["type"] == "ylecun/mnist"
    assert result["dataset"]["name"] == "mnist"
    by_name = {metric["name"]: metric for metric in result["metrics"]}
    assert by_name["Clean accuracy"]["value"] == pytest.approx(
        content.summary["clean_accuracy"], abs=1e-6
    )
    name = "Robust accuracy, L∞ 0.2, pgd_restarts v1 (upper bound)"
    robust = by_name[name]
    assert robust["value"] == pytest.approx(
        content.summary["robust_accuracy"], abs=1e-6
    )
    assert robust["args"]["verdict"] == "upper bound"
    assert robust["args"]["restarts"] == 20
    assert "signs of gradient obfuscation. The verdict is upper_bound." in card
    assert "D6: 5 \\| more broke" in card


def test_an_invalid_number_is_kept_out_of_the_cards_metadata(folder, content):
    judge(folder, "invalid")
    card = text(folder, "model_card")
    names = [
        metric["name"]
        for result in front_matter(card)["model-index"][0]["results"]
        for metric in result["metrics"]
    ]
    assert names == ["Clean accuracy"]
    assert "The verdict is invalid." in card


def test_a_card_is_about_one_model(tmp_path):
    folders = [str(tmp_path / name) for name in "ab"]
    for seed, folder in enumerate(folders):
        audit_folder.write(folder, seed=seed)
    error = runs.refused(formats.write, folders, "model_card")
    assert "audits of 2 models" in str(error)


def test_a_card_of_two_audits_has_two_results(tmp_path):
    folders = [str(tmp_path / name) for name in "ab"]
    for folder, norm in zip(folders, ("linf", "l2"), strict=True):
        audit_folder.write(folder, norm=norm)
    front = front_matter(text(folders, "model_card"))
    assert len(front["model-index"][0]["results"]) == 2


def test_hostile_text_stays_inside_of_its_field_of_a_card(folder):
    audit_folder.write(folder)
    path = "runs/x\n---\nlicense: mit: [/saved_model"
    change(folder, model__path=path, command="ls\n```\n<script>")
    card = text(folder, "model_card")
    front = front_matter(card)
    assert "license" not in front
    assert front["model-index"][0]["name"] == "x --- license: mit: ["
    page = markdown.markdown(card, extensions=["fenced_code"])
    assert "<script>" not in page


def test_the_hubs_own_library_reads_the_card(folder, content):
    hub = pytest.importorskip("huggingface_hub")
    judge(folder)
    card = hub.ModelCard(text(folder, "model_card"))
    assert card.data.model_name == "mnist_vib"
    values = {r.metric_name: r.metric_value for r in card.data.eval_results}
    assert len(values) == 5


# The fields that the files of RobustBench's model_info have, by kind.
CLAIM = {
    "link": None,
    "name": None,
    "authors": None,
    "additional_data": bool,
    "number_forward_passes": int,
    "dataset": str,
    "venue": None,
    "architecture": str,
    "eps": str,
    "clean_acc": str,
    "reported": None,
    "autoattack_acc": str,
    "footnote": str,
    "unreliable": bool,
}


@pytest.fixture
def claimed(folder):
    """An audit whose claim knows all that an audit can."""
    audit_folder.write(folder, epsilon=8 / 255, num_examples=40)
    change(
        folder,
        protocol="autoattack_standard",
        dataset__name="cifar10",
        model__metadata={
            "config": {
                "data": {"name": "cifar10"},
                "encoder": {"name": "preact_resnet18"},
                "bottleneck": {"name": "ceb"},
            }
        },
    )
    return folder


def test_a_claim_has_robustbenchs_fields(claimed):
    judge(claimed, "believable")
    claim = json.loads(text(claimed, "robustbench"))
    assert list(claim) == list(CLAIM)
    for name, kind in CLAIM.items():
        if kind is None:
            assert claim[name] is None
        else:
            assert type(claim[name]) is kind, name
    summary = files.read_json(files.join(claimed, "summary.json"))
    assert claim["eps"] == "8/255"
    assert claim["clean_acc"] == f"{100 * summary['clean_accuracy']:.2f}"
    robust = f"{100 * summary['robust_accuracy']:.2f}"
    assert claim["autoattack_acc"] == robust
    assert claim["architecture"] == "preact_resnet18 + ceb"
    assert claim["number_forward_passes"] == 1
    assert claim["additional_data"] is False


@pytest.mark.parametrize(
    ("label", "expected"),
    [("believable", False), ("upper_bound", True), ("invalid", True)],
)
def test_unreliable_follows_from_the_verdict(claimed, label, expected):
    judge(claimed, label)
    claim = json.loads(text(claimed, "robustbench"))
    assert claim["unreliable"] is expected


def test_a_claim_says_what_robustbench_would_refuse(claimed):
    change(claimed, mode="stochastic", protocol="aa_mt")
    written = formats.write([claimed], "robustbench")
    claim = files.read_json(written.path)
    assert claim["number_forward_passes"] == 12
    assert claim["autoattack_acc"] is None
    assert claim["external"] is not None
    notes = " ".join(written.notes)
    assert "excludes randomised models" in notes
    assert "attacks 10,000 examples; this audit has 40" in notes
    assert "no diagnostics were run" in notes
    assert "null: link, name, authors" in notes


def test_a_claim_is_about_one_audit(claimed):
    error = runs.refused(formats.write, [claimed] * 2, "robustbench")
    assert "2 audits" in str(error)


def test_tables_name_models_apart_and_compare_them(tmp_path):
    folders = []
    for seed in ("seed_0", "seed_1"):
        folders.append(str(tmp_path / seed))
        audit_folder.write(folders[-1], model=f"{seed}/vib")
    for name in ("csv", "markdown"):
        assert set(re.findall(r"seed_\d/vib", text(folders, name))) == {
            "seed_0/vib",
            "seed_1/vib",
        }
    notes = " ".join(formats.write(folders, "csv").notes)
    for said in (notes, text(folders, "markdown"), text(folders, "latex")):
        assert "robust in the first alone" in said.replace("\\", "")


@pytest.mark.parametrize("name", ["model_card", "robustbench"])
def test_a_format_that_compares_nothing_refuses_a_baseline(
    folder, content, name
):
    error = runs.refused(formats.write, [folder], name, None, "vib")
    assert "csv, latex, markdown" in str(error)


def test_a_format_compares_with_the_baseline_that_is_asked_for(tmp_path):
    folders = [str(tmp_path / name) for name in "ab"]
    for folder, name in zip(folders, ("one", "other"), strict=True):
        audit_folder.write(folder, model=name)
    written = formats.write(folders, "csv", None, folders[1])
    assert written.notes[0] == "The baseline is other."
    assert written.notes[1].startswith("one against other (")


@pytest.mark.parametrize(
    ("label", "fail_on", "status"),
    [
        ("believable", "never", 0),
        ("believable", "upper_bound", 0),
        ("believable", "invalid", 0),
        ("upper_bound", "never", 0),
        ("upper_bound", "upper_bound", 4),
        ("upper_bound", "invalid", 0),
        ("invalid", "never", 0),
        ("invalid", "upper_bound", 4),
        ("invalid", "invalid", 4),
        (None, "never", 0),
        (None, "invalid", 4),
    ],
)
def test_a_verdict_that_bad_or_worse_fails(
    folder, content, label, fail_on, status
):
    if label is not None:
        judge(folder, label)
    verdict = verdicts.of(load.load(folder))
    assert verdicts.exit_status(verdict, fail_on) == status


def test_a_gate_without_diagnostics_is_refused_before_any_attack(folder):
    for config in ({}, {"diagnostics": {"set": "none"}}):
        error = runs.refused(verdicts.check_gate, "invalid", config, folder)
        assert "--config.diagnostics.set=quick" in str(error)
        verdicts.check_gate("never", config, folder)
    verdicts.check_gate("invalid", {"diagnostics": {"set": "quick"}}, folder)
    # A finished audit that was judged needs no diagnostics any more.
    files.make_folder(folder)
    judge(folder)
    verdicts.check_gate("invalid", {"diagnostics": {"set": "none"}}, folder)


@pytest.mark.slow
def test_the_command_writes_a_format_and_its_notes(folder, content, tmp_path):
    other = str(tmp_path / "other")
    audit_folder.write(other, num_examples=50, model="twin")
    path = tmp_path / "both.csv"
    process = runs.Process(
        f"--workdir={folder}",
        f"--workdir={other}",
        "--format=csv",
        f"--output={path}",
        module="launch.report",
    )
    assert process.wait() == 0, process.read("errors")
    output = process.read("output")
    assert "Note: twin against mnist_vib (" in output
    assert output.endswith(f"Report: {path}\n")
    assert set(pd.read_csv(path).model) == {"mnist_vib", "twin"}
    process = runs.Process(
        f"--workdir={folder}", "--format=latx", module="launch.report"
    )
    assert process.wait() == 2
    assert 'Did you mean "latex"?' in process.read("errors")
    assert "html" in process.read("errors")
    process = runs.Process("--workdir=", module="launch.report")
    assert process.wait() == 2
    assert "There is no audit to report" in process.read("errors")


@pytest.mark.parametrize("name", ["model_card", "robustbench"])
def test_what_people_added_is_not_replaced(folder, content, tmp_path, name):
    path = tmp_path / "written"
    formats.write([folder], name, str(path))
    formats.write([folder], name, str(path))  # The same again loses nothing.
    path.write_text(path.read_text() + "Licence: MIT.")
    error = runs.refused(formats.write, [folder], name, str(path))
    assert "would overwrite" in str(error)
    assert path.read_text().endswith("Licence: MIT.")
    error = runs.refused(formats.write, [folder], name, str(tmp_path))
    assert "would overwrite" in str(error)


def test_a_row_has_the_commit_that_made_it(folder, content):
    commit = "0123456789abcdef"
    change(folder, versions={"ib_keras": "0.1.0", "git_commit": commit})
    path = formats.write([folder], "csv").path
    assert pd.read_csv(path).iloc[0]["version"] == "0.1.0 (0123456)"


# Certificates.


def test_without_certificates_no_table_has_their_column(folder, content):
    for name in ("markdown", "latex"):
        assert "Certified" not in text(folder, name)
    assert "Certified" not in text(folder, "model_card")
    table = pd.read_csv(
        pathlib.Path(text(folder, "csv") and folder) / "audit.csv"
    )
    assert table.certified_accuracy.isna().all()


def test_certified_accuracy_is_beside_the_robust_one(folder, content):
    audit_folder.write_certificates(folder, count=5)
    text(folder, "csv")
    table = pd.read_csv(pathlib.Path(folder) / "audit.csv")
    own = table[table.epsilon == 0.2].iloc[0]
    assert own.certified_accuracy == 5 / 50 <= own.robust_accuracy
    shown = markdown.markdown(text(folder, "markdown"), extensions=["tables"])
    heads = re.findall("<th[^>]*>(.*?)</th>", shown)
    place = heads.index("Certified accuracy")
    assert heads[place - 1] == "Robust accuracy (95%)"
    lines = [
        re.findall("<td[^>]*>(.*?)</td>", line)
        for line in re.findall("<tr>(.*?)</tr>", shown, re.DOTALL)
    ]
    assert [line[place] for line in lines if line] == [
        "0.0%",
        "0.0%",
        "10.0%",
        "0.0%",
    ]
    tabular = text(folder, "latex").splitlines()
    head = next(line for line in tabular if line.startswith("Model"))
    row = next(line for line in tabular if "& 0.2 &" in line)
    cells = [cell.strip() for cell in row.split("&")]
    assert (
        cells[[c.strip() for c in head.split("&")].index("Certified")] == "10.0"
    )
    card = text(folder, "model_card")
    assert "a lower bound, and the truth lies between" in card
    front = yaml.safe_load(card.split("---")[1])
    metrics = front["model-index"][0]["results"][0]["metrics"]
    proved = [m for m in metrics if m["name"].startswith("Certified")]
    assert [m["value"] for m in proved] == [0.0, 0.0, 0.1, 0.0]
    assert proved[0]["args"]["method"] == "crown"
    claim = json.loads(text(folder, "robustbench"))
    assert claim["footnote"].endswith("Certified: 10.00%.")
