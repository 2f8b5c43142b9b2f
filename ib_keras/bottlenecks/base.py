"""The base class of bottlenecks: p(z|x), a marginal, the weight of the rate."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from ib_keras import layers
from ib_keras import seeds
from ib_keras.arguments import RATE_ESTIMATORS
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name
from ib_keras.types import check_count

tfd = tfp.distributions


def check_anneal_steps(num_steps: int) -> int:
    """Returns a number of optimiser steps.

    Raises:
        UserError: If it is below 0.
    """
    if num_steps < 0:
        raise UserError(
            "The rate cannot be annealed for so long",
            received=f"{num_steps} steps",
            expected="0 or more",
            fix="Set bottleneck.anneal_epochs to 0 for no annealing.",
        )
    return num_steps


class Bottleneck(keras.layers.Layer):
    """Posterior layer, marginal layer and weight schedule of one objective.

    The objective is E_z[-log q(y|z)] + weight(step) * rate, with

        rate[b] = E_z [ log p(z|x[b]) - log marginal(z) ]           (nats)

    Subclasses set `posterior` and `marginal` and define `weight`.

    Args:
        latent_dim: K, number of latent dimensions.
        rate_estimator: "sampled" averages the log-density differences over the
            training samples (equations 2 and 3 of the paper); "closed_form"
            takes the Kullback-Leibler divergence, the same in expectation.

    Call arguments:
        features: Float tensor `[batch, features]`.

    Returns:
        p(z|x), a `tfp.distributions` object.
    """

    is_stochastic = True
    # The paper's name of the parameter that sets `weight`, for logs.
    control = "beta"

    def __init__(self, latent_dim, rate_estimator="sampled", **kwargs):
        # As its distribution layers, whatever the global policy is.
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if rate_estimator not in RATE_ESTIMATORS:
            raise unknown_name(
                "rate estimator",
                rate_estimator,
                RATE_ESTIMATORS,
                "Set bottleneck.rate_estimator to one of them.",
            )
        self.latent_dim = check_count("latent_dim", latent_dim, smallest=0)
        self.rate_estimator = rate_estimator
        self.posterior = None
        self.marginal = None

    def build(self, input_shape):
        layers.ensure_built(self.posterior, input_shape)
        if self.marginal is not None:
            layers.ensure_built(self.marginal)
        self.built = True

    def call(self, features):
        return self.posterior(features)

    def sample(self, posterior, num_samples, seed: tf.Tensor) -> tf.Tensor:
        """Draws z = loc + scale * noise, differentiable in both.

        Args:
            posterior: What `call` returned.
            num_samples: S, an integer or scalar tensor.
            seed: int32 `[2]`.

        Returns:
            Latents, float32 `[samples, batch, latent_dim]`. The noise is that
            of `seeds.noise`; a replica takes its part of the noise of the
            global batch, so that several replicas draw what one would draw.
        """
        loc = posterior.mean()
        return loc + posterior.stddev() * noise(seed, num_samples, loc)

    def rate(self, posterior, latents, labels) -> tf.Tensor:
        """The rate by the chosen estimator.

        Args:
            posterior: What `call` returned.
            latents: float32 `[samples, batch, latent_dim]` drawn from it.
            labels: int32 `[batch]`.

        Returns:
            float32 `[batch]`, in nats. The sampled estimate can be negative,
            though the rate cannot.
        """
        if self.rate_estimator == "closed_form":
            return self.closed_form_rate(posterior, labels)
        marginal = self.marginal(labels)
        difference = posterior.log_prob(latents) - marginal.log_prob(latents)
        return tf.reduce_mean(difference, axis=0)

    def closed_form_rate(self, posterior, labels) -> tf.Tensor:
        """KL(posterior || marginal), float32 `[batch]`, in nats."""
        return tfd.kl_divergence(posterior, self.marginal(labels))

    def control_value(self, step) -> tf.Tensor:
        """The scheduled beta or rho at `step`, as the paper counts it."""
        return self.weight(step)

    def weight(self, step) -> tf.Tensor:
        """The factor of the rate at `step`, float32 scalar."""
        raise NotImplementedError(f"{type(self).__name__} defines no weight")

    def get_config(self):
        return {
            **super().get_config(),
            "latent_dim": self.latent_dim,
            "rate_estimator": self.rate_estimator,
        }


def noise(seed, num_samples, loc) -> tf.Tensor:
    """Draws the noise of latents, a replica's part of the global batch's.

    Args:
        seed: int32 `[2]`.
        num_samples: S, an integer or scalar tensor.
        loc: Float tensor `[batch, latent_dim]`; only its shape counts.

    Returns:
        float32 `[samples, batch, latent_dim]`, standard normal.
    """
    context = tf.distribute.get_replica_context()
    count = 1 if context is None else context.num_replicas_in_sync
    if count == 1:
        shape = tf.concat([[num_samples], tf.shape(loc)], axis=0)
        return seeds.noise(seed, shape)
    shape = tf.concat([[num_samples, count], tf.shape(loc)], axis=0)
    drawn = seeds.noise(seed, shape)
    return tf.gather(drawn, context.replica_id_in_sync_group, axis=1)
