"""Searches that trust no gradient, on models whose answer is known."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import attacks
from ib_keras import plugins
from ib_keras import seeds
from ib_keras.attacks import geometry
from ib_keras.attacks import smoothed
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import hard_label
from ib_keras.audit.diagnostics import neighbours
from ib_keras.audit.diagnostics import stand_in
from ib_keras.audit.diagnostics.case import stage
from ib_keras.types import ThreatModel
from tests.support import cases

SIZE = 16
SHAPE = (4, 4, 1)
EPSILON = 0.2
WEIGHTS = np.linspace(0.5, 1.5, SIZE) * np.resize([1.0, -1.0, -1.0], SIZE)
REACH = np.abs(WEIGHTS).sum()


def value(x):
    """The side of a plane through grey, in l_inf distances from it."""
    flat = tf.reshape(x, [-1, SIZE])
    kernel = tf.constant(WEIGHTS[:, None] / REACH, tf.float32)
    return (flat - 0.5) @ kernel


def data(count=40, reach=0.35):
    """Images of two classes at even distances from the plane, and noisy."""
    rng = np.random.default_rng(0)
    labels = np.resize([0, 1], count).astype(np.int32)
    distance = reach * (np.arange(count) + 0.5) / count * (1 - 2 * labels)
    noise = rng.uniform(-0.1, 0.1, (count, SIZE))
    noise -= (noise @ WEIGHTS / (WEIGHTS @ WEIGHTS))[:, None] * WEIGHTS
    flat = 0.5 + noise + distance[:, None] * np.sign(WEIGHTS)
    return flat.reshape(count, *SHAPE).astype(np.float32), labels


def hard(x, seed=None):
    """Predictions alone: logits of two values, with a gradient of zero."""
    side = tf.where(value(x) > 0, 1.0, -1.0) + 0.0 * value(x)
    return side * [1.0, -1.0]


def stairs(x, seed=None):
    """The plane's value in smooth steps: next to no gradient on the treads."""
    phase = 12.0 * value(x)
    steps = tf.round(phase) + 0.5 * tf.tanh(
        40.0 * (phase - tf.round(phase) - 0.45)
    )
    return steps * [1.0, -1.0] + value(x) * [1e-9, 0.0]


def case_of(model):
    """An audit by PGD from the image itself, which no gradient helps."""
    blind = stage("pgd", num_steps=10, step_size=0.05, random_start=False)
    return cases.make(model, *data(), blind, epsilon=EPSILON, classes=2)


def is_stored(x):
    """Which images have pixels of 17 levels alone."""
    off = tf.abs(16.0 * x - tf.round(16.0 * x))
    return tf.reduce_all(off < 1e-3, axis=[1, 2, 3])


def case_of_robust(model, images, labels):
    """An audit by PGD that breaks nothing, of a model with a gradient."""
    pgd = stage("pgd", num_steps=20, step_size=0.03)
    case = cases.make(model, images, labels, pgd, epsilon=EPSILON, classes=2)
    assert case.robust_accuracy == 1.0
    return cases.with_gradient(case)


@pytest.fixture(scope="module")
def blind():
    case = case_of(hard)
    assert case.robust_accuracy == 1.0
    return case


def ask(name, case, **arguments):
    question = plugins.build("audit.diagnostics", {"name": name, **arguments})
    (finding,) = question.ask(case)
    return finding


def wrong_side(labels):
    """A function of images in NumPy, on which of the two sides they are."""

    def is_wrong(images):
        side = (images.reshape(-1, SIZE) - 0.5) @ WEIGHTS > 0
        return side != (labels == 0)

    return is_wrong


def can_be_broken(case):
    """By the closed form: the plane is within epsilon."""
    images = case.subject.images.reshape(-1, SIZE) - 0.5
    return np.abs(images @ WEIGHTS) / REACH < EPSILON


@pytest.mark.parametrize(
    ("name", "share"),
    [("hard_label", 0.95), ("stand_in", 0.9)],
)
def test_what_predictions_give_away_is_found(blind, name, share):
    finding = ask(name, blind)
    possible = set(np.flatnonzero(can_be_broken(blind)))
    broken = set(finding.data["broken"])
    assert finding.status == base.FAIL
    assert broken <= possible  # Nothing is booked that cannot be broken.
    assert len(broken) >= share * len(possible)


def test_rays_find_the_smallest_ball_of_a_plane():
    images, labels = data()
    exact = np.abs((images.reshape(-1, SIZE) - 0.5) @ WEIGHTS) / REACH
    is_wrong = wrong_side(labels)
    starts = np.ones((1, *images.shape), np.float32)
    for epsilon in (0.05, 0.15, 0.3):
        found = hard_label.search(is_wrong, images, starts, epsilon, 2000)
        change = np.abs(found - images).max(axis=(1, 2, 3))
        assert (change <= epsilon + 1e-6).all()
        broken = is_wrong(found)
        assert not broken[exact > epsilon].any()
        assert broken[exact < 0.9 * epsilon].all()


def test_a_good_start_costs_few_queries():
    images, labels = data()
    towards = np.where(labels == 0, -1.0, 1.0)[:, None] * np.sign(WEIGHTS)
    starts = np.stack(
        [np.ones_like(images), towards.reshape(images.shape)]
    ).astype(np.float32)
    is_wrong = wrong_side(labels)
    found = hard_label.search(is_wrong, images, starts, 0.36, 40)
    assert is_wrong(found).all()


def test_smoothed_gradients_climb_stairs():
    images, labels = data()
    arguments = dict(epsilon=EPSILON, num_steps=20)
    plain, smooth = (
        attacks.run(stairs, images, labels, name, **arguments).is_robust
        for name in ("pgd", "smoothed")
    )
    exact = np.abs((images.reshape(-1, SIZE) - 0.5) @ WEIGHTS) / REACH
    assert not (~smooth & (exact > EPSILON + 1 / 24)).any()
    assert smooth.sum() < plain.sum() - 5


def test_smoothed_losses_cross_steps_without_a_gradient():
    def quantised(x, seed=None):
        flat = value(tf.round(8.0 * x) / 8.0) + 0.0 * value(x)
        return flat * [1.0, -1.0]

    case = case_of(quantised)
    finding = ask("smoothed_gradients", case, num_pairs=6)
    assert case.robust_accuracy == 1.0 and finding.status == base.FAIL
    assert len(finding.data["broken"]) >= 0.6 * can_be_broken(case).sum()


@pytest.mark.parametrize("from_losses", [False, True])
def test_the_mean_gradient_of_a_plane_is_its_gradient(from_losses):
    """Exactly by gradients, to noise by losses alone: E[(n w) n] = w / 3."""
    attack = smoothed.build(
        width=0.5, num_pairs=400, from_losses=from_losses, loss="margin"
    )
    images = tf.fill([2, *SHAPE], 0.5)
    state = attack.init(
        None,
        images,
        tf.constant([0, 1]),
        ThreatModel("linf", EPSILON),
        seeds.fold(seeds.from_int(0), tf.range(2)),
    )
    found = tf.function(attack._mean_gradient, autograph=False)(
        lambda x, seed: value(x) * [1.0, -1.0],
        state._replace(images=images),
        tf.constant(0),
        tf.constant([0, 0]),
    )
    direction = np.float64(found).reshape(2, SIZE) * [[-1.0], [1.0]]
    cosine = direction @ WEIGHTS / np.linalg.norm(direction, axis=1)
    cosine /= np.linalg.norm(WEIGHTS)
    # By losses alone the noise is sqrt(16 / 400) of the signal.
    assert (cosine > (0.97 if from_losses else 1 - 1e-6)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_stand_in_learns_a_plane_and_is_attacked_in_the_ball(norm):
    rng = np.random.default_rng(0)
    network = stand_in.Network(SHAPE, 2, norm, rng)
    images = rng.uniform(size=(400, *SHAPE)).astype(np.float32)
    answers = (value(images).numpy()[:, 0] < 0).astype(np.int32)
    network.fit(images, answers, 150, rng)
    assert (network.predict(images) == answers).mean() > 0.95
    few, labels = images[:50], answers[:50]
    example_seeds = seeds.fold(seeds.from_int(0), tf.range(50))
    found = network.climb(few, labels, EPSILON, example_seeds)
    ball = geometry.ball(tf.constant(few), ThreatModel(norm, EPSILON))
    assert (ball.distance(tf.constant(found)).numpy() <= EPSILON + 1e-5).all()
    # The best step goes along the signs (l_inf) or the weights (l2).
    towards = np.sign(WEIGHTS) if norm == "linf" else WEIGHTS
    step = (found - few).reshape(50, SIZE) * (2 * labels - 1)[:, None]
    reached = step @ WEIGHTS / np.linalg.norm(step, axis=1)
    assert np.median(reached / (towards @ WEIGHTS)) > 0.8 / np.linalg.norm(
        towards
    )


def test_the_values_of_stored_pixels_are_found():
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 17, (9, *SHAPE)).astype(np.float32) / 16
    photos = rng.integers(0, 256, (9, *SHAPE)).astype(np.float32) / 255
    assert neighbours.lattices(digits) == [16, 255]
    assert neighbours.lattices(photos) == [255]
    assert neighbours.lattices(photos + 0.001) == [255]


def test_rounded_neighbours_are_stored_pixels_of_the_ball():
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 17, (9, *SHAPE)).astype(np.float32) / 16
    misses = np.clip(clean + rng.uniform(-0.2, 0.2, clean.shape), 0, 1)
    found = neighbours.neighbours(clean, misses, 0.2, [16], 2, rng)
    rounded = [images for kind, images in found if kind == "rounded"]
    for images in rounded:
        np.testing.assert_allclose(images * 16, np.rint(images * 16), atol=1e-4)
    # The second never is farther from the clean image than the miss.
    change = np.abs(rounded[1] - clean)
    assert (change <= np.abs(misses - clean) + 1e-5).all() and change.any()


def test_a_model_that_reacts_to_unstored_pixels_is_seen():
    """Of an image that no file holds it reads the one pixel that tells."""
    images, labels = data()
    images = np.rint(images * 16) / 16
    images[:, 0, 0, 0] = labels == 0

    def guarded(x, seed=None):
        tells = value(x) + x[:, 0, :1, 0] - 0.5
        plain = 100.0 * value(x)
        return tf.where(is_stored(x)[:, None], plain, tells) * [1.0, -1.0]

    labels = (value(images).numpy()[:, 0] < 0).astype(np.int32)
    images[:, 0, 0, 0] = labels == 0
    case = case_of_robust(guarded, images, labels)
    finding = ask("neighbours", case)
    assert finding.status == base.FAIL
    assert finding.data["broken_by_kind"]["rounded"] > 10
    assert set(finding.data["broken"]) <= set(
        np.flatnonzero(can_be_broken(case))
    )


def test_without_any_gradient_neighbours_are_asked_all_the_same():
    def rounded(x, seed=None):
        return (tf.round(4.0 * value(x)) + 0.0 * value(x)) * [1.0, -1.0]

    square = stage("square", num_steps=20)
    images, labels = data()
    case = cases.make(
        rounded, images, labels, square, epsilon=EPSILON, classes=2
    )
    # Here it is zero; without the second term there would be none.
    for gradient, is_attacked in (("zero", True), ("none", False)):
        known = cases.with_gradient(case, gradient)
        found = ask("neighbours", known).data["broken_by_kind"]
        assert ("stored" in found) == is_attacked
        assert "shrunk" in found


def test_an_attack_through_stored_images_sees_what_only_they_are_asked():
    """Of them a second plane decides, which no miss of the first is near.

    By its closed form those can be broken whose distance from it is below the
    largest step between stored values that the ball has.
    """
    other = np.roll(WEIGHTS, 1) * np.resize([1.0, -1.0], SIZE)
    other -= WEIGHTS * (other @ WEIGHTS) / (WEIGHTS @ WEIGHTS)
    kernel = tf.constant(other[:, None] / np.abs(other).sum(), tf.float32)

    def of_stored(x):
        return (tf.reshape(x, [-1, SIZE]) - 0.5) @ kernel

    def guarded(x, seed=None):
        tells = tf.sign(of_stored(clean_of(x))) + 0.01 * value(x)
        return tf.where(is_stored(x)[:, None], of_stored(x), tells) * [
            1.0,
            -1.0,
        ]

    rng = np.random.default_rng(0)
    images = rng.integers(4, 13, (40, *SHAPE)).astype(np.float32) / 16

    def clean_of(x):
        """The image of the data that is next to x."""
        flat = tf.reshape(x, [-1, 1, SIZE])
        apart = tf.reduce_max(
            tf.abs(flat - images.reshape(1, -1, SIZE)), axis=2
        )
        return tf.gather(tf.constant(images), tf.argmin(apart, axis=1))

    distance = of_stored(images).numpy()[:, 0]
    labels = (distance < 0).astype(np.int32)
    case = case_of_robust(guarded, images, labels)
    finding = ask("neighbours", case)
    # Three levels of 16 fit into 0.2.
    expected = np.flatnonzero(np.abs(distance) < 3 / 16 - 1e-4)
    assert finding.status == base.FAIL
    assert finding.data["broken_by_kind"]["stored"] == len(expected) > 20
    assert set(finding.data["broken"]) == set(expected)
