"""The bottleneck as a layer: against TFP, against IBClassifier, and in fit."""

import contextlib
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from ib_keras import seeds
from ib_keras.bottlenecks import layer as layers
from ib_keras.bottlenecks.layer import CEBLayer
from ib_keras.bottlenecks.layer import VIBLayer
from ib_keras.errors import UserError
from tests.support import models

tfd = tfp.distributions

DIM = 5
FEATURES = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
LABELS = np.arange(9, dtype=np.int32) % 3
SEED = seeds.from_int(7)


def vib(**changes):
    arguments = {"beta": 0.3, "scale_shift": 0.0, "seed": 3, **changes}
    return randomised(VIBLayer(DIM, **arguments))


def ceb(**changes):
    return randomised(CEBLayer(DIM, 3, **{"rho": 0.7, "seed": 3, **changes}))


def randomised(layer):
    layer.build(FEATURES.shape)
    models.randomise(layer.bottleneck)
    return layer


def classifier(layer=None, seed=0, **compiled):
    """A Sequential model of few weights, as an IBClassifier's parts are."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input(models.IMAGE_SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="relu"),
            layer or VIBLayer(DIM, beta=0.3, scale_shift=0.0),
            keras.layers.Dense(models.NUM_CLASSES),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, **compiled)
    return model


def noise(layer, num_samples=1):
    """What `drawing` by SEED adds, in units of the deviation."""
    shape = [num_samples, len(FEATURES), DIM]
    return seeds.noise(SEED, shape).numpy()


# --- What a call returns and adds --------------------------------------------


@pytest.mark.parametrize("make", [vib, ceb])
def test_the_mean_comes_out_unless_it_trains(make):
    layer = make()
    mean = layer.posterior(FEATURES).mean()
    for training in (None, False):
        np.testing.assert_array_equal(layer(FEATURES, training=training), mean)
    given = {} if make is vib else {"labels": LABELS}
    first, second = (layer(FEATURES, training=True, **given) for _ in "12")
    for other in (mean, second):
        assert np.abs(first - other).min() > 0


def test_samples_have_the_mean_and_deviation_of_the_posterior():
    layer = vib()
    rows = tf.repeat(FEATURES[:1], 20_000, axis=0)
    posterior = layer.posterior(FEATURES[:1])
    drawn = layer(rows, training=True).numpy()
    error = posterior.stddev().numpy()[0] / np.sqrt(len(rows))
    assert (np.abs(drawn.mean(0) - posterior.mean()[0]) < 5 * error).all()
    np.testing.assert_allclose(drawn.std(0), posterior.stddev()[0], rtol=0.03)


def test_stochastic_overrides_training_by_argument_and_by_attribute():
    layer = vib()
    mean = layer.posterior(FEATURES).mean()
    assert np.abs(layer(FEATURES, stochastic=True) - mean).min() > 0
    np.testing.assert_array_equal(
        layer(FEATURES, training=True, stochastic=False), mean
    )
    layer.stochastic = True
    assert np.abs(layer(FEATURES) - mean).min() > 0
    np.testing.assert_array_equal(layer(FEATURES, stochastic=False), mean)


@pytest.mark.parametrize("training", [True, False])
def test_the_rate_of_vib_is_the_divergence_that_tfp_knows(training):
    layer = vib()
    layer(FEATURES, training=training)
    posterior = layer.posterior(FEATURES)
    # With other classes of TFP than the layer's: independent normals.
    divergence = tfd.kl_divergence(
        tfd.Independent(tfd.Normal(posterior.mean(), posterior.stddev()), 1),
        tfd.Independent(tfd.Normal(tf.zeros(DIM), tf.ones(DIM)), 1),
    )
    (loss,) = layer.losses
    expected = 0.3 * np.mean(divergence)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_rate_of_ceb_is_half_the_squared_distance_to_the_class(training):
    layer = ceb()
    layer(FEATURES, LABELS, training=training)
    means = layer.bottleneck.marginal.class_means.numpy()[LABELS]
    squares = (layer.posterior(FEATURES).mean() - means) ** 2
    expected = np.exp(-0.7) * np.mean(0.5 * np.sum(squares, axis=1))
    np.testing.assert_allclose(layer.losses, [expected], rtol=1e-5)


def test_the_sampled_rate_is_that_of_the_draw_that_is_returned():
    layer = vib(rate="sampled")
    drawn = layer(FEATURES, training=True).numpy()
    posterior = layer.posterior(FEATURES)
    loc, scale = posterior.mean().numpy(), posterior.stddev().numpy()
    rates = models.gaussian_log_density(
        drawn, loc, scale
    ) - models.gaussian_log_density(drawn, 0.0, np.ones_like(scale))
    np.testing.assert_allclose(layer.losses, [0.3 * rates.mean()], rtol=1e-4)
    # Where nothing is drawn there is only the closed form.
    layer(FEATURES)
    expected = 0.3 * models.gaussian_kl(loc, scale, 0.0).mean()
    np.testing.assert_allclose(layer.losses, [expected], rtol=1e-5)


def test_beta_is_annealed_over_the_steps_of_training():
    layer = vib(anneal_steps=4, initial_beta=0.1, beta=0.5)
    weights = []
    for _ in range(6):
        layer(FEATURES, training=True, stochastic=False)
        weights.append(float(layer.losses[0]))
    layer(FEATURES)  # An evaluation weighs as the end does, and is no step.
    end = float(layer.losses[0])
    expected = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.5]) / 0.5
    np.testing.assert_allclose(np.array(weights) / end, expected, rtol=1e-5)
    assert int(layer.step.value) == 6


def test_inside_of_drawing_it_draws_by_the_seed_and_changes_nothing():
    layer = vib()
    before = [v.numpy() for v in layer.variables]
    with layers.drawing(SEED, 3) as draws:
        rows = layer(FEATURES, training=True)
    (posterior,) = draws.posteriors
    z = posterior.mean() + posterior.stddev() * noise(layer, 3)
    np.testing.assert_allclose(rows, np.reshape(z, [-1, DIM]), rtol=1e-5)
    assert layer.losses == []
    after = [v.numpy() for v in layer.variables]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


# --- The same model as an IBClassifier ---------------------------------------


@pytest.mark.parametrize("rate", ["sampled", "closed_form"])
@pytest.mark.parametrize("bottleneck", ["vib", "ceb"])
def test_it_is_an_ib_classifier_with_one_sample(bottleneck, rate):
    """Equal weights give equal logits, rate and loss, and equal gradients."""
    section = {**models.BOTTLENECKS[bottleneck], "rate_estimator": rate}
    whole = models.randomise(models.build(section, num_samples=1))
    images, labels = models.data(16)
    config = whole.bottleneck.get_config()
    for name in ("name", "trainable", "dtype", "rate_estimator"):
        del config[name]
    kind = {"vib": VIBLayer, "ceb": CEBLayer}[bottleneck]
    layer = kind(dim=config.pop("latent_dim"), rate=rate, **config)
    features = whole.encoder((images - 0.5) / 0.5)
    layer.build(features.shape)
    for mine, theirs in zip(
        layer.bottleneck.weights, whole.bottleneck.weights, strict=True
    ):
        mine.assign(theirs)
    given = (features,) if bottleneck == "vib" else (features, labels)
    np.testing.assert_allclose(
        whole.decoder(layer(*given)), whole(images), rtol=1e-6
    )
    layer(*given, training=True)
    # The noise of the first call that drew.
    first = tf.constant([layer.noise_state.numpy()[0], 0], tf.int32)
    terms = whole.terms(images, labels, first, tf.constant(0), training=False)
    expected = tf.reduce_mean(terms.weight * terms.rate)
    np.testing.assert_allclose(layer.losses, [expected], rtol=1e-5)


def test_a_step_of_fit_is_a_step_of_an_ib_classifier():
    """The loss that `fit` reports is the objective, at the noise it drew."""
    images, labels = models.data(16)
    model = classifier(VIBLayer(DIM, beta=0.3, scale_shift=0.0, seed=5))
    layer, decoder = model.layers[-2:]
    posterior = layer.posterior(model.layers[1](model.layers[0](images)))
    draw = seeds.noise(tf.constant([5, 0]), [16, DIM])
    logits = decoder(posterior.mean() + posterior.stddev() * draw).numpy()
    cross_entropy = -models.log_softmax(logits)[np.arange(16), labels].mean()
    rate = models.gaussian_kl(
        posterior.mean().numpy(), posterior.stddev().numpy(), 0.0
    ).mean()
    history = model.fit(images, labels, shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["rate"], [rate], rtol=1e-5)
    expected = cross_entropy + 0.3 * rate
    np.testing.assert_allclose(history["loss"], [expected], rtol=1e-5)


# --- In fit, evaluate and files ----------------------------------------------


def test_it_learns_and_reports_its_rate():
    images, labels = models.data(256)
    model = classifier(VIBLayer(DIM, beta=0.01), metrics=["accuracy"])
    history = model.fit(
        images, labels, epochs=60, verbose=0, validation_data=(images, labels)
    ).history
    assert history["val_accuracy"][-1] > 0.9
    found = model.evaluate(images, labels, verbose=0, return_dict=True)
    posterior = model.layers[-2].posterior(
        keras.Sequential(model.layers[:-2])(images)
    )
    rate = models.gaussian_kl(
        posterior.mean().numpy(), posterior.stddev().numpy(), 0.0
    ).mean()
    np.testing.assert_allclose(found["rate"], rate, rtol=1e-4)
    np.testing.assert_allclose(history["val_rate"][-1], rate, rtol=1e-4)


def test_calls_for_answers_do_not_count_in_the_rate():
    images, labels = models.data(64)
    model = classifier()
    model.fit(images, labels, verbose=0)
    expected = model.evaluate(images, labels, verbose=0, return_dict=True)

    class Calls(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            tf.function(self.model)(2 * images)
            self.model.predict_on_batch(3 * images)

    found = model.evaluate(
        images, labels, verbose=0, return_dict=True, callbacks=[Calls()]
    )
    assert found == pytest.approx(expected)


def one_epoch(**compiled):
    """What one epoch of a fixed start reports."""
    images, labels = models.data(128)
    keras.utils.set_random_seed(0)  # Of the layer's weights, too.
    model = classifier(VIBLayer(DIM, seed=3, anneal_steps=3), **compiled)
    history = model.fit(images, labels, shuffle=False, verbose=0).history
    return {name: value[0] for name, value in history.items()}


@pytest.fixture(scope="module")
def plain_epoch():
    return one_epoch()


@pytest.mark.parametrize(
    "compiled",
    [{"run_eagerly": True}, {"steps_per_execution": 2}, {"jit_compile": True}],
    ids=str,
)
def test_however_the_step_is_run_it_is_the_same_step(plain_epoch, compiled):
    assert plain_epoch == pytest.approx(one_epoch(**compiled), rel=1e-3)


@pytest.mark.slow
def test_a_larger_beta_compresses_more():
    images, labels = models.data(256)
    rates = []
    for beta in (0.0, 0.1):
        model = classifier(VIBLayer(DIM, beta=beta))
        model.fit(images, labels, epochs=20, verbose=0)
        found = model.evaluate(images, labels, verbose=0, return_dict=True)
        rates.append(found["rate"])
    assert rates[1] < 0.5 * rates[0]


def test_the_rates_of_two_layers_go_by_their_names():
    images, labels = models.data(16)
    model = keras.Sequential(
        [
            keras.layers.Flatten(),
            VIBLayer(6, name="wide"),
            VIBLayer(3, name="narrow"),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    history = model.fit(images, labels, verbose=0).history
    assert set(history) == {"loss", "wide_rate", "narrow_rate"}
    assert history["wide_rate"] != history["narrow_rate"]


@pytest.mark.slow
def test_ceb_trains_by_its_labels_and_classifies_without():
    images, labels = models.data(256)
    pictures = keras.Input(models.IMAGE_SHAPE)
    classes = keras.Input((), dtype="int32")
    features = keras.layers.Flatten()(pictures)
    layer, head = CEBLayer(DIM, models.NUM_CLASSES), keras.layers.Dense(3)
    trained = keras.Model([pictures, classes], head(layer(features, classes)))
    deployed = keras.Model(pictures, head(layer(features)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(1e-2), loss)
    history = trained.fit([images, labels], labels, epochs=60, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    # The labels are in the rate and not in the answer.
    np.testing.assert_array_equal(
        trained.predict([images, labels], verbose=0),
        trained.predict([images, (labels + 1) % 3], verbose=0),
    )
    answers = deployed.predict(images, verbose=0)
    assert (answers.argmax(-1) == labels).mean() > 0.9


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_under_mixed_precision_the_rate_is_float32(policy):
    images, labels = models.data(64)
    with models.dtype_policy(policy):
        layer = VIBLayer(DIM, beta=0.3)
        model = classifier(layer)
        model.fit(images, labels, epochs=2, verbose=0)
        low = model.layers[1](images.reshape(len(images), -1))
    assert low.dtype == layer(low).dtype == policy.removeprefix("mixed_")
    (loss,) = layer.losses
    assert loss.dtype == tf.float32
    posterior = layer.posterior(low)
    expected = 0.3 * models.gaussian_kl(
        posterior.mean().numpy(), posterior.stddev().numpy(), 0.0
    ).mean(dtype=np.float64)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.slow
def test_two_replicas_train_as_one_does():
    images, labels = models.data(64)
    results = []
    for strategy in (None, models.two_devices()):
        with strategy.scope() if strategy else contextlib.nullcontext():
            keras.utils.set_random_seed(0)  # Of the layer's weights, too.
            model = classifier(VIBLayer(DIM, seed=3, anneal_steps=3))
        history = model.fit(
            images, labels, epochs=2, shuffle=False, verbose=0
        ).history
        found = model.evaluate(images, labels, verbose=0, return_dict=True)
        results.append({**history, **found})
    assert results[0].keys() == results[1].keys()
    for name in results[0]:
        np.testing.assert_allclose(*(r[name] for r in results), rtol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        VIBLayer(
            DIM,
            beta=0.3,
            rate="sampled",
            stochastic=False,
            seed=4,
            anneal_steps=7,
            initial_beta=1e-3,
            anneal_shape="geometric",
            scale_shift=-1.0,
            name="named",
        ),
        CEBLayer(DIM, 3, rho=1.0, anneal_steps=7, initial_rho=50.0),
    ],
)
def test_its_config_says_all_of_it(layer):
    config = layer.get_config()
    again = type(layer).from_config(config)
    assert again.get_config() == config
    own = set(inspect.signature(type(layer)).parameters) - {"kwargs"}
    assert own <= set(config)
    weights = again.bottleneck.weight(3), layer.bottleneck.weight(3)
    assert float(weights[0]) == float(weights[1])


def test_a_saved_model_goes_on_where_it_was(tmp_path):
    images, labels = models.data(64)
    model = classifier(VIBLayer(DIM, seed=3, anneal_steps=30))
    model.fit(images, labels, epochs=2, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        *(m.predict(images, verbose=0) for m in (model, again))
    )
    # Step and generator are saved, too, and so is the name of the metric.
    losses = [
        m.fit(images, labels, verbose=0, shuffle=False).history
        for m in (model, again)
    ]
    assert losses[0] == losses[1]


def test_what_keras_exports_of_it_writes_no_variable(tmp_path):
    images, _ = models.data(8)
    model = classifier()
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(
        loaded.serve(images), model(images), rtol=1e-5, atol=1e-6
    )
    graph = loaded.signatures["serving_default"].graph.as_graph_def()
    bodies = [graph.node, *(f.node_def for f in graph.library.function)]
    ops = {node.op for body in bodies for node in body}
    assert "ReadVariableOp" in ops
    assert not {op for op in ops if "Assign" in op}


# --- Refusals ----------------------------------------------------------------


def test_feature_maps_are_refused_with_the_layer_that_mends_it():
    model = keras.Sequential([VIBLayer(DIM, name="bottleneck")])
    with pytest.raises(UserError, match="one row per image.*GlobalAverage"):
        model.build((None, 8, 8, 3))


def test_ceb_does_not_train_without_labels():
    with pytest.raises(UserError, match="CEB cannot train without labels"):
        ceb()(FEATURES, training=True)


def test_labels_that_are_no_whole_numbers_are_refused():
    with pytest.raises(UserError, match='keras.Input.*dtype="int32"'):
        ceb()(FEATURES, LABELS.astype(np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": -1.0}, "beta cannot be"),
        ({"rate": "exact"}, "No rate estimator"),
        ({"dim": 0}, "latent_dim"),
        ({"anneal_steps": -1}, "annealed"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        VIBLayer(**{"dim": DIM, **arguments})


@pytest.mark.parametrize(
    "make",
    [
        lambda: VIBLayer("a"),
        lambda: VIBLayer(2.5),
        lambda: VIBLayer(0),
        lambda: VIBLayer(8, beta="1e-2"),
        lambda: VIBLayer(8, beta=float("nan")),
        lambda: VIBLayer(8, stochastic="no"),
        lambda: VIBLayer(8, rate="monte_carlo"),
        lambda: CEBLayer(8, 10, rho="3"),
    ],
)
def test_wrong_arguments_are_refused_with_a_sentence(make):
    with pytest.raises(UserError) as error:
        make()
    assert error.value.fix
