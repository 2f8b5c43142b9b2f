"""Variational information bottleneck: rate to N(0, I), weighted by beta."""

import keras

from ib_keras import layers
from ib_keras import schedules
from ib_keras.bottlenecks import base
from ib_keras.errors import UserError
from ib_keras.types import is_number


@keras.saving.register_keras_serializable(package="ib_keras")
class VIB(base.Bottleneck):
    """E[-log q(y|z)] + beta * E[log p(z|x) - log q(z)]  (equation 2).

    Args:
        latent_dim: K; 256 in the paper.
        beta: Weight of the rate after annealing.
        anneal_steps: Optimiser steps from `initial_beta` to `beta`.
        initial_beta: 1e-8 in the paper's CIFAR-10 runs.
        anneal_shape: "linear" or "geometric"; the paper does not say which.
        scale_shift: Added before the softplus that gives the standard
            deviation; see `layers.DiagonalGaussian`.
        rate_estimator: "sampled" or "closed_form".

    Raises:
        UserError: If beta is below 0, the steps too, K is below 1, or the
            estimator is unknown.

    References:
        Korshunova et al. 2021, equation 2; Alemi et al., ICLR 2017.
    """

    def __init__(
        self,
        latent_dim,
        beta=0.01,
        anneal_steps=0,
        initial_beta=1e-8,
        anneal_shape="linear",
        scale_shift=-5.0,
        rate_estimator="sampled",
        **kwargs,
    ):
        super().__init__(latent_dim, rate_estimator, **kwargs)
        if not (is_number(beta) and beta >= 0):
            raise UserError(
                "beta cannot be the weight of the rate",
                received=f"beta={beta!r}",
                expected="a number, 0 or more",
                fix="The paper's lie between 1e-6 and 0.1.",
            )
        self.beta = beta
        self.anneal_steps = base.check_anneal_steps(anneal_steps)
        self.initial_beta = initial_beta
        self.anneal_shape = anneal_shape
        self.scale_shift = scale_shift
        self.posterior = layers.DiagonalGaussian(
            latent_dim, scale_shift, name="posterior"
        )
        self.marginal = layers.StandardNormal(latent_dim, name="marginal")

    def weight(self, step):
        return schedules.anneal(
            step,
            start=self.initial_beta,
            end=self.beta,
            num_steps=self.anneal_steps,
            shape=self.anneal_shape,
        )

    def get_config(self):
        return {
            **super().get_config(),
            "beta": self.beta,
            "anneal_steps": self.anneal_steps,
            "initial_beta": self.initial_beta,
            "anneal_shape": self.anneal_shape,
            "scale_shift": self.scale_shift,
        }


def build(
    num_classes,
    steps_per_epoch,
    latent_dim=256,
    beta=0.01,
    anneal_epochs=0.0,
    initial_beta=1e-8,
    anneal_shape="linear",
    scale_shift=-5.0,
    rate_estimator="sampled",
) -> VIB:
    """Builds a `VIB` from a config section.

    Args:
        num_classes: As `VIB`.
        steps_per_epoch: What `anneal_epochs` is multiplied by.
        latent_dim: As `VIB`.
        beta: As `VIB`.
        anneal_epochs: Epochs from `initial_beta` to `beta`, 0 for none; 100 in
            the paper's CIFAR-10 runs.
        initial_beta: As `VIB`.
        anneal_shape: As `VIB`.
        scale_shift: As `VIB`.
        rate_estimator: As `VIB`.
    """
    del num_classes
    return VIB(
        latent_dim,
        beta=beta,
        anneal_steps=round(anneal_epochs * steps_per_epoch),
        initial_beta=initial_beta,
        anneal_shape=anneal_shape,
        scale_shift=scale_shift,
        rate_estimator=rate_estimator,
        name="bottleneck",
    )
