"""CURE: a penalty on the curvature of the loss along the gradient's sign.

References:
    Moosavi-Dezfooli et al., "Robustness via curvature regularization, and vice
    versa", CVPR 2019, section 4 (the squared difference of gradients, z the
    normalised sign of the gradient, gamma 4, h increased to 1.5 in the first
    five epochs). The authors' later code penalises the norm, not its square.
"""

import dataclasses

import tensorflow as tf

from ib_keras.attacks import geometry
from ib_keras.attacks import losses
from ib_keras.objectives import base
from ib_keras.objectives import crafting

_TINY = 1e-12


@base.register
@dataclasses.dataclass(frozen=True)
class Cure(base.Objective):
    """standard(x) + gamma |grad l(x + h z) - grad l(x)|^2.

    l is the cross-entropy of the classifier in `mode`; its gradients are with
    respect to images, by the batch statistics of inference, and z is
    sign(grad l(x)) divided by its Euclidean norm. Second derivatives are taken
    of the model. The squared difference is logged as `curvature`.

    Args:
        gamma: Weight of the penalty.
        h: Length of the step along z, Euclidean, in pixel units of [0, 1].
        anneal_steps: Steps in which h grows linearly from 0.
        mode: "mean" or "stochastic"; then both gradients share their noise.

    Raises:
        UserError: If a value cannot be used, or when it is called the model
            does not compute in float32.
    """

    metrics = ("curvature",)

    gamma: float = 4.0
    h: float = 1.5
    anneal_steps: int = 0
    mode: str = "mean"

    def __call__(self, model, images, labels, seed, step, training=True):
        base.check_precision(model, "cure")
        gradient = input_gradient(model, self.mode, labels, seed)
        clean = gradient(images)
        direction = tf.sign(tf.stop_gradient(clean))
        norm = tf.maximum(geometry.l2_norm(direction), _TINY)
        direction /= geometry.per_image(norm, images)
        moved = gradient(images + self.length(step) * direction)
        axes = list(range(1, images.shape.rank))
        curvature = tf.reduce_sum(tf.square(moved - clean), axis=axes)
        terms = model.terms(images, labels, seed, step, training)
        return terms._replace(
            loss=terms.loss + self.gamma * curvature,
            metrics={"curvature": curvature},
        )

    def length(self, step) -> tf.Tensor:
        """Gives h at a step, float32 scalar."""
        done = tf.cast(step + 1, tf.float32) / max(self.anneal_steps, 1)
        return self.h * tf.minimum(done, 1.0)


def input_gradient(model, mode, labels, seed):
    """The gradient of the cross-entropy, which can be differentiated again.

    Args:
        model: An `IBClassifier`.
        mode: "mean" or "stochastic".
        labels: int32 `[batch]`.
        seed: int32 `[2]`, of the noise of stochastic mode.

    Returns:
        Function from images to a tensor of their shape.
    """
    logits_fn = crafting.logits_fn(model, mode)

    def gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = losses.cross_entropy(logits_fn(images, seed), labels)
        return tape.gradient(loss, images)

    return gradient


def build(
    gamma=4.0, h=1.5, anneal_epochs=5.0, mode="mean", steps_per_epoch=None
) -> Cure:
    """Builds a `Cure`.

    Args:
        gamma: As `Cure`.
        h: As `Cure`.
        anneal_epochs: Epochs in which h grows linearly from 0.
        mode: As `Cure`.
        steps_per_epoch: Turns epochs into steps.

    Raises:
        UserError: If a value cannot be used.
    """
    return Cure(gamma, h, round(anneal_epochs * (steps_per_epoch or 0)), mode)
