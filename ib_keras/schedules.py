"""Schedules: step -> value, for learning rates, beta and rho.

Learning rates are Keras' own schedule objects, so that an optimizer saves and
restores them. Annealed weights are plain callables on tensors.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from ib_keras.arguments import SHAPES
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name


def learning_rate(
    initial: float,
    decay_factor: float,
    decay_epochs: int | Sequence[int],
    steps_per_epoch: int,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """A staircase: multiplied by `decay_factor` after some epochs.

    Args:
        initial: Learning rate of the first steps.
        decay_factor: 0.97 for MNIST and 0.3 for CIFAR-10 in the paper.
        decay_epochs: After every so many epochs, 2 and 250 in the paper; or
            a list of the epochs after which it falls.
        steps_per_epoch: Optimiser steps in one epoch.

    Returns:
        A Keras learning rate schedule.

    Raises:
        UserError: If a list has something else than epochs.
    """
    if isinstance(decay_epochs, Sequence):
        _check_epochs(decay_epochs)
        # In float32, as Keras' schedule computes them.
        rate, factor = np.float32(initial), np.float32(decay_factor)
        powers = range(len(decay_epochs) + 1)
        return keras.optimizers.schedules.PiecewiseConstantDecay(
            # The last step with the previous value.
            [epoch * steps_per_epoch - 1 for epoch in decay_epochs],
            [float(rate * factor ** np.float32(k)) for k in powers],
        )
    return keras.optimizers.schedules.ExponentialDecay(
        initial_learning_rate=initial,
        decay_steps=decay_epochs * steps_per_epoch,
        decay_rate=decay_factor,
        staircase=True,
    )


def _check_epochs(epochs):
    are_whole = all(type(epoch) is int and epoch > 0 for epoch in epochs)
    if not are_whole or list(epochs) != sorted(set(epochs)):
        raise UserError(
            "The learning rate cannot fall at these epochs",
            received=f"{epochs!r}",
            expected="whole numbers above 0, ascending",
            fix="Correct optim.decay_at_epochs.",
        )


def anneal(
    step: tf.Tensor,
    *,
    start: float,
    end: float,
    num_steps: int,
    shape: str = "linear",
) -> tf.Tensor:
    """Goes from `start` at step 0 to `end` at `num_steps`, and stays there.

    Args:
        step: Scalar integer tensor, the number of updates made so far.
        start: First value.
        end: Last value. With `num_steps` 0 it holds from the beginning.
        num_steps: Length of the annealing in optimiser steps.
        shape: "linear", or "geometric" (linear in the logarithm).

    Returns:
        float32 scalar.

    Raises:
        UserError: If the shape is unknown, or it is geometric and one of the
            ends is not positive.
    """
    if shape not in SHAPES:
        raise unknown_name("annealing shape", shape, SHAPES, "Set it to one.")
    if num_steps <= 0:
        return tf.constant(end, tf.float32)
    part = tf.minimum(tf.cast(step, tf.float32) / float(num_steps), 1.0)
    if shape == "linear":
        return start + (end - start) * part
    if start <= 0 or end <= 0:
        raise UserError(
            "Geometric annealing needs positive ends",
            received=f"from {start} to {end}",
            expected="numbers above 0",
            fix="Start from a small number such as 1e-8, or anneal linearly.",
        )
    return start * tf.pow(end / start, part)
