"""A SavedModel folder becomes functions, or one clear line why it does not."""

import gc
import hashlib
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import seeds
from ib_keras.audit import audited_model
from ib_keras.data import digits
from ib_keras.data import source
from tests.support import runs


@pytest.fixture(scope="module")
def images():
    return source.to_float(digits.build().load("test[:8]")[0])


@pytest.fixture(scope="module")
def model():
    return audited_model.load(runs.digits_model("vib"))


@pytest.fixture
def copy(tmp_path):
    """A copy of a good model, to be damaged."""
    path = tmp_path / "model"
    shutil.copytree(runs.digits_model("vib"), path)
    return path


def test_a_loaded_model_knows_its_shape_and_its_metadata(model):
    path = pathlib.Path(runs.digits_model("vib"))
    assert model.path == str(path)
    assert model.image_shape == (8, 8, 1)
    assert model.num_classes == 10
    asset = json.loads((path / "assets" / "ib_keras.json").read_text())
    assert model.metadata == asset


def sha256_by_hand(path):
    total = hashlib.sha256()
    found = [p for p in pathlib.Path(path).rglob("*") if p.is_file()]
    for name in sorted(p.relative_to(path).as_posix() for p in found):
        digest = hashlib.sha256((path / name).read_bytes()).hexdigest()
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()


def test_the_hash_is_of_the_names_and_contents_of_all_files(model, copy):
    assert sha256_by_hand(copy) == model.sha256
    assert audited_model.hash_folder(str(copy)) == model.sha256
    assert audited_model.load(f"{copy}/").sha256 == model.sha256


def change_a_bit(path):
    file = path / "variables" / "variables.data-00000-of-00001"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def rename_a_file(path):
    asset = path / "assets" / "ib_keras.json"
    asset.rename(asset.with_name("renamed.json"))


def add_an_empty_file(path):
    (path / "assets" / "more").write_bytes(b"")


@pytest.mark.parametrize(
    "change", [change_a_bit, rename_a_file, add_an_empty_file]
)
def test_any_change_of_the_folder_changes_the_hash(model, copy, change):
    change(copy)
    assert audited_model.hash_folder(str(copy)) != model.sha256


def test_mean_mode_takes_a_seed_and_does_not_use_it(model, images):
    logits_fn = model.logits_fn("mean")
    first, second = (logits_fn(images, seeds.from_int(i)) for i in (0, 1))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, model.loaded.mean(images))


def test_stochastic_mode_draws_by_the_seed(model, images):
    """With the model's own number of samples, 4, or with another."""
    own, four, nine = (
        model.logits_fn("stochastic", count) for count in (None, 4, 9)
    )
    seed = seeds.from_int(5)
    np.testing.assert_array_equal(own(images, seed), four(images, seed))
    np.testing.assert_array_equal(own(images, seed), own(images, seed))
    for other in (nine(images, seed), own(images, seeds.from_int(6))):
        assert np.abs(own(images, seed) - other).max() > 1e-4
    expected = model.loaded.stochastic(images, seed, tf.constant(4))
    np.testing.assert_array_equal(own(images, seed), expected)


def test_a_logits_fn_outlives_the_model_it_came_from(images):
    """TensorFlow frees the variables of a model without references."""
    logits_fn = audited_model.load(runs.digits_model("vib")).logits_fn("mean")
    gc.collect()
    assert logits_fn(images, seeds.from_int(0)).shape == (8, 10)


def test_an_unknown_mode_is_refused(model):
    error = runs.refused(model.logits_fn, "men")
    assert 'Did you mean "mean"?' in error.fix


def test_a_deterministic_model_has_mean_mode_alone():
    model = audited_model.load(runs.digits_model("deterministic"))
    error = runs.refused(model.logits_fn, "stochastic")
    assert error.received.endswith("with mean")
    assert error.expected == 'an endpoint "stochastic"'
    assert "mean mode alone" in error.fix


def test_a_model_without_functions_is_refused(tmp_path):
    path = runs.foreign_model(tmp_path / "model")
    error = runs.refused(audited_model.load, path)
    assert error.what == "The SavedModel has no function to call"
    assert error.received == path


def cut(name, share):
    def damage(path):
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[: int(share * len(data))])

    return damage


def remove(name):
    return lambda path: os.remove(path / name)


def write(name, data):
    return lambda path: (path / name).write_bytes(data)


GRAPH = "saved_model.pb"
INDEX = "variables/variables.index"
WEIGHTS = "variables/variables.data-00000-of-00001"
ASSET = "assets/ib_keras.json"

DAMAGES = {
    "half a graph": cut(GRAPH, 0.5),
    "almost a graph": cut(GRAPH, 0.999),
    "an empty graph": cut(GRAPH, 0),
    "a graph of noise": write(GRAPH, bytes(range(256)) * 40),
    "no graph": remove(GRAPH),
    "half of the weights": cut(WEIGHTS, 0.5),
    "no byte of the weights": cut(WEIGHTS, 0),
    "a flipped bit in the weights": change_a_bit,
    "no weights": remove(WEIGHTS),
    "half an index": cut(INDEX, 0.5),
    "no index": remove(INDEX),
    "half of the metadata": cut(ASSET, 0.5),
    "no metadata": remove(ASSET),
    "metadata of a newer format": write(ASSET, b'{"format_version": 2}'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_model_is_one_clear_error(copy, damage):
    damage(copy)
    before = runs.snapshot(copy)
    error = runs.refused(audited_model.load, str(copy))
    assert str(copy) in error.received
    assert error.exit_status == 2
    assert runs.snapshot(copy) == before


def test_the_damages_are_what_keeps_the_model_from_loading(copy):
    assert audited_model.load(str(copy)).num_classes == 10


def test_a_path_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "not_there", tmp_path / "file"):
        error = runs.refused(audited_model.load, str(path))
        assert error.received == str(path)
        assert "Did you mean" not in error.fix


def test_the_folder_above_the_model_is_told_where_it_is():
    error = runs.refused(audited_model.load, runs.digits_run("vib"))
    assert f"Did you mean {runs.digits_model('vib')}?" in error.fix


# What is no function that can be attacked.


def loaded(tmp_path, function, **metadata):
    metadata = runs.random_model_metadata(**metadata)
    path = runs.foreign_model(tmp_path / "model", metadata, mean=function)
    return audited_model.load(path)


def check(model, value=0.3, **more):
    audited_model.check_gradients(
        model.logits_fn("mean"),
        np.full([1, *model.image_shape], value, np.float32),
        model.num_classes,
        **more,
    )


ROUGH = {
    "round": lambda x: runs.bright_or_dark(tf.round(x * 4) / 4),
    "stop_gradient": lambda x: runs.bright_or_dark(tf.stop_gradient(x)),
    "integers": lambda x: runs.bright_or_dark(
        tf.cast(tf.cast(x * 255, tf.uint8), tf.float32) / 255
    ),
    "a constant": lambda x: tf.zeros([tf.shape(x)[0], 2]),
}


@pytest.mark.parametrize("function", ROUGH.values(), ids=ROUGH.keys())
def test_a_model_without_gradients_is_refused(tmp_path, function):
    model = loaded(tmp_path, function)
    error = runs.refused(check, model)
    assert error.what == "The model has no gradient with respect to images"
    check(model, is_needed=False)


def test_a_smooth_model_is_accepted(tmp_path):
    check(loaded(tmp_path, runs.bright_or_dark))


def fail(x):
    tf.debugging.assert_less(x, 0.5, "planted")
    return runs.bright_or_dark(x)


def test_a_model_that_fails_on_images_is_refused(tmp_path):
    check(loaded(tmp_path, fail))  # The clean images are what counts.
    error = runs.refused(check, loaded(tmp_path, fail), 0.7)
    assert "planted" in error.received
    assert error.expected == "logits of shape (2, 2), float32"
    images = np.full([4, 4, 4, 1], 0.7, np.float32)
    error = runs.refused(loaded(tmp_path, fail).infer_io, images, np.zeros(4))
    assert "planted" in error.received


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_never_answers_finitely_is_refused(tmp_path, value):
    model = loaded(tmp_path, lambda x: runs.bright_or_dark(x) * value)
    images = np.full([5, 4, 4, 1], 0.7, np.float32)
    error = runs.refused(
        audited_model.check_finite, model.logits_fn("mean"), images, 2
    )
    assert "not finite on any clean image" in error.what


def test_one_finite_answer_is_enough_to_be_audited():
    images = np.zeros([5, 4, 4, 1], np.float32)
    images[4] = 1.0

    def logits_fn(x, seed):
        is_bright = tf.reduce_mean(x, [1, 2, 3])[:, None] > 0.5
        return tf.where(is_bright, runs.bright_or_dark(x), np.nan)

    audited_model.check_finite(logits_fn, images, 2)
    runs.refused(audited_model.check_finite, logits_fn, images[:4], 2)


# Metadata against the graph: the graph wins, and a note says so.


def inferred(tmp_path, function=runs.bright_or_dark, **metadata):
    model = loaded(tmp_path, function, **metadata)
    images = np.random.default_rng(0).random((20, 4, 4, 1), np.float32)
    labels = np.asarray(runs.bright_or_dark(images)).argmax(1)
    return model.infer_io(images, labels), images


def test_metadata_that_agree_with_the_graph_need_no_note(tmp_path):
    model, images = inferred(tmp_path)
    assert model.notes == ()
    logits = model.logits_fn("mean")(tf.constant(images), seeds.from_int(0))
    np.testing.assert_array_equal(logits, runs.bright_or_dark(images))


def test_metadata_of_another_shape_than_the_graphs(tmp_path):
    path = tmp_path / "model"
    runs.foreign_model(path, mean=runs.bright_or_dark)
    asset = path / ASSET
    metadata = json.loads(asset.read_text()) | {"input_shape": [5, 5, 1]}
    asset.write_text(json.dumps(metadata))
    model = audited_model.load(str(path))
    assert model.image_shape == (4, 4, 1)
    model = model.infer_io(np.zeros([3, 4, 4, 1]), np.zeros(3, int))
    assert model.about["input_shape"] == (4, 4, 1)
    assert "(5, 5, 1)" in model.notes[0]
    assert "the graph is used" in model.notes[0]


def test_metadata_of_another_number_of_classes(tmp_path):
    model, _ = inferred(
        tmp_path, lambda x: tf.concat([runs.bright_or_dark(x)] * 2, axis=1)
    )
    assert model.num_classes == 4
    assert model.notes == (
        "The metadata say 2 classes, the graph gives 4: the graph is used.",
    )


def test_metadata_without_a_shape_leave_it_to_the_graph(copy):
    write(ASSET, b'{"format_version": 1}')(copy)
    model = audited_model.load(str(copy))
    assert model.image_shape == (8, 8, 1)
    assert model.num_classes is None


def test_a_path_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.h5").write_bytes(b"x")
    error = runs.refused(audited_model.load, str(tmp_path / "model.h5"))
    assert error.exit_status == 3
