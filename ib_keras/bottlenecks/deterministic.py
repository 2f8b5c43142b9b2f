"""The deterministic baseline (twin): the same network, no noise, no rate."""

import keras
import tensorflow as tf

from ib_keras import layers
from ib_keras.bottlenecks import base


@keras.saving.register_keras_serializable(package="ib_keras")
class Deterministic(base.Bottleneck):
    """E[-log q(y|z)] with z a linear function of the features.

    Args:
        latent_dim: K, width of the bottleneck; 256 in the paper. None leaves
            out its layer: z is the features, and with the linear encoder the
            model is a linear classifier.

    References:
        Korshunova et al. 2021, section 3.1, the deterministic baseline, and
        appendix, "Toy example", the linear classifier.
    """

    is_stochastic = False

    def __init__(self, latent_dim, **kwargs):
        super().__init__(0 if latent_dim is None else latent_dim, **kwargs)
        self._has_layer = latent_dim is not None
        if self._has_layer:
            self.posterior = layers.PointMass(latent_dim, name="posterior")
        else:
            self.posterior = layers.PointMassOnFeatures(name="posterior")

    def build(self, input_shape):
        if not self._has_layer:
            self.latent_dim = int(input_shape[-1])
        super().build(input_shape)

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

    def get_config(self):
        config = super().get_config()
        return config if self._has_layer else {**config, "latent_dim": None}


def build(num_classes, steps_per_epoch, latent_dim=256) -> Deterministic:
    """Builds a `Deterministic` bottleneck from a config section."""
    del num_classes, steps_per_epoch
    return Deterministic(latent_dim, name="bottleneck")
