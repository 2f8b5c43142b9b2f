"""The contract of a training objective, and the step of every training."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import ClassVar
from typing import NamedTuple

import keras
import tensorflow as tf

from ib_keras import arguments
from ib_keras.errors import UserError
from ib_keras.errors import reason


class Terms(NamedTuple):
    """The parts of the objective for one batch.

    Attributes:
        loss: float32 `[batch]`, what is minimised, in nats. That of the
            standard objective is cross_entropy + weight * rate.
        cross_entropy: float32 `[batch]`, E_z[-log q(y|z)] over the S samples.
        rate: float32 `[batch]`, the information cost, in nats.
        weight: float32 scalar, beta or exp(-rho) at this step.
        logits: float32 `[batch, classes]`, log mean probability over samples.
        mean_logits: float32 `[batch, classes]`, those of mean mode.
        metrics: Name -> float32 `[batch]`, further parts of an objective.
    """

    loss: tf.Tensor
    cross_entropy: tf.Tensor
    rate: tf.Tensor
    weight: tf.Tensor
    logits: tf.Tensor
    mean_logits: tf.Tensor
    metrics: Mapping[str, tf.Tensor] = {}


@dataclasses.dataclass(frozen=True)
class Objective:
    """What one training step minimises; fields are its hyperparameters.

    Subclasses define `__call__`, and are registered with Keras so that a saved
    classifier knows its objective. Their fields are checked as the arguments of
    these names in a config are, see `arguments.CHECKS`.

    Attributes:
        metrics: Names of the entries of `Terms.metrics`.
    """

    metrics: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        arguments.check_fields("objectives", dataclasses.asdict(self))

    def __call__(
        self, model, images, labels, seed, step, training=True
    ) -> Terms:
        """Computes the objective per example.

        Args:
            model: An `IBClassifier`.
            images: float32 `[batch, height, width, channels]` in [0, 1].
            labels: int32 `[batch]`.
            seed: int32 `[2]`, of all that is drawn in this step.
            step: Scalar integer tensor, which schedules follow.
            training: Whether the batch statistics of what is trained on are
                used and updated. An adversary always sees those of inference.

        Returns:
            `Terms`, unreduced: the caller divides by the global batch size.
        """
        raise NotImplementedError(f"{type(self).__name__} is abstract here")

    def get_config(self) -> dict[str, Any]:
        """The fields, as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        """Builds it again, as Keras asks on `load_model`."""
        return cls(**config)


def compute_and_apply(
    model,
    optimizer,
    objective: Objective,
    batch: tuple[tf.Tensor, tf.Tensor],
    seed,
    step,
    reduce: Callable,
) -> tuple[Terms, list[tf.Tensor]]:
    """Makes one optimiser step, the same for `fit` and for the training loop.

    Args:
        model: An `IBClassifier`.
        optimizer: A Keras optimizer, built on its trainable weights.
        objective: What is minimised.
        batch: Images float32 `[batch, height, width, channels]` and labels
            int32 `[batch]`.
        seed: int32 `[2]`, of all that is drawn in this step.
        step: int32 scalar, optimiser steps made before.
        reduce: Makes a scalar of `Terms.loss`.

    Returns:
        The `Terms`, and the gradient of each trainable weight.

    Raises:
        UserError: If the objective needs derivatives that the model lacks.
    """
    images, labels = batch
    with tf.GradientTape() as tape:
        terms = objective(model, images, labels, seed, step, training=True)
        loss = optimizer.scale_loss(reduce(terms.loss))
    try:
        gradients = tape.gradient(loss, model.trainable_weights)
    except LookupError as error:
        raise UserError(
            "The model has no second derivatives, which its objective needs",
            received=reason(error),
            expected="operations that can be differentiated twice",
            fix="Replace the operation in the encoder, or train by pgd_at, "
            "n_fgsm or trades.",
        ) from error
    optimizer.apply(gradients, model.trainable_weights)
    return terms, gradients


def check_precision(model, objective: str) -> None:
    """Refuses to take second derivatives of what computes in 16 bits.

    Raises:
        UserError: If the encoder does not compute in float32.
    """
    if model.precision != "float32":
        raise UserError(
            f"{objective} takes differences that 16 bits round away",
            received=f'precision="{model.precision}"',
            expected="float32",
            fix='Set precision="float32".',
        )


def with_rate_of(terms: Terms, other: Terms) -> Terms:
    """The terms of some images with the rate of others in its place."""
    rate = other.rate
    loss = terms.loss + terms.weight * (rate - terms.rate)
    return terms._replace(rate=rate, loss=loss)


def register(cls):
    """Registers an objective with Keras, under the package's name."""
    return keras.saving.register_keras_serializable("ib_keras")(cls)
