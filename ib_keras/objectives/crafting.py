"""Adversarial examples inside of a training step.

The attacks are those of audits, `attacks.base.Attack`, without restarts and
without a judge. The adversary sees the model as inference does: its moving
statistics of batch normalisation, which crafting does not update. Madry et al.
craft with training statistics, Zhang et al. (TRADES) with those of inference;
de Jorge et al. do not say (their code uses training statistics).
"""

from collections.abc import Callable

import tensorflow as tf

from ib_keras import schedules
from ib_keras import seeds
from ib_keras.attacks import base
from ib_keras.types import LogitsFn
from ib_keras.types import ThreatModel

# Purpose that the seed of a step is folded with; the noise of what is trained
# on is drawn from that seed itself.
_CRAFT = 0x0ADE


def logits_fn(model, mode: str) -> LogitsFn:
    """The classifier that is attacked.

    Args:
        model: An `IBClassifier`.
        mode: "mean" or "stochastic", with the model's number of samples.

    Returns:
        Function from images and a seed to logits.
    """
    if mode == "mean" or not model.is_stochastic:
        return lambda images, seed: model(images, training=False)
    return lambda images, seed: model(
        images, training=False, mode="stochastic", noise_seed=seed
    )


def ramped(epsilon: float, ramp_steps: int, step: tf.Tensor):
    """The adversary's radius at a step of training.

    Args:
        epsilon: In the end, in pixel units of [0, 1].
        ramp_steps: Steps in which it grows linearly, from `epsilon /
            ramp_steps` at the first one; 0 for none.
        step: Scalar integer tensor, from 0.

    Returns:
        `epsilon` itself without a ramp; otherwise a float32 scalar.
    """
    if not ramp_steps:
        return epsilon
    return schedules.anneal(
        tf.cast(step, tf.int32) + 1,
        start=0.0,
        end=epsilon,
        num_steps=ramp_steps,
    )


def example_seeds(seed: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """One seed an example of the global batch, int32 `[batch, 2]`.

    Replicas draw together what one device would draw for the whole batch.
    """
    count = tf.shape(images)[0]
    context = tf.distribute.get_replica_context()
    index = tf.range(count)
    if context is not None and context.num_replicas_in_sync > 1:
        index += count * context.replica_id_in_sync_group
    return seeds.fold(seed, _CRAFT, index)


def craft(
    attack: base.Attack,
    logits_fn: LogitsFn,
    images: tf.Tensor,
    labels: tf.Tensor,
    epsilon: float | tf.Tensor,
    seed: tf.Tensor,
) -> tf.Tensor:
    """Runs one attack and takes its last iterate.

    Args:
        attack: Evaluates, then moves; its steps are a loop of the graph.
        logits_fn: The model.
        images: float32 `[batch, height, width, channels]` in [0, 1].
        labels: int32 `[batch]`.
        epsilon: Radius in the l_inf norm, in pixel units of [0, 1].
        seed: int32 `[2]`, of the training step.

    Returns:
        float32 in the shape of `images`; no gradient goes through it.
    """
    state = attack.init(
        logits_fn,
        images,
        labels,
        ThreatModel("linf", epsilon),
        example_seeds(seed, images),
    )
    (state,) = base.repeat(
        0,
        attack.num_steps,
        lambda iteration, state: (attack.step(logits_fn, state, iteration),),
        (state,),
    )
    return tf.stop_gradient(state.images)


def ascend(
    value_fn: Callable[[tf.Tensor], tf.Tensor],
    ball,
    start: tf.Tensor,
    step_size: float,
    num_steps: int,
) -> tf.Tensor:
    """Ascends any function of images by signed steps inside of a ball.

    Args:
        value_fn: Images -> float32 `[batch]`.
        ball: Of `attacks.geometry.ball`.
        start: float32 `[batch, height, width, channels]`, in the ball.
        step_size: In pixel units of [0, 1].
        num_steps: How many.

    Returns:
        float32 in the shape of `start`; no gradient goes through it.
    """

    def body(_, images):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            value = value_fn(images)
        step = step_size * ball.steepest(tape.gradient(value, images))
        return (ball.project(images + step),)

    (images,) = base.repeat(0, num_steps, body, (start,))
    return tf.stop_gradient(images)
