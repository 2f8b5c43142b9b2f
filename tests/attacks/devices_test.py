"""One device and two: the same starts, the same examples, the same numbers."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from ib_keras import strategy as strategies
from ib_keras.attacks import compiled
from ib_keras.attacks import devices
from ib_keras.attacks import runner
from ib_keras.types import ThreatModel
from tests.support import models


def compile_on(strategy, function, jit_compile=None):
    """A function around a model that it does not call."""
    logits = compiled.CompiledLogits(
        lambda images, seed: images, strategy, jit_compile
    )
    return logits.compiled("test", lambda: function)


def test_parts_are_put_together_in_order():
    strategy = models.two_devices()
    sized = compile_on(strategy, lambda x, y, a: (x * a, y))
    x, y = tf.reshape(tf.range(12.0), [6, 2]), tf.range(6)
    first, second = sized(6, (x, y), (tf.constant(3.0),))
    np.testing.assert_array_equal(first, 3.0 * x)
    np.testing.assert_array_equal(second, y)
    sized(6, (x, y), (tf.constant(4.0),))
    assert sized.num_traces() == {6: 1}


def test_what_xla_cannot_compile_is_run_without_it():
    """And not taken for a model that refuses its images."""
    num_traced = []

    def in_words(x):
        num_traced.append(1)
        return tf.strings.length(tf.strings.as_string(x))

    x = tf.constant([1, 10, 100])
    with pytest.raises(tf.errors.InvalidArgumentError, match="compile"):
        tf.function(in_words, jit_compile=True)(x)
    sized = compile_on(None, in_words, jit_compile=True)
    num_traced.clear()
    for _ in range(2):
        np.testing.assert_array_equal(sized(3, (x,)), [1, 2, 3])
    assert len(num_traced) == 2
    np.testing.assert_array_equal(sized(2, (x[:2],)), [1, 2])
    assert len(num_traced) == 3  # XLA is not tried a second time.


def test_what_fails_without_xla_too_is_the_model_s_own_error():
    def refusing(x):
        return tf.ensure_shape(tf.boolean_mask(x, x > 0), [3])

    sized = compile_on(None, refusing, jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape"):
        sized(2, (tf.ones([2]),))


class OneCompilingReplica:
    """A strategy of one replica that runs nothing but what it is handed."""

    num_replicas_in_sync = 1

    def __init__(self):
        self.num_runs = 0
        self._device = tf.distribute.OneDeviceStrategy("CPU:0")

    def run(self, function, args):
        self.num_runs += 1
        return self._device.run(function, args=args)

    def __getattr__(self, name):
        return getattr(self._device, name)


def test_one_replica_that_compiles_what_it_runs_is_used(monkeypatch):
    strategy = OneCompilingReplica()
    sized = compile_on(strategy, lambda x, a: (x * a, x))
    x = tf.reshape(tf.range(6.0), [3, 2])
    sized(3, (x,), (tf.constant(2.0),))
    assert strategy.num_runs == 0  # One plain device needs no strategy.
    is_it = strategies.is_compiling
    monkeypatch.setattr(
        strategies, "is_compiling", lambda s=None: s is strategy or is_it(s)
    )
    sized = compile_on(strategy, lambda x, a: (x * a, x))
    first, second = sized(3, (x,), (tf.constant(2.0),))
    np.testing.assert_array_equal(first, 2.0 * x)
    np.testing.assert_array_equal(second, x)
    sized(3, (x,), (tf.constant(3.0),))
    assert strategy.num_runs == 1  # It is traced once, inside of `run`.
    assert sized.num_traces() == {3: 1}


def test_batch_sizes_are_multiples_of_the_replicas():
    assert devices.batch_sizes(64) == (8, 16, 32, 64)
    assert devices.batch_sizes(50, num_replicas=4) == (8, 16, 28, 52)
    assert all(s % 3 == 0 for s in devices.batch_sizes(100, 3))
    assert devices.batch_sizes(1) == (1,)


def audit(strategy, batch_size):
    digits = load_digits()
    images = (digits.images[:120] / 16.0)[..., None].astype(np.float32)
    labels = digits.target[:120].astype(np.int32)
    # A linear model by least squares: exact, and no training.
    all_images = digits.images.reshape(-1, 64) / 16.0
    targets = np.eye(10)[digits.target]
    weights = np.linalg.lstsq(all_images, targets, rcond=None)[0]
    weights = tf.constant(weights, tf.float32)

    def logits_fn(x, seed):
        return 10.0 * tf.reshape(x, [-1, 64]) @ weights

    stages = [
        runner.Stage.build({"attack": {"name": "apgd", "num_steps": 10}}),
        runner.Stage.build(
            {"attack": {"name": "pgd", "num_steps": 10}, "num_restarts": 2}
        ),
    ]
    attack = runner.Runner(
        logits_fn,
        stages,
        ThreatModel("linf", 0.03),
        batch_size=batch_size,
        strategy=strategy,
    )
    return attack.run(images, attack.start(images, labels))


def test_two_devices_and_other_batches_differ_by_rounding_alone():
    one = audit(None, 120)
    assert 0.1 < one.robust_accuracy < 0.9
    for strategy, batch_size in [(models.two_devices(), 120), (None, 37)]:
        other = audit(strategy, batch_size)
        np.testing.assert_array_equal(
            one.clean_prediction, other.clean_prediction
        )
        differ = one.is_robust != other.is_robust
        assert differ.mean() <= 0.005
        # What differs is within rounding of the boundary.
        assert np.abs(one.margin[differ]).max(initial=0.0) < 1e-4
        same = ~differ
        np.testing.assert_allclose(
            one.margin[same], other.margin[same], atol=1e-3
        )
