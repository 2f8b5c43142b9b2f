"""The deterministic twin: the same network, a K-wide layer, no rate."""

import keras
import tensorflow as tf

from ib_keras import layers
from ib_keras.bottlenecks import base


@keras.saving.register_keras_serializable(package="ib_keras")
class Deterministic(base.Bottleneck):
    """E[-log q(y|z)] with z a linear function of the features.

    Args:
        latent_dim: K, width of the bottleneck; 256 in the paper.

    References:
        Korshunova et al. 2021, section 3.1, the deterministic baseline.
    """

    is_stochastic = False

    def __init__(self, latent_dim, **kwargs):
        super().__init__(latent_dim, **kwargs)
        self.posterior = layers.PointMass(latent_dim, name="posterior")

    def sample(self, posterior, num_samples, seed):
        """The mean itself, `[1, batch, latent_dim]`: there is no noise."""
        del num_samples, seed
        return posterior.mean()[None]

    def rate(self, posterior, latents, labels):
        """Zero, float32 `[batch]`: nothing is penalised."""
        del latents, labels
        return tf.zeros_like(posterior.mean()[:, 0])

    def weight(self, step):
        del step
        return tf.constant(0.0)


def build(num_classes, steps_per_epoch, latent_dim=256) -> Deterministic:
    """Builds a `Deterministic` bottleneck from a config section."""
    del num_classes, steps_per_epoch
    return Deterministic(latent_dim, name="bottleneck")
