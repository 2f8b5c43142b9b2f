"""TRADES: the clean objective, and how far predictions move in a ball.

References:
    Zhang et al., "Theoretically principled trade-off between robustness and
    accuracy", ICML 2019, equation 5 and algorithm 1 (MNIST: epsilon 0.3, 40
    steps of 0.01; CIFAR-10: 0.031, 10 steps of 0.007; start at 0.001 times
    normal noise; 1/lambda = 6).
"""

import dataclasses

import tensorflow as tf

from ib_keras import seeds as streams
from ib_keras.attacks import pgd
from ib_keras.objectives import base
from ib_keras.objectives import crafting

_START = 0.001  # Standard deviation of the noise that PGD starts from.


def divergence(logits: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """KL(softmax(logits) || softmax(others)), float32 `[batch]`, in nats."""
    log_p = tf.nn.log_softmax(logits)
    difference = log_p - tf.nn.log_softmax(others)
    return tf.reduce_sum(tf.exp(log_p) * difference, axis=-1)


class _PGDOnDivergence(pgd.PGD):
    """PGD on the divergence from the clean prediction, from near the image."""

    def __init__(self, num_steps, step_size, clean_logits):
        super().__init__(num_steps, step_size, "cross_entropy", False, 1)
        self.loss_fn = lambda logits, labels: divergence(clean_logits, logits)

    def start(self, ball, seeds):
        """Next to the image, where the divergence has a gradient."""
        noise = streams.normal(seeds, tuple(ball.clean.shape[1:]))
        return ball.clean + _START * noise


@base.register
@dataclasses.dataclass(frozen=True)
class Trades(base.Objective):
    """standard(x) + beta KL(p(x) || p(x')), where x' maximises the divergence.

    The divergence has gradients through both predictions, as in the authors'
    code. It is logged as `divergence`.

    Args:
        beta: 1/lambda of the paper.
        epsilon: Radius of the adversary, l_inf, in pixel units of [0, 1].
        step_size: Of PGD, in pixel units.
        num_steps: Of PGD.
        mode: Of the predictions p: "mean" or "stochastic". In stochastic mode
            both sides of the divergence share their noise.
        rate_of: "clean" or "adversarial": the images that the rate is of.
        ramp_steps: Steps in which the radius grows from 0 to epsilon; the
            paper has none.

    Raises:
        UserError: If a value cannot be used.
    """

    metrics = ("divergence",)

    beta: float = 6.0
    epsilon: float = 0.3
    step_size: float = 0.01
    num_steps: int = 40
    mode: str = "mean"
    rate_of: str = "clean"
    ramp_steps: int = 0

    def __call__(self, model, images, labels, seed, step, training=True):
        attacked = crafting.logits_fn(model, self.mode)
        clean_logits = tf.stop_gradient(attacked(images, seed))
        adversarial = crafting.craft(
            _PGDOnDivergence(self.num_steps, self.step_size, clean_logits),
            attacked,
            images,
            labels,
            crafting.ramped(self.epsilon, self.ramp_steps, step),
            seed,
        )
        terms = model.terms(images, labels, seed, step, training)
        other = model.terms(adversarial, labels, seed, step, training)
        logits = "mean_logits" if self.mode == "mean" else "logits"
        moved = divergence(getattr(terms, logits), getattr(other, logits))
        if self.rate_of == "adversarial":
            terms = base.with_rate_of(terms, other)
        return terms._replace(
            loss=terms.loss + self.beta * moved, metrics={"divergence": moved}
        )


def build(
    beta=6.0,
    epsilon=0.3,
    step_size=0.01,
    num_steps=40,
    mode="mean",
    rate_of="clean",
    ramp_epochs=0.0,
    steps_per_epoch=None,
) -> Trades:
    """Builds a `Trades`.

    Args:
        beta: As `Trades`.
        epsilon: As `Trades`.
        step_size: As `Trades`.
        num_steps: As `Trades`.
        mode: As `Trades`.
        rate_of: As `Trades`.
        ramp_epochs: Epochs in which the radius grows from 0 to epsilon.
        steps_per_epoch: Turns epochs into steps.

    Raises:
        UserError: If a value cannot be used.
    """
    ramp_steps = round(ramp_epochs * (steps_per_epoch or 0))
    return Trades(
        beta, epsilon, step_size, num_steps, mode, rate_of, ramp_steps
    )
