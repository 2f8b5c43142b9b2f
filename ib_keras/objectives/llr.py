"""LLR: a penalty on how far the loss is from linear inside of the ball.

References:
    Qin et al., "Adversarial robustness through local linearization", NeurIPS
    2019, equations 6 to 8 and algorithm 1. Its weights differ by data set, and
    the size of the inner steps is not given for MNIST: both are fields.
"""

import dataclasses

import tensorflow as tf

from ib_keras.attacks import geometry
from ib_keras.attacks import losses
from ib_keras.objectives import base
from ib_keras.objectives import crafting
from ib_keras.objectives.cure import input_gradient
from ib_keras.types import ThreatModel


@base.register
@dataclasses.dataclass(frozen=True)
class LocalLinearity(base.Objective):
    """standard(x) + lambda |g(d)| + mu |d' grad l(x)|.

    g(d) = l(x + d) - l(x) - d' grad l(x), and d maximises |g| in the ball. l is
    the cross-entropy of the classifier in `mode`, by the batch statistics of
    inference. Second derivatives are taken of the model. Logged are
    `nonlinearity`, |g|, and `directional`, |d' grad l(x)|.

    Args:
        weight: lambda of the paper.
        mu: mu of the paper.
        epsilon: Radius, l_inf, in pixel units of [0, 1].
        step_size: Of the ascent to d, in pixel units.
        num_steps: Of the ascent.
        mode: "mean" or "stochastic"; then all losses share their noise.

    Raises:
        UserError: If a value cannot be used, or when it is called the model
            does not compute in float32.
    """

    metrics = ("nonlinearity", "directional")

    weight: float = 4.0
    mu: float = 3.0
    epsilon: float = 0.3
    step_size: float = 0.1
    num_steps: int = 10
    mode: str = "mean"

    def __call__(self, model, images, labels, seed, step, training=True):
        base.check_precision(model, "llr")
        logits_fn = crafting.logits_fn(model, self.mode)

        def loss(x):
            return losses.cross_entropy(logits_fn(x, seed), labels)

        gradient = input_gradient(model, self.mode, labels, seed)(images)
        clean = loss(images)
        moved = self._farthest(loss, images, clean, gradient, seed)
        slope = _inner(moved - images, gradient)
        nonlinearity = tf.abs(loss(moved) - clean - slope)
        directional = tf.abs(slope)
        terms = model.terms(images, labels, seed, step, training)
        penalty = self.weight * nonlinearity + self.mu * directional
        return terms._replace(
            loss=terms.loss + penalty,
            metrics={
                "nonlinearity": nonlinearity,
                "directional": directional,
            },
        )

    def _farthest(self, loss, images, clean, gradient, seed):
        """Where in the ball the loss is farthest from linear."""
        clean, gradient = tf.stop_gradient(clean), tf.stop_gradient(gradient)
        ball = geometry.ball(images, ThreatModel("linf", self.epsilon))

        def distance(x):
            return tf.abs(loss(x) - clean - _inner(x - images, gradient))

        start = ball.random_point(crafting.example_seeds(seed, images))
        return crafting.ascend(
            distance, ball, start, self.step_size, self.num_steps
        )


def _inner(a, b) -> tf.Tensor:
    return tf.reduce_sum(a * b, axis=list(range(1, a.shape.rank)))


def build(
    weight=4.0,
    mu=3.0,
    epsilon=0.3,
    step_size=0.1,
    num_steps=10,
    mode="mean",
    steps_per_epoch=None,
) -> LocalLinearity:
    """Builds a `LocalLinearity`, whose arguments these are.

    Raises:
        UserError: If a value cannot be used.
    """
    del steps_per_epoch
    return LocalLinearity(weight, mu, epsilon, step_size, num_steps, mode)
