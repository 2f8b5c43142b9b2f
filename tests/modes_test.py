"""The stochastic mode of Keras models with bottleneck layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ib_keras import export
from ib_keras import modes
from ib_keras import seeds
from ib_keras.audit import audited_model
from ib_keras.audit import function
from ib_keras.bottlenecks.layer import VIBLayer
from ib_keras.errors import UserError
from tests.support import marks
from tests.support import models

SEED = seeds.from_int(5)
DIM = 4
IMAGES = models.data(6)[0]


def sequential(last="linear", units=3):
    return keras.Sequential(
        [
            keras.Input(models.IMAGE_SHAPE),
            keras.layers.Flatten(),
            VIBLayer(DIM, scale_shift=0.0),
            keras.layers.Dense(units, activation=last),
        ]
    )


def nested():
    inner = keras.Sequential([VIBLayer(DIM, scale_shift=0.0)])
    return keras.Sequential(
        [
            keras.Input(models.IMAGE_SHAPE),
            keras.layers.Flatten(),
            inner,
            keras.layers.Dense(3),
        ]
    )


def with_a_way_round():
    """What follows the layer sees the features, too."""
    images = keras.Input(models.IMAGE_SHAPE)
    features = keras.layers.Flatten()(images)
    z = VIBLayer(DIM, scale_shift=0.0)(features)
    both = keras.layers.Concatenate()([z, features])
    return keras.Model(images, keras.layers.Dense(3)(both))


def two_in_turn():
    layers = [VIBLayer(DIM, scale_shift=0.0) for _ in range(2)]
    return keras.Sequential(
        [
            keras.Input(models.IMAGE_SHAPE),
            keras.layers.Flatten(),
            *layers,
            keras.layers.Dense(3),
        ]
    )


class Subclass(keras.Model):
    """No graph of Keras to read."""

    def __init__(self):
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.z = VIBLayer(DIM, scale_shift=0.0)
        self.head = keras.layers.Dense(3)

    def call(self, images):
        return self.head(self.z(self.flatten(images)))


def built(make):
    model = make()
    model(IMAGES)
    for part in modes.bottlenecks(model):
        models.randomise(part.bottleneck)
    return model


def by_hand(model, num_samples, activation=tf.nn.softmax):
    """Mean probabilities of a `sequential` model, in NumPy's way."""
    layer, head = model.layers[-2:]
    posterior = layer.posterior(IMAGES.reshape(len(IMAGES), -1))
    noise = seeds.noise(SEED, [num_samples, len(IMAGES), DIM])
    z = posterior.mean() + posterior.stddev() * noise
    logits = models.dense(head, np.float64(z))
    return np.mean(activation(logits), axis=0)


def test_logits_are_of_the_mean_probability():
    model = built(sequential)
    found = modes.stochastic(model)(IMAGES, SEED, tf.constant(7))
    np.testing.assert_allclose(np.exp(found), by_hand(model, 7), rtol=1e-4)


def test_probabilities_are_averaged_and_stay_probabilities():
    model = built(lambda: sequential("softmax"))
    found = modes.stochastic(model)(IMAGES, SEED, 7)
    np.testing.assert_allclose(found, by_hand(model, 7), rtol=1e-4)


@pytest.mark.parametrize("last", ["linear", "sigmoid"])
def test_one_score_stays_one_score(last):
    model = built(lambda: sequential(last, 1))
    found = modes.stochastic(model)(IMAGES, SEED, 7)
    assert found.shape == (len(IMAGES), 1)
    if last == "linear":
        found = tf.sigmoid(found)
    expected = by_hand(model, 7, tf.sigmoid)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "runs_once"),
    [
        (sequential, True),
        (nested, True),
        (Subclass, True),
        (with_a_way_round, False),
        (two_in_turn, False),
    ],
)
def test_what_comes_before_runs_once_where_that_is_right(make, runs_once):
    model = built(make)
    rows, _ = modes._Stochastic(model)._try_shape(models.IMAGE_SHAPE)
    assert (rows.__name__ == "_draws") == runs_once


@pytest.mark.parametrize(
    "make", [nested, Subclass, with_a_way_round, two_in_turn]
)
def test_any_model_gives_the_mean_over_single_draws(make):
    """Many draws at once against many calls of the model that draws itself."""
    model = built(make)
    many = 1000
    found = np.exp(modes.stochastic(model)(IMAGES, SEED, many))
    for part in modes.bottlenecks(model):
        part.stochastic = True
    call = tf.function(model)
    singles = np.stack([tf.nn.softmax(call(IMAGES)) for _ in range(many)])
    error = singles.std(0) * np.sqrt(2 / many)
    assert (np.abs(found - singles.mean(0)) < 5 * error + 1e-6).all()


def test_the_seed_decides_and_the_mean_mode_knows_none():
    stochastic = modes.stochastic(built(sequential))
    first, again, other = (
        stochastic(IMAGES, seeds.from_int(seed), 3).numpy()
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("says", [True, False])
def test_the_modes_do_not_depend_on_what_a_layer_is_told(says, tmp_path):
    model = sequential()
    mean = model(IMAGES)
    drawn = modes.stochastic(model)(IMAGES, SEED, 5)
    model.layers[1].stochastic = says
    path, file = str(tmp_path / "model"), str(tmp_path / "model.keras")
    export.save(model, path)
    model.save(file)
    loaded = tf.saved_model.load(path)
    np.testing.assert_allclose(loaded.mean(IMAGES), mean, rtol=1e-5)
    found = loaded.stochastic(IMAGES, SEED, 5)
    np.testing.assert_allclose(found, drawn, rtol=1e-5)
    read = audited_model.load(file).caller("mean")(tf.constant(IMAGES), SEED)
    np.testing.assert_allclose(read, mean, rtol=1e-5)
    python = function._Inference(model)(IMAGES)
    np.testing.assert_allclose(python, mean, rtol=1e-5)


def test_models_without_noise_have_one_mode():
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    assert not modes.is_stochastic(model)
    assert not modes.is_stochastic(models.build("deterministic"))
    assert not modes.is_stochastic(lambda images: images)
    assert modes.is_stochastic(models.build("vib"))


# --- In files ----------------------------------------------------------------


MODELS = {
    "logits": sequential,
    "probabilities": lambda: sequential("softmax"),
    "one score": lambda: sequential("sigmoid", 1),
    "a way round": with_a_way_round,
    "IBClassifier": lambda: models.build("vib"),
}


@pytest.mark.filterwarnings("ignore:The model returns probabilities")
@pytest.mark.parametrize(
    "name", marks.others_slow(MODELS, ("a way round", "IBClassifier"))
)
def test_an_export_and_a_file_answer_alike_in_both_modes(name, tmp_path):
    model = built(MODELS[name])
    images = np.random.default_rng(1).random((64, *models.IMAGE_SHAPE))
    images = images.astype(np.float32)
    labels = np.arange(64, dtype=np.int32) % 2
    model.save(tmp_path / "model.keras")
    export.save(model, str(tmp_path / "model"), num_samples=5)
    given = audited_model.Options(
        input_range=(0.0, 1.0), layout="channels_last"
    )
    found = {
        (kind, mode): audited_model.load(str(tmp_path / kind), options=given)
        .infer_io(images, labels, mode)
        .logits_fn(mode, 5)(tf.constant(images), SEED)
        for kind in ("model", "model.keras")
        for mode in ("mean", "stochastic")
    }
    for mode in ("mean", "stochastic"):
        pair = [
            tf.nn.log_softmax(found[kind, mode])
            for kind in ("model", "model.keras")
        ]
        np.testing.assert_allclose(*pair, rtol=1e-4, atol=1e-5)
    gap = tf.nn.softmax(found["model", "mean"]) - tf.nn.softmax(
        found["model", "stochastic"]
    )
    assert np.abs(gap).max() > 1e-3


def test_an_export_says_what_it_is(tmp_path):
    path = str(tmp_path / "model")
    model = built(sequential)
    export.save(model, path)
    found = export.read_metadata(path)
    assert found["is_stochastic"] and found["num_samples"] == 12
    assert found["input_shape"] == list(models.IMAGE_SHAPE)
    assert found["num_classes"] == 3 and found["latent_dim"] == DIM
    assert found["input_range"] is None
    loaded = tf.saved_model.load(path)
    assert {"mean", "stochastic", "encode", "serving_default"} == set(
        loaded.signatures
    )
    posterior = model.layers[-2].posterior(IMAGES.reshape(len(IMAGES), -1))
    encoded = loaded.encode(IMAGES)
    np.testing.assert_allclose(encoded["loc"], posterior.mean(), rtol=1e-5)
    np.testing.assert_allclose(encoded["scale"], posterior.stddev(), rtol=1e-5)


def test_the_range_of_an_exported_models_input_is_found(tmp_path):
    """A model that takes 0..255 is not taken for one of [0, 1]."""
    from tests.support import foreign

    images, labels = foreign.data()
    model = keras.Sequential(
        [
            keras.Input(images.shape[1:]),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            VIBLayer(16),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    model.fit(255 * images, labels, epochs=10, verbose=0)
    for said in (None, (0, 255)):
        path = str(tmp_path / f"model_{said}")
        export.save(model, path, input_range=said)
        audited = audited_model.load(path).infer_io(images, labels)
        assert audited.preprocessing.input_range == (0.0, 255.0)


def test_a_low_precision_model_has_endpoints_in_float32(tmp_path):
    with models.dtype_policy("mixed_bfloat16"):
        model = built(sequential)
    path = str(tmp_path / "model")
    export.save(model, path)
    loaded = tf.saved_model.load(path)
    layer, head = model.layers[-2:]
    flat = IMAGES.reshape(len(IMAGES), -1)
    mean = models.dense(head, layer.posterior(flat).mean().numpy())
    np.testing.assert_allclose(loaded.mean_float32(IMAGES), mean, rtol=1e-4)
    low = loaded.mean(IMAGES).numpy()
    assert 1e-5 < np.abs(low - mean).max() < 0.05 * np.abs(mean).max()
    assert hasattr(loaded, "stochastic_float32")


def test_probabilities_are_exported_with_a_warning(tmp_path):
    model = built(lambda: sequential("softmax"))
    with pytest.warns(UserWarning, match="Give a model that returns logits"):
        export.save(model, str(tmp_path / "model"))


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something else"):
        export.save(built(sequential), str(tmp_path))
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_model_that_is_not_built_is_asked_for_its_images(tmp_path):
    model = keras.Sequential([keras.layers.Flatten(), VIBLayer(3)])
    with pytest.raises(UserError, match="Call the model on a batch"):
        export.save(model, str(tmp_path / "model"))


def plain(last, units):
    return keras.Sequential(
        [
            keras.Input(models.IMAGE_SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation=last),
        ]
    )


@pytest.mark.parametrize("make", [sequential, plain])
def test_one_logit_between_0_and_1_is_no_probability(make, tmp_path):
    """Of noise in [0, 1] it may happen to be, and of images it is not."""
    model = make("linear", 1)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel * 1e-4, bias + 0.5])
    path = export.save(model, str(tmp_path / "model"))
    loaded = tf.saved_model.load(path)
    logits = loaded.mean(IMAGES)
    np.testing.assert_allclose(
        logits[:, 1] - logits[:, 0], model(IMAGES)[:, 0], rtol=1e-5
    )


def test_draws_of_one_small_logit_are_averaged_as_logits():
    model = sequential("linear", 1)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel * 1e-2, bias + 0.5])
    draw = modes.stochastic(model)
    found = tf.sigmoid(draw(IMAGES, SEED, 7))
    draws = [
        tf.sigmoid(row)
        for row in tf.split(modes._Stochastic(model)._draws(IMAGES, SEED, 7), 7)
    ]
    np.testing.assert_allclose(found, tf.reduce_mean(draws, 0), rtol=1e-6)
