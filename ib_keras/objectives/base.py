"""The contract of a training objective, and the step of every training."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import ClassVar
from typing import NamedTuple

import keras
import tensorflow as tf

from ib_keras.arguments import MODES
from ib_keras.arguments import RATES_OF
from ib_keras.errors import UserError
from ib_keras.errors import reason
from ib_keras.errors import unknown_name
from ib_keras.types import ThreatModel
from ib_keras.types import check_count
from ib_keras.types import is_number


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
    classifier knows its objective.

    Attributes:
        metrics: Names of the entries of `Terms.metrics`.
    """

    metrics: ClassVar[tuple[str, ...]] = ()

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
    model, optimizer, objective: Objective, batch, seed, step, reduce: Callable
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
    with tf.GradientTape() as tape:
        terms = objective(model, *batch, seed, step, training=True)
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


def check_radius(epsilon) -> None:
    """Refuses what cannot be the radius of an adversary in the l_inf norm.

    Raises:
        UserError: If it is not above 0, or plainly in other units.
    """
    ThreatModel("linf", epsilon)
    if not epsilon > 0:
        raise UserError(
            "The adversary of the training has no room",
            received=f"epsilon={epsilon}",
            expected="a radius above 0, in pixel units of [0, 1]",
            fix='Set objective.epsilon, or objective.name="standard".',
        )


def check_positive(**values) -> None:
    """Refuses what is not a finite number above 0, by name.

    Raises:
        UserError: If there is one.
    """
    for name, value in values.items():
        if not is_number(value) or not value > 0:
            raise UserError(
                f"{name} is not a number above 0",
                received=f"{name}={value!r}",
                expected="a finite number above 0",
                fix=f"Set objective.{name} to one.",
            )


def check_steps(num_steps) -> None:
    """Refuses a number of steps that is no count.

    Raises:
        UserError: If it is below 1, or not a whole number.
    """
    check_count("num_steps", num_steps)


def check_mode(mode: str) -> None:
    """Refuses an unknown mode of the classifier that is attacked.

    Raises:
        UserError: If it is neither "mean" nor "stochastic".
    """
    if mode not in MODES:
        raise unknown_name("mode", mode, MODES, "Set objective.mode to it.")


def check_rate_of(images: str) -> None:
    """Refuses what is not the name of images that a rate is taken of.

    Raises:
        UserError: If it is neither "clean" nor "adversarial".
    """
    if images not in RATES_OF:
        raise unknown_name(
            "rate_of", images, RATES_OF, "Set objective.rate_of to it."
        )


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
