"""MLflow and Weights & Biases, with stand-ins and with the real libraries."""

import sys
import types

import keras
import numpy as np
import pytest

import ib_keras
from ib_keras import tracking
from tests.support import runs

IMAGES = np.linspace(0, 1, 8 * 16, dtype=np.float32).reshape(8, 4, 4, 1)
LABELS = np.array([0] * 4 + [1] * 4)
AUDIT = {"epsilon": 0.05, "protocol": "fgs_epsilons", "diagnostics": "none"}
EPOCHS = ("loss", "robust_accuracy", "clean_accuracy")


def fit(tracker):
    """Two epochs with an audit each, and an audit of the model afterwards."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    callbacks = [ib_keras.AuditCallback(IMAGES, LABELS, epsilon=0.05), tracker]
    history = model.fit(
        IMAGES, LABELS, epochs=2, verbose=0, callbacks=callbacks
    ).history
    result = ib_keras.audit(model, IMAGES, LABELS, **AUDIT)
    tracker.log_audit(result)
    return history, result


def assert_is_result(numbers, result):
    low, high = result.robust_interval
    assert numbers == {
        "audit/clean_accuracy": result.clean_accuracy,
        "audit/robust_accuracy": result.robust_accuracy,
        "audit/robust_accuracy_low": low,
        "audit/robust_accuracy_high": high,
        "audit/epsilon": 0.05,
        "audit/num_examples": 8.0,
    }


TEXTS = {
    "audit/protocol": "fgs_epsilons",
    "audit/mode": "mean",
    "audit/norm": "linf",
    "audit/verdict": "none",
}


def test_mlflow_gets_epochs_and_audits(monkeypatch):
    fake = types.ModuleType("mlflow")
    metrics, tags = [], {}
    fake.log_metrics = lambda values, step=None: metrics.append((values, step))
    fake.set_tags = tags.update
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    history, result = fit(tracking.MLflowCallback())
    assert [step for _, step in metrics] == [0, 1, None]
    for epoch in range(2):
        expected = {name: values[epoch] for name, values in history.items()}
        assert metrics[epoch][0] == expected
    assert set(EPOCHS) <= set(history)
    assert_is_result(metrics[2][0], result)
    assert tags == TEXTS


def test_wandb_gets_epochs_and_audits(monkeypatch):
    fake, rows = types.ModuleType("wandb"), []
    fake.run = types.SimpleNamespace(log=rows.append, summary={})
    monkeypatch.setitem(sys.modules, "wandb", fake)
    history, result = fit(tracking.WandbCallback())
    for epoch in range(2):
        expected = {name: values[epoch] for name, values in history.items()}
        assert rows[epoch] == {"epoch": epoch, **expected}
    found = fake.run.summary
    assert TEXTS == {name: found.pop(name) for name in TEXTS}
    assert_is_result(found, result)
    fake.run = None
    assert "wandb.init()" in runs.refused(tracking.WandbCallback).fix


@pytest.mark.parametrize("library", ["mlflow", "wandb"])
def test_without_the_library_its_extra_is_named(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    names = {"mlflow": "MLflowCallback", "wandb": "WandbCallback"}
    error = runs.refused(getattr(tracking, names[library]))
    assert error.what == f"{names[library]} needs {library}"
    assert f'pip install "ib_keras[{library}]"' in error.fix


def test_the_real_mlflow_stores_them(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    place = (tmp_path / "runs").as_uri()
    mlflow.set_tracking_uri(place)
    with mlflow.start_run() as run:
        history, result = fit(tracking.MLflowCallback())
    client = mlflow.MlflowClient(place)
    for name, values in history.items():
        found = client.get_metric_history(run.info.run_id, name)
        assert [(m.step, m.value) for m in found] == list(enumerate(values))
    data = client.get_run(run.info.run_id).data
    audits = {n: v for n, v in data.metrics.items() if n.startswith("audit/")}
    assert_is_result(audits, result)
    assert TEXTS.items() <= data.tags.items()


def test_the_real_wandb_stores_them(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the extra is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=str(tmp_path)) as run:
        _, result = fit(tracking.WandbCallback())
        summary = dict(run.summary)
    assert summary["epoch"] == 1
    found = {n: v for n, v in summary.items() if n.startswith("audit/")}
    assert TEXTS == {name: found.pop(name) for name in TEXTS}
    assert_is_result(found, result)
