"""A SavedModel needs the folder alone: no code of ours, no Keras."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from ib_keras import export
from ib_keras import files
from ib_keras.bottlenecks import vib
from ib_keras.classifier import IBClassifier
from ib_keras.errors import UserError
from tests.support import models
from tests.support import runs

SEEDS = ((0, 0), (5, -7))
NUM_IMAGES = 7
COUNTS = (1, 2, 9)  # Of samples; the models themselves have 4.

# Loads a model where there is neither our code nor Keras, asks all endpoints
# for answers and gradients, and writes them to an .npz.
PROGRAM = """
import sys

HIDDEN = {"ib_keras", "keras", "tf_keras", "tensorflow_probability"}

class Hide:  # A finder to whom these modules are not installed.
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hide(finder) for finder in sys.meta_path]
import numpy as np
import tensorflow as tf

for name in HIDDEN:
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(name + " can be imported")

given = np.load(sys.argv[1])
images, seed = given["images"], given["seeds"]
results = {}

def ask(name, function, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        total = tf.reduce_sum(y ** 2)
    results[name] = y.numpy()
    results[name + "/gradient"] = tape.gradient(total, x).numpy()

for kind in ("vib", "narrow", "deterministic"):
    model = tf.saved_model.load(kind)
    serve = model.signatures
    results[kind + "/endpoints"] = np.array(sorted(serve))
    results[kind + "/functions"] = np.array(
        [f for f in ("mean", "stochastic", "encode") if hasattr(model, f)])
    for count in (1, 3, len(images)):
        ask(f"{kind}/mean/{count}", model.mean, images[:count])
    ask(f"{kind}/again", model.mean, images)
    ask(f"{kind}/serving_default",
        lambda x: serve["serving_default"](images=x)["logits"], images)
    ask(f"{kind}/mean_signature",
        lambda x: serve["mean"](images=x)["logits"], images)
    ask(f"{kind}/loc", lambda x: model.encode(x)["loc"], images)
    ask(f"{kind}/scale", lambda x: model.encode(x)["scale"], images)
    results[f"{kind}/encode_signature"] = (
        serve["encode"](images=tf.constant(images))["loc"].numpy())
    ask(f"{kind}/jit", tf.function(model.mean, jit_compile=True), images)

for kind in ("vib", "narrow"):
    model = tf.saved_model.load(kind)
    draw = model.stochastic
    for index in range(len(seed)):
        for name in ("", "/again"):
            ask(f"{kind}/stochastic/{index}{name}",
                lambda x: draw(x, seed[index], 4), images)
    for count in given["counts"]:
        ask(f"{kind}/samples/{count}",
            lambda x: draw(x, seed[0], count), images[:3])
    results[f"{kind}/stochastic_signature"] = model.signatures["stochastic"](
        images=tf.constant(images), seed=tf.constant(seed[0]),
        num_samples=tf.constant(4))["logits"].numpy()

    @tf.function(jit_compile=True)
    def compiled(x, seed):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = draw(x, seed, 2000)
            total = tf.reduce_sum(y ** 2)
        return y, tape.gradient(total, x)

    ask(f"{kind}/many", lambda x: draw(x, seed[1], 2000), images)
    for name, index in (("jit", 1), ("jit_again", 1), ("jit_other", 0)):
        y, gradient = compiled(tf.constant(images), tf.constant(seed[index]))
        results[f"{kind}/stochastic_{name}"] = y.numpy()
        results[f"{kind}/stochastic_{name}/gradient"] = gradient.numpy()
assert not HIDDEN & {name.split(".")[0] for name in sys.modules}
np.savez(sys.argv[2], **results)
"""


# Models by name, and how their stochastic endpoint draws: the logits where they
# are fewer than the latents.
KINDS = {
    "vib": "vib",
    "narrow": models.BOTTLENECKS["vib"] | {"latent_dim": 2},
    "deterministic": "deterministic",
}
SAMPLINGS = {"vib": "logits", "narrow": "latents"}
stochastic_kinds = pytest.mark.parametrize("kind", SAMPLINGS)


@pytest.fixture(scope="module")
def built():
    """Classifiers, untrained but with weights that matter."""
    return {
        kind: models.randomise(models.build(section), scale=0.4)
        for kind, section in KINDS.items()
    }


@pytest.fixture(scope="module")
def images():
    return models.data(NUM_IMAGES)[0]


@pytest.fixture(scope="module")
def answers(built, images, tmp_path_factory):
    """What a process without our code gets from the exported folders."""
    folder = tmp_path_factory.mktemp("elsewhere")
    exported = tmp_path_factory.mktemp("exported")
    for kind, model in built.items():
        path = str(exported / kind)
        export.save(model, path, image_shape=models.IMAGE_SHAPE, metadata={})
        shutil.move(path, folder / kind)  # The folder alone, moved.
    np.savez(
        folder / "given.npz", images=images, seeds=SEEDS_ARRAY, counts=COUNTS
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM, "given.npz", "results.npz"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "results.npz") as results:
        return dict(results)


SEEDS_ARRAY = np.array(SEEDS, np.int32)


def ask(function, x):
    """The answer and the gradient of its squares' sum."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        total = tf.reduce_sum(y**2)
    return y.numpy(), tape.gradient(total, x).numpy()


def assert_same(answers, name, expected, scale=1e-6):
    y, gradient = expected
    np.testing.assert_allclose(answers[name], y, rtol=scale, atol=scale)
    bound = scale * np.abs(gradient).max()
    assert bound > 0
    np.testing.assert_allclose(
        answers[f"{name}/gradient"], gradient, rtol=0, atol=10 * bound
    )


@pytest.mark.parametrize("kind", ["vib", "deterministic"])
def test_mean_mode_is_the_models_for_any_batch_size(
    kind, built, images, answers
):
    for count in (1, 3, NUM_IMAGES):
        expected = ask(lambda x: built[kind](x), images[:count])
        assert_same(answers, f"{kind}/mean/{count}", expected)


@pytest.mark.parametrize("kind", ["vib", "deterministic"])
def test_mean_mode_has_no_randomness_at_all(kind, answers):
    for part in ("", "/gradient"):
        np.testing.assert_array_equal(
            answers[f"{kind}/mean/{NUM_IMAGES}{part}"],
            answers[f"{kind}/again{part}"],
        )


@pytest.mark.parametrize("kind", ["vib", "deterministic"])
@pytest.mark.parametrize("name", ["serving_default", "mean_signature", "jit"])
def test_every_way_to_mean_mode_gives_its_logits_and_gradients(
    kind, name, answers
):
    mean = f"{kind}/mean/{NUM_IMAGES}"
    assert_same(
        answers,
        f"{kind}/{name}",
        (answers[mean], answers[f"{mean}/gradient"]),
    )


@pytest.mark.parametrize("kind", ["vib", "deterministic"])
def test_encode_gives_the_posterior_of_the_formulas(
    kind, built, images, answers
):
    loc, scale = models.numpy_posterior(built[kind], images)
    np.testing.assert_allclose(answers[f"{kind}/loc"], loc, atol=1e-5)
    np.testing.assert_allclose(answers[f"{kind}/scale"], scale, atol=1e-5)
    np.testing.assert_array_equal(
        answers[f"{kind}/encode_signature"], answers[f"{kind}/loc"]
    )
    model = built[kind]
    expected = ask(lambda x: model.posterior(x).mean(), images)
    assert_same(answers, f"{kind}/loc", expected)
    if kind == "vib":
        expected = ask(lambda x: model.posterior(x).stddev(), images)
        assert_same(answers, f"{kind}/scale", expected)


def drawn(model, kind, seed, num_samples):
    """The model's own stochastic mode, as a function of images."""
    return lambda x: model(
        x,
        mode="stochastic",
        noise_seed=seed,
        num_samples=num_samples,
        sampling=SAMPLINGS[kind],
    )


@stochastic_kinds
@pytest.mark.parametrize("index", range(len(SEEDS)))
def test_stochastic_mode_is_the_models_for_a_seed(
    kind, index, built, images, answers
):
    expected = ask(drawn(built[kind], kind, SEEDS_ARRAY[index], 4), images)
    name = f"{kind}/stochastic/{index}"
    assert_same(answers, name, expected)
    np.testing.assert_array_equal(answers[name], answers[f"{name}/again"])


@stochastic_kinds
def test_another_seed_is_another_draw(kind, answers):
    first, second = (answers[f"{kind}/stochastic/{i}"] for i in (0, 1))
    assert (np.abs(first - second).max(axis=1) > 1e-3).all()
    mean = models.log_softmax(answers[f"{kind}/mean/{NUM_IMAGES}"])
    assert (np.abs(first - mean).max(axis=1) > 1e-3).all()


@stochastic_kinds
def test_the_number_of_samples_is_free(kind, built, images, answers):
    for count in COUNTS:
        expected = ask(
            drawn(built[kind], kind, SEEDS_ARRAY[0], count), images[:3]
        )
        assert_same(answers, f"{kind}/samples/{count}", expected)
        # Of the mean of probabilities, so that they are one in all.
        total = np.exp(np.float64(answers[f"{kind}/samples/{count}"])).sum(-1)
        np.testing.assert_allclose(total, 1.0, atol=1e-5)
    few, many = (answers[f"{kind}/samples/{count}"] for count in (1, 9))
    assert np.abs(few - many).max() > 1e-3


@stochastic_kinds
def test_many_samples_are_the_mean_probabilities_of_the_formulas(
    kind, built, images, answers
):
    """Against latents that NumPy draws from the posterior of the formulas."""
    model = built[kind]
    loc, scale = models.numpy_posterior(model, images)
    noise = np.random.default_rng(0).normal(size=(20_000, *loc.shape))
    logits = models.dense(model.decoder, loc + scale * noise)
    expected = np.exp(models.log_softmax(logits)).mean(axis=0)
    # Four standard errors of 2,000 draws of a probability.
    received = np.exp(answers[f"{kind}/many"])
    np.testing.assert_allclose(received, expected, atol=4 * 0.5 / 2000**0.5)


@stochastic_kinds
def test_stochastic_mode_compiles_with_gradients(kind, answers):
    """XLA turns the bits of a seed into other normal numbers; so many draws."""
    for part, tolerance in (("", 0.05), ("/gradient", 0.2)):
        compiled = answers[f"{kind}/stochastic_jit{part}"]
        expected = answers[f"{kind}/many{part}"]
        np.testing.assert_allclose(
            compiled, expected, atol=tolerance * np.abs(expected).max()
        )
        again = answers[f"{kind}/stochastic_jit_again{part}"]
        np.testing.assert_array_equal(compiled, again)
        other = answers[f"{kind}/stochastic_jit_other{part}"]
        assert np.abs(compiled - other).max() > 1e-5


@stochastic_kinds
def test_the_signature_of_stochastic_mode_gives_its_logits(kind, answers):
    np.testing.assert_array_equal(
        answers[f"{kind}/stochastic_signature"],
        answers[f"{kind}/stochastic/0"],
    )


def test_a_deterministic_model_has_no_stochastic_endpoint(answers):
    assert list(answers["deterministic/endpoints"]) == [
        "encode",
        "mean",
        "serving_default",
    ]
    assert list(answers["deterministic/functions"]) == ["mean", "encode"]
    assert list(answers["vib/endpoints"]) == [
        "encode",
        "mean",
        "serving_default",
        "stochastic",
    ]


def operations(path) -> set[str]:
    """Every kind of operation in a SavedModel, in functions too."""
    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((pathlib.Path(path) / "saved_model.pb").read_bytes())
    found = set()
    for graph in (meta.graph_def for meta in proto.meta_graphs):
        found |= {node.op for node in graph.node}
        for function in graph.library.function:
            found |= {node.op for node in function.node_def}
    return found


def test_nothing_in_the_graph_draws_but_from_a_seed():
    found = operations(runs.digits_model("vib"))
    drawing = {op for op in found if re.search("(?i)random|multinomial", op)}
    assert drawing and all(op.startswith("Stateless") for op in drawing)


def test_every_layer_is_saved_as_it_infers(tmp_path):
    """Neither batch statistics nor dropout, and nothing is updated."""
    encoder = keras.Sequential(
        [
            keras.Input(models.IMAGE_SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
        ]
    )
    model = IBClassifier(encoder, vib.VIB(4, beta=0.1), 3)
    model.build((None, *models.IMAGE_SHAPE))
    models.randomise(model)
    statistics = encoder.layers[2]
    statistics.moving_variance.assign(tf.fill([8], 0.7))
    path = str(tmp_path / "model")
    export.save(model, path, image_shape=models.IMAGE_SHAPE, metadata={})
    loaded = tf.saved_model.load(path)
    images = models.data(6)[0]
    seed = tf.constant([1, 2])
    together = loaded.mean(images).numpy()
    before = [v.numpy() for v in loaded._model_variables]
    alone = np.concatenate([loaded.mean(images[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    draws = [loaded.stochastic(images, seed, 2).numpy() for _ in range(2)]
    np.testing.assert_array_equal(*draws)
    loaded.encode(images)
    for value, variable in zip(before, loaded._model_variables, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())


def test_the_metadata_say_all_that_an_audit_needs():
    path = runs.digits_model("vib")
    metadata = export.read_metadata(path)
    asset = pathlib.Path(path) / "assets" / "ib_keras.json"
    assert metadata == json.loads(asset.read_text())
    result = files.read_json(
        os.path.join(runs.digits_run("vib"), "result.json")
    )
    config = runs.train_config("vib")
    versions = metadata.pop("versions")
    assert metadata == {
        "format_version": 1,
        "config": config,
        "dataset": {
            "name": "digits",
            "split": "test",
            "description": "scikit-learn digits",
        },
        "input_shape": [8, 8, 1],
        "input_range": [0.0, 1.0],
        "num_classes": 10,
        "class_names": list("0123456789"),
        "is_stochastic": True,
        "precision": "float32",
        "num_samples": 4,
        "latent_dim": 8,
        "stochastic_sampling": "latents",
        "seed": config["seed"],
        "step": 5 * (1438 // 64),
        "clean_accuracy": result["accuracy"],
        "clean_accuracy_stochastic": result["accuracy_stochastic"],
        "git_commit": runs.COMMIT,
    }
    assert versions["tensorflow"] == tf.__version__
    assert versions["keras"] == keras.__version__
    assert versions["numpy"] == np.__version__
    assert set(versions) == {
        "ib_keras",
        "python",
        "keras",
        "tensorflow",
        "tensorflow-probability",
        "numpy",
    }


def test_a_deterministic_model_says_that_it_has_no_samples():
    metadata = export.read_metadata(runs.digits_model("deterministic"))
    assert metadata["is_stochastic"] is False
    assert metadata["num_samples"] is None
    assert metadata["stochastic_sampling"] is None
    assert metadata["clean_accuracy_stochastic"] is None


def test_the_clean_accuracy_is_that_of_the_saved_model():
    path = runs.digits_model("vib")
    images, labels = digits("test")
    predictions = mean_logits(path, images).argmax(-1)
    claimed = export.read_metadata(path)["clean_accuracy"]
    assert (predictions == labels).mean() == pytest.approx(claimed, abs=1e-9)
    assert claimed > 0.85


def mean_logits(path, images):
    loaded = tf.saved_model.load(str(path))
    return loaded.mean(images).numpy()


def digits(split):
    from ib_keras import plugins

    images, labels = plugins.build("data", {"name": "digits"}).load(split)
    return images.astype(np.float32) / 255, labels


@pytest.fixture
def model():
    return models.randomise(models.build("deterministic"))


def save(model, path, step):
    export.save(
        model,
        str(path),
        image_shape=models.IMAGE_SHAPE,
        metadata={"step": step},
    )


def test_a_model_that_is_there_is_replaced_as_a_whole(tmp_path, model, images):
    path = tmp_path / "model"
    save(model, path, 1)
    (path / "assets" / "old").write_text("old")
    first = mean_logits(path, images)
    models.randomise(model, seed=1)
    save(model, path, 2)
    second = mean_logits(path, images)
    assert np.abs(first - second).max() > 1e-3
    assert export.read_metadata(str(path))["step"] == 2
    assert not (path / "assets" / "old").exists()
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("when", ["half-way", "disk full", "at the rename"])
def test_a_failed_export_leaves_the_old_model_alone(
    when, tmp_path, model, monkeypatch
):
    path = tmp_path / "model"
    save(model, path, 1)
    before = runs.snapshot(tmp_path)

    def half(module, folder, **unused):
        pathlib.Path(folder, "saved_model.pb").write_bytes(b"half")
        if when == "disk full":
            raise tf.errors.ResourceExhaustedError(None, None, "No space left")
        raise RuntimeError("planted")

    def no_rename(source, target, overwrite=False):
        raise tf.errors.PermissionDeniedError(None, None, "read-only")

    if when == "at the rename":
        monkeypatch.setattr(files.gfile, "rename", no_rename)
    else:
        monkeypatch.setattr(tf.saved_model, "save", half)
    expected = RuntimeError if when == "half-way" else UserError
    with pytest.raises(
        expected, match="planted|Cannot write the (file|folder)"
    ):
        save(model, path, 2)
    monkeypatch.undo()
    assert runs.snapshot(tmp_path) == before
    assert export.read_metadata(str(path))["step"] == 1


def asset_of(folder, data: bytes) -> str:
    path = pathlib.Path(folder) / "assets" / "ib_keras.json"
    path.parent.mkdir()
    path.write_bytes(data)
    return str(folder)


@pytest.mark.parametrize("version", [2, 99, None, "1"])
def test_metadata_of_another_format_are_refused(tmp_path, version):
    data = json.dumps({"format_version": version}).encode()
    error = runs.refused(export.read_metadata, asset_of(tmp_path, data))
    assert f"format version {version} in " in error.received
    assert error.expected == "1 or earlier"
    assert error.exit_status == 2


@pytest.mark.parametrize("data", [b"", b'{"format_ver', b"\xff\xfe", b"[1]"])
def test_damaged_metadata_are_refused(tmp_path, data):
    error = runs.refused(export.read_metadata, asset_of(tmp_path, data))
    assert "ib_keras.json" in error.received


def test_a_folder_of_other_code_has_no_metadata(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "model"))
    assert export.read_metadata(str(tmp_path / "model")) is None
