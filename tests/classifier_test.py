import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from ib_keras import classifier
from ib_keras import plugins
from ib_keras import seeds
from ib_keras.bottlenecks.vib import VIB
from ib_keras.classifier import IBClassifier
from ib_keras.encoders import linear
from ib_keras.encoders import mlp
from ib_keras.errors import UserError
from ib_keras.optimizers import FusedAdam
from tests.support import models

SEED = seeds.from_int(5)
bottlenecks = pytest.mark.parametrize("bottleneck", models.BOTTLENECKS)
stochastic = pytest.mark.parametrize("bottleneck", ["vib", "ceb"])


def randomised(bottleneck="vib", **changes) -> IBClassifier:
    return models.randomise(models.build(bottleneck, **changes))


def numpy_latents(model, images, num_samples, seed=SEED):
    """z for the noise that the model draws, in float64 `[S, B, K]`."""
    loc, scale = models.numpy_posterior(model, images)
    if not model.is_stochastic:
        return loc[None]
    noise = seeds.noise(seed, [num_samples, *loc.shape]).numpy()
    return loc + scale * np.float64(noise)


def mean_of_probabilities(log_probs) -> np.ndarray:
    return np.log(np.mean(np.exp(log_probs), axis=0))


# --- The scored stochastic classifier ---------------------------------------


def test_log_mean_probability_is_the_log_of_the_mean_of_probabilities():
    logits = np.random.default_rng(0).normal(size=(12, 50, 10), scale=3)
    logits = logits.astype(np.float32)
    expected = mean_of_probabilities(models.log_softmax(np.float64(logits)))
    received = classifier.log_mean_probability(logits)
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6)
    # Not what the mean of logits gives, nor of log-probabilities.
    wrong = models.log_softmax(np.float64(logits).mean(0))
    assert np.abs(wrong - expected).max() > 0.5


def test_log_mean_probability_survives_extreme_logits():
    logits = np.array(
        [
            [[500.0, -500.0, 0.0], [500.0, -500.0, 500.0]],
            [[-500.0, 500.0, 0.0], [500.0, -500.0, 500.0]],
        ],
        np.float32,
    )
    received = classifier.log_mean_probability(logits).numpy()
    half = np.log(0.5)
    # One sample is sure of class 0, the other of class 1; class 2 is exp(-500)
    # in both. Then two classes share the probability.
    np.testing.assert_allclose(
        received, [[half, half, -500], [half, half - 1000, half]], rtol=1e-6
    )


def test_log_mean_probability_does_not_see_a_shift_of_the_logits():
    logits = np.random.default_rng(0).normal(size=(5, 4, 3))
    shift = np.random.default_rng(1).normal(size=(5, 4, 1), scale=30)
    np.testing.assert_allclose(
        classifier.log_mean_probability(logits + shift),
        classifier.log_mean_probability(logits),
        atol=1e-12,
    )


# --- Both modes --------------------------------------------------------------


@bottlenecks
def test_mean_mode_decodes_the_mean(bottleneck):
    model = randomised(bottleneck)
    images, _ = models.data(9)
    loc, _ = models.numpy_posterior(model, images)
    np.testing.assert_allclose(
        model(images), models.dense(model.decoder, loc), rtol=1e-4, atol=1e-5
    )


@bottlenecks
def test_stochastic_mode_averages_the_probabilities_of_the_samples(bottleneck):
    model = randomised(bottleneck)
    images, _ = models.data(9)
    for given, num_samples in ((None, 4), (7, 7)):
        latents = numpy_latents(model, images, num_samples)
        logits = models.dense(model.decoder, latents)
        expected = mean_of_probabilities(models.log_softmax(logits))
        received = model(
            images, mode="stochastic", noise_seed=SEED, num_samples=given
        )
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)


def test_a_deterministic_model_has_one_mode_whatever_s_is():
    model = randomised("deterministic")
    images, _ = models.data(9)
    expected = tf.nn.log_softmax(model(images))
    for num_samples in (1, 12):
        received = model(
            images, mode="stochastic", noise_seed=SEED, num_samples=num_samples
        )
        np.testing.assert_allclose(received, expected, atol=1e-6)
    assert not model.is_stochastic


@bottlenecks
def test_the_mean_mode_does_not_see_the_seed(bottleneck):
    model = randomised(bottleneck)
    images, _ = models.data(9)
    expected = model(images)
    for seed in range(3):
        received = model(images, mode="mean", noise_seed=seeds.from_int(seed))
        np.testing.assert_array_equal(received, expected)


@stochastic
def test_the_stochastic_mode_is_a_function_of_the_seed(bottleneck):
    model = randomised(bottleneck)
    images, _ = models.data(9)
    results = [
        model(images, mode="stochastic", noise_seed=seeds.from_int(s)).numpy()
        for s in (1, 1, 2)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 1e-2


@stochastic
def test_the_variance_of_the_stochastic_mode_falls_as_one_over_s(bottleneck):
    model = randomised(bottleneck)
    # One image many times over: every copy has noise of its own.
    copies = np.repeat(models.data(1)[0], 4000, axis=0)
    variances, errors = [], []
    for num_samples in (2, 32):
        probability = np.exp(
            model(
                copies,
                mode="stochastic",
                noise_seed=SEED,
                num_samples=num_samples,
            ).numpy()
        )[:, 0].astype(np.float64)
        deviations = (probability - probability.mean()) ** 2
        variances.append(deviations.mean())
        errors.append(deviations.std() / np.sqrt(len(copies)))
    ratio = variances[0] / variances[1]
    relative = np.hypot(errors[0] / variances[0], errors[1] / variances[1])
    assert relative < 0.05
    assert abs(ratio - 16) < 5 * 16 * relative


@bottlenecks
@pytest.mark.parametrize("mode", classifier.MODES)
def test_gradients_to_the_images_are_the_slope_in_both_modes(bottleneck, mode):
    model = randomised(bottleneck)
    images, labels = models.data(6)

    def loss(images):
        logits = model(images, mode=mode, noise_seed=SEED)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(loss(x))
    gradient = tape.gradient(total, x).numpy()
    length = np.sqrt(np.sum(gradient**2, axis=(1, 2, 3)))
    # With random weights an image may have all its units off.
    assert np.sum(length > 1e-2) >= 4
    length = np.where(length > 1e-2, length, np.nan)
    step = 1e-2 * np.nan_to_num(gradient / length[:, None, None, None])
    slope = (loss(images + step) - loss(images - step)).numpy() / 2e-2
    # Along its own gradient the loss climbs by the gradient's length; a kink
    # of a ReLU may be on the way.
    assert np.nanmedian(np.abs(slope / length - 1)) < 1e-2


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match='Did you mean "stochastic"'):
        models.build()(models.data(1)[0], mode="stochastik")


def test_a_stochastic_mode_without_a_seed_is_refused():
    with pytest.raises(UserError, match="noise_seed"):
        models.build()(models.data(1)[0], mode="stochastic")


def test_refusals_come_through_compiled_functions_as_they_are():
    model = models.build()
    with pytest.raises(UserError, match="noise_seed"):
        tf.function(lambda x: model(x, mode="stochastic"))(models.data(1)[0])


@pytest.mark.parametrize("num_samples", [0, -1])
def test_no_samples_are_refused(num_samples):
    with pytest.raises(UserError, match="num_samples"):
        models.build(num_samples=num_samples)


# --- The objective -----------------------------------------------------------


@bottlenecks
@pytest.mark.parametrize("rate_estimator", ["sampled", "closed_form"])
def test_the_terms_are_those_of_equations_2_and_3(bottleneck, rate_estimator):
    section = dict(models.BOTTLENECKS[bottleneck])
    if bottleneck != "deterministic":
        section["rate_estimator"] = rate_estimator
    model = randomised(section)
    images, labels = models.data(9)
    z = numpy_latents(model, images, 4)
    log_probs = models.log_softmax(models.dense(model.decoder, z))
    cross_entropy = -log_probs[:, np.arange(9), labels].mean(0)
    loc, scale = models.numpy_posterior(model, images)
    other = models.numpy_marginal_mean(model, labels)
    if bottleneck == "deterministic":
        rate = np.zeros(9)
    elif rate_estimator == "closed_form":
        rate = models.gaussian_kl(loc, scale, other)
    else:
        ratio = models.gaussian_log_density(
            z, loc, scale
        ) - models.gaussian_log_density(z, other, 1.0)
        rate = ratio.mean(0)
    weight = {"vib": 0.3, "ceb": np.exp(-0.7), "deterministic": 0}[bottleneck]

    terms = model.terms(images, labels, SEED, tf.constant(3))
    assert float(terms.weight) == pytest.approx(weight, rel=1e-6)
    for name, expected in {
        "cross_entropy": cross_entropy,
        "rate": rate,
        "loss": cross_entropy + weight * rate,
        "logits": mean_of_probabilities(log_probs),
    }.items():
        received = getattr(terms, name)
        assert received.shape == expected.shape
        np.testing.assert_allclose(
            received, expected, rtol=1e-4, atol=1e-5, err_msg=name
        )


def test_the_weight_of_the_terms_is_that_of_the_step():
    section = models.BOTTLENECKS["ceb"] | {"anneal_epochs": 2, "rho": 0.0}
    model = randomised(section | {"initial_rho": 10.0})
    images, labels = models.data(3)
    for step, weight in ((0, np.exp(-10)), (10, np.exp(-5)), (20, 1.0)):
        terms = model.terms(images, labels, SEED, tf.constant(step))
        assert float(terms.weight) == pytest.approx(weight, rel=1e-5)
        np.testing.assert_allclose(
            terms.loss, terms.cross_entropy + weight * terms.rate, rtol=1e-5
        )


@bottlenecks
def test_evaluation_gives_the_terms_and_both_modes(bottleneck):
    model = randomised(bottleneck)
    images, labels = models.data(9)
    step = tf.constant(3)
    terms, mean_logits = model.evaluate_terms(images, labels, SEED, step)
    expected = model.terms(images, labels, SEED, step, training=False)
    for received, other in zip(terms, expected, strict=True):
        np.testing.assert_array_equal(received, other)
    np.testing.assert_array_equal(mean_logits, model(images))
    np.testing.assert_allclose(
        terms.logits,
        model(images, mode="stochastic", noise_seed=SEED),
        atol=1e-5,
    )


def batch_normalised() -> IBClassifier:
    encoder = keras.Sequential(
        [
            keras.Input(models.IMAGE_SHAPE),
            keras.layers.Flatten(),
            keras.layers.BatchNormalization(momentum=0.5),
        ]
    )
    bottleneck = plugins.build(
        "bottlenecks",
        models.BOTTLENECKS["vib"],
        num_classes=3,
        steps_per_epoch=1,
    )
    model = IBClassifier(encoder, bottleneck, 3)
    model.build((None, *models.IMAGE_SHAPE))
    return model


def test_batch_statistics_are_used_and_updated_in_training_alone():
    images, labels = models.data(32)
    model = batch_normalised()
    moving_mean = model.encoder.layers[-1].moving_mean
    model(images)
    model(images, mode="stochastic", noise_seed=SEED)
    model.posterior(images)
    model.terms(images, labels, SEED, tf.constant(0), training=False)
    model.compile("sgd", run_eagerly=True)
    model.evaluate(images, labels, verbose=0)
    model.predict(images, verbose=0)
    assert not moving_mean.numpy().any()
    model.terms(images, labels, SEED, tf.constant(0))
    batch_mean = (2 * images - 1).reshape(32, 16).mean(0)
    np.testing.assert_allclose(moving_mean, batch_mean / 2, rtol=1e-5)
    model.fit(images, labels, batch_size=32, verbose=0)
    np.testing.assert_allclose(moving_mean, batch_mean * 3 / 4, rtol=1e-5)


# --- Construction ------------------------------------------------------------


@pytest.mark.parametrize(
    ("bottleneck", "expected"),
    [
        # The encoder's layers: 784*1024 + 1024, and 1024*1024 + 1024, together
        # 1,853,440. The decoder: 256*10 + 10 = 2,570.
        # VIB: 1024*512 + 512 = 524,800 for means and deviations.
        ("vib", 2_380_810),
        # Deterministic: 1024*256 + 256 = 262,400.
        ("deterministic", 2_118_410),
        # CEB: the same 262,400 for means, and 10*256 = 2,560 for q(z|y).
        ("ceb", 2_120_970),
    ],
)
def test_the_mnist_networks_have_the_paper_s_parameters(bottleneck, expected):
    model = classifier.build(
        models.config({"name": bottleneck}, encoder={"name": "mlp"}),
        image_shape=(28, 28, 1),
        num_classes=10,
        steps_per_epoch=600,
    )
    assert model.count_params() == expected


def test_weights_start_by_glorot_and_biases_at_zero():
    model = models.build(
        {"name": "ceb", "latent_dim": 90},
        image_shape=(10, 10, 1),
        encoder={"name": "mlp", "hidden_units": (120, 80)},
    )
    kernels = [w.numpy() for w in model.weights if len(w.shape) == 2]
    shapes = [kernel.shape for kernel in kernels]
    assert sorted(shapes) == [(3, 90), (80, 90), (90, 3), (100, 120), (120, 80)]
    for kernel in kernels:
        limit = np.sqrt(6 / sum(kernel.shape))
        assert 0.95 < np.abs(kernel).max() / limit < 1.000_001
        # The mean square of uniform numbers is a third of the limit's square;
        # its standard error sqrt(4/45) of it, over the root of their number.
        error = limit**2 * np.sqrt(4 / 45 / kernel.size)
        assert abs(np.mean(kernel**2) - limit**2 / 3) < 5 * error
    biases = [w.numpy() for w in model.weights if len(w.shape) == 1]
    assert len(biases) == 4 and not np.concatenate(biases).any()


def test_the_decoder_may_start_at_zero():
    model = models.build(decoder={"initializer": "zeros"})
    assert not model.decoder.kernel.numpy().any()
    assert model.bottleneck.posterior.projection.kernel.numpy().any()
    np.testing.assert_array_equal(model(models.data(2)[0]), np.zeros([2, 3]))


@bottlenecks
def test_the_initial_weights_are_a_function_of_the_seed(bottleneck):
    first, again, other = (
        models.weights_of(models.build(bottleneck, seed=s)) for s in (1, 1, 2)
    )
    for left, right in zip(first, again, strict=True):
        np.testing.assert_array_equal(left, right)
    assert all(
        np.any(left != right)
        for left, right in zip(first, other, strict=True)
        if left.ndim == 2
    )


def channel_statistics():
    return (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)


@pytest.mark.parametrize(
    ("normalisation", "expected"),
    [
        ("minus_one_one", lambda x: 2 * x - 1),
        (
            "train_statistics",
            lambda x: (x - np.array([0.1, 0.2, 0.3])) / [0.5, 1, 2],
        ),
        ("features", lambda x: 8 * x - 3),
        ("none", lambda x: x),
    ],
)
def test_images_are_normalised_inside_the_model(normalisation, expected):
    model = classifier.build(
        models.config(
            "deterministic",
            encoder={"name": "linear"},
            input={"normalisation": normalisation},
        ),
        image_shape=(4, 4, 3),
        num_classes=3,
        steps_per_epoch=1,
        channel_statistics=channel_statistics,
        feature_range=(-3.0, 5.0),
    )
    images, _ = models.data(6, (4, 4, 3))
    kernel = np.float64(model.bottleneck.posterior.projection.kernel.numpy())
    loc = expected(np.float64(images)).reshape(6, 48) @ kernel
    np.testing.assert_allclose(
        model.posterior(images).mean(), loc, rtol=1e-4, atol=1e-5
    )


def test_channel_statistics_are_computed_only_where_they_are_used():
    classifier.build(
        models.config(),
        image_shape=models.IMAGE_SHAPE,
        num_classes=3,
        steps_per_epoch=1,
        channel_statistics=lambda: pytest.fail("computed"),
    )


def test_features_are_refused_of_data_that_have_none():
    with pytest.raises(UserError, match="has no feature range"):
        models.build(input={"normalisation": "features"})


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(UserError, match='Did you mean "minus_one_one"'):
        models.build(input={"normalisation": "minus_one"})


# --- Mixed precision ---------------------------------------------------------


def test_under_bfloat16_small_differences_of_images_still_arrive():
    with models.dtype_policy("mixed_bfloat16"):
        model = models.build("deterministic", encoder={"name": "linear"})
    images, _ = models.data(4)
    logits = model(images)
    assert logits.dtype == model.posterior(images).dtype == tf.float32
    # Nothing is rounded before the rescaling, by whichever way images come.
    np.testing.assert_array_equal(
        logits, model.decoder(model.posterior(images).mean())
    )
    np.testing.assert_array_equal(logits, model.predict(images, verbose=0))
    # 0.5 + 1/1024 is not a bfloat16, but twice 1/1024 is one.
    gray = np.full([1, *models.IMAGE_SHAPE], 0.5, np.float32)
    assert np.any(model(gray + 1 / 1024) != model(gray))


def test_under_bfloat16_it_trains_in_float32_weights():
    with models.dtype_policy("mixed_bfloat16"):
        model = models.build("ceb")
        images, labels = models.data(32)
        model.compile(FusedAdam(learning_rate=0.01), run_eagerly=True)
        history = model.fit(images, labels, epochs=3, verbose=0).history
    assert {w.dtype for w in model.weights} == {"float32"}
    assert model.encoder.layers[-1].compute_dtype == "bfloat16"
    assert history["loss"][-1] < history["loss"][0]


# --- What Keras users expect -------------------------------------------------
# Where a test makes few steps, it makes them eagerly: tracing takes longer.


BETA = 0.05


@pytest.fixture(scope="module")
def learnt():
    """A model that has learnt 64 examples, and these."""
    model = models.build(models.BOTTLENECKS["vib"] | {"beta": BETA})
    images, labels = models.data()
    model.compile(
        keras.optimizers.Adam(0.03), metrics=["sparse_categorical_accuracy"]
    )
    model.fit(images, labels, epochs=15, batch_size=16, verbose=0)
    return model, images, labels


def test_fit_learns(learnt):
    model, images, labels = learnt
    assert model.history.history["loss"][-1] < model.history.history["loss"][0]
    predictions = model.predict(images, verbose=0).argmax(-1)
    assert np.mean(predictions == labels) > 0.8


def test_fit_reports_the_terms_and_the_metrics_asked_for(learnt):
    model, *_ = learnt
    assert set(model.history.history) == {
        "loss",
        "cross_entropy",
        "rate",
        "accuracy",
        "accuracy_stochastic",
        "sparse_categorical_accuracy",
    }


def test_evaluate_measures_what_numpy_measures(learnt):
    model, images, labels = learnt
    # 64 examples in batches of 24: the last is smaller.
    values = model.evaluate(
        images, labels, batch_size=24, verbose=0, return_dict=True
    )
    predictions = model.predict(images, verbose=0).argmax(-1)
    accuracy = np.mean(predictions == labels)
    assert values["accuracy"] == pytest.approx(accuracy)
    assert values["sparse_categorical_accuracy"] == pytest.approx(accuracy)
    assert values["loss"] == pytest.approx(
        values["cross_entropy"] + BETA * values["rate"], rel=1e-5
    )
    # The rate is an estimate from 4 samples for each example.
    loc, scale = models.numpy_posterior(model, images)
    exact = models.gaussian_kl(loc, scale, 0.0)
    noise = np.random.default_rng(0).normal(size=(1000, *loc.shape))
    z = loc + scale * noise
    ratio = models.gaussian_log_density(
        z, loc, scale
    ) - models.gaussian_log_density(z, 0.0, 1.0)
    # Batches share their noise, so only 24 examples' worth is independent.
    error = np.sqrt(ratio.var(0).mean() / (4 * 24))
    assert abs(values["rate"] - exact.mean()) < 5 * error


def test_evaluate_scores_stochastic_mode_by_its_own_answers():
    model = models.randomise(models.build(), seed=4, scale=2.0)
    model.compile("sgd", run_eagerly=True)
    images, labels = models.data(64)
    values = model.evaluate(
        images, labels, batch_size=64, verbose=0, return_dict=True
    )
    noise_seed = seeds.fold(seeds.from_int(model.seed), 2)
    step = tf.constant(2**31 - 1, tf.int32)
    terms, mean_logits = model.evaluate_terms(images, labels, noise_seed, step)
    by_mode = [
        np.mean(logits.numpy().argmax(-1) == labels)
        for logits in (terms.logits, mean_logits)
    ]
    assert by_mode[0] != by_mode[1]
    assert values["accuracy_stochastic"] == pytest.approx(by_mode[0])
    assert values["accuracy"] == pytest.approx(by_mode[1])


def test_a_scaled_loss_makes_the_step_of_the_loss():
    weights = []
    for scale in (None, 1024.0):
        model = models.build()
        optimizer = keras.optimizers.SGD(0.1)
        if scale:
            optimizer = keras.optimizers.LossScaleOptimizer(
                optimizer, initial_scale=scale
            )
        model.compile(optimizer, run_eagerly=True)
        model.fit(*models.data(16), batch_size=16, verbose=0)
        weights.append([w.numpy() for w in model.trainable_weights])
    for plain, scaled in zip(*weights, strict=True):
        np.testing.assert_allclose(plain, scaled, rtol=1e-4, atol=1e-6)


def test_evaluate_weighs_the_rate_as_at_the_end_of_annealing():
    section = models.BOTTLENECKS["ceb"] | {"rho": -1.0, "anneal_epochs": 5}
    model = models.build(section)
    model.compile("sgd", run_eagerly=True)
    values = model.evaluate(*models.data(8), verbose=0, return_dict=True)
    assert values["rate"] > 0
    assert values["loss"] == pytest.approx(
        values["cross_entropy"] + np.e * values["rate"], rel=1e-5
    )


def test_evaluating_twice_gives_the_same(learnt):
    model, images, labels = learnt
    first, second = (
        model.evaluate(images, labels, verbose=0, return_dict=True)
        for _ in range(2)
    )
    assert first == second
    as_list = model.evaluate(images, labels, verbose=0)
    assert as_list[0] == pytest.approx(first["loss"])
    assert sorted(as_list) == pytest.approx(sorted(first.values()))


def test_data_may_be_a_dataset(learnt):
    model, images, labels = learnt
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(24)
    assert model.evaluate(
        dataset, verbose=0, return_dict=True
    ) == pytest.approx(
        model.evaluate(
            images, labels, batch_size=24, verbose=0, return_dict=True
        )
    )
    np.testing.assert_allclose(
        model.predict(dataset, verbose=0),
        model.predict(images, verbose=0),
        atol=1e-5,
    )


def test_predict_is_the_mean_mode(learnt):
    model, images, _ = learnt
    np.testing.assert_allclose(
        model.predict(images, verbose=0), model(images), atol=1e-5
    )


@pytest.mark.parametrize("as_column", [False, True])
def test_labels_of_other_integer_types_and_columns_are_taken(learnt, as_column):
    model, images, labels = learnt
    others = labels.astype(np.int64)
    others = others[:, None] if as_column else others
    received = model.evaluate(images, others, verbose=0, return_dict=True)
    expected = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert received == pytest.approx(expected)


def test_a_loaded_model_is_the_same_model(learnt, tmp_path):
    model, images, labels = learnt
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.models.load_model(path)
    assert isinstance(loaded, IBClassifier)
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0)
    )
    np.testing.assert_array_equal(
        loaded(images, mode="stochastic", noise_seed=SEED),
        model(images, mode="stochastic", noise_seed=SEED),
    )
    assert loaded.evaluate(
        images, labels, verbose=0, return_dict=True
    ) == pytest.approx(
        model.evaluate(images, labels, verbose=0, return_dict=True)
    )


@pytest.mark.slow
def test_another_process_loads_a_model_with_one_import(tmp_path):
    model = models.build("ceb")
    images, labels = models.data(8)
    model.compile(FusedAdam(learning_rate=0.01), run_eagerly=True)
    model.fit(images, labels, verbose=0)
    path = str(tmp_path / "model.keras")
    model.save(path)
    script = (
        "import sys, keras, ib_keras.classifier\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "print(type(model.optimizer).__name__, model.count_params())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["FusedAdam", str(model.count_params())], (
        done.stderr
    )


def small_unbuilt(seed=0, encoder=None) -> IBClassifier:
    keras.utils.set_random_seed(0)
    bottleneck = plugins.build(
        "bottlenecks",
        models.BOTTLENECKS["vib"],
        num_classes=3,
        steps_per_epoch=1,
    )
    encoder = encoder or mlp.build(models.IMAGE_SHAPE, hidden_units=(8,))
    return IBClassifier(encoder, bottleneck, 3, num_samples=4, seed=seed)


def test_fit_builds_a_model_that_can_be_saved(tmp_path):
    model = small_unbuilt()
    images, labels = models.data(8)
    model.compile("sgd", run_eagerly=True)
    model.fit(images, labels, verbose=0)
    assert model.built
    path = str(tmp_path / "model.keras")
    model.save(path)
    np.testing.assert_array_equal(
        keras.models.load_model(path)(images), model(images)
    )


def test_a_model_that_is_not_built_has_a_config_too():
    model = small_unbuilt(seed=3)
    config = keras.saving.serialize_keras_object(model)
    again = keras.saving.deserialize_keras_object(config)
    assert again.seed == 3 and not again.built


def test_all_arguments_come_back_from_the_config():
    model = IBClassifier(
        linear.build((2, 2, 3)),
        plugins.build(
            "bottlenecks", {"name": "ceb"}, num_classes=4, steps_per_epoch=1
        ),
        num_classes=4,
        num_samples=3,
        input_mean=(0.1, 0.2, 0.3),
        input_std=(0.4, 0.5, 0.6),
        decoder_initializer="zeros",
        seed=9,
        name="other",
    )
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(model)
    )
    assert again.get_config() == model.get_config()
    assert (again.num_classes, again.num_samples, again.seed) == (4, 3, 9)
    assert again.input_mean == (0.1, 0.2, 0.3)
    assert again.input_std == (0.4, 0.5, 0.6)
    assert isinstance(again.decoder_initializer, keras.initializers.Zeros)
    assert again.name == "other"


def test_input_std_has_its_old_name_too(tmp_path):
    """In calls, with a warning, and in .keras files of version 0.1."""
    images, labels = models.data(8)
    encoder = mlp.build(models.IMAGE_SHAPE, hidden_units=(8,))
    with pytest.warns(DeprecationWarning, match="input_std"):
        model = IBClassifier(encoder, VIB(4), 3, input_deviation=(0.4,))
    assert model.input_std == (0.4,)
    model.compile("adam")
    model.fit(images, labels, verbose=0)
    new, old = tmp_path / "new.keras", tmp_path / "old.keras"
    model.save(new)
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, "w") as copy:
        for name in source.namelist():
            data = source.read(name)
            if name == "config.json":
                assert data.count(b'"input_std"') == 1
                data = data.replace(b'"input_std"', b'"input_deviation"')
            copy.writestr(name, data)
    again = keras.saving.load_model(old)
    assert again.input_std == (0.4,)
    np.testing.assert_array_equal(again(images), model(images))


def test_callbacks_and_validation_data_work(tmp_path):
    model = models.build("ceb")
    images, labels = models.data(48)
    path = str(tmp_path / "best.keras")
    model.compile(FusedAdam(learning_rate=0.05), run_eagerly=True)
    history = model.fit(
        images,
        labels,
        validation_data=models.data(32, seed=0),
        epochs=12,
        verbose=0,
        callbacks=[
            keras.callbacks.ModelCheckpoint(
                path, monitor="val_loss", save_best_only=True
            ),
            # Accuracy rises, so that waiting for it to fall must stop.
            keras.callbacks.EarlyStopping(
                "val_accuracy",
                mode="min",
                patience=2,
                restore_best_weights=True,
            ),
        ],
    ).history
    assert 3 <= len(history["loss"]) < 12
    assert {f"val_{name}" for name in ("loss", "rate", "accuracy")} < set(
        history
    )
    images, labels = models.data(32, seed=0)
    predictions = keras.models.load_model(path)(images).numpy().argmax(-1)
    best = np.argmin(history["val_loss"])
    assert np.mean(predictions == labels) == pytest.approx(
        history["val_accuracy"][best]
    )


def numpy_gradient_step(model, images, labels, sample_weight, rate):
    """The weights after one step of gradient descent on the objective."""
    with tf.GradientTape() as tape:
        terms = model.terms(images, labels, SEED, tf.constant(0))
        loss = tf.reduce_mean(sample_weight * terms.loss)
        loss += tf.add_n(model.losses) if model.losses else 0.0
    gradients = tape.gradient(loss, model.trainable_weights)
    return [
        weight.numpy() - rate * gradient.numpy()
        for weight, gradient in zip(
            model.trainable_weights, gradients, strict=True
        )
    ]


@pytest.mark.parametrize("regularised", [False, True])
def test_a_step_of_fit_descends_the_weighted_mean_of_the_loss(regularised):
    images, labels = models.data(16)
    sample_weight = np.linspace(0, 2, 16, dtype=np.float32)
    encoder = None
    if regularised:
        dense = keras.layers.Dense(8, kernel_regularizer="l2")
        encoder = keras.Sequential(
            [
                keras.Input(models.IMAGE_SHAPE),
                keras.layers.Flatten(),
                dense,
            ]
        )
    keras.utils.set_random_seed(0)
    deterministic = plugins.build(
        "bottlenecks",
        models.BOTTLENECKS["deterministic"],
        num_classes=3,
        steps_per_epoch=1,
    )
    encoder = encoder or mlp.build(models.IMAGE_SHAPE, hidden_units=(8,))
    model = IBClassifier(encoder, deterministic, 3)
    model.build((None, *models.IMAGE_SHAPE))
    expected = numpy_gradient_step(model, images, labels, sample_weight, 0.5)
    model.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
    before = models.weights_of(model)
    model.fit(
        images,
        labels,
        sample_weight=sample_weight,
        batch_size=16,
        verbose=0,
    )
    for after, right, start in zip(
        models.weights_of(model), expected, before, strict=True
    ):
        np.testing.assert_allclose(after, right, rtol=1e-4, atol=1e-6)
        assert np.abs(after - start).max() > 1e-3


def test_examples_without_weight_do_not_count():
    model = randomised("deterministic")
    images, labels = models.data(16)
    wrong = np.where(np.arange(16) < 8, labels, (labels + 1) % 3)
    model.compile("sgd", run_eagerly=True)
    weighted = model.evaluate(
        images,
        wrong,
        sample_weight=np.float32(np.arange(16) < 8),
        verbose=0,
        return_dict=True,
    )
    alone = model.evaluate(images[:8], labels[:8], verbose=0, return_dict=True)
    assert weighted == pytest.approx(alone, rel=1e-5)


def test_the_noise_of_fit_is_new_at_each_step_and_a_function_of_the_seed():
    images, labels = models.data(16)
    losses = []
    for seed in (1, 2):
        model = small_unbuilt(seed)
        # Nothing is learnt, so the losses differ by the noise alone.
        model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
        for _ in range(2):
            history = model.fit(images, labels, 16, epochs=3, verbose=0)
            losses.append(history.history["loss"])
            model.optimizer.iterations.assign(0)
    # The same steps again have the same noise.
    assert losses[0] == losses[1] and losses[2] == losses[3]
    assert len({*losses[0], *losses[2]}) == 6


def test_fit_may_be_compiled_by_xla():
    # Without noise, which XLA draws otherwise from the same seed.
    section = {"name": "vib", "latent_dim": 5, "scale_shift": -40.0}
    results = []
    for jit_compile in (False, True):
        model = models.build(section | {"rate_estimator": "closed_form"})
        start = models.weights_of(model)
        images, labels = models.data(16)
        model.compile(
            FusedAdam(learning_rate=0.01),
            jit_compile=jit_compile,
            run_eagerly=not jit_compile,
        )
        model.fit(images, labels, batch_size=16, verbose=0)
        results.append(models.weights_of(model))
    for plain, compiled, before in zip(*results, start, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-5)
        assert np.abs(plain - before).max() == pytest.approx(0.01, rel=1e-2)


def test_one_hot_labels_are_refused_after_others_too(learnt):
    model, images, labels = learnt
    # Keras has traced for labels of two ranks by now, and will for any.
    for others in (labels, labels[:, None]):
        model.evaluate(images, others, verbose=0)
    with pytest.raises(
        (UserError, tf.errors.InvalidArgumentError), match="argmax"
    ):
        model.evaluate(images, np.eye(3)[labels], verbose=0)


def test_one_hot_labels_are_refused_with_the_call_that_converts_them():
    model = models.build()
    images, labels = models.data(8)
    model.compile("sgd")
    for method in (model.fit, model.evaluate):
        with pytest.raises(UserError, match=r"argmax\(axis=-1\)"):
            method(images, np.eye(3)[labels], verbose=0)


@pytest.mark.parametrize("bottleneck", ["vib", "deterministic"])
@pytest.mark.parametrize("shift", [1, -1])
def test_labels_out_of_range_are_refused(bottleneck, shift):
    model = models.build(bottleneck)
    images, labels = models.data(64)
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="classes from 0 to 2"
    ):
        model.fit(images, labels + shift, verbose=0)


# --- Two devices -------------------------------------------------------------


def test_fit_on_two_devices_is_fit_on_one():
    images, labels = models.data(32)
    results = []
    for strategy in (tf.distribute.get_strategy(), models.two_devices()):
        with strategy.scope():
            model = models.build("deterministic")
            last = model.encoder.layers[-1]
            last.kernel_regularizer = keras.regularizers.L2(0.1)
            # Gradient descent, which a wrong scale would show in.
            model.compile(keras.optimizers.SGD(0.5))
        model.fit(
            images, labels, batch_size=16, epochs=2, shuffle=False, verbose=0
        )
        values = model.evaluate(images, labels, verbose=0, return_dict=True)
        results.append((models.weights_of(model), values))
    (one, one_values), (two, two_values) = results
    for left, right in zip(one, two, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
    assert one_values == pytest.approx(two_values, rel=1e-4)


def test_two_devices_draw_one_noise_and_share_it(monkeypatch):
    drawn = []
    noise = seeds.noise

    def record(seed):
        drawn.append(tuple(seed.tolist()))
        return seed

    def recorded(seed, shape):
        return noise(
            tf.ensure_shape(tf.numpy_function(record, [seed], tf.int32), [2]),
            shape,
        )

    monkeypatch.setattr(seeds, "noise", recorded)
    with models.two_devices().scope():
        model = models.build("vib")
        model.compile("sgd")
    model.fit(*models.data(4), batch_size=4, verbose=0)
    # Each device draws that of the whole batch and takes its own part.
    assert len(drawn) == 2 and len(set(drawn)) == 1


def test_a_loss_given_to_compile_is_refused_and_not_ignored():
    model = models.build()
    model.compile("adam", loss="mse")
    images, labels = models.data(8)
    with pytest.raises(UserError, match="brings its own loss"):
        model.fit(images, labels, verbose=0)


@pytest.mark.parametrize("how", ["fit", "evaluate", "predict", "__call__"])
def test_images_in_bytes_are_refused(how):
    """In any way into the model; they went through as 0 to 255 once."""
    model = models.build()
    model.compile("sgd")
    images = np.full([4, *models.IMAGE_SHAPE], 200, np.uint8)
    labels = np.zeros(4, np.int32)
    call = getattr(model, how)
    with pytest.raises(UserError, match="whole numbers") as error:
        if how in ("fit", "evaluate"):
            call(images, labels, verbose=0)
        elif how == "predict":
            call(images, verbose=0)
        else:
            call(images)
    assert "/ 255" in error.value.fix


# --- The encoder's contract --------------------------------------------------


class Subclass(keras.layers.Layer):
    """As people write them: no build, no compute_output_shape."""

    def __init__(self):
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.dense = keras.layers.Dense(6, activation="relu")

    def call(self, images):
        return self.dense(self.flatten(images))


class SubclassedModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.dense = keras.layers.Dense(6, activation="relu")

    def call(self, images, training=False):
        return self.dense(self.flatten(images))


def of_encoder(encoder):
    bottleneck = plugins.build(
        "bottlenecks",
        models.BOTTLENECKS["vib"],
        num_classes=3,
        steps_per_epoch=1,
    )
    return IBClassifier(encoder, bottleneck, models.NUM_CLASSES, num_samples=2)


@pytest.mark.parametrize("make", [Subclass, SubclassedModel])
def test_an_encoder_need_not_know_its_output_shape(make):
    model = of_encoder(make())
    model.build((None, *models.IMAGE_SHAPE))
    images, labels = models.data(8)
    model.compile("adam")
    model.fit(images, labels, verbose=0)
    encoder = model.encoder
    (kernel, bias) = (w.numpy() for w in encoder.dense.weights)
    flat = (images.reshape(8, -1) - 0.5) / 0.5
    expected = np.maximum(flat @ kernel + bias, 0)
    np.testing.assert_allclose(
        encoder((images - 0.5) / 0.5), expected, rtol=1e-4, atol=1e-5
    )
    assert len(model.trainable_weights) == 6


class Broken(keras.layers.Layer):
    def call(self, images):
        raise RuntimeError("the GPU caught fire")


def two_inputs():
    shapes = [keras.Input(models.IMAGE_SHAPE), keras.Input((3,))]
    flat = keras.layers.Flatten()(shapes[0])
    return keras.Model(shapes, keras.layers.Concatenate()([flat, shapes[1]]))


def two_outputs():
    images = keras.Input(models.IMAGE_SHAPE)
    flat = keras.layers.Flatten()(images)
    return keras.Model(images, [flat, flat])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: keras.layers.Conv2D(4, 2), r"\(None, 3, 3, 4\).*Flatten"),
        (two_outputs, "one row per image"),
        (two_inputs, "one input, the images.*2 inputs"),
        (Broken, "cannot be told.*the GPU caught fire"),
        (lambda: lambda images: images, "not a Keras layer.*function"),
    ],
)
def test_encoders_that_break_the_contract_are_refused_in_build(make, message):
    with pytest.raises(UserError, match=message):
        of_encoder(make()).build((None, *models.IMAGE_SHAPE))


def test_two_inputs_are_not_stacked_into_one():
    images, labels = models.data(8)
    model = models.build("vib")
    model.compile("adam")
    with pytest.raises(UserError, match="one input, the images.*2 of them"):
        model.fit([images, images], labels, verbose=0)


# --- Interrupted and resumed --------------------------------------------------


def with_a_bottleneck_layer():
    from ib_keras.bottlenecks.layer import VIBLayer

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(models.IMAGE_SHAPE),
            keras.layers.Flatten(),
            VIBLayer(4, seed=1),
            keras.layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    return model


def an_ib_classifier():
    keras.utils.set_random_seed(0)
    model = of_encoder(mlp.build(models.IMAGE_SHAPE, (8,)))
    model.compile("adam")
    return model


@pytest.mark.parametrize(
    "make",
    [
        an_ib_classifier,
        pytest.param(with_a_bottleneck_layer, marks=pytest.mark.slow),
    ],
)
def test_backup_and_restore_resumes_to_the_same_weights(make, tmp_path):
    images, labels = models.data(32)

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def fit(model, *callbacks):
        model.fit(
            images,
            labels,
            batch_size=8,
            epochs=4,
            shuffle=False,
            verbose=0,
            callbacks=list(callbacks),
        )
        return models.weights_of(model)

    expected = fit(make())
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        fit(make(), backup, Interrupt())
    resumed = make()
    seen = []
    found = fit(
        resumed,
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: seen.append(epoch)
        ),
    )
    assert seen == [2, 3]
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
