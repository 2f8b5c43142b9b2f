"""One run of an attack with every step on record, outside of the pool.

The pool forgets what happened between its looks; some questions are about
that. A trace keeps a batch whole and in order, so that a frozen draw of a
model's noise stays each example's own.
"""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras import watchdog
from ib_keras.attacks import base
from ib_keras.attacks import geometry
from ib_keras.audit.diagnostics.case import Case


def compiled(function):
    """Compiles a function that is made anew for each question.

    A partial of it: TensorFlow warns of a function that is traced often, and
    tells functions apart by where they are written.
    """
    run = tf.function(
        functools.partial(function), jit_compile=strategies.jit_compile()
    )

    def beating(*arguments):
        watchdog.beat()
        return run(*arguments)

    return beating


class Trace(NamedTuple):
    """What a run did; NumPy arrays.

    Attributes:
        loss: float32 `[steps, n]`, at each iterate that was evaluated; an
            attack that moves last has one more, with the loss of that before.
        is_wrong: bool `[steps, n]`, whether it was misclassified.
        images: float32 `[n, ...]`, the iterate of the largest margin.
    """

    loss: np.ndarray
    is_wrong: np.ndarray
    images: np.ndarray


def run(
    case: Case,
    attack: base.Attack,
    rows: np.ndarray,
    logits_fn=None,
    epsilon: float | None = None,
) -> Trace:
    """Runs an untargeted attack once on a fixed batch.

    Args:
        case: The audit; what is spent goes to its account.
        attack: A `base.Attack` that is not targeted.
        rows: Positions of examples.
        logits_fn: Another classifier than the audited one.
        epsilon: Another radius than the audited one.

    Returns:
        The `Trace`.
    """
    logits_fn = logits_fn or case.subject.logits_fn
    if epsilon is None:
        epsilon = case.threat_model.epsilon
    threat_model = type(case.threat_model)(case.threat_model.norm, epsilon)
    count = len(rows)

    @compiled
    def traced(images, labels, example_seeds):
        def static(x, seed):
            return tf.ensure_shape(logits_fn(x, seed), [count, None])

        state = attack.init(static, images, labels, threat_model, example_seeds)
        length = attack.num_steps + (not attack.evaluates_proposal)
        losses = tf.TensorArray(tf.float32, length)
        wrong = tf.TensorArray(tf.bool, length)
        best = tf.fill([count], -float("inf"))
        found = images
        for step in tf.range(attack.num_steps):
            state = attack.step(static, state, step)
            said = state.evaluated
            losses = losses.write(step, said.loss)
            wrong = wrong.write(step, said.is_wrong)
            better = said.margin > best
            best = tf.where(better, said.margin, best)
            found = base.where(better, said.images, found)
        if not attack.evaluates_proposal:  # Nobody has looked at the last one.
            last = geometry.ball(images, threat_model).project(state.images)
            seed = base.model_seed(example_seeds, attack.num_steps)
            said = base.evaluated(
                last, static(last, seed), labels, loss=state.evaluated.loss
            )
            losses = losses.write(attack.num_steps, said.loss)
            wrong = wrong.write(attack.num_steps, said.is_wrong)
            found = base.where(said.margin > best, last, found)
        return losses.stack(), wrong.stack(), found

    example_seeds = seeds.fold(case.seed_of(1), rows.astype(np.int32))
    with strategies.unfused():
        result = traced(
            tf.constant(case.subject.images[rows]),
            tf.constant(case.subject.labels[rows]),
            example_seeds,
        )
    case.gradient_evaluations += count * (
        attack.gradients_at_init + attack.num_steps * attack.gradients_per_step
    )
    return Trace(*(part.numpy() for part in result))


def wrong_share(
    logits_fn, images: np.ndarray, labels: np.ndarray, seed, num_draws: int
) -> np.ndarray:
    """Share of draws on which each image is misclassified, float64 `[n]`.

    The batch stays whole and in order.
    """

    @compiled
    def wrong(images, labels, seed):
        return base.is_wrong(logits_fn(images, seed), labels)

    total = np.zeros(len(labels))
    for draw in range(num_draws):
        total += wrong(
            tf.constant(images), tf.constant(labels), seeds.fold(seed, draw)
        ).numpy()
    return total / num_draws
