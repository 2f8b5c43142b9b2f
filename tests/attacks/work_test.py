"""How far a run is: what was spent is counted, what is left only shrinks."""

import numpy as np
import pytest
import tensorflow as tf

from ib_keras.attacks import apgd
from ib_keras.attacks import multi_targeted
from ib_keras.attacks import pgd
from ib_keras.attacks import square
from ib_keras.attacks.runner import Runner
from ib_keras.attacks.runner import Stage
from ib_keras.types import ThreatModel

KERNEL = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def _eagerly():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def linear(images, seed=None):
    del seed
    return tf.reshape(images - 0.5, [-1, 4]) @ KERNEL


def follow(epsilon, *stages):
    """Spent and left work after each batch, and the ledger at the end."""
    images = np.random.default_rng(1).random((20, 2, 2, 1), np.float32)
    labels = tf.argmax(linear(images), axis=1, output_type=tf.int32).numpy()
    runner = Runner(
        linear, list(stages), ThreatModel("linf", epsilon), batch_size=8
    )
    seen = []
    progress = runner.start(images, labels)
    runner.run(images, progress, lambda p: seen.append(runner.work(p, 3)))
    return seen, progress


STAGES = (
    Stage("pgd", pgd.build(num_steps=4, step_size=0.02), 2),
    Stage("square", square.build(num_steps=5), 2),
    Stage("targets", multi_targeted.build(num_steps=3), 1),
    Stage("apgd", apgd.build(num_steps=3), 1),
)


def test_the_spent_work_grows_and_the_total_shrinks():
    seen, progress = follow(0.1, *STAGES)
    assert 0 < progress.ledger.robust_accuracy < 1
    spent = [done for done, _ in seen]
    whole = [done + left for done, left in seen]
    assert spent == sorted(spent)
    assert whole[1:] == sorted(whole[1:], reverse=True)
    assert all(left >= 0 for _, left in seen)
    assert seen[-1][1] == 0


def test_if_nothing_is_broken_the_first_answer_is_exact():
    seen, progress = follow(0.0, *STAGES)
    assert progress.ledger.robust_accuracy == 1.0
    whole = 20 * (2 * 4 + 2 * 5 + 2 * 3 + (1 + 3))
    assert seen[0] == (0, whole)
    assert seen[-1] == (whole, 0)
    gradients = int(progress.ledger.gradient_evaluations.sum())
    assert gradients == whole - 20 * 2 * 5
