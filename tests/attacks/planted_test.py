"""Planted models whose robustness is known: what must fall, and to what."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras.attacks import runner
from ib_keras.types import ThreatModel

EPSILON = 0.2


def protocol(*attacks):
    return [runner.Stage.build({"attack": attack}) for attack in attacks]


ENSEMBLE = (
    {"name": "fgs"},
    {"name": "pgd", "num_steps": 10, "step_size": 0.05},
    {"name": "apgd", "num_steps": 15},
    {"name": "apgd", "num_steps": 15, "loss": "dlr"},
    {"name": "multi_targeted", "num_steps": 15},
    {"name": "fab", "num_steps": 10, "num_targets": 2},
    {"name": "square", "num_steps": 60},
    {"name": "uniform_noise", "num_steps": 30},
)


def run(logits_fn, images, labels, *attacks, **arguments):
    attack = runner.Runner(
        logits_fn,
        protocol(*attacks),
        ThreatModel("linf", EPSILON),
        batch_size=len(labels),
        **arguments,
    )
    return attack.run(images, attack.start(images, labels))


def grey(count=12):
    rng = np.random.default_rng(0)
    return (0.45 + 0.1 * rng.random((count, 3, 3, 1))).astype(np.float32)


def test_nothing_breaks_a_provably_robust_model():
    # The classes are two halves of the mean, further apart than epsilon.
    def logits_fn(x, seed):
        mean = tf.reduce_mean(x, axis=[1, 2, 3])
        return tf.stack([0.3 - mean, mean - 0.7, mean * 0.0 - 1.0], axis=1)

    images = grey()
    images[:6] = 0.1
    images[6:] = 0.9
    labels = np.repeat([0, 1], 6).astype(np.int32)
    ledger = run(logits_fn, images, labels, *ENSEMBLE)
    assert ledger.robust_accuracy == 1.0
    assert (ledger.num_nonfinite == 0).all()


def linear(scale):
    # A margin of 4.5 that 8 x 0.2 x 9 pixels can beat by far; a linear map,
    # so that the gradient of the margin is the same everywhere.
    def logits_fn(x, seed):
        value = tf.reduce_sum(x, axis=[1, 2, 3]) - 4.5 + 1.0
        return scale * tf.stack([value, -value, -2.0 + 0.0 * value], axis=1)

    return logits_fn


@pytest.mark.slow
def test_logits_times_1000_mislead_cross_entropy_and_not_dlr():
    images, labels = grey(), np.zeros(12, np.int32)
    apgd = {"name": "apgd", "num_steps": 20}
    as_it_is = {"logit_scale": 1.0}
    saturated = run(linear(1000.0), images, labels, apgd, **as_it_is)
    assert saturated.robust_accuracy == 1.0, "the case must be a hard one"
    # A random start can be all an attack without gradient has.
    assert (saturated.num_zero_gradients > 0).all()
    for attack in (
        {**apgd, "loss": "dlr"},
        {**apgd, "loss": "margin"},
        {"name": "multi_targeted", "num_steps": 20},
    ):
        found = run(linear(1000.0), images, labels, attack, **as_it_is)
        assert found.robust_accuracy == 0.0, attack
    scaled = run(linear(1000.0), images, labels, apgd)
    assert scaled.robust_accuracy == 0.0
    plain = run(linear(1.0), images, labels, apgd)
    assert plain.robust_accuracy == 0.0


def test_a_quantised_model_is_broken_only_without_gradients():
    def logits_fn(x, seed):
        return linear(1.0)(tf.round(4.0 * x) / 4.0 + 0.0 * x, seed)

    images, labels = grey(), np.zeros(12, np.int32)
    gradient_attacks = [
        {"name": "fgs"},
        {"name": "pgd", "num_steps": 10, "random_start": False},
    ]
    ledger = run(logits_fn, images, labels, *gradient_attacks)
    assert ledger.robust_accuracy == 1.0
    np.testing.assert_array_equal(ledger.num_zero_gradients, 1 + 10)
    found = run(logits_fn, images, labels, {"name": "square", "num_steps": 200})
    assert found.robust_accuracy == 0.0


def test_a_model_that_errs_at_random_is_not_broken_by_lucky_samples():
    # Planted model (i): wrong on 5% of all draws, wherever the image is.
    def logits_fn(x, seed):
        unit = tf.random.stateless_uniform([x.shape[0]], seed)
        sign = tf.where(unit < 0.05, -1.0, 1.0)
        value = sign + 0.0 * tf.reduce_sum(x, axis=[1, 2, 3])
        return tf.stack([value, -value], axis=1)

    images, labels = grey(40), np.zeros(40, np.int32)
    attack = {"name": "pgd", "num_steps": 40}
    lucky = run(logits_fn, images, labels, attack, num_judge_samples=1)
    judged = run(logits_fn, images, labels, attack, num_judge_samples=9)
    # Nearly every example is seen wrong at one of 40 iterates; one draw of
    # the judge turns most such claims down, a majority of nine all of them.
    assert judged.robust_accuracy == 1.0
    assert lucky.robust_accuracy > 0.6
    share = judged.wrong_share.mean()
    error = np.sqrt(0.05 * 0.95 / (40 * 45))
    assert abs(share - 0.05) < 4 * error
    assert abs(judged.expected_accuracy - (1 - share)) < 1e-6


def chance(share):
    """Wrong on a share of the draws, an example's own each, at any image."""

    def logits_fn(x, seed):
        unit = tf.random.stateless_uniform([x.shape[0]], seed)
        sign = tf.where(unit < share, -1.0, 1.0)
        value = sign + 0.0 * tf.reduce_sum(x, axis=[1, 2, 3])
        return tf.stack([value, -value], axis=1)

    return logits_fn


def test_many_claims_do_not_break_by_lucky_samples():
    images, labels = grey(60), np.zeros(60, np.int32)
    attack = {"name": "pgd", "num_steps": 40}
    # A look claims (p), five draws uphold it by 3 wrong, 25 more by 13. With
    # p = 0.2 that is 4e-6 a look, and so 0.05 in 60 examples of 200 looks;
    # five draws alone would break 0.011 per claim, nine examples of ten.
    ledger = run(
        chance(0.2), images, labels, *[attack] * 5, num_judge_samples=5
    )
    assert ledger.clean_accuracy == 1.0
    assert ledger.robust_accuracy >= 59 / 60
    assert abs(ledger.expected_accuracy - 0.8) < 0.05


def test_clean_and_broken_are_judged_by_one_rule():
    # Most draws are slightly wrong, the others surely right: by the mean of
    # probabilities it is right, by most draws wrong.
    def logits_fn(x, seed):
        unit = tf.random.stateless_uniform([x.shape[0]], seed)
        value = tf.where(unit < 0.75, -0.1, 5.0)
        value += 0.0 * tf.reduce_sum(x, axis=[1, 2, 3])
        return tf.stack([value, -value], axis=1)

    images, labels = grey(40), np.zeros(40, np.int32)
    attack = {"name": "pgd", "num_steps": 5}
    ledger = run(logits_fn, images, labels, attack, num_judge_samples=25)
    # Of 125 draws more than half are wrong but once in ten million.
    assert ledger.clean_accuracy == ledger.robust_accuracy == 0.0
    assert (ledger.clean_prediction == 1).all()
    broken = ~ledger.is_robust
    assert (ledger.adversarial_prediction[broken] != 0).all()
    assert (ledger.broken_by_stage == -1).all()
