"""One trace an attack: what shares it, and models that need another way."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras.attacks import base
from ib_keras.attacks import compiled
from ib_keras.attacks import devices
from ib_keras.attacks import runner
from ib_keras.types import ThreatModel

SHAPE = (4, 4, 1)
KERNEL = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)


def linear(images, seed):
    del seed
    return tf.reshape(images - 0.5, [-1, 16]) @ KERNEL


def data(count=24):
    images = np.random.default_rng(1).random((count, *SHAPE), np.float32)
    labels = linear(tf.constant(images), None).numpy().argmax(axis=1)
    return images, labels.astype(np.int32)


def stage(name, num_restarts=1, **arguments):
    section = {"attack": {"name": name, **arguments}}
    return runner.Stage.build({**section, "num_restarts": num_restarts})


def attack(logits_fn, stages, epsilon=0.1, batch_size=24):
    images, labels = data()
    run = runner.Runner(
        logits_fn, stages, ThreatModel("linf", epsilon), batch_size=batch_size
    )
    return run.run(images, run.start(images, labels))


def assert_same(one, other):
    for name, array in one.arrays().items():
        if array.dtype.kind in "ib":
            np.testing.assert_array_equal(array, other.arrays()[name], name)
        else:
            np.testing.assert_allclose(
                array, other.arrays()[name], 1e-5, 1e-5, err_msg=name
            )


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("pgd", {"num_steps": 3, "step_size": 0.3}, {"num_steps": 12}),
        ("apgd", {"num_steps": 7}, {"num_steps": 23}),
        (
            "apgd",
            {"loss": "targeted_dlr", "num_targets": 1, "num_steps": 7},
            {"loss": "targeted_dlr", "num_targets": 2, "num_steps": 12},
        ),
        (
            "multi_targeted",
            {"num_steps": 4, "learning_rate": 0.5, "num_targets": 1},
            {"num_steps": 16, "schedule": "dm40"},
        ),
        ("square", {"num_steps": 10}, {"num_steps": 60}),
        pytest.param(
            "fab",
            {"num_steps": 3, "num_targets": 1},
            {"num_steps": 9},
            marks=pytest.mark.slow,
        ),
        ("uniform_noise", {"num_steps": 5}, {"num_steps": 40}),
    ],
)
def test_attacks_that_differ_in_numbers_share_traces_and_nothing_else(
    name, first, second
):
    if name == "fab":
        second = {**second, "num_targets": 0}
    logits = compiled.CompiledLogits(linear)
    attack(logits, [stage(name, **first)], epsilon=0.02)
    traced = len(devices.TRACES)
    shared = attack(logits, [stage(name, 2, **second)], epsilon=0.07)
    assert len(devices.TRACES) == traced
    assert_same(shared, attack(linear, [stage(name, 2, **second)], 0.07))
    assert 0 < shared.robust_accuracy


def test_smaller_and_other_batches_need_no_new_trace():
    logits = compiled.CompiledLogits(linear)
    stages = [stage("pgd", num_steps=20, step_size=0.01)]
    first = attack(logits, stages, epsilon=0.05)
    assert 0 < first.robust_accuracy < 1
    for batch_size in (24, 7, 5, 1):
        assert_same(first, attack(logits, stages, 0.05, batch_size))
    counts = [set(c.values()) for c in logits.num_traces().values()]
    assert all(count == {1} for count in counts)


def branching(images, seed):
    """Runs under AutoGraph alone: Python's `if` and `for` over tensors."""
    logits = linear(images, seed)
    if tf.reduce_mean(logits) > 1e6:
        logits = -logits
    for _ in tf.range(3):
        logits += 0.0
    return logits


def needing_its_size(images, seed):
    """Refuses a batch axis that is open."""
    rows = [linear(images[i : i + 1], seed) for i in range(images.shape[0])]
    return tf.concat(rows, axis=0)


@pytest.mark.parametrize(
    ("model", "has_open_batch"),
    [(linear, True), (branching, True), (needing_its_size, False)],
)
def test_models_that_trace_in_other_ways_are_attacked_as_well(
    model, has_open_batch
):
    logits = compiled.CompiledLogits(model)
    stages = [stage("pgd", num_steps=8, step_size=0.02)]
    found = attack(logits, stages, epsilon=0.05)
    assert logits.has_open_batch == has_open_batch
    plain = attack(linear, stages, epsilon=0.05)
    np.testing.assert_array_equal(found.is_robust, plain.is_robust)
    np.testing.assert_allclose(found.margin, plain.margin, atol=1e-5)


def test_a_model_that_cannot_be_traced_raises_its_own_error():
    def model(images, seed):
        raise ZeroDivisionError("of the model")

    with pytest.raises(ZeroDivisionError, match="of the model"):
        attack(model, [stage("pgd", num_steps=2)])


def test_attacks_of_other_losses_do_not_share():
    kinds = {
        base.kind(stage("apgd", loss=loss).attack)
        for loss in ("cross_entropy", "dlr", "margin", "targeted_dlr")
    }
    assert len(kinds) == 4


def test_an_attack_without_varying_numbers_shares_only_with_equal_ones():
    class Own(base.GradientAttack):
        def __init__(self, num_steps, weights):
            self.num_steps, self.weights = num_steps, weights

    assert base.kind(Own(3, 1.0)) == base.kind(Own(3, 1.0))
    assert base.kind(Own(3, 1.0)) != base.kind(Own(4, 1.0))
    # What cannot be compared is not shared.
    one, other = Own(3, [1.0]), Own(3, [1.0])
    assert base.kind(one) != base.kind(other)
    assert base.numbers(one) == {}


class Bare:
    """Fulfils the contract and nothing more: it names no `varying`."""

    num_steps, gradients_at_init, gradients_per_step = 3, 0, 1
    evaluates_proposal = runs_eagerly = False
    num_targets = None

    def __init__(self):
        self._attack = stage("pgd", num_steps=3, step_size=0.02).attack
        self.init, self.step = self._attack.init, self._attack.step


def test_an_attack_without_the_attribute_runs_and_shares_nothing():
    one, other = Bare(), Bare()
    assert isinstance(one, base.Attack)
    assert base.kind(one) != base.kind(other)
    assert base.numbers(one) == {}
    plain = stage("pgd", num_steps=3, step_size=0.02)
    assert_same(
        attack(linear, [runner.Stage("bare", one)], 0.05),
        attack(linear, [plain], 0.05),
    )
