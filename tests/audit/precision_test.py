"""Models that compute below float32 are audited in float32, or it is said."""

import functools
import json
import os
import pathlib
import shutil
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from ib_keras import classifier
from ib_keras import export
from ib_keras import files
from ib_keras import modes
from ib_keras import seeds
from ib_keras.audit import audited_model
from ib_keras.audit import runner
from ib_keras.audit.audited_model import signatures
from ib_keras.audit.diagnostics import batch_invariance
from ib_keras.audit.verify import verification
from ib_keras.training import loop
from tests.support import cases
from tests.support import foreign
from tests.support import models
from tests.support import runs

# The largest share of a logit by which eight bits of mantissa may change it
# here: a handful of layers, each off by half an epsilon of 2^-7.
COARSE = 0.1


@functools.cache
def workdir() -> str:
    """Of a training in bfloat16; read only."""
    folder = tempfile.mkdtemp(dir=foreign.folder())
    config = runs.train_config("vib", precision="bfloat16")
    loop.train(config, folder, quiet=True)
    return folder


def saved_model() -> str:
    return os.path.join(workdir(), loop.SAVED_MODEL)


def audit_config(**changes):
    return runs.audit_config(
        "fgs_epsilons", num_examples=24, batch_size=24, **changes
    )


def audit(folder, model=None, **changes):
    config = audit_config(**changes)
    model = model or saved_model()
    return runner.audit(config, model, str(folder), quiet=True)


# What is exported.


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A model in bfloat16, the same in float32 by hand, and its export."""
    low = models.randomise(models.build("vib", precision="bfloat16"))
    full = models.build("vib")
    for weight, value in zip(full.weights, low.weights, strict=True):
        weight.assign(value)
    path = str(tmp_path_factory.mktemp("pair") / "model")
    export.save(low, path, image_shape=models.IMAGE_SHAPE, metadata={})
    return low, full, path


def test_the_float32_endpoints_are_the_model_built_in_float32(pair):
    low, full, path = pair
    loaded = tf.saved_model.load(path)
    images, _ = models.data(16)
    seed, draws = seeds.from_int(3), tf.constant(4)
    expected = full(images)
    np.testing.assert_allclose(loaded.mean_float32(images), expected, rtol=1e-5)
    gap = np.abs(loaded.mean(images) - expected)
    assert 1e-4 < gap.max() < COARSE * np.abs(expected).max()
    # In a graph, where TensorFlow rounds less often than it does eagerly.
    traced = tf.function(lambda x: low(x, training=False))
    np.testing.assert_array_equal(loaded.mean(images), traced(images))
    sampling = modes.sampling(full)
    asked = dict(mode="stochastic", noise_seed=seed, sampling=sampling)
    expected = full(images, **asked, num_samples=4)
    found = loaded.stochastic_float32(images, seed, draws)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    gap = np.abs(loaded.stochastic(images, seed, draws) - expected)
    assert 1e-4 < gap.max() < COARSE * np.abs(expected).max()
    # One set of weights, and both as signatures too.
    assert len(loaded._model_variables) == len(low.variables)
    assert {"mean", "mean_float32", "stochastic_float32"} <= set(
        loaded.signatures
    )
    assert export.read_metadata(path)["precision"] == "bfloat16"


def test_an_export_leaves_the_model_as_it_was(pair):
    low, _, _ = pair
    assert low.precision == "bfloat16"
    assert low.encoder.layers[-1].compute_dtype == "bfloat16"
    assert low.decoder.compute_dtype == "float32"
    with pytest.raises(ZeroDivisionError):
        with classifier.computing_in_float32(low):
            assert low.precision == "float32"
            raise ZeroDivisionError
    assert low.precision == "bfloat16"


def test_a_model_in_float32_has_no_other_endpoints():
    loaded = tf.saved_model.load(runs.digits_model("vib"))
    assert not hasattr(loaded, "mean_float32")
    model = audited_model.load(runs.digits_model("vib"))
    assert model.precision == "float32"
    assert model.other_precision is None
    assert not any("float32" in note for note in model.notes)


def test_a_residual_network_is_traced_in_both():
    """Normalisation and convolutions too, whatever the layers' own types."""
    config = models.config(
        "ceb",
        encoder={"name": "preact_resnet18", "hidden_units": (8,)},
        precision="bfloat16",
    )
    model = classifier.build(
        config, image_shape=(4, 4, 3), num_classes=3, steps_per_epoch=10
    )
    spec = tf.TensorSpec([None, 4, 4, 3], tf.float32)

    def precision():
        function = tf.function(lambda x: model(x, training=False))
        concrete = function.get_concrete_function(spec)
        return signatures.Endpoint("mean", concrete, spec, concrete).precision

    assert precision() == "bfloat16"
    with classifier.computing_in_float32(model):
        assert precision() == "float32"
    assert precision() == "bfloat16"


def test_a_finished_training_is_exported_again(tmp_path):
    """For older exports, which have no float32 endpoints."""
    again = tmp_path / "again"
    shutil.copytree(workdir(), again)
    before = json.loads((again / loop.RESULT_FILE).read_text())
    rows = runs.metrics(again)
    (again / loop.RESULT_FILE).unlink()
    shutil.rmtree(again / loop.SAVED_MODEL)
    config = runs.train_config("vib", precision="bfloat16")
    assert loop.train(config, str(again), quiet=True) == before
    assert runs.metrics(again) == rows
    images = foreign.data()[0][:32]
    old = tf.saved_model.load(saved_model())
    new = tf.saved_model.load(str(again / loop.SAVED_MODEL))
    for name in ("mean", "mean_float32"):
        np.testing.assert_array_equal(
            getattr(new, name)(images), getattr(old, name)(images)
        )


# What is audited.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An audit that was told nothing, with diagnostics."""
    folder = tmp_path_factory.mktemp("finished")
    changes = {"diagnostics.set": "quick", "diagnostics.num_examples": 12}
    return audit(folder, **changes), folder


def findings(folder):
    found = files.read_json(pathlib.Path(folder) / "findings.json")
    return {row["id"]: row for row in found["findings"]}


@pytest.mark.slow
def test_the_float32_endpoint_is_audited_and_noted(finished):
    summary, folder = finished
    assert summary["model"]["signature"] == "mean_float32"
    assert summary["model"]["precision"] == "float32"
    (note,) = [n for n in summary["model"]["notes"] if "bfloat16" in n]
    assert "audited is mean_float32" in note
    examples = files.read_npz(folder / "examples.npz")
    loaded = tf.saved_model.load(saved_model())
    logits = loaded.mean_float32(foreign.data()[0][:24]).numpy()
    np.testing.assert_array_equal(
        examples["clean_prediction"], logits.argmax(-1)
    )
    found = verification.verify(str(folder))
    assert found.ok, found.failed


def test_gradients_are_compared(finished):
    """With shares that are counted here by a tape of our own."""
    _, folder = finished
    found = findings(folder)["D34"]
    assert found["status"] in ("pass", "warn")
    data = found["data"]
    assert data["num_examples"] == 12
    assert data["audited"] == "float32"
    assert data["precision"] == "bfloat16"
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(24)[:12])
    images, labels = (array[rows] for array in foreign.data())
    loaded = tf.saved_model.load(saved_model())
    for name, field in (
        ("mean", "zero_share"),
        ("mean_float32", "zero_share_float32"),
    ):
        x = tf.constant(images)
        with tf.GradientTape() as tape:
            tape.watch(x)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels, getattr(loaded, name)(x)
            )
        zero = tape.gradient(losses, x).numpy() == 0.0
        assert data[field] == pytest.approx(zero.mean(), abs=2e-3)
    assert data["zero_share"] >= data["zero_share_float32"]
    assert f"{100 * data['zero_share']:.3g}%" in found["evidence"]


@pytest.mark.slow
def test_the_model_as_it_is_can_be_audited_with_a_warning(tmp_path):
    summary = audit(
        tmp_path,
        **{
            "model.signature": "mean",
            "diagnostics.set": "quick",
            "diagnostics.num_examples": 8,
        },
    )
    assert summary["model"]["precision"] == "bfloat16"
    (note,) = [n for n in summary["model"]["notes"] if "Warning" in n]
    assert "mean computes in bfloat16" in note
    found = findings(tmp_path)
    assert found["D34"]["status"] == "warn"
    assert "leave out" in found["D34"]["advice"]
    assert found["D25"]["status"] == "pass"
    assert found["D25"]["threshold"] == 4 * 2.0**-7


def test_stochastic_mode_takes_its_own_float32_endpoint():
    model = audited_model.load(saved_model())
    x, seed = tf.constant(foreign.data()[0][:4]), seeds.from_int(1)
    loaded = model.loaded
    np.testing.assert_array_equal(
        model.logits_fn("stochastic", 3)(x, seed),
        loaded.stochastic_float32(x, seed, tf.constant(3)),
    )
    low = model.other_precision
    assert (low.precision, model.precision) == ("bfloat16", "float32")
    np.testing.assert_array_equal(
        low.logits_fn("stochastic", 3)(x, seed),
        loaded.stochastic(x, seed, tf.constant(3)),
    )
    assert low.other_precision.endpoint.name == "mean_float32"


# Models of other code.


def in_float16(images):
    kernel, bias = foreign.linear()
    flat = tf.cast(tf.reshape(images, [-1, 64]), tf.float16)
    return tf.cast(
        tf.matmul(flat, tf.cast(kernel, tf.float16)) + bias.astype(np.float16),
        tf.float32,
    )


@pytest.mark.slow
def test_a_foreign_model_in_float16_cannot_be_compared(tmp_path):
    path = foreign.module(in_float16)
    changes = {
        "dataset.name": "digits",
        "model.input_range": (0.0, 1.0),
        "diagnostics.set": "quick",
        "diagnostics.num_examples": 8,
    }
    summary = audit(tmp_path, path, **changes)
    assert summary["model"]["precision"] == "float16"
    assert any("no float32 endpoint" in n for n in summary["model"]["notes"])
    found = findings(tmp_path)["D34"]
    assert found["status"] == "warn"
    assert "cannot be compared" in found["evidence"]
    assert found["value"] is None


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (foreign.logits, "float32"),
        (in_float16, "float16"),
        # Stored short, computed long: nothing is lost on the way.
        (
            lambda x: (
                tf.reshape(x, [-1, 64])
                @ tf.cast(
                    tf.constant(foreign.linear()[0], tf.bfloat16), tf.float32
                )
            ),
            "float32",
        ),
        # Rounded on the way, though no operation computes in it.
        (
            lambda x: foreign.logits(
                tf.cast(tf.cast(x, tf.bfloat16), tf.float32)
            ),
            "bfloat16",
        ),
    ],
    ids=["float32", "float16", "short weights", "a cast"],
)
def test_the_graph_tells_what_is_computed_in(function, expected):
    spec = tf.TensorSpec([None, 8, 8, 1], tf.float32)
    concrete = tf.function(function).get_concrete_function(spec)
    endpoint = signatures.Endpoint("mean", concrete, spec, concrete)
    assert endpoint.precision == expected


def test_a_mixed_keras_model_is_told_from_its_graph(tmp_path):
    with models.dtype_policy("mixed_bfloat16"):
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(10, dtype="mixed_bfloat16"),
            ]
        )
    path = str(tmp_path / "model.keras")
    model.save(path)
    assert audited_model.load(path).precision == "bfloat16"


def test_a_function_has_no_known_precision():
    model = audited_model.from_function(foreign.logits, foreign.SHAPE, 10)
    assert model.precision is None
    assert model.other_precision is None
    assert not model.notes


@pytest.mark.parametrize(
    ("precision", "status"),
    [("float32", "fail"), (None, "fail"), ("bfloat16", "pass")],
)
def test_batches_may_differ_by_the_rounding_of_the_type(precision, status):
    subject = cases.subject(None, None, None)
    subject.model.precision = precision
    subject.behaviour = type(
        "Seen", (), {"batch_difference": 0.01, "batch_size_differing": "7"}
    )
    case = type("Case", (), {"subject": subject})
    (found,) = batch_invariance.build().ask(case)
    assert found.status == status
