"""Anybody's model becomes the function it is, or one clear question.

The oracle is NumPy: all models here wrap the same linear classifier, so what
an audited function must return is known.
"""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import seeds
from ib_keras.audit import audited_model
from ib_keras.audit import runner
from tests.support import foreign
from tests.support import runs

SEED = seeds.from_int(0)


def infer_io(path, **options):
    options = audited_model.Options(**options)
    return audited_model.load(path, options=options).infer_io(*foreign.data())


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def assert_is_the_classifier(model, count=10, atol=1e-4):
    """Equal log-probabilities, for logits are free up to a constant."""
    images = foreign.data()[0][:count]
    found = model.logits_fn("mean")(tf.constant(images), SEED)
    assert found.shape == (count, 10)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(
        log_softmax(found.numpy()),
        log_softmax(foreign.expected(images)),
        atol=atol,
    )


def layer(name, *arguments, **more):
    import keras

    return getattr(keras.layers, name)(*arguments, **more)


def softmax(images):
    return tf.nn.softmax(foreign.logits(images))


def half(images):
    return tf.cast(foreign.logits(images), tf.float16)


# What is saved, and what must be found.
MODELS = {
    "Keras 3, exported": (lambda: foreign.export(foreign.keras_model()), {}),
    "Keras 3, exported by hand": (
        lambda: foreign.export_archive(
            foreign.keras_model(layer("RandomFlip"))
        ),
        {"signature": "serving_default"},
    ),
    "Keras 3, a file": (
        lambda: foreign.keras_file(foreign.keras_model()),
        {"kind": "keras"},
    ),
    "Keras 2 with a softmax": (
        foreign.keras2,
        {"outputs": "probabilities", "output": "dense"},
    ),
    "a module": (foreign.module, {"kind": "saved_model"}),
    "a module's signature": (
        lambda: foreign.module(signatures=True),
        {"signature": "predict"},
    ),
    "8-bit values": (
        lambda: foreign.export(
            foreign.keras_model(layer("Rescaling", 1 / 255))
        ),
        {"input_range": [0.0, 255.0]},
    ),
    "values from -1": (
        lambda: foreign.module(lambda x: foreign.logits(0.5 * x + 0.5)),
        {"input_range": [-1.0, 1.0]},
    ),
    "integers": (
        lambda: foreign.module(
            lambda x: foreign.logits(tf.cast(x, tf.float32) / 255),
            dtype=tf.uint8,
        ),
        {"input_range": [0.0, 255.0]},
    ),
    "channels first": (
        lambda: foreign.module(
            lambda x: foreign.logits(tf.transpose(x, [0, 2, 3, 1])), (1, 8, 8)
        ),
        {"layout": "channels_first"},
    ),
    "flat images": (lambda: foreign.module(shape=(64,)), {}),
    "images without channels": (lambda: foreign.module(shape=(8, 8)), {}),
    "images of any shape": (
        lambda: foreign.module(shape=(None, None, None)),
        {"layout": "channels_last"},
    ),
    "double precision": (
        lambda: foreign.module(
            lambda x: foreign.logits(tf.cast(x, tf.float32)), dtype=tf.float64
        ),
        {},
    ),
    "log-probabilities": (
        lambda: foreign.module(lambda x: tf.nn.log_softmax(foreign.logits(x))),
        {"outputs": "log_probabilities"},
    ),
    "logits among features": (
        lambda: foreign.module(
            lambda x: {
                "logits": foreign.logits(x),
                "z": tf.reshape(x, [-1, 64]),
            }
        ),
        {"output": "logits"},
    ),
    "scores among features": (
        lambda: foreign.module(
            lambda x: {"a": foreign.logits(x), "z": tf.reshape(x, [-1, 64])}
        ),
        {"output": "a"},
    ),
}


@pytest.mark.parametrize(("make", "found"), MODELS.values(), ids=MODELS.keys())
def test_a_foreign_model_needs_no_options(make, found):
    model = infer_io(make())
    described = model.describe()
    assert found.items() <= described.items()
    defaults = {"input_range": [0.0, 1.0], "layout": "channels_last"}
    assert (defaults | found).items() <= described.items()
    assert described["num_classes"] == 10
    assert described["image_shape"] == [8, 8, 1]
    assert_is_the_classifier(model)


def test_a_gradient_reaches_the_images_of_the_audit():
    """Through range, transposition and log p: in units of [0, 1]."""
    path = foreign.module(
        lambda x: softmax(tf.transpose(x, [0, 2, 3, 1]) / 255), (1, 8, 8)
    )
    logits_fn = infer_io(path).logits_fn("mean")
    images = tf.constant(foreign.data()[0][:5])
    with tf.GradientTape() as tape:
        tape.watch(images)
        gap = logits_fn(images, SEED)[:, 3] - logits_fn(images, SEED)[:, 4]
    kernel, _ = foreign.linear()
    expected = np.broadcast_to(kernel[:, 3] - kernel[:, 4], [5, 64])
    np.testing.assert_allclose(
        tf.reshape(tape.gradient(gap, images), [5, 64]), expected, atol=1e-3
    )


@pytest.mark.parametrize("count", [5, 32, 70])
def test_a_fixed_batch_size_is_filled_up(count):
    model = infer_io(foreign.module(batch=32))
    assert_is_the_classifier(model, count)
    assert any("32 images at a time" in note for note in model.notes)


def test_a_fixed_batch_has_the_gradients_of_a_free_one():
    fixed, free = (
        infer_io(foreign.module(batch=batch)).logits_fn("mean")
        for batch in (4, None)
    )
    images = tf.constant(foreign.data()[0][:6])

    @tf.function
    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(function(images, SEED) ** 2)
        return tape.gradient(loss, images)

    np.testing.assert_allclose(gradient(fixed), gradient(free), rtol=1e-4)


def test_half_precision_is_cast_and_noted():
    model = infer_io(foreign.module(half))
    assert_is_the_classifier(model, atol=2e-2)
    assert any("float16, cast to float32" in note for note in model.notes)


def test_saturated_probabilities_are_counted():
    """With a margin beyond 17 nats float32 rounds the largest p to 1."""
    path = foreign.module(lambda x: tf.nn.softmax(10 * foreign.logits(x)))
    model = infer_io(path)
    images, _ = foreign.data()
    logits = 10 * foreign.expected(images).astype(np.float64)
    top = np.sort(logits, axis=1)
    share = np.mean(1 - np.exp(log_softmax(logits).max(1)) < 2.0**-25)
    assert 0.1 < share < 1
    assert (top[:, -1] - top[:, -2] > 17).mean() == pytest.approx(
        share, abs=0.02
    )
    (note,) = [n for n in model.notes if "probabilities" in n]
    said = float(note.split("On ")[1].split("%")[0]) / 100
    assert said == pytest.approx(share, abs=0.03)


# One score an image, for two classes: whether the digit is above 4.


def binary(function):
    images, labels = foreign.data()
    kernel, bias = foreign.linear()
    high = tf.constant(kernel[:, 5:].mean(1) - kernel[:, :5].mean(1))[:, None]
    shift = float(bias[5:].mean() - bias[:5].mean())

    def scores(x):
        return tf.matmul(tf.reshape(x, [-1, 64]), 3 * high) + 3 * shift

    path = foreign.module(lambda x: function(scores(x)))
    return path, images, (labels > 4).astype(int), scores(images).numpy()


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (tf.sigmoid, "probabilities"),
        (lambda z: tf.sigmoid(z)[:, 0], "probabilities"),
        (lambda z: z, "logits"),
    ],
    ids=["sigmoid", "sigmoid without an axis", "logit"],
)
def test_one_score_is_two_classes(function, kind):
    path, images, labels, scores = binary(function)
    options = audited_model.Options(input_range=(0.0, 1.0))
    model = audited_model.load(path, options=options).infer_io(images, labels)
    assert model.num_classes == 2
    assert model.io_spec.outputs == kind
    logits = model.logits_fn("mean")(tf.constant(images), SEED).numpy()
    np.testing.assert_allclose(
        logits[:, 1] - logits[:, 0], scores[:, 0], rtol=1e-3, atol=1e-3
    )


# What cannot be told is asked for, by the flag that says it.


def two_scores(images):
    return {"a": foreign.logits(images), "b": -foreign.logits(images)}


UNCLEAR = {
    "two outputs": (
        lambda: foreign.module(two_scores),
        "--config.model.output=",
    ),
    "two functions": (
        lambda: foreign.module(other=two_scores),
        "--config.model.signature",
    ),
    "sigmoids": (
        lambda: foreign.module(lambda x: tf.sigmoid(foreign.logits(x))),
        "--config.model.outputs=",
    ),
    "chance": (
        lambda: foreign.module(lambda x: tf.reshape(x, [-1, 64])[:, 20:30]),
        "--config.model.input_range=0,1",
    ),
    "strings": (
        lambda: foreign.module(
            lambda x: tf.zeros([tf.size(x), 10]), (), dtype=tf.string
        ),
        "float images",
    ),
    "another shape": (
        lambda: foreign.module(lambda x: x[:, 0, :, 0], (5, 10, 3)),
        "dataset.name",
    ),
    "no row an image": (
        lambda: foreign.module(lambda x: foreign.logits(x)[0]),
        "--config.model.output",
    ),
    "fewer classes": (
        lambda: foreign.module(lambda x: foreign.logits(x)[:, :4]),
        "dataset.name",
    ),
}


@pytest.mark.parametrize(("make", "fix"), UNCLEAR.values(), ids=UNCLEAR.keys())
def test_what_is_ambiguous_is_refused_with_the_flag(make, fix):
    error = runs.refused(infer_io, make())
    assert fix in error.fix


def test_options_override_what_is_inferred():
    said = {"output": "b", "input_range": (0, 1)}
    model = infer_io(foreign.module(two_scores), **said)
    assert model.io_spec.output == "b"
    model = infer_io(foreign.module(other=two_scores), signature="predict")
    assert_is_the_classifier(model)
    sigmoids = foreign.module(lambda x: tf.sigmoid(foreign.logits(x)))
    model = infer_io(sigmoids, outputs="probabilities")
    images = tf.constant(foreign.data()[0][:5])
    np.testing.assert_allclose(
        model.logits_fn("mean")(images, SEED),
        np.log(1 / (1 + np.exp(-foreign.expected(images)))),
        rtol=1e-3,
    )
    model = infer_io(foreign.module(), input_range=[0, 255])
    assert model.describe()["input_range"] == [0.0, 255.0]
    any_shape = foreign.module(
        lambda x: foreign.logits(tf.transpose(x, [0, 2, 3, 1])),
        (None, None, None),
    )
    model = infer_io(any_shape, layout="channels_first", input_range=(0, 1))
    assert_is_the_classifier(model)


@pytest.mark.parametrize(
    "options",
    [
        {"outputs": "probability"},
        {"layout": "NCHW"},
        {"input_range": (1, 0)},
        {"input_range": "0,1"},
    ],
    ids=str,
)
def test_an_unknown_option_is_refused(options):
    runs.refused(audited_model.Options, **options)


def test_a_signature_or_output_that_is_not_there_is_refused():
    path = foreign.module(two_scores)
    error = runs.refused(infer_io, path, signature="predicts")
    assert 'Did you mean "predict"?' in error.fix
    error = runs.refused(infer_io, path, output="c")
    assert error.expected == "one of a, b"


# A Python function, and the whole way through an audit.


def config(**changes):
    changes = {
        "dataset.name": "digits",
        "num_examples": 20,
        "batch_size": 20,
        "stages.pgd.num_restarts": 1,
        "stages.pgd.attack.num_steps": 3,
        "diagnostics.set": "none",
        **changes,
    }
    return runs.audit_config(**changes)


def test_a_function_and_a_softmax_are_audited_alike(tmp_path):
    function = audited_model.from_function(foreign.logits, (8, 8, 1), 10)
    summaries = [
        runner.audit(config(), model, str(tmp_path / str(i)), quiet=True)
        for i, model in enumerate([function, foreign.module(softmax)])
    ]
    accuracies = [s["robust_accuracy"] for s in summaries]
    assert accuracies[0] == accuracies[1]
    assert 0 < accuracies[0] < summaries[0]["clean_accuracy"]
    kinds = [s["model"]["kind"] for s in summaries]
    assert kinds == ["function", "saved_model"]
    outputs = [s["model"]["outputs"] for s in summaries]
    assert outputs == ["logits", "probabilities"]


def test_a_function_may_have_a_stochastic_mode():
    def stochastic(images, seed, num_samples):
        return foreign.logits(images) + tf.cast(num_samples, tf.float32)

    model = audited_model.from_function(
        foreign.logits, (8, 8, 1), 10, stochastic=stochastic, num_samples=3
    )
    images = tf.constant(foreign.data()[0][:2])
    found = model.logits_fn("stochastic")(images, SEED)
    np.testing.assert_allclose(
        found, foreign.expected(images) + 3, rtol=1e-4, atol=1e-4
    )
    plain = audited_model.from_function(foreign.logits, (8, 8, 1), 10)
    runs.refused(plain.logits_fn, "stochastic")


def test_a_model_without_io_spec_says_so():
    model = audited_model.load(foreign.module(shape=(None, None, None)))
    error = runs.refused(model.logits_fn, "mean")
    assert "infer_io" in error.fix


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"threat_model.epsilon": 8}, "Did you mean 8/255 = 0.0313725?"),
        (
            {"threat_model.norm": "l2", "threat_model.epsilon": 128},
            "Did you mean 128/255 = 0.501961?",
        ),
    ],
)
def test_a_radius_in_8_bit_units_is_refused(tmp_path, changes, fix):
    function = audited_model.from_function(foreign.logits, (8, 8, 1), 10)
    error = runs.refused(
        runner.audit, config(**changes), function, str(tmp_path / "x")
    )
    assert error.fix == fix
    assert not (tmp_path / "x").exists()
