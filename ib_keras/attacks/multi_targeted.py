"""MultiTargeted: every other class in turn as the target of a margin loss.

The public description (below) and the paper's appendix leave the optimiser of
the paper's own evaluation open; the defaults here are the nearest public ones,
and reports print them. Adam is written on plain tensors with epsilon 1e-9: on
saturated bottleneck models input gradients of 1e-8 are common, and Keras'
epsilon of 1e-7 would stall on them.

References:
    Gowal et al., "An alternative surrogate loss for PGD-based adversarial
    testing", 2019; Korshunova et al. 2021, section 3.2.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras.arguments import OPTIMIZERS
from ib_keras.attacks import base
from ib_keras.attacks import geometry
from ib_keras.attacks import losses
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-9

# Name -> ((share of the steps, factor of the learning rate from there), ...).
SCHEDULES = {
    "decade": ((0.0, 1.0), (0.5, 0.1), (0.75, 0.01)),
    # That of the authors' public JAX code: its factors multiply.
    "dm40": ((0.0, 1.0), (0.5, 0.1), (0.75, 0.001)),
    "constant": ((0.0, 1.0),),
}


class State(NamedTuple):
    """See `base.Attack`; `first` and `second` are Adam's moments."""

    images: tf.Tensor
    evaluated: base.Evaluation
    ball: geometry.Ball
    labels: tf.Tensor
    targets: tf.Tensor
    seeds: tf.Tensor
    first: tf.Tensor
    second: tf.Tensor


class MultiTargeted(base.GradientAttack):
    """Ascends a targeted loss, in the paper z_t - z_y, for one target t a run.

    Args:
        num_steps: 200 in the paper.
        num_targets: Targets in turn, by falling clean logit; 0 for all.
        optimizer: "adam", or "sign" for steps of the learning rate's size.
        learning_rate: Of the first steps, in pixel units of [0, 1].
        schedule: Of the step size: "decade" (a tenth after half of the steps,
            a hundredth after three quarters), "dm40" (a tenth, then a
            thousandth) or "constant".
        num_eot: Fresh draws of model noise each gradient is averaged over.
        loss: "targeted_margin", "targeted_dlr" or
            "targeted_probability_margin".
    """

    varying = ("num_steps", "learning_rates")

    def __init__(
        self,
        num_steps,
        num_targets,
        optimizer,
        learning_rate,
        schedule,
        num_eot,
        loss,
    ):
        self.num_steps = num_steps
        self.num_targets = num_targets
        self.num_eot = num_eot
        self.gradients_per_step = num_eot
        self._is_adam = optimizer == "adam"
        self.loss_fn = losses.get_targeted(loss)
        # One per step.
        self.learning_rates = np.float32(
            [
                learning_rate
                * [f for share, f in schedule if step >= share * num_steps][-1]
                for step in range(num_steps)
            ]
        )

    def init(self, logits_fn, images, labels, threat_model, seeds, targets):
        """Starts at a random point of the ball."""
        del logits_fn
        ball = geometry.ball(images, threat_model)
        start = ball.random_point(seeds)
        return State(
            images=start,
            evaluated=base.not_evaluated(start),
            ball=ball,
            labels=labels,
            targets=targets,
            seeds=seeds,
            first=tf.zeros_like(start),
            second=tf.zeros_like(start),
        )

    def step(self, logits_fn, state, iteration):
        """Evaluates the iterate, then moves."""
        evaluation, gradient = base.evaluate_gradient(
            logits_fn,
            lambda logits: self.loss_fn(logits, state.labels, state.targets),
            state.images,
            state.labels,
            base.model_seed(state.seeds, iteration),
            self.num_eot,
        )
        rate = tf.convert_to_tensor(self.learning_rates)[iteration]
        finite = tf.math.is_finite(evaluation.gradient_norm)
        if not self._is_adam:
            images = _sign_step(
                state.ball, state.images, gradient, finite, rate
            )
            return state._replace(images=images, evaluated=evaluation)
        images, first, second = _adam_step(
            state.ball,
            state.images,
            state.first,
            state.second,
            gradient,
            finite,
            rate,
            tf.cast(iteration + 1, tf.float32),
        )
        return state._replace(
            images=images, evaluated=evaluation, first=first, second=second
        )


def _sign_step(ball, images, gradient, finite, rate):
    moved = ball.project(images + rate * ball.steepest(gradient))
    return base.where_finite(finite, (moved,), (images,))[0]


def _adam_step(ball, images, first, second, gradient, finite, rate, count):
    (gradient,) = base.where_finite(
        finite, (gradient,), (tf.zeros_like(gradient),)
    )
    first = _BETA_1 * first + (1.0 - _BETA_1) * gradient
    second = _BETA_2 * second + (1.0 - _BETA_2) * gradient * gradient
    mean = first / (1.0 - tf.pow(_BETA_1, count))
    square = second / (1.0 - tf.pow(_BETA_2, count))
    step = rate * mean / (tf.sqrt(square) + _EPSILON)
    return ball.project(images + step), first, second


def build(
    num_steps=200,
    num_targets=0,
    optimizer="adam",
    learning_rate=0.1,
    schedule="decade",
    num_eot=1,
    loss="targeted_margin",
) -> MultiTargeted:
    """Builds a `MultiTargeted` attack from a config section.

    Raises:
        UserError: If the optimizer, the schedule or the loss is unknown, or a
            number cannot be what it should be.
    """
    if optimizer not in OPTIMIZERS:
        raise unknown_name(
            "optimizer of this attack", optimizer, OPTIMIZERS, "Set optimizer."
        )
    if schedule not in SCHEDULES:
        raise unknown_name("schedule", schedule, SCHEDULES, "Set schedule.")
    if not learning_rate > 0:
        raise UserError(
            "learning_rate is not a step",
            received=learning_rate,
            expected="a number above 0, in pixel units of [0, 1]",
            fix="The nearest public code uses 0.1.",
        )
    return MultiTargeted(
        base.check_count("num_steps", num_steps),
        base.check_count("num_targets", num_targets, smallest=0),
        optimizer,
        learning_rate,
        SCHEDULES[schedule],
        base.check_count("num_eot", num_eot),
        loss,
    )
