"""The probability margin attack, by the letter of its paper.

Xie et al., "Towards million-scale adversarial robustness evaluation with
stronger individual attacks", arXiv 2411.15210, 2024: sign steps on
probabilities of the softmax, as autodiff gives them. Two kinds of runs of 50
steps alternate. The first half of a run lowers p_y, or raises the largest other
probability; the second ascends max_{j != y} p_j - p_y. The very first step
raises p_y. Each half has a step size of its own from 2 epsilon to 0, by a
cosine. Their public code decides what the paper leaves open.
"""

import math

import tensorflow as tf

from ib_keras.attacks import base
from ib_keras.attacks import pgd


class ProbabilityMarginAttack(pgd.PGD):
    """One run.

    Args:
        raises_other: Whether the first half raises the largest other
            probability; else it lowers that of the label.
        num_steps: Of the run.
    """

    varying = ()

    def __init__(self, raises_other, num_steps=50):
        super().__init__(num_steps, 1.0, "margin", True, 1)
        self.raises_other = raises_other

    def _loss(self, logits, labels, iteration):
        probabilities = tf.nn.softmax(logits)
        is_label = tf.one_hot(labels, logits.shape[1])
        label = tf.reduce_sum(probabilities * is_label, axis=1)
        other = tf.reduce_max(probabilities - 9999.0 * is_label, axis=1)
        first_half = other if self.raises_other else -label
        half = self.num_steps / 2
        is_late = tf.cast(iteration, tf.float32) >= half
        loss = tf.where(is_late, other - label, first_half)
        return tf.where(iteration == 0, label, loss)

    def _share(self, iteration):
        """Of 2 epsilon, the length of a step."""
        half = self.num_steps / 2
        i = tf.cast(iteration, tf.float32)
        since = tf.where(i > half, i - half - 1.0, i - 1.0)
        return 0.5 * (1.0 + tf.cos(since / half * math.pi))

    def step(self, logits_fn, state, iteration):
        """Evaluates the iterate, then moves."""
        length = 2.0 * state.ball.epsilon * self._share(iteration)
        length = length[:, None, None, None]
        return base.evaluate_and_move(
            logits_fn,
            lambda logits: self._loss(logits, state.labels, iteration),
            lambda gradient: state.ball.project(
                state.images + length * tf.sign(gradient)
            ),
            state,
            iteration,
        )
