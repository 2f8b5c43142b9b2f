"""PGD on the mean gradient of noisy copies of the iterate.

Where the surface is made of steps or of fine waves, the gradient at a point
says nothing about the slope around it. That of the mean of the loss over a
cube around the point does. It is estimated from the same random points in one
of two ways: by the mean of the model's own gradients there, which finds its
way over smooth steps; or by the losses there alone, which needs no gradient
and crosses true steps, at the price of more points as there are more pixels.

References:
    Athalye et al., "Obfuscated gradients give a false sense of security",
    ICML 2018, section 4 (expectation over transformation); Ilyas et al.,
    "Black-box adversarial attacks with limited queries and information", ICML
    2018 (gradients from antithetic pairs of losses).
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras import seeds as seeds_lib
from ib_keras.attacks import base
from ib_keras.attacks import geometry
from ib_keras.attacks import losses
from ib_keras.errors import UserError

# Purposes that an example's seed is folded with.
_START, _NOISE = 1, 2
# Of epsilon: the steps fall from the first to the last in a straight line.
_FIRST_STEP, _LAST_STEP = 0.5, 0.02
# Share of the direction so far that is kept: what points agree on adds up.
_MOMENTUM = 0.75


class State(NamedTuple):
    """See `base.Attack`; `momentum` is the direction so far, of any length."""

    images: tf.Tensor
    evaluated: base.Evaluation
    ball: geometry.Ball
    labels: tf.Tensor
    seeds: tf.Tensor
    momentum: tf.Tensor


class Smoothed(base.GradientAttack):
    """Steps along the gradient of a smoothed loss, with momentum.

    They are signs (l_inf) or of unit length (l2).

    Args:
        num_steps: Steps; each evaluates the iterate itself, too.
        width: Half the side of the cube that is averaged over, as a share of
            epsilon (of l2: of epsilon over the root of the pixels' number).
        num_pairs: Antithetic pairs of points a step.
        from_losses: Whether the gradient is taken from losses alone.
        loss: "cross_entropy", "margin", "dlr" or "probability_margin".
    """

    varying = ("num_steps", "step_shares", "width", "from_losses")

    def __init__(self, num_steps, width, num_pairs, from_losses, loss):
        self.num_steps = num_steps
        self.width = float(width)
        self.num_pairs = num_pairs
        self.from_losses = bool(from_losses)
        self.gradients_per_step = 2 * num_pairs
        self.loss_fn = losses.get(loss)
        self.step_shares = np.linspace(
            _FIRST_STEP, _LAST_STEP, num_steps, dtype=np.float32
        )

    def init(self, logits_fn, images, labels, threat_model, seeds):
        """Starts at a random point of the ball."""
        del logits_fn
        ball = geometry.ball(images, threat_model)
        start = ball.random_point(seeds_lib.fold(seeds, _START))
        return State(
            images=start,
            evaluated=base.not_evaluated(start),
            ball=ball,
            labels=labels,
            seeds=seeds,
            momentum=tf.zeros_like(start),
        )

    def step(self, logits_fn, state, iteration):
        """Evaluates the iterate, then moves by the points around it."""
        seed = base.model_seed(state.seeds, iteration)
        logits = logits_fn(state.images, seed)
        loss = self.loss_fn(logits, state.labels)
        gradient = self._mean_gradient(logits_fn, state, iteration, seed)
        evaluation = base.evaluated(
            state.images, logits, state.labels, loss, gradient
        )
        largest = geometry.per_image(evaluation.gradient_norm, gradient)
        momentum = _MOMENTUM * state.momentum
        momentum += tf.math.divide_no_nan(gradient, largest)
        share = tf.convert_to_tensor(self.step_shares)[iteration]
        size = geometry.per_image(share * state.ball.epsilon, state.images)
        moved = state.ball.project(
            state.images + size * state.ball.steepest(momentum)
        )
        finite = tf.math.is_finite(evaluation.gradient_norm)
        images, momentum = base.where_finite(
            finite, (moved, momentum), (state.images, state.momentum)
        )
        return state._replace(
            images=images, evaluated=evaluation, momentum=momentum
        )

    def _mean_gradient(self, logits_fn, state, iteration, seed):
        """The gradient of the mean loss around the iterates, of their shape."""
        images, labels = state.images, state.labels
        shape = tuple(images.shape[1:])
        radius = state.ball.epsilon
        if isinstance(state.ball, geometry.L2Ball):
            radius = radius / np.sqrt(np.prod(shape))
        width = geometry.per_image(self.width * radius, images)

        def at(noise):
            """The loss and its gradient at iterates moved by the noise."""
            # Out of the box models need not answer; the gradient of what was
            # cut is taken as if it had not been.
            points = tf.clip_by_value(images + width * noise, 0.0, 1.0)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(points)
                loss = self.loss_fn(logits_fn(points, seed), labels)
            gradient = tape.gradient(loss, points)
            if gradient is None:
                gradient = tf.zeros_like(points)
            return loss, tf.ensure_shape(gradient, images.shape)

        def pair(index, total):
            noise_seeds = seeds_lib.fold(
                state.seeds, _NOISE, iteration * self.num_pairs + index
            )
            noise = seeds_lib.uniform(noise_seeds, shape, -1.0, 1.0)
            up, gradient_up = at(noise)
            down, gradient_down = at(-noise)
            slope = geometry.per_image(up - down, images) * noise
            mean = gradient_up + gradient_down
            return (total + tf.where(self.from_losses, slope, mean),)

        (total,) = base.repeat(0, self.num_pairs, pair, (images * 0.0,))
        return total


def build(
    num_steps=20,
    width=0.5,
    num_pairs=4,
    from_losses=False,
    loss="probability_margin",
) -> Smoothed:
    """Builds a `Smoothed` attack from a config section.

    Raises:
        UserError: If a count or the width is not positive, or the loss is
            unknown.
    """
    if not width > 0:
        raise UserError(
            "width is not the width of a cube",
            received=width,
            expected="a number above 0, a share of epsilon",
            fix="Take widths from 0.1 to 1.",
        )
    return Smoothed(
        base.check_count("num_steps", num_steps),
        width,
        base.check_count("num_pairs", num_pairs),
        from_losses,
        loss,
    )
