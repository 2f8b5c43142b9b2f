"""Attacks do not depend on the scale of the logits, whatever their loss."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import attacks
from ib_keras.attacks import compiled
from ib_keras.attacks import runner
from ib_keras.attacks import scale
from ib_keras.types import ThreatModel
from tests.support import foreign
from tests.support import marks
from tests.support import trained

EPSILON = 0.12
DECADES = (1e-3, 1e-2, 0.1, 10.0, 100.0, 1e3)
CROSS_ENTROPY = (
    {"name": "fgs"},
    {"name": "pgd", "num_steps": 10, "step_size": EPSILON / 4},
    {"name": "apgd", "num_steps": 20},
)
OTHERS = (
    {"name": "fgs", "loss": "margin"},
    {"name": "pgd", "num_steps": 5, "step_size": 0.03, "loss": "dlr"},
    {"name": "apgd", "num_steps": 8, "loss": "margin"},
    {"name": "apgd", "num_steps": 8, "loss": "dlr"},
    *(
        {"name": "apgd", "num_steps": 8, "loss": loss, "num_targets": 2}
        for loss in ("targeted_margin", "targeted_dlr")
    ),
    {"name": "multi_targeted", "num_steps": 8, "num_targets": 2},
    {"name": "fab", "num_steps": 8, "num_targets": 2},
    {"name": "square", "num_steps": 30},
)


def data():
    images, labels = foreign.data("test")
    return images[:200], labels[:200].astype(np.int32)


class Scaled:
    """A trained network whose logits are multiplied by what is asked for."""

    def __init__(self):
        network = trained.network(trained.NETWORKS["CNN"], 1.0, 0.0)
        self.factor = tf.Variable(1.0, trainable=False)
        self.offset = tf.Variable(0.0, trainable=False)

        def logits_fn(images, seed):
            logits = network(images, training=False)
            return self.factor * logits + self.offset

        self.logits = compiled.on(logits_fn, None, False)
        self.clean = network(data()[0]).numpy()

    def attacked(
        self, attack, factor=1.0, offset=0.0, num_restarts=1, **arguments
    ):
        self.factor.assign(factor)
        self.offset.assign(offset)
        stage = {"attack": attack, "num_restarts": num_restarts}
        attacker = runner.Runner(
            self.logits,
            [runner.Stage.build(stage)],
            ThreatModel("linf", EPSILON),
            **arguments,
        )
        return attacker.run(data()[0], attacker.start(*data()))


@functools.cache
def net():
    return Scaled()


def name_of(attack):
    return f"{attack['name']} {attack.get('loss', '')}".strip()


@pytest.mark.parametrize(
    "attack",
    marks.others_slow(
        (*CROSS_ENTROPY, *OTHERS),
        ("pgd dlr", "square"),
        name_of,
    ),
)
def test_powers_of_two_change_no_bit(attack):
    plain = net().attacked(attack).arrays()
    for factor in (2.0**-10, 2.0**10):
        found = net().attacked(attack, factor).arrays()
        # The margin is of the logits as they are.
        found["margin"] /= factor
        for name, values in plain.items():
            np.testing.assert_array_equal(found[name], values, name)


@pytest.mark.parametrize(
    "attack", marks.others_slow(CROSS_ENTROPY, ("fgs",), name_of)
)
def test_cross_entropy_does_not_weaken_over_decades(attack):
    """A power of two is within a factor of two of where the net is itself."""
    itself, half = (
        net().attacked(attack, logit_scale=by).robust_accuracy
        for by in (1.0, 0.5)
    )
    for factor in DECADES:
        found = net().attacked(attack, factor).robust_accuracy
        assert found <= max(itself, half) + 0.01, factor
        # The case must be a hard one: unscaled they would stay robust.
        kept = net().attacked(attack, factor, logit_scale=1.0).robust_accuracy
        assert kept >= itself + 0.05 * (factor != 10.0), factor


def test_the_scale_of_a_net_follows_its_logits():
    labels = data()[1]
    assert scale.find(net().clean, labels) == 1.0
    for power in (-12, -5, -2, 1, 3, 12):
        factor = 2.0**power
        assert scale.find(factor * net().clean, labels) == 1 / factor
    # Models trained to be robust are so: twice the logits would be likelier.
    assert scale.find(0.5 * net().clean, labels) == 1.0


@pytest.mark.parametrize("mask", [-1e4, -1e9, -3e35])
@pytest.mark.parametrize("num_masked", [1, 90])
def test_classes_that_are_masked_hide_no_scale(mask, num_masked):
    """As heads of more outputs than classes have them."""
    clean, labels = net().clean, data()[1]
    masked = np.pad(clean, ((0, 0), (0, num_masked)), constant_values=mask)
    for factor in (1.0, *DECADES):
        expected = scale.find(factor * clean, labels)
        assert scale.find(factor * masked, labels) == expected


def test_masked_classes_stay_finite():
    def cold(images, seed):
        logits = 0.01 * net().logits(images, seed)
        return tf.pad(logits, [[0, 0], [0, 2]], constant_values=-3.4e38)

    net().factor.assign(1.0)
    images, labels = data()
    attack = runner.Stage.build({"attack": {"name": "fgs"}})
    attacker = runner.Runner(cold, [attack], ThreatModel("linf", EPSILON))
    found = attacker.run(images, attacker.start(images, labels))
    itself = net().attacked({"name": "fgs"}).robust_accuracy
    assert found.robust_accuracy <= itself + 0.02
    assert not found.num_nonfinite.any()


INVARIANT = (
    {"name": "apgd", "num_steps": 50},
    *(
        {"name": "apgd", "num_steps": 50, "loss": loss}
        for loss in ("dlr", "margin", "probability_margin")
    ),
    *(
        {"name": "apgd", "num_steps": 20, "num_targets": 3, "loss": loss}
        for loss in ("targeted_dlr", "targeted_margin")
    ),
    {"name": "multi_targeted", "num_steps": 30, "num_targets": 3},
)
# Factors with what is then added to all logits.
CHANGES = (
    (1e-4, 0.0),
    (1e-3, 1e3),
    (0.1, -7.0),
    (10.0, 1e3),
    (1e4, 0.0),
)


@pytest.mark.parametrize(
    "attack",
    marks.others_slow(INVARIANT, ("apgd",), name_of),
)
def test_what_is_broken_depends_on_no_factor_and_no_offset(attack):
    """Of 200 examples one may differ, on the edge of float32."""
    itself = net().attacked(attack, num_restarts=2).is_robust
    assert 20 < itself.sum() < 180
    for factor, offset in CHANGES:
        found = net().attacked(attack, factor, offset, num_restarts=2)
        assert (found.is_robust != itself).sum() <= 1, (factor, offset)


def answers(lead, share_right, count=1000):
    """Logits of two classes with one lead, the share of them right."""
    logits = np.tile([lead, 0.0], (count, 1))
    labels = (np.arange(count) >= share_right * count).astype(int)
    return logits, labels


def test_labels_are_likeliest_at_the_log_odds():
    # 90% right are likeliest where the lead is log(9).
    for power in (3, 10, 20):
        lead = np.log(9) / 2**power
        assert scale.find(*answers(lead, 0.9)) == 2.0**power


@pytest.mark.parametrize(("lead", "expected"), [(16.6, 1), (16.7, 0.5)])
def test_a_lead_that_float32_rounds_away_is_made_smaller(lead, expected):
    logits = np.float32([[lead, 0.0]])
    probability = tf.nn.softmax(logits)[0, 0].numpy()
    assert (probability == 1.0) == (expected < 1)
    assert scale.find(logits, np.array([0])) == expected
    assert scale.find(64 * logits, np.array([0])) == expected / 64


def test_errors_and_what_is_not_finite_do_not_count():
    logits, labels = answers(1e-3, 0.0)
    assert scale.find(logits, labels) == 1.0  # None of it is attacked.
    assert scale.find(np.full([3, 2], np.nan), np.zeros(3, int)) == 1.0
    logits, labels = answers(np.log(9) / 8, 0.9)
    logits[::2] = np.inf
    assert scale.find(logits, labels) == 8.0


def test_a_function_of_the_library_is_attacked_alike():
    images, labels = data()

    def run(factor):
        net().factor.assign(factor)
        return attacks.run(
            lambda x: net().logits(x, tf.constant([0, 0])),
            images,
            labels,
            "fgs",
            epsilon=EPSILON,
        )

    one, other = run(1.0), run(2.0**-9)
    np.testing.assert_array_equal(one.is_robust, other.is_robust)
    np.testing.assert_array_equal(
        one.adversarial_images, other.adversarial_images
    )
