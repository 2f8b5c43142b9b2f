"""Tests for what attacks share, against NumPy in float64."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import plugins
from ib_keras import seeds
from ib_keras.attacks import base
from ib_keras.attacks import losses
from ib_keras.errors import UserError

SHAPE = (2, 3, 1)
NUM_CLASSES = 4
SEED = seeds.from_int(17)
KERNEL = np.random.default_rng(0).normal(size=(6, NUM_CLASSES))
KERNEL = KERNEL.astype(np.float32)


def linear(images, seed):
    del seed
    return tf.reshape(images, [-1, 6]) @ KERNEL


def noisy(images, seed):
    """Logits that the seed moves, the same way for every example."""
    return linear(images, seed) + seeds.noise(seed, [NUM_CLASSES])


def data(count=5, seed=1):
    rng = np.random.default_rng(seed)
    images = rng.random((count, *SHAPE), np.float32)
    return images, rng.integers(0, NUM_CLASSES, count).astype(np.int32)


def evaluate(logits_fn, images, labels, **arguments):
    return base.evaluate_gradient(
        logits_fn,
        lambda logits: losses.cross_entropy(logits, labels),
        tf.constant(images),
        tf.constant(labels),
        SEED,
        **arguments,
    )


def numpy_softmax(logits):
    logits = np.float64(logits)
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def numpy_gradient(logits, labels):
    """Of the cross-entropy of the linear model with respect to its images."""
    residual = numpy_softmax(logits) - np.eye(NUM_CLASSES)[labels]
    return (residual @ np.float64(KERNEL).T).reshape(-1, *SHAPE)


def test_a_wrong_prediction_needs_finite_logits():
    inf, nan = np.inf, np.nan
    logits = np.float32(
        [[0, 1], [1, 0], [nan, 1], [0, nan], [-inf, 1], [inf, 0], [nan, nan]]
    )
    for label in (0, 1):
        labels = tf.fill([7], label)
        wrong = base.is_wrong(tf.constant(logits), labels).numpy()
        assert wrong.tolist() == [label == 0, label == 1] + [False] * 5
    finite = base.is_finite(tf.constant(logits)).numpy()
    assert finite.tolist() == [True, True] + [False] * 5


def test_a_tie_predicts_the_first_of_the_largest():
    logits = tf.constant([[1.0, 1.0, 0.0]] * 2)
    wrong = base.is_wrong(logits, tf.constant([0, 1]))
    assert wrong.numpy().tolist() == [False, True]


def test_what_was_not_evaluated_is_nan():
    images, _ = data()
    evaluation = base.not_evaluated(tf.constant(images))
    np.testing.assert_array_equal(evaluation.images, images)
    assert not evaluation.is_wrong.numpy().any()
    assert (evaluation.margin.numpy() == -np.inf).all()
    assert (evaluation.gradient_norm.numpy() == -1).all()


def test_an_evaluation_is_nan_where_a_logit_is_not_finite():
    images, labels = data(3)
    logits = np.array(linear(tf.constant(images), SEED))
    logits[1, 2] = np.nan
    logits[2, 0] = np.inf
    evaluation = base.evaluated(
        tf.constant(images),
        tf.constant(logits),
        tf.constant(labels),
        loss=tf.zeros(3),
    )
    margin = losses.margin(tf.constant(logits), tf.constant(labels))
    assert evaluation.margin[0] == margin[0]
    assert np.isnan(evaluation.margin.numpy()[1:]).all()
    assert not evaluation.is_wrong.numpy()[1:].any()
    assert (evaluation.gradient_norm.numpy() == -1).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 15])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_one_bad_pixel_of_a_gradient_shows_in_its_norm(
    value, place, jit_compile
):
    gradient = np.ones((2, 16), np.float32)
    gradient[0, place] = value

    @tf.function(jit_compile=jit_compile)
    def evaluated(gradient):
        return base.evaluated(
            tf.zeros([2, 4, 4, 1]),
            tf.zeros([2, 3]),
            tf.constant([0, 0]),
            loss=tf.zeros(2),
            gradient=gradient,
        )

    evaluation = evaluated(tf.constant(gradient.reshape(2, 4, 4, 1)))
    assert not np.isfinite(evaluation.gradient_norm[0])
    assert evaluation.gradient_norm[1] == 1


def test_a_gradient_that_squares_would_lose_is_not_counted_as_zero():
    gradient = tf.constant([0.0, -1e-30, 1e-32], shape=[1, 1, 3, 1])
    evaluation = base.evaluated(
        tf.zeros_like(gradient),
        tf.zeros([1, 2]),
        tf.constant([0]),
        loss=tf.zeros(1),
        gradient=gradient,
    )
    assert evaluation.gradient_norm[0] == np.float32(1e-30)


def test_loss_and_gradient_agree_with_numpy():
    images, labels = data()
    evaluation, gradient = evaluate(linear, images, labels)
    logits = np.float64(images.reshape(-1, 6)) @ KERNEL
    expected = numpy_gradient(logits, labels)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        evaluation.gradient_norm,
        abs(expected).max(axis=(1, 2, 3)),
        rtol=1e-4,
    )
    rows = np.arange(len(labels))
    np.testing.assert_allclose(
        evaluation.loss,
        -np.log(numpy_softmax(logits)[rows, labels]),
        rtol=1e-5,
    )
    np.testing.assert_array_equal(
        evaluation.is_wrong, logits.argmax(1) != labels
    )


def test_the_gradient_of_an_example_does_not_depend_on_its_batch():
    images, labels = data(6)
    _, whole = evaluate(linear, images, labels)
    for i in range(6):
        _, alone = evaluate(linear, images[i : i + 1], labels[i : i + 1])
        np.testing.assert_allclose(alone[0], whole[i], rtol=1e-5)


def test_expectation_averages_loss_and_gradient_over_fresh_draws():
    """By NumPy, from the noise of each draw's own seed."""
    images, labels = data()
    clean = np.float64(images.reshape(-1, 6)) @ KERNEL
    draws = [
        clean + seeds.noise(base.draw_seed(SEED, i), [NUM_CLASSES]).numpy()
        for i in range(3)
    ]
    rows = np.arange(len(labels))
    probabilities = np.stack([numpy_softmax(logits) for logits in draws])
    evaluation, gradient = evaluate(noisy, images, labels, num_eot=3)
    np.testing.assert_allclose(
        evaluation.loss,
        np.mean(-np.log(probabilities[:, rows, labels]), axis=0),
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        gradient,
        np.mean([numpy_gradient(logits, labels) for logits in draws], axis=0),
        rtol=1e-4,
        atol=1e-6,
    )
    # The judgement is that of the mean of probabilities.
    mean = probabilities.mean(axis=0)
    np.testing.assert_array_equal(evaluation.is_wrong, mean.argmax(1) != labels)
    others = np.where(np.eye(NUM_CLASSES)[labels] == 1, 0, mean)
    np.testing.assert_allclose(
        evaluation.margin,
        np.log(others.max(axis=1)) - np.log(mean[rows, labels]),
        rtol=1e-3,
        atol=1e-5,
    )


@pytest.mark.parametrize("traced", [False, True])
def test_expectation_changes_nothing_on_a_model_without_noise(traced):
    images, labels = data()

    def call(**arguments):
        return evaluate(linear, images, labels, **arguments)

    call = tf.function(call) if traced else call
    one, gradient = call()
    many, same_gradient = call(num_eot=12)
    np.testing.assert_allclose(same_gradient, gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(many.is_wrong, one.is_wrong)
    np.testing.assert_allclose(many.loss, one.loss, rtol=1e-5)
    np.testing.assert_allclose(many.margin, one.margin, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("traced", [False, True])
def test_a_model_without_gradient_is_a_user_error(traced):
    images, labels = data()
    for cut in (tf.stop_gradient, tf.round):

        def call(cut=cut):
            return evaluate(lambda x, s: linear(cut(x), s), images, labels)

        with pytest.raises(UserError, match="no gradient") as error:
            (tf.function(call) if traced else call)()
        assert "\n" not in str(error.value)


def test_log_add_exp_survives_where_exp_does_not():
    a = np.float32([0, 1000, -1000, 88, -np.inf])
    b = np.float32([0, -1000, -1001, 89, 3])
    np.testing.assert_allclose(
        base.log_add_exp(tf.constant(a), tf.constant(b)),
        np.logaddexp(np.float64(a), b),
        rtol=1e-6,
    )


@pytest.mark.parametrize("count", [2, tf.constant(7)], ids=["two", "tensor"])
def test_draws_are_averaged_as_probabilities_and_numbers(count):
    def ask(seed):
        logits = 20 * tf.random.stateless_normal([3, 4], seed)
        return logits, logits[:, 0]

    logits, first = tf.function(base.mean_over_draws)(ask, SEED, count)
    draws = np.float64([ask(base.draw_seed(SEED, i))[0] for i in range(count)])
    np.testing.assert_allclose(first, draws[..., 0].mean(0), rtol=1e-5)
    odds = np.exp(draws - draws.max(axis=2, keepdims=True))
    mean = (odds / odds.sum(axis=2, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(logits, np.log(mean), rtol=1e-5, atol=1e-5)


def test_model_noise_is_a_function_of_the_first_example_and_the_purpose():
    example_seeds = seeds.fold(SEED, tf.range(4))

    def seed_of(*arguments):
        return tuple(base.model_seed(*arguments).numpy())

    assert seed_of(example_seeds, 3) == seed_of(example_seeds[:2], 3)
    others = {
        seed_of(example_seeds[1:], 3),
        seed_of(example_seeds, 4),
        seed_of(example_seeds, 3, 0),
        tuple(example_seeds[0].numpy()),
    }
    assert len(others) == 4 and seed_of(example_seeds, 3) not in others


def test_counts_are_whole_and_large_enough():
    assert base.check_count("num_steps", 3.0) == 3
    assert type(base.check_count("num_steps", np.int64(3))) is int
    assert base.check_count("num_targets", 0, smallest=0) == 0
    for value, smallest in ((0, 1), (-1, 0), (2.5, 1)):
        with pytest.raises(UserError, match="num_steps is not a count"):
            base.check_count("num_steps", value, smallest)


def test_the_protocol_asks_for_what_the_engine_reads():
    assert isinstance(plugins.build("attacks", {"name": "pgd"}), base.Attack)
    assert not isinstance(base.GradientAttack(), base.Attack)
