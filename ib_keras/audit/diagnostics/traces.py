"""One run of an attack on a whole batch, outside of the pool.

A trace keeps a batch complete and in order, so that each example keeps its own
fixed draw of the model's noise. It can record every step, which some questions
need.
"""

import functools
from collections.abc import Callable
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras import watchdog
from ib_keras.attacks import base
from ib_keras.attacks import compiled as compiled_lib
from ib_keras.attacks import engine
from ib_keras.attacks import judging
from ib_keras.audit.diagnostics.case import Case
from ib_keras.types import LogitsFn


def compiled(logits_fn: LogitsFn, key: Hashable, function: Callable):
    """A function around a model, compiled once for each key.

    Args:
        logits_fn: The model.
        key: Distinguishes the function from others around this model.
        function: Takes the model, `base.LogitsFn`, then tensors that begin
            with the batch axis and, behind these, shared ones of rank 0 or 1;
            it holds no data of its own.

    Returns:
        A function `(batched, shared) -> tensors`, of two tuples.
    """
    logits = compiled_lib.on(logits_fn, None, strategies.jit_compile())

    def run(batched, shared):
        logits.resolve(tf.TensorShape(batched[0].shape))
        return logits.compiled(
            key, lambda: functools.partial(function, logits)
        )(int(batched[0].shape[0]), batched, shared)

    return run


class Trace(NamedTuple):
    """The record of a run; NumPy arrays.

    Attributes:
        images: float32 `[n, ...]`, the iterate of the largest margin, of
            those that are misclassified where any is.
        is_wrong: bool `[n]`, whether any iterate was misclassified, or the
            start of an attack that evaluates it.
        step_loss: float32 `[steps, n]`, at each iterate that a step evaluated;
            an attack that moves last has one more, with the loss of that
            before. Empty where steps were not recorded.
        step_is_wrong: bool `[steps, n]`, whether it was misclassified.
    """

    images: np.ndarray
    is_wrong: np.ndarray
    step_loss: np.ndarray
    step_is_wrong: np.ndarray


def run(
    case: Case,
    attack: base.Attack,
    rows: np.ndarray,
    logits_fn=None,
    epsilon: float | None = None,
    logit_scale: float | None = None,
    *,
    each_step: bool = False,
) -> Trace:
    """Runs an untargeted attack once on a fixed batch.

    Args:
        case: The audit, which counts the cost.
        attack: A `base.Attack` that is not targeted.
        rows: Positions of examples.
        logits_fn: Another classifier than the audited one.
        epsilon: Another radius than the audited one.
        logit_scale: Another scale of the logits than the audit's.
        each_step: Whether to record each step, which takes longer.

    Returns:
        The `Trace`.
    """
    threat_model = case.threat_model
    if epsilon is None:
        epsilon = threat_model.epsilon
    if logit_scale is None:
        logit_scale = case.subject.logit_scale
    logits = compiled_lib.on(
        logits_fn or case.subject.logits_fn, None, strategies.jit_compile()
    )
    count = len(rows)
    judge = judging.Judge(logits, threat_model.norm, case.num_draws, count)
    loop = engine.Engine(
        logits,
        attack,
        judge,
        threat_model.norm,
        count,
        scale=logit_scale,
    )
    images = tf.constant(case.subject.images[rows])
    labels = tf.constant(case.subject.labels[rows])
    example_seeds = seeds.fold(case.seed_of(1), rows.astype(np.int32))
    radius = tf.constant(epsilon, tf.float32)
    loop.resolve(images)
    state, record = loop.start(
        images, labels, example_seeds, tf.zeros_like(labels), radius
    )
    spans = loop.chunks()
    if each_step:
        spans = ((step, step + 1) for step in range(attack.num_steps))
    losses = [np.zeros([0, count], np.float32)]
    wrongs = [np.zeros([0, count], bool)]
    for first, last in spans:
        watchdog.beat()
        state, record = loop.advance(state, record, first, last)
        if each_step:
            losses.append(state.evaluated.loss[None])
            wrongs.append(state.evaluated.is_wrong[None])
    # The last iterate has not been evaluated.
    if not attack.evaluates_proposal:
        more = (images, labels, example_seeds, radius)
        if each_step:
            # The record over all iterates is replaced by that of this one.
            none = tf.zeros_like(record.best.is_wrong)
            none = record._replace(best=record.best._replace(is_wrong=none))
            alone = loop.finish(state, none, *more)
            losses.append(state.evaluated.loss[None])
            wrongs.append(alone.best.is_wrong[None])
        record = loop.finish(state, record, *more)
    case.gradient_evaluations += count * (
        attack.gradients_at_init + attack.num_steps * attack.gradients_per_step
    )
    return Trace(
        record.best.images.numpy(),
        record.best.is_wrong.numpy(),
        np.concatenate(losses),
        np.concatenate(wrongs),
    )


def wrong_share(
    logits_fn, images: np.ndarray, labels: np.ndarray, seed, num_draws: int
) -> np.ndarray:
    """Share of draws on which each image is misclassified, float64 `[n]`.

    The batch stays complete and in order.
    """
    wrong = compiled(logits_fn, "wrong", _wrong)
    total = np.zeros(len(labels))
    for draw in range(num_draws):
        total += wrong(
            (tf.constant(images), tf.constant(labels)),
            (seeds.fold(seed, draw),),
        ).numpy()
    return total / num_draws


def _wrong(logits, images, labels, seed):
    return base.is_wrong(logits(images, seed), labels)
