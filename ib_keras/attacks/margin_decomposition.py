"""Margin decomposition: a term of the margin first, then the whole margin.

Where the gradients of the two terms of a margin differ much in size, the larger
one decides every step. So the first half of a run ascends one term alone, and
the second half the margin. The step size falls from 2 epsilon to 0 in each
half, by a cosine. Unlike in the papers every loss is a logarithm, which does
not saturate in float32.

References:
    Ma et al., "Imbalanced gradients: a subtle cause of overestimated
    adversarial robustness", Machine Learning, 2023 (arXiv 2006.13726), section
    4; Xie et al., "Towards million-scale adversarial robustness evaluation with
    stronger individual attacks", arXiv 2411.15210, 2024 (of probabilities).
"""

import math

import tensorflow as tf

from ib_keras.arguments import FIRST_TERMS
from ib_keras.attacks import base
from ib_keras.attacks import geometry
from ib_keras.attacks import losses
from ib_keras.attacks import pgd
from ib_keras.errors import unknown_name


class MarginDecomposition(base.GradientAttack):
    """PGD from a random start, whose loss and step size follow a schedule.

    Args:
        num_steps: 50 in the papers; half of them ascend a term.
        first_term: "label" lowers the probability of the label, log p_y;
            "other" raises the largest other one, max_{j != y} log p_j. The
            papers alternate them from restart to restart.
        loss: Of the second half: "probability_margin", "margin" or "dlr".
        num_eot: Fresh draws of model noise each gradient is averaged over.
    """

    varying = ("num_steps",)

    def __init__(self, num_steps, first_term, loss, num_eot):
        self.num_steps = num_steps
        self.first_term = first_term
        self.loss_fn = losses.get(loss)
        self.num_eot = num_eot
        self.gradients_per_step = num_eot

    def init(self, logits_fn, images, labels, threat_model, seeds):
        """Starts at a random point of the ball."""
        del logits_fn
        ball = geometry.ball(images, threat_model)
        start = ball.random_point(seeds)
        return pgd.State(start, base.not_evaluated(start), ball, labels, seeds)

    def step(self, logits_fn, state, iteration):
        """Evaluates the iterate, then moves."""
        half = tf.cast(self.num_steps, tf.float32) / 2.0
        position = tf.cast(iteration, tf.float32)
        is_late = position >= half

        def loss_fn(logits):
            return tf.where(
                is_late,
                self.loss_fn(logits, state.labels),
                first_loss(self.first_term, logits, state.labels),
            )

        ball = state.ball
        share = step_share(position - tf.where(is_late, half, 0.0), half)
        length = geometry.per_image(2.0 * share * ball.epsilon, state.images)

        def move(gradient):
            return ball.project(state.images + length * ball.steepest(gradient))

        return base.evaluate_and_move(
            logits_fn, loss_fn, move, state, iteration, self.num_eot
        )


def first_loss(term: str, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The loss of the first half, float32 `[batch]`.

    Args:
        term: One of `arguments.FIRST_TERMS`.
        logits: float32 `[batch, classes]`.
        labels: int32 `[batch]`.
    """
    if term == "label":
        return losses.cross_entropy(logits, labels)
    return losses.log_largest_other(logits, labels)


def step_share(position: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """The share of the first step size: 1 at the start, next to 0 at the end.

    Args:
        position: float32 scalar, steps since the phase began.
        length: float32 scalar, its number of steps.
    """
    return 0.5 * (1.0 + tf.cos(math.pi * position / length))


def build(
    num_steps=50, first_term="label", loss="probability_margin", num_eot=1
) -> MarginDecomposition:
    """Builds a `MarginDecomposition` attack from a config section.

    Raises:
        UserError: If a count is not positive, or a loss or term is unknown.
    """
    if first_term not in FIRST_TERMS:
        raise unknown_name(
            "first term", first_term, FIRST_TERMS, "Set first_term to it."
        )
    return MarginDecomposition(
        base.check_count("num_steps", num_steps),
        first_term,
        loss,
        base.check_count("num_eot", num_eot),
    )
