"""Conditional entropy bottleneck: rate to q(z|y), weighted by exp(-rho)."""

import keras
import tensorflow as tf

from ib_keras import layers
from ib_keras import schedules
from ib_keras.bottlenecks import base
from ib_keras.errors import UserError
from ib_keras.types import is_number


@keras.saving.register_keras_serializable(package="ib_keras")
class CEB(base.Bottleneck):
    """E[-log q(y|z)] + exp(-rho) * E[log p(z|x) - log q(z|y)]  (equation 3).

    Args:
        latent_dim: K; 256 in the paper.
        num_classes: Number of classes.
        rho: Larger means less compression.
        anneal_steps: Optimiser steps from `initial_rho` to `rho`.
        initial_rho: 100 in the paper, where the weight is 0 in practice.
        rate_estimator: "sampled" or "closed_form".

    Raises:
        UserError: If rho is not finite, the steps are below 0, K is below 1,
            or the estimator is unknown.

    References:
        Korshunova et al. 2021, equation 3; Fischer and Alemi, Entropy 22(10),
        2020.
    """

    control = "rho"

    def __init__(
        self,
        latent_dim,
        num_classes,
        rho=3.0,
        anneal_steps=0,
        initial_rho=100.0,
        rate_estimator="sampled",
        **kwargs,
    ):
        super().__init__(latent_dim, rate_estimator, **kwargs)
        if not is_number(rho):
            raise UserError(
                "rho cannot set the weight of the rate",
                received=f"rho={rho!r}",
                expected="a finite number",
                fix="The paper's lie between 1 and 5.",
            )
        self.num_classes = num_classes
        self.rho = rho
        self.anneal_steps = base.check_anneal_steps(anneal_steps)
        self.initial_rho = initial_rho
        self.posterior = layers.UnitGaussian(latent_dim, name="posterior")
        self.marginal = layers.ClassConditionalGaussian(
            num_classes, latent_dim, name="marginal"
        )

    def control_value(self, step):
        return schedules.anneal(
            step,
            start=self.initial_rho,
            end=self.rho,
            num_steps=self.anneal_steps,
        )

    def weight(self, step):
        return tf.exp(-self.control_value(step))

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "rho": self.rho,
            "anneal_steps": self.anneal_steps,
            "initial_rho": self.initial_rho,
        }


def build(
    num_classes,
    steps_per_epoch,
    latent_dim=256,
    rho=3.0,
    anneal_epochs=0.0,
    initial_rho=100.0,
    rate_estimator="sampled",
) -> CEB:
    """Builds a `CEB` from a config section.

    Args:
        num_classes: As `CEB`.
        steps_per_epoch: What `anneal_epochs` is multiplied by.
        latent_dim: As `CEB`.
        rho: As `CEB`.
        anneal_epochs: Epochs from `initial_rho` to `rho`, 0 for none; 4 in the
            paper's CIFAR-10 runs.
        initial_rho: As `CEB`.
        rate_estimator: As `CEB`.
    """
    return CEB(
        latent_dim,
        num_classes,
        rho=rho,
        anneal_steps=round(anneal_epochs * steps_per_epoch),
        initial_rho=initial_rho,
        rate_estimator=rate_estimator,
        name="bottleneck",
    )
