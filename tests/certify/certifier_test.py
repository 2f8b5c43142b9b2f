"""What is proved is true, and on small networks not far from the whole truth.

The oracles are a closed form of linear models, the enumeration of a small ReLU
network's linear pieces, and attacks by sampling.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize
from scipy import special

from ib_keras import certify
from ib_keras import modes
from ib_keras import seeds
from ib_keras.certify import head as heads
from ib_keras.certify import noise
from ib_keras.errors import UserError
from tests.support import models

SHAPE = (2, 2, 1)
CLASSES = 3
HIDDEN = 6


def small_network(seed=0):
    """Weights of 4 - 6 - 5 - 3 units; with the second layer left out 4-6-3."""
    rng = np.random.default_rng(seed)
    sizes = [(4, HIDDEN), (HIDDEN, 5), (5, CLASSES)]
    return [
        (
            rng.normal(size=size).astype(np.float32),
            0.3 * rng.normal(size=size[1]).astype(np.float32),
        )
        for size in sizes
    ]


def logits_fn(layers, last=lambda x: x):
    """The ReLU network, and what follows it."""

    def logits(images, seed):
        del seed
        x = tf.reshape(images, [-1, layers[0][0].shape[0]])
        for kernel, bias in layers[:-1]:
            x = tf.nn.relu(tf.matmul(x, kernel) + bias)
        return last(tf.matmul(x, layers[-1][0]) + layers[-1][1])

    return logits


def data(count=24, shape=SHAPE, seed=1):
    """Images, a third of them cut by the box, with the labels of nothing."""
    rng = np.random.default_rng(seed)
    images = rng.random((count, *shape)).astype(np.float32)
    images[::3] = np.round(images[::3])
    return images


def predictions(logits, images):
    answers = logits(tf.constant(images), seeds.from_int(0))
    return np.argmax(answers, axis=1).astype(np.int32)


def inside(images, epsilon, count=300, seed=2):
    """Images of the balls `[count, examples, ...]`, half of them corners."""
    rng = np.random.default_rng(seed)
    share = rng.uniform(-1, 1, (count, *images.shape))
    share[::2] = np.sign(share[::2])
    return np.clip(images + epsilon * share, 0, 1).astype(np.float32)


def exact_margins(first, second, images, labels, epsilon):
    """The least margin over each ball of a network with one hidden layer.

    On each of its linear pieces that is a linear programme.
    """
    (kernel, bias), (weight, shift) = first, second
    least = np.full(len(images), np.inf)
    patterns = np.array(list(itertools.product([0, 1], repeat=HIDDEN)))
    for index, image in enumerate(images.reshape(len(images), -1)):
        low = np.maximum(image - epsilon, 0)
        high = np.minimum(image + epsilon, 1)
        box = np.stack([low, high], 1)
        for active in patterns:
            sign = 1 - 2 * active  # On: -(z) <= 0; off: z <= 0.
            side = (kernel * sign).T, -bias * sign
            for other in set(range(CLASSES)) - {labels[index]}:
                gap = weight[:, labels[index]] - weight[:, other]
                slope = kernel @ (active * gap)
                found = optimize.linprog(slope, *side, bounds=box)
                if found.status == 0:
                    rest = bias @ (active * gap)
                    rest += shift[labels[index]] - shift[other]
                    least[index] = min(least[index], found.fun + rest)
    return least


def test_a_linear_model_is_bounded_by_its_closed_form():
    kernel, bias = small_network()[0]
    kernel, bias = kernel[:, :CLASSES], bias[:CLASSES]
    images, epsilon = data(), 0.15
    logits = logits_fn([(kernel, bias)])
    labels = predictions(logits, images)
    found = certify.Certifier(logits, SHAPE, "ibp").certify(
        images, labels, epsilon
    )
    flat = images.reshape(len(images), -1).astype(np.float64)
    low, high = np.maximum(flat - epsilon, 0), np.minimum(flat + epsilon, 1)
    expected = np.full(len(images), np.inf)
    for row, label in enumerate(labels):
        for other in set(range(CLASSES)) - {label}:
            gap = kernel[:, label] - kernel[:, other]
            least = np.where(gap > 0, low[row], high[row]) @ gap
            least += bias[label] - bias[other]
            expected[row] = min(expected[row], least)
    assert (found.margin <= expected).all()
    np.testing.assert_allclose(found.margin, expected, atol=2e-5)
    np.testing.assert_array_equal(found.is_certified, found.margin > 0)
    assert 0 < found.is_certified.mean() < 1


def test_bounds_are_below_the_truth_and_each_method_is_tighter():
    first, second = small_network()[0], small_network()[1]
    second = second[0][:, :CLASSES], second[1][:CLASSES]
    images, epsilon = data(6), 0.12
    logits = logits_fn([first, second])
    # Most labels are wrong, so that no example stops at a cheaper method.
    labels = np.arange(len(images), dtype=np.int32) % CLASSES
    exact = exact_margins(first, second, images, labels, epsilon)
    before = np.full(len(images), -np.inf)
    means = []
    for method in certify.METHODS:
        certifier = certify.Certifier(logits, SHAPE, method)
        shifted = certifier.certify(images, labels, epsilon)
        assert (shifted.margin <= exact + 1e-9).all()
        assert (shifted.margin >= before - 1e-9).all()
        np.testing.assert_array_equal(shifted.method >= 0, shifted.is_certified)
        before = shifted.margin
        means.append(np.mean(exact - shifted.margin))
    assert means[0] > means[1] >= means[2] >= 0


@pytest.fixture(scope="module")
def deep():
    """A network of two hidden layers, its examples, and alpha-CROWN of it."""
    logits = logits_fn(small_network())
    images = data()
    labels = predictions(logits, images)
    certifier = certify.Certifier(logits, SHAPE, "alpha_crown")
    return certifier, logits, images, labels


@pytest.mark.slow
def test_sampling_finds_nothing_below_the_bounds(deep):
    certifier, logits, images, labels = deep
    for epsilon in (0.0, 0.03, 0.2):
        found = certifier.certify(images, labels, epsilon)
        seen = np.full(len(images), np.inf)
        for moved in inside(images, epsilon):
            answers = logits(moved, None).numpy().astype(np.float64)
            own = answers[np.arange(len(labels)), labels]
            answers[np.arange(len(labels)), labels] = -np.inf
            seen = np.minimum(seen, own - answers.max(1))
        assert (found.margin <= seen).all()
        if epsilon == 0:
            assert found.is_certified[seen > 1e-4].all()
        assert found.is_certified.any()


def test_the_wrong_label_is_never_certified(deep):
    certifier, _, images, labels = deep
    found = certifier.certify(images, (labels + 1) % CLASSES, 0.0)
    assert not found.is_certified.any()
    assert (found.margin < 0).all()


def test_a_proof_does_not_depend_on_who_else_is_asked_about(deep):
    certifier, _, images, labels = deep
    whole = certifier.certify(images, labels, 0.05)
    alone = certifier.certify(images[5:6], labels[5:6], 0.05)
    assert alone.is_certified[0] == whole.is_certified[5]


def test_the_radius_is_proved_and_the_next_step_is_not(deep):
    certifier, _, images, labels = deep
    radius = certifier.radius(images, labels, 0.4, num_steps=6)
    assert ((radius >= 0) & (radius < 0.4)).any()
    inside = np.maximum(radius, 0)
    found = certifier.certify(images, labels, inside)
    assert found.is_certified[radius > 0].all()
    beyond = certifier.certify(images, labels, radius + 0.4 / 2**6 + 1e-6)
    assert not beyond.is_certified[radius < 0.4].any()


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(tf.nn.softmax, marks=pytest.mark.slow),
        pytest.param(tf.nn.log_softmax, marks=pytest.mark.slow),
        lambda x: tf.math.log(tf.maximum(tf.nn.softmax(x), 1e-37)),
    ],
)
def test_a_softmax_at_the_end_changes_no_judgement(deep, last):
    certifier, _, images, labels = deep
    other = certify.Certifier(logits_fn(small_network(), last), SHAPE)
    assert other.head.has_softmax
    plain = certify.Certifier(logits_fn(small_network()), SHAPE)
    first = plain.certify(images, labels, 0.05)
    second = other.certify(images, labels, 0.05)
    np.testing.assert_allclose(first.margin, second.margin, atol=1e-4)


def test_two_classes_by_one_probability():
    kernel, bias = small_network()[0]
    score = logits_fn([(kernel[:, :1], bias[:1])])

    def logits(images, seed):
        p = tf.sigmoid(score(images, seed))
        return tf.math.log(tf.concat([1.0 - p, p], axis=1))

    images = data()
    labels = predictions(logits, images)
    found = certify.Certifier(logits, SHAPE).certify(images, labels, 0.1)
    scores = np.stack([score(x, None).numpy() for x in inside(images, 0.1)])
    stays = ((scores > 0) == labels[:, None]).all(axis=(0, 2))
    assert stays[found.is_certified].all()
    assert found.is_certified.any()
    assert not found.is_certified.all()


def test_the_mean_over_draws_is_bounded_by_brute_force():
    rng = np.random.default_rng(0)
    head = heads.Head("", (3, 4), has_softmax=True)
    least = rng.normal(size=(50, 3, 4)) + 0.5
    least[:, :, 0] = np.inf  # The label.
    bound = heads.decide(head, least)
    for _ in range(200):
        scores = -(least + rng.exponential(size=least.shape) ** 3)
        scores[:, :, 0] = 0.0
        mean = special.softmax(scores, axis=-1).mean(axis=1)
        assert (mean[:, 0] - mean[:, 1:].max(axis=1) >= bound).all()
    assert (bound > 0).any()
    # At the least margins themselves one class comes near to the bound.
    scores = np.where(np.isfinite(least), -least, 0.0)
    mean = special.softmax(scores, axis=-1).mean(axis=1)
    is_right = (least > 0).all(axis=(1, 2))
    near = mean[:, 0] - mean[:, 1:].max(axis=1) - bound
    np.testing.assert_allclose(near[is_right], 0, atol=1e-4)


@pytest.mark.parametrize("name", sorted(models.BOTTLENECKS))
@pytest.mark.slow
def test_bottlenecks_with_the_noise_of_a_seed(name):
    """Sampling with the same noise finds nothing below the bound."""
    model = models.randomise(models.build(name), scale=0.4)
    if not model.is_stochastic:
        return
    draw = modes.stochastic(model)

    def logits(images, seed):
        return draw(images, seed, tf.constant(4))

    certifier = certify.Certifier(logits, models.IMAGE_SHAPE)
    assert certifier.is_random
    assert certifier.head.shape == (4, models.NUM_CLASSES)
    images = data(8, models.IMAGE_SHAPE)
    seed = seeds.from_int(3)
    alone = [logits(tf.constant(x[None]), seed)[0] for x in images]
    labels = np.argmax(alone, axis=1).astype(np.int32)
    epsilon = 0.01
    found = certifier.certify(images, labels, epsilon, seed=seed)
    assert found.is_certified.any()
    for moved in inside(images, epsilon, 40):
        for row, image in enumerate(moved):
            p = np.exp(logits(image[None], seed)[0].numpy())
            gap = p[labels[row]] - np.delete(p, labels[row]).max()
            assert not gap < found.margin[row]  # NaN: there is no bound.
    other = certifier.certify(images, labels, epsilon, seed=seeds.from_int(4))
    assert (other.margin != found.margin).any()


def test_the_chance_of_right_is_clopper_pearsons():
    # By the definition: at this share so many successes have that chance.
    for good, draws in ((10, 10), (15, 16), (3, 20)):
        share = float(noise.chance_of_right(good, draws, 0.999))
        tail = special.bdtrc(good - 1, draws, share)
        assert tail == pytest.approx(0.001, rel=1e-6)
    assert noise.chance_of_right(0, 10, 0.999) == 0


def lottery(chance):
    """A linear model that answers with another class on some seeds."""
    kernel, bias = small_network()[0]
    plain = logits_fn([(kernel[:, :CLASSES], bias[:CLASSES])])

    def logits(images, seed):
        unit = tf.random.stateless_uniform([], seed)
        lost = tf.cast(unit < chance, tf.float32)
        change = tf.eye(CLASSES) * (1 - lost)
        change += tf.roll(tf.eye(CLASSES), 1, axis=1) * lost
        return tf.matmul(plain(images, seed), change)

    return plain, logits


def test_fresh_noise_is_certified_by_the_share_of_good_seeds():
    images, epsilon = data(), 0.02
    for chance, most in ((0.0, 1.0), (0.45, 0.0)):
        plain, logits = lottery(chance)
        labels = predictions(plain, images)
        certifier = certify.Certifier(logits, SHAPE, "ibp")
        found = certify.certify_over_noise(certifier, images, labels, epsilon)
        sure = certify.Certifier(plain, SHAPE, "ibp").certify(
            images, labels, epsilon
        )
        share = found.is_certified[sure.is_certified].mean()
        assert share == most
        assert not found.is_certified[~sure.is_certified].any()
    with pytest.raises(UserError, match="at least 10 draws"):
        certify.certify_over_noise(
            certifier, images, labels, epsilon, num_draws=9
        )


def test_what_cannot_be_certified_is_said(deep):
    certifier, logits, images, labels = deep
    with pytest.raises(UserError, match="8/255"):
        certifier.certify(images, labels, 8.0)
    with pytest.raises(UserError, match="Labels"):
        certifier.certify(images, labels[:3], 0.1)
    with pytest.raises(UserError, match='Did you mean "crown"'):
        certify.Certifier(logits, SHAPE, "crwn")


def test_noise_that_no_seed_repeats_is_not_taken_for_a_constant():
    def logits(images, seed):
        del seed
        x = tf.reshape(images, [-1, 4]) + tf.random.normal([1, 4])
        return tf.matmul(x, tf.eye(4))

    with pytest.raises(certify.NotCovered, match="RandomStandardNormal"):
        certify.Certifier(logits, SHAPE)


def test_float64_models_are_covered():
    layers = small_network()

    def logits(images, seed):
        x = tf.cast(tf.reshape(images, [-1, 4]), tf.float64)
        kernel = tf.cast(layers[0][0], tf.float64)
        x = tf.tanh(tf.matmul(x, kernel))
        return tf.cast(x[:, :CLASSES], tf.float32)

    images = data()
    labels = predictions(logits, images)
    found = certify.Certifier(logits, SHAPE).certify(images, labels, 0.01)
    assert found.is_certified.any()
