"""Uniform noise search: random points of the ball, no gradient at all.

It is a baseline: if noise breaks an example that gradients did not, gradients
are obfuscated.

References:
    Athalye et al., "Obfuscated gradients give a false sense of security",
    ICML 2018; Carlini et al., "On evaluating adversarial robustness", 2019.
"""

from typing import NamedTuple

import tensorflow as tf

from ib_keras import seeds as seeds_lib
from ib_keras.attacks import base
from ib_keras.attacks import geometry
from ib_keras.attacks import losses


class State(NamedTuple):
    """See `base.Attack`."""

    images: tf.Tensor
    evaluated: base.Evaluation
    ball: geometry.Ball
    labels: tf.Tensor
    seeds: tf.Tensor


class UniformNoise(base.GradientAttack):
    """Independent points, each evaluated once.

    Args:
        num_steps: Points per example after the first.
        corners: For l_inf, draw only corners of the ball (every pixel moves
            by epsilon), which are far from most of its volume.
    """

    gradients_per_step = 0
    evaluates_proposal = False
    varying = ("num_steps",)

    def __init__(self, num_steps, corners):
        self.num_steps = num_steps
        self._corners = corners

    def _draw(self, ball, example_seeds, index):
        example_seeds = seeds_lib.fold(example_seeds, index)
        if not self._corners:
            return ball.random_point(example_seeds)
        shape = tuple(ball.clean.shape[1:])
        unit = seeds_lib.uniform(example_seeds, shape, -1.0, 1.0)
        return ball.full_step(unit)

    def init(self, logits_fn, images, labels, threat_model, seeds):
        """Draws the first point."""
        del logits_fn
        ball = geometry.ball(images, threat_model)
        start = self._draw(ball, seeds, 0)
        return State(start, base.not_evaluated(start), ball, labels, seeds)

    def step(self, logits_fn, state, iteration):
        """Evaluates a point, then draws the next."""
        logits = logits_fn(
            state.images, base.model_seed(state.seeds, iteration)
        )
        loss = losses.margin(logits, state.labels)
        return state._replace(
            images=self._draw(state.ball, state.seeds, iteration + 1),
            evaluated=base.evaluated(state.images, logits, state.labels, loss),
        )


def build(num_steps=1000, corners=False) -> UniformNoise:
    """Builds a `UniformNoise` search from a config section."""
    return UniformNoise(base.check_count("num_steps", num_steps), bool(corners))
