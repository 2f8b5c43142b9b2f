"""Projected gradient descent, by sign (l_inf) or unit vector (l2) steps.

References:
    Madry et al., "Towards deep learning models resistant to adversarial
    attacks", ICLR 2018; Korshunova et al. 2021, section 2.
"""

from typing import NamedTuple

import tensorflow as tf

from ib_keras.attacks import base
from ib_keras.attacks import geometry
from ib_keras.attacks import losses
from ib_keras.errors import UserError


class State(NamedTuple):
    """See `base.Attack`."""

    images: tf.Tensor
    evaluated: base.Evaluation
    ball: geometry.Ball
    labels: tf.Tensor
    seeds: tf.Tensor


class PGD(base.GradientAttack):
    """x <- project(x + step_size * steepest(gradient)), `num_steps` times.

    Args:
        num_steps: 40 for MNIST, 20 for CIFAR-10 in the paper.
        step_size: In pixel units; 0.01 for MNIST, 0.007 for CIFAR-10.
        loss: "cross_entropy", "margin", "dlr" or "probability_margin".
        random_start: Whether a run starts at a random point of the ball.
        num_eot: Fresh draws of model noise each gradient is averaged over.
    """

    varying = ("num_steps", "step_size")

    def __init__(self, num_steps, step_size, loss, random_start, num_eot):
        self.num_steps = num_steps
        self.step_size = step_size
        self.loss_fn = losses.get(loss)
        self.random_start = random_start
        self.num_eot = num_eot
        self.gradients_per_step = num_eot

    def init(self, logits_fn, images, labels, threat_model, seeds):
        """Starts at a random point of the ball, or at the image."""
        del logits_fn
        ball = self.ball(images, threat_model)
        start = self.start(ball, seeds)
        return State(start, base.not_evaluated(start), ball, labels, seeds)

    def ball(self, images, threat_model):
        """What iterates are projected to."""
        return geometry.ball(images, threat_model)

    def start(self, ball, seeds):
        """The first iterate, float32 `[batch, ...]`."""
        return ball.random_point(seeds) if self.random_start else ball.clean

    def step(self, logits_fn, state, iteration):
        """Evaluates the iterate, then moves."""
        return base.evaluate_and_move(
            logits_fn,
            lambda logits: self.loss_fn(logits, state.labels),
            lambda gradient: self.move(state.ball, state.images, gradient),
            state,
            iteration,
            self.num_eot,
        )

    def move(self, ball, images, gradient):
        """The next iterate, in the ball and the box."""
        return ball.project(images + self.step_size * ball.steepest(gradient))


def build(
    num_steps=40,
    step_size=0.01,
    loss="cross_entropy",
    random_start=True,
    num_eot=1,
) -> PGD:
    """Builds a `PGD` attack from a config section.

    Raises:
        UserError: If a count or the step size is not positive, or the loss is
            unknown.
    """
    if not step_size > 0:
        raise UserError(
            "step_size is not a step",
            received=step_size,
            expected="a number above 0, in pixel units of [0, 1]",
            fix="The paper uses 0.01 for MNIST and 0.007 for CIFAR-10.",
        )
    return PGD(
        base.check_count("num_steps", num_steps),
        step_size,
        loss,
        random_start,
        base.check_count("num_eot", num_eot),
    )
