"""Tests for one run of one attack: chunks, compaction, the judge, results."""

import copy
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import base
from ib_keras.attacks import compiled as compiled_lib
from ib_keras.attacks import devices
from ib_keras.attacks import engine as engine_lib
from ib_keras.attacks import geometry
from ib_keras.attacks import judging
from ib_keras.attacks import pgd
from ib_keras.types import ThreatModel

SHAPE = (2, 3, 1)
SEED = seeds.from_int(17)
JUDGE_SEED = seeds.from_int(99)


@pytest.fixture(autouse=True)
def _eagerly(request):
    """Spares the tracing, but in tests that ask for `compiled`."""
    tf.config.run_functions_eagerly("compiled" not in request.fixturenames)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def compiled():
    """See `_eagerly`."""


def smooth(images, seed):
    """A tanh network of two layers and three classes."""
    del seed
    rng = np.random.default_rng(0)
    hidden = np.float32(rng.normal(size=(6, 10)))
    out = np.float32(rng.normal(size=(10, 3)))
    return tf.tanh((tf.reshape(images, [-1, 6]) - 0.5) @ hidden) @ out


def data(count=20, seed=1):
    images = np.random.default_rng(seed).random((count, *SHAPE), np.float32)
    labels = tf.argmax(smooth(images, None), axis=1, output_type=tf.int32)
    return images, labels.numpy()


def make(logits_fn, attack, batch_size=32, judged=None, draws=1, **arguments):
    judge = judging.Judge(judged or logits_fn, "linf", draws)
    return engine_lib.Engine(
        logits_fn, attack, judge, "linf", batch_size, **arguments
    )


def run(engine, images, labels, epsilon=0.2, targets=None, seed=SEED):
    return engine.run(
        images,
        labels,
        epsilon,
        seeds.fold(seed, tf.range(len(labels))).numpy(),
        JUDGE_SEED,
        targets,
    )


def plain_loop(attack, logits_fn, images, labels, epsilon):
    """Every iterate of every example and its margin, without an engine."""
    state = attack.init(
        logits_fn,
        tf.constant(images),
        tf.constant(labels),
        ThreatModel("linf", epsilon),
        seeds.fold(SEED, tf.range(len(labels))),
    )
    iterates = [state.images.numpy()]
    for iteration in range(attack.num_steps):
        state = attack.step(logits_fn, state, tf.constant(iteration))
        iterates.append(state.images.numpy())
    margins = []
    for image in iterates:
        logits = logits_fn(tf.constant(image), SEED).numpy()
        label_logit = logits[np.arange(len(labels)), labels]
        logits[np.arange(len(labels)), labels] = -np.inf
        margins.append(logits.max(axis=1) - label_logit)
    return np.stack(iterates), np.stack(margins)


class WalkState(NamedTuple):
    images: tf.Tensor
    evaluated: base.Evaluation
    labels: tf.Tensor
    seeds: tf.Tensor


class Walk(base.GradientAttack):
    """Adds the same stride to every pixel in every step, whatever is said."""

    gradients_per_step = 0

    def __init__(self, num_steps, stride, evaluates_proposal=False):
        self.num_steps = num_steps
        self.stride = stride
        self.evaluates_proposal = evaluates_proposal

    def _evaluate(self, logits_fn, images, state, iteration):
        seed = base.model_seed(state.seeds, iteration)
        logits = logits_fn(images, seed)
        loss = tf.zeros_like(logits[:, 0])
        return base.evaluated(images, logits, state.labels, loss)

    def init(self, logits_fn, images, labels, threat_model, seeds):
        del threat_model
        state = WalkState(images, base.not_evaluated(images), labels, seeds)
        if self.evaluates_proposal:
            said = self._evaluate(logits_fn, images, state, -1)
            state = state._replace(evaluated=said)
        return state

    def step(self, logits_fn, state, iteration):
        moved = state.images + self.stride
        seen = moved if self.evaluates_proposal else state.images
        said = self._evaluate(logits_fn, seen, state, iteration)
        return state._replace(images=moved, evaluated=said)


def band(low, high):
    """A model that is wrong where the mean pixel is between two bounds."""

    def logits_fn(images, seed):
        del seed
        mean = tf.reduce_mean(images, axis=[1, 2, 3])
        score = (high - low) / 2 - tf.abs(mean - (high + low) / 2)
        return tf.stack([tf.zeros_like(score), score], axis=1)

    return logits_fn


def flat_images(*means):
    return np.stack([np.full(SHAPE, mean, np.float32) for mean in means])


def test_batch_sizes_are_the_largest_and_its_halves():
    assert devices.batch_sizes(256) == (8, 16, 32, 64, 128, 256)
    assert devices.batch_sizes(100) == (13, 25, 50, 100)
    assert devices.batch_sizes(15) == (15,)
    assert devices.batch_sizes(1) == (1,)
    assert all(
        size % 3 == 0 for size in devices.batch_sizes(100, num_replicas=3)
    )


def test_padding_repeats_a_row_up_to_the_next_static_size():
    logits = compiled_lib.CompiledLogits(smooth)
    padded = logits.pad(np.array([5, 2, 9]), 16)
    assert padded.tolist() == [5, 2, 9, 5, 5, 5, 5, 5]
    full = np.arange(8)
    np.testing.assert_array_equal(logits.pad(full, 16), full)


def test_nothing_is_padded_where_one_trace_takes_every_size():
    logits = compiled_lib.CompiledLogits(smooth)
    logits.resolve(tf.TensorShape([4, *SHAPE]))
    assert logits.has_open_batch
    assert logits.pad(np.array([5, 2, 9]), 16).tolist() == [5, 2, 9]


@pytest.mark.parametrize("evaluates_proposal", [False, True])
@pytest.mark.parametrize("chunk_steps", [1, 16])
def test_the_first_wrong_iterate_dates_the_break(
    evaluates_proposal, chunk_steps
):
    """Iterate k is the image after k steps; the last one counts too."""
    images = flat_images(0.1, 0.2, 0.29, 0.02)
    attack = Walk(5, 0.05, evaluates_proposal)
    # Wrong above 0.32: after 5, 3 and 1 steps; the last would need 7.
    logits_fn = band(0.32, 2.0)
    engine = make(logits_fn, attack, chunk_steps=chunk_steps)
    result = run(engine, images, np.zeros(4, np.int32), epsilon=1.0)
    assert result.is_broken.tolist() == [True, True, True, False]
    assert result.step[:3].tolist() == [5, 3, 1]
    assert result.adversarial_prediction.tolist() == [1, 1, 1, -1]
    np.testing.assert_allclose(
        result.adversarial_images[3], images[3] + 0.25, atol=1e-6
    )
    assert result.step[3] == 5


@pytest.mark.parametrize("evaluates_proposal", [False, True])
def test_an_iterate_that_was_wrong_once_is_recorded(evaluates_proposal):
    """The walk crosses the band and leaves it in the midst of a chunk."""
    attack = Walk(40, 0.015, evaluates_proposal)
    images = flat_images(0.1, 0.11, 0.12)
    # Iterates 22 to 24 of the first image; a chunk looks after 16 and 32.
    engine = make(band(0.427, 0.466), attack)
    result = run(engine, images, np.zeros(3, np.int32), epsilon=1.0)
    assert result.is_broken.all()
    assert result.step.tolist() == [22, 22, 21]
    means = result.adversarial_images.mean(axis=(1, 2, 3))
    assert ((0.427 < means) & (means < 0.466)).all()
    # Kept is the iterate of the largest margin, in the middle of the band.
    np.testing.assert_allclose(means[0], 0.445, atol=1e-5)
    assert (result.margin > 0).all()


def test_the_result_agrees_with_a_plain_loop():
    images, labels = data()
    attack = pgd.build(num_steps=25, step_size=0.015)
    iterates, margins = plain_loop(attack, smooth, images, labels, 0.12)
    wrong = margins > 0
    broken = wrong.any(axis=0)
    assert 4 < broken.sum() < 16  # Else this would show little.
    result = run(make(smooth, attack), images, labels, 0.12)
    np.testing.assert_array_equal(result.is_broken, broken)
    np.testing.assert_array_equal(
        result.step[broken], wrong.argmax(axis=0)[broken]
    )
    rows = np.flatnonzero(~broken)
    nearest = margins[:, rows].argmax(axis=0)
    np.testing.assert_allclose(
        result.margin[rows], margins[nearest, rows], rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(
        result.adversarial_images[rows],
        iterates[nearest, rows],
        rtol=0,
        atol=1e-5,
    )
    predictions = np.argmax(smooth(result.adversarial_images, None), axis=1)
    np.testing.assert_array_equal(
        result.adversarial_prediction, np.where(broken, predictions, -1)
    )
    assert (predictions != labels)[broken].all()
    assert (result.gradient_evaluations[rows] == 25).all()


def test_chunks_and_compaction_change_no_judgement(compiled):
    """All chunk lengths, beyond a whole run too; compiled once for all."""
    images, labels = data(20)
    attack = pgd.build(num_steps=24, step_size=0.015)
    engine = make(smooth, attack, batch_size=20)
    first = run(engine, images, labels, 0.12)
    assert 10 < first.is_broken.sum() < 18  # So the batch shrinks.
    for chunk_steps in range(1, 41):
        # Without compaction a few lengths are enough.
        for compact in (False, True) if chunk_steps in (1, 7, 40) else (True,):
            other = copy.copy(engine)
            other._chunk_steps, other.compact = chunk_steps, compact
            result = run(other, images, labels, 0.12)
            broken, robust = first.is_broken, ~first.is_broken
            np.testing.assert_array_equal(result.is_broken, broken)
            np.testing.assert_array_equal(
                result.step[broken], first.step[broken]
            )
            np.testing.assert_allclose(
                result.adversarial_images[robust],
                first.adversarial_images[robust],
                rtol=0,
                atol=1e-5,
            )
            np.testing.assert_allclose(
                result.margin[robust], first.margin[robust], rtol=0, atol=1e-5
            )
    assert engine.num_traces() == {None: 1}


def chunk_ends(num_steps, chunk_steps):
    """Chunks of 1, 1, 2, 4, 8 and then as asked, never longer than asked."""
    ends, lengths = [0], [1, 1, 2, 4, 8]
    while ends[-1] < num_steps:
        length = min(lengths.pop(0) if lengths else chunk_steps, chunk_steps)
        ends.append(min(ends[-1] + length, num_steps))
    return ends[1:]


@pytest.mark.parametrize("chunk_steps", [3, 16])
def test_gradient_evaluations_are_counted_as_by_hand(chunk_steps):
    """Of each example until it leaves the batch, and none after."""
    images, labels = data()
    attack = pgd.build(num_steps=25, step_size=0.015)
    _, margins = plain_loop(attack, smooth, images, labels, 0.12)
    broken_at = np.where((margins > 0).any(0), (margins > 0).argmax(0), 99)
    counts = {}
    for compact in (False, True):
        engine = make(
            smooth, attack, 20, chunk_steps=chunk_steps, compact=compact
        )
        result = run(engine, images, labels, 0.12)
        counts[compact] = result.gradient_evaluations
    assert (counts[False] == 25).all()
    # By hand: those broken leave after the chunk that broke them.
    expected, in_batch = np.full(20, 25), np.ones(20, bool)
    for end in chunk_ends(25, chunk_steps):
        expected[in_batch & (broken_at < end)] = end
        in_batch &= broken_at >= end
    assert (expected < 25).any() and (expected == 25).any()
    np.testing.assert_array_equal(counts[True], expected)
    assert (counts[True] <= counts[False]).all()


def test_a_run_ends_when_all_examples_are_broken():
    images, labels = data()
    attack = pgd.build(num_steps=60, step_size=0.05)
    result = run(make(smooth, attack), images, labels, 1.0)
    assert result.is_broken.all()
    spent = set(result.gradient_evaluations.tolist())
    assert max(spent) in chunk_ends(60, 16)[:-1]


def test_rows_of_later_passes_leave_with_the_one_that_broke_their_example():
    """Rows are passes 0 to 2 over two examples, wrong from a mean of 0.35."""
    images = flat_images(0.1, 0.2, 0.3, 0.1, 0.2, 0.1)
    walk = Walk(num_steps=6, stride=0.1)
    engine = make(band(0.35, 0.95), walk, chunk_steps=1)
    result = engine.run(
        images,
        np.zeros(6, np.int32),
        1.0,
        seeds.fold(SEED, tf.range(6)).numpy(),
        JUDGE_SEED,
        num_passes=3,
    )
    # Pass 1 breaks example 0 at once, and pass 0 goes on; of example 1 pass 0
    # is the first. What was to break later has left before.
    broken = [True, True, True, False, False, False]
    assert result.is_broken.tolist() == broken
    assert result.step[:3].tolist() == [3, 2, 1]
    assert result.margin[4] < 0 and result.margin[3] < 0


def test_a_claim_that_the_judge_rejects_breaks_nothing():
    images, labels = data(6)

    def accuser(images, seed):
        """Says that everything is wrong, the more the further it is moved."""
        moved = tf.reduce_mean(images, axis=[1, 2, 3])
        wrong = (tf.constant(labels) + 1) % 3
        wrong = tf.gather(wrong, tf.range(tf.shape(images)[0]) % 6)
        return tf.one_hot(wrong, 3) * (1.0 + moved[:, None])

    calls = []

    def honest(images, seed):
        calls.append(1)
        return smooth(images, seed)

    attack = Walk(6, 0.001)
    engine = make(accuser, attack, 6, judged=honest)
    result = run(engine, images, labels)
    assert calls  # It was asked.
    assert not result.is_broken.any()
    assert (result.adversarial_prediction == -1).all()
    assert (result.wrong_share == 0).all()
    # What the attack believed stays visible, as the nearest miss.
    assert (result.margin > 0).all()
    trusting = run(make(accuser, attack, 6), images, labels)
    assert trusting.is_broken.all() and (trusting.wrong_share == 1).all()


@pytest.fixture
def say(monkeypatch):
    """Replaces the share of draws that a judgement finds wrong."""

    def say(share_of_mean):
        judged = engine_lib._Run._judge

        def judge(self, rows, candidates, is_thorough=False):
            shares = share_of_mean(candidates.mean(axis=(1, 2, 3)))
            judgement = judged(self, rows, candidates, is_thorough)
            return judgement._replace(wrong_share=np.float32(shares))

        monkeypatch.setattr(engine_lib._Run, "_judge", judge)

    return say


def test_the_largest_share_of_all_claims_is_kept(say):
    """The margin of a robust example is the largest of its run."""
    images = flat_images(0.1, 0.3, 0.2)
    # Judged at every step: the first rises to 0.4, the others fall from it.
    say(lambda mean: 0.4 - np.abs(mean - 0.2))
    engine = make(band(0.0, 9.0), Walk(20, 0.01), 3, chunk_steps=1)
    result = run(engine, images, np.zeros(3, np.int32), 1.0)
    assert not result.is_broken.any()
    np.testing.assert_allclose(result.wrong_share, [0.4, 0.3, 0.4], atol=1e-6)


def test_after_a_rejected_claim_the_judged_iterate_dates_the_break(say):
    """An earlier wrong iterate of the same chunk may be the next lie."""
    images = flat_images(0.1, 0.6)
    say(lambda mean: np.where(mean > 0.155, 1.0, 0.4))
    # Chunks end at 1, 2, 4 and 8; each iterate is worse than the last.
    engine = make(band(0.0, 9.0), Walk(20, 0.01), 2)
    result = run(engine, images, np.zeros(2, np.int32), 1.0)
    assert result.is_broken.all()
    assert result.step.tolist() == [7, 0]
    np.testing.assert_allclose(result.adversarial_images[0], 0.17, atol=1e-6)


def coin(share):
    """A right classifier that a coin makes sure of a wrong class, at times.

    The coin is tossed for each image by the seed and the image's pixels.
    """

    def logits_fn(images, seed):
        key = tf.bitcast(tf.reduce_sum(images, axis=[1, 2, 3]), tf.int32)
        unit = seeds.uniform(seeds.fold(seed, key), (1,))[:, 0]
        wrong = tf.cast(unit < share, tf.int32)
        return 10.0 * tf.one_hot(wrong, 2)

    return logits_fn


def test_random_errors_are_claimed_and_break_nothing():
    """Wrong at random 5% of the time: 24 images, 21 looks at each."""
    images, _ = data(24)
    labels = np.zeros(24, np.int32)
    attack = Walk(20, 0.001)
    model = coin(0.05)
    result = run(make(model, attack, 24, draws=15), images, labels)
    claimed = result.margin > 0
    assert claimed.sum() > 8  # 1 - 0.95^21 = 66% of them are expected.
    assert not result.is_broken.any()
    assert 0 < result.wrong_share.max() < 0.5
    # With one draw per judgement some are broken: the reason for many.
    gullible = run(make(model, attack, 24, draws=1), images, labels)
    assert gullible.is_broken.any()


def test_a_lucky_noise_sample_does_not_hide_what_is_always_wrong():
    """Claims with a huge margin are turned down, a small one is true."""

    def model(images, seed):
        mean = tf.reduce_mean(images, axis=[1, 2, 3])
        keys = seeds.fold(seed, tf.bitcast(mean, tf.int32))
        noise = 5.0 * seeds.normal(keys, (1,))[:, 0]
        # Wrong in a sixth of the draws, and then by far.
        score = tf.where(mean < 0.2, noise - 5.0, -1.0)
        score = tf.where(mean > 0.3, 1.0, score)
        return tf.stack([tf.zeros_like(score), score], axis=1)

    images = flat_images(*np.linspace(0.1, 0.11, 8))
    labels = np.zeros(8, np.int32)
    # Below 0.3, robust examples keep the largest claim as nearest miss.
    result = run(
        make(model, Walk(12, 0.015), 8, draws=15), images, labels, epsilon=1.0
    )
    assert not result.is_broken.any()
    lucky = result.margin > 1
    assert lucky.sum() > 2
    assert (result.adversarial_images.mean(axis=(1, 2, 3))[lucky] < 0.2).all()
    # Beyond, the first iterate above 0.3 is recorded, not the claimed one.
    result = run(
        make(model, Walk(16, 0.015), 8, draws=15), images, labels, epsilon=1.0
    )
    assert result.is_broken.all()
    assert set(result.step) <= {13, 14}
    np.testing.assert_allclose(result.margin, 1, rtol=1e-6)
    assert (result.wrong_share == 1).all()


@pytest.mark.parametrize("compact", [True, False])
def test_a_lucky_noise_sample_does_not_hide_what_is_wrong_in_the_same_chunk(
    compact, compiled
):
    """The result does not depend on how often claims are judged."""

    def model(images, seed):
        mean = tf.reduce_mean(images, axis=[1, 2, 3])
        keys = seeds.fold(seed, tf.bitcast(mean, tf.int32))
        is_lucky = seeds.uniform(keys, (1,))[:, 0] < 0.3
        score = tf.where(is_lucky, 3.0, -3.0)
        score = tf.where(mean > 0.3, 1.0, score)
        return tf.stack([tf.zeros_like(score), score], axis=1)

    images = flat_images(*np.linspace(0.1, 0.11, 8))
    engine = make(model, Walk(30, 0.01), 8, draws=15, compact=compact)
    result = run(engine, images, np.zeros(8, np.int32), epsilon=1.0)
    assert result.is_broken.all()
    np.testing.assert_allclose(result.margin, 1, rtol=1e-6)
    assert (result.step > 18).all()


def test_the_judge_never_draws_with_a_seed_that_the_attack_saw():
    """Nor twice with one of its own: every judgement is on fresh noise."""
    seen = {"attack": [], "judge": []}

    def spy(who, logits_fn):
        def recorded(images, seed):
            seen[who].append(tuple(seed.numpy()))
            return logits_fn(images, seed)

        return recorded

    model = coin(0.3)
    images, _ = data(12)
    engine = make(
        spy("attack", model),
        Walk(20, 0.001),
        8,
        judged=spy("judge", model),
        draws=4,
    )
    for start in (0, 8):
        rows = slice(start, start + 8)
        labels = np.zeros(len(images[rows]), np.int32)
        engine.run(
            images[rows],
            labels,
            0.2,
            seeds.fold(SEED, tf.range(len(labels)) + start).numpy(),
            seeds.fold(JUDGE_SEED, start),
        )
    assert len(seen["attack"]) == 2 * 21
    assert len(seen["judge"]) >= 2 * 4
    assert not set(seen["attack"]) & set(seen["judge"])
    assert len(set(seen["judge"])) == len(seen["judge"])


def test_the_judge_projects_what_an_attack_proposes():
    """Far outside of the ball is wrong, and no admissible image is."""
    images = flat_images(0.1, 0.2)
    labels = np.zeros(2, np.int32)
    attack = Walk(8, 0.2)
    engine = make(band(0.6, 9.0), attack)
    result = run(engine, images, labels, epsilon=0.3)
    assert not result.is_broken.any()
    # With a larger ball the judged image is the projected one.
    result = run(engine, images, labels, epsilon=0.55)
    assert result.is_broken.all()
    np.testing.assert_allclose(
        result.adversarial_images, images + 0.55, atol=1e-6
    )


class Leap(Walk):
    """Proposes an image far outside of the ball, and evaluates it never."""

    def step(self, logits_fn, state, iteration):
        return state._replace(images=state.images + self.stride)


def test_a_proposal_is_in_the_ball_before_it_is_asked_about():
    """So the nearest miss of a robust example is admissible."""
    images = flat_images(0.1, 0.2)
    logits_fn = band(0.45, 9.0)
    result = run(
        make(logits_fn, Leap(1, 0.9)), images, np.zeros(2, np.int32), 0.3
    )
    assert result.is_broken.tolist() == [False, True]
    np.testing.assert_allclose(
        result.adversarial_images, images + 0.3, atol=1e-6
    )
    logits = logits_fn(tf.constant(result.adversarial_images), SEED).numpy()
    margin = logits[:, 1] - logits[:, 0]
    np.testing.assert_allclose(result.margin, margin, atol=1e-6)


def test_a_judge_needs_more_than_half_of_its_draws():
    images, _ = data(64)
    labels = np.zeros(64, np.int32)
    attack = Walk(1, 0.001)
    shares = {}
    for share in (0.2, 0.8):
        judge = judging.Judge(coin(share), "linf", 9)
        judgement = judge(images, images, labels, 0.2, JUDGE_SEED)
        wrong = np.rint(9 * judgement.wrong_share)
        assert abs(wrong.mean() / 9 - share) < 0.07
        shares[share] = judgement.wrong_share
        # All draws are sure of themselves, so their mean is a vote.
        np.testing.assert_array_equal(judgement.prediction, wrong > 4.5)
    result = run(
        make(coin(1.0), attack, 64, judged=coin(0.8), draws=9),
        images,
        labels,
    )
    np.testing.assert_array_equal(result.is_broken, result.wrong_share > 0.5)
    assert 0 < result.is_broken.sum()


def test_the_judge_takes_any_number_in_batches():
    images, labels = data(21)
    moved = np.clip(images + 0.05, 0, 1)
    whole, parts = (
        judging.Judge(smooth, "linf", batch_size=size)(
            images, moved, labels, 0.2, JUDGE_SEED
        )
        for size in (32, 8)
    )
    for one, other in zip(whole, parts, strict=True):
        assert one.shape[0] == 21
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    logits = smooth(moved, None)
    np.testing.assert_array_equal(whole.prediction, np.argmax(logits, axis=1))


def test_the_judge_gives_the_mean_of_probabilities():
    def logits_fn(images, seed):
        return smooth(images, seed) + seeds.noise(seed, [3])

    images, labels = data(5)
    judge = judging.Judge(logits_fn, "linf", 4)
    judgement = judge(images, images, labels, 0.2, JUDGE_SEED)
    clean = np.float64(smooth(images, None))
    seed = seeds.fold(JUDGE_SEED, 0)  # Of the first batch.
    noise = [seeds.noise(seeds.fold(seed, i), [3]).numpy() for i in range(4)]
    exp = np.exp(clean + np.stack(noise)[:, None])
    mean = (exp / exp.sum(-1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(judgement.logits, np.log(mean), atol=1e-4)
    said = (clean + np.stack(noise)[:, None]).argmax(axis=-1)
    share = (said != labels).mean(axis=0)
    np.testing.assert_allclose(judgement.wrong_share, share)
    np.testing.assert_array_equal(judgement.prediction != labels, share > 0.5)


def test_a_thorough_judgement_takes_five_times_the_draws():
    images, _ = data(400)
    labels = np.zeros(400, np.int32)
    judge = judging.Judge(coin(0.3), "linf", 5)
    some = judge(images, images, labels, 0.2, JUDGE_SEED)
    more = judge(images, images, labels, 0.2, JUDGE_SEED, True)
    assert set(np.rint(5 * some.wrong_share)) <= set(range(6))
    counts = 25 * more.wrong_share
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-4)
    # The variance of a mean of n draws is p (1 - p) / n; of 400 such means
    # it is known to about 7%.
    for judgement, draws in ((some, 5), (more, 25)):
        np.testing.assert_allclose(
            judgement.wrong_share.var(), 0.3 * 0.7 / draws, rtol=0.3
        )


def nan_near(mean, logits_fn):
    """The model with NaN where the mean pixel is within 0.025 of a value."""

    def broken(images, seed):
        near = abs(tf.reduce_mean(images, axis=[1, 2, 3]) - mean) < 0.025
        return tf.where(near[:, None], float("nan"), logits_fn(images, seed))

    return broken


def test_nan_during_a_run_is_counted_and_breaks_nothing():
    images = flat_images(0.10, 0.30, 0.52)
    labels = np.zeros(3, np.int32)
    model = nan_near(0.2, band(2.0, 3.0))
    # Iterates 0.10, 0.13, ..., 0.25: those at 0.19 and 0.22 are NaN.
    result = run(make(model, Walk(5, 0.03)), images, labels, 1.0)
    assert not result.is_broken.any()
    assert result.num_nonfinite.tolist() == [2, 0, 0]
    assert np.isfinite(result.adversarial_images).all()
    np.testing.assert_allclose(
        result.adversarial_images[0], images[0] + 0.15, atol=1e-6
    )


def test_the_judge_counts_nan_as_correct():
    """A claim about an image at which the judged model says nothing."""
    images = flat_images(0.1, 0.3)
    judged = nan_near(0.2, band(0.0, 1.0))
    judge = judging.Judge(judged, "linf")
    candidates = images + np.float32(0.1)
    labels = np.zeros(2, np.int32)
    judgement = judge(images, candidates, labels, 0.2, JUDGE_SEED)
    assert judgement.wrong_share.tolist() == [0, 1]
    assert judgement.prediction.tolist() == [-1, 1]
    assert np.isnan(judgement.margin[0]) and judgement.margin[1] > 0
    # A pixel that is not finite is put back where it was.
    candidates[1, 0, 0] = np.nan
    judgement = judge(images, candidates, labels, 0.2, JUDGE_SEED)
    assert judgement.images[1, 0, 0] == images[1, 0, 0]
    np.testing.assert_array_equal(judgement.images[1, 1], candidates[1, 1])


def test_a_provably_robust_model_stays_at_one_hundred_percent():
    """Its margin is at least 0.1 everywhere, and its gradients are alive."""

    def constant_margin(images, seed):
        x = tf.sin(9.0 * tf.reshape(images, [-1, 6]))
        others = tf.concat([x[:, :1], x[:, 1:2]], axis=1)
        largest = tf.reduce_max(others, axis=1, keepdims=True)
        return tf.concat([largest + 0.1, others], axis=1)

    images, _ = data()
    labels = np.zeros(20, np.int32)
    attack = pgd.build(num_steps=20, step_size=0.1)
    result = run(make(constant_margin, attack), images, labels, 1.0)
    assert not result.is_broken.any()
    np.testing.assert_allclose(result.margin, -0.1, atol=1e-5)
    assert not result.num_nonfinite.any()
    assert (result.num_zero_gradients < 20).all()


@pytest.mark.parametrize("num_steps", [1, 7])
def test_zero_gradients_are_counted_once_each(num_steps):
    def plateau(images, seed):
        right = tf.reshape(images, [-1, 6])[:, :1] * 0.0 + 1.0
        return tf.concat([right, 0.0 * right], axis=1)

    images, _ = data(5)
    attack = pgd.build(num_steps=num_steps)
    result = run(make(plateau, attack), images, np.zeros(5, np.int32))
    assert (result.num_zero_gradients == num_steps).all()
    assert (result.gradient_norm == 0).all()
    assert not result.is_broken.any() and not result.num_nonfinite.any()


def test_what_was_never_asked_is_not_counted_as_not_finite():
    """Foreign code tells nothing of its own evaluations."""
    images = flat_images(0.1, 0.2)
    labels = np.zeros(2, np.int32)
    result = run(make(band(2.0, 3.0), Leap(3, 0.1)), images, labels)
    assert (
        not result.num_nonfinite.any() and not result.num_zero_gradients.any()
    )
    assert (result.gradient_norm == -1).all()


class Aim(Walk):
    """Walks up where the target is class 1 and down where it is class 2."""

    num_targets = 0

    def init(
        self, logits_fn, images, labels, threat_model, seeds, targets=None
    ):
        state = super().init(logits_fn, images, labels, threat_model, seeds)
        signs = tf.where(targets == 1, self.stride, -self.stride)
        # In place of the seeds, which this attack has no use for.
        return state._replace(
            seeds=tf.cast(tf.round(100 * signs), tf.int32)[:, None]
        )

    def step(self, logits_fn, state, iteration):
        logits = logits_fn(state.images, SEED)
        loss = tf.zeros_like(logits[:, 0])
        said = base.evaluated(state.images, logits, state.labels, loss)
        stride = geometry.per_image(state.seeds / 100, state.images)
        moved = state.images + tf.cast(stride, tf.float32)
        return state._replace(images=moved, evaluated=said)


def test_targets_reach_the_examples_that_they_belong_to(compiled):
    """Through padding and compaction: half of the batch is broken early."""

    def logits_fn(images, seed):
        mean = tf.reduce_mean(images, axis=[1, 2, 3])
        return tf.stack([0.0 * mean + 0.1, mean - 0.5, 0.5 - mean], axis=1)

    early, late = [0.575, 0.425] * 6, [0.455, 0.545] * 4
    images = flat_images(*early, *late)
    targets = np.array([1, 2] * 10, np.int32)
    engine = make(logits_fn, Aim(20, 0.02), 20)
    labels = np.zeros(20, np.int32)
    result = run(engine, images, labels, 1.0, targets)
    assert result.is_broken.all()
    np.testing.assert_array_equal(result.adversarial_prediction, targets)
    np.testing.assert_array_equal(result.step, [2] * 12 + [8] * 8)
    assert engine.num_traces() == {None: 1}
    other = run(engine, images, labels, 1.0, 3 - targets)
    np.testing.assert_array_equal(other.adversarial_prediction, 3 - targets)


def test_two_radii_share_one_trace(compiled):
    images, labels = data()
    engine = make(smooth, pgd.build(num_steps=10, step_size=0.02), 20)
    small, large = (run(engine, images, labels, e) for e in (0.05, 0.4))
    assert small.is_broken.sum() < large.is_broken.sum()
    assert set(engine.num_traces().values()) == {1}
    np.testing.assert_array_less(
        np.abs(small.adversarial_images - images), 0.05 + 1e-6
    )


def test_results_come_in_the_order_of_the_batch():
    """Examples fall one by one, so the batch shrinks in pieces."""
    starts = np.random.default_rng(0).permutation(np.linspace(0, 0.6, 40))
    images = flat_images(*starts)
    attack = Walk(64, 0.01)
    engine = make(band(0.615, 9.0), attack, 40, chunk_steps=2)
    result = run(engine, images, np.zeros(40, np.int32), 1.0)
    assert result.is_broken.all()
    # No start is a multiple of the stride below the band, or nearly so: which
    # step is the first is not in doubt.
    steps = (0.615 - starts) / 0.01
    assert np.abs(steps - np.round(steps)).min() > 0.03
    np.testing.assert_array_equal(result.step, np.ceil(steps))
    assert (np.diff(result.step[np.argsort(starts)]) <= 0).all()
