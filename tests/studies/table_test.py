"""The table of a study says what its audits say, row by row."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from pyarrow import dataset
from pyarrow import parquet

from ib_keras import files
from ib_keras.attacks import ledger as ledgers
from ib_keras.audit import statistics
from ib_keras.studies import folder
from ib_keras.studies import table
from tests.support import runs

COUNT = 6


def write_audit(place, seed, epsilon, sha256, verdict=None, path="m"):
    """What a table reads of an audit at one radius."""
    rng = np.random.default_rng(seed)
    images = rng.random((COUNT, 2, 2, 1), np.float32)
    ledger = ledgers.Ledger.new(images, rng.integers(0, 3, COUNT))
    ledger.is_robust = rng.random(COUNT) < 0.5
    ledger.margin = rng.normal(size=COUNT).astype(np.float32)
    ledger.gradient_evaluations = rng.integers(0, 100, COUNT)
    arrays = {"index": np.arange(COUNT)} | ledger.arrays()
    summary = {
        "protocol": "pgd_restarts",
        "protocol_version": 1,
        "threat_model": {"norm": "linf", "epsilon": epsilon},
        "mode": "mean",
        "num_samples": None,
        "num_examples": COUNT,
        "clean_accuracy": 1.0,
        "robust_accuracy": ledger.robust_accuracy,
        "robust_accuracy_ci95": list(
            statistics.wilson_interval(int(ledger.is_robust.sum()), COUNT)
        ),
        "expected_accuracy": 0.5,
        "gradient_evaluations": int(ledger.gradient_evaluations.sum()),
        "seconds": 1.5,
        "seed": seed,
        "model": {"path": path, "sha256": sha256},
        "dataset": {"name": "digits", "split": "test"},
        "versions": {"git_commit": "c0ffee"},
    }
    files.make_folder(str(place))
    files.write_npz(str(place / "examples.npz"), arrays)
    files.write_json(str(place / "summary.json"), summary)
    if verdict:
        found = {"set": "quick", "verdict": {"label": verdict}}
        files.write_json(str(place / "findings.json"), found)
    return summary, arrays


@pytest.fixture
def study(tmp_path):
    """Two models by one protocol at two radii, and one that is not done."""
    found = {}
    content = {"examples_per_part": None, "protocols": {"pgd": {}}}
    content["models"] = {"one": {}, "two": {}, "undone": {}}
    files.write_json(str(tmp_path / folder.STUDY), content)
    for seed, name in enumerate(("one", "two")):
        place = tmp_path / "audits" / name / "pgd"
        config = {"audit": {"seed": seed}}
        for epsilon, inside in ((0.1, "."), (0.05, "epsilon_0.05")):
            verdict = "believable" if inside == "." else None
            found[name, epsilon] = write_audit(
                place / inside, seed, epsilon, name * 3, verdict
            )
        files.write_json(str(place / "config.json"), config)
    return tmp_path, found


def test_a_row_for_each_radius_of_each_audit(study):
    root, found = study
    written = table.write(str(root))
    assert (written.num_summaries, written.num_examples) == (4, 4 * COUNT)
    rows = parquet.read_table(written.path).to_pylist()
    assert list(rows[0]) == list(table._SUMMARY)
    for row in rows:
        name = "one" if row["model_sha256"] == "oneoneone" else "two"
        summary, _ = found[name, row["epsilon"]]
        for field in ("robust_accuracy", "seed", "gradient_evaluations"):
            assert row[field] == summary[field]
        assert [row["ci95_low"], row["ci95_high"]] == (
            summary["robust_accuracy_ci95"]
        )
        is_own = row["epsilon"] == 0.1
        assert row["verdict"] == ("believable" if is_own else None)
        assert row["protocol"] == "pgd"
        assert row["git_commit"] == "c0ffee"
        assert row["num_samples"] is None
        assert row["workdir"] == f"{root}/audits/{name}/pgd"
        text = json.dumps({"seed": summary["seed"]}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        assert row["config_sha256"] == digest


@pytest.mark.parametrize("rows", [1, 100_000])
def test_examples_are_those_of_the_audits(study, monkeypatch, rows):
    root, found = study
    monkeypatch.setattr(table, "_GROUP_ROWS", rows)
    monkeypatch.setattr(table, "_FILE_ROWS", 3 * COUNT if rows == 1 else rows)
    table.write(str(root))
    place = root / "examples"
    listed = sorted(path.name for path in (place / "protocol=pgd").iterdir())
    assert len(listed) == (2 if rows == 1 else 1)
    read = dataset.dataset(place, partitioning="hive").to_table().to_pandas()
    assert set(read["protocol"]) == {"pgd"}
    for (name, epsilon), (summary, arrays) in found.items():
        mine = read[(read.model_sha256 == name * 3) & (read.epsilon == epsilon)]
        for column in ("index", *table.COLUMNS):
            np.testing.assert_array_equal(mine[column], arrays[column])
        assert mine.is_robust.mean() == summary["robust_accuracy"]


def test_the_columns_are_the_arrays_of_a_ledger():
    ledger = ledgers.Ledger.new(np.zeros([1, 2], np.float32), np.zeros(1, "i4"))
    kinds = {n: str(a.dtype) for n, a in ledger.arrays().items() if a.ndim == 1}
    assert table.COLUMNS == kinds
    assert len(dataclasses.fields(ledger)) == len(kinds) + 1


def test_it_is_written_again_and_nothing_is_counted_twice(study):
    root, _ = study
    table.write(str(root))
    assert table.write(str(root)).num_examples == 4 * COUNT
    read = dataset.dataset(root / "examples", partitioning="hive")
    assert read.count_rows() == 4 * COUNT


def test_an_examples_file_that_is_cut_off_leaves_the_old_table(study):
    root, _ = study
    table.write(str(root))
    before = runs.snapshot(root / "examples")
    path = root / "audits" / "two" / "pgd" / "examples.npz"
    path.write_bytes(path.read_bytes()[:-50])
    error = runs.refused(table.write, str(root))
    assert error.what == "A file is damaged"
    assert str(path) in error.received
    assert runs.snapshot(root / "examples") == before


def test_nothing_to_write(tmp_path):
    content = {"examples_per_part": None, "protocols": {}, "models": {}}
    files.write_json(str(tmp_path / folder.STUDY), content)
    error = runs.refused(table.write, str(tmp_path))
    assert error.what == "The study has no finished audits"
    assert "missing" in runs.refused(table.write, str(tmp_path / "x")).what
