"""Distribution layers: Keras 3 layers that return TFP distributions.

`tfp.layers` belong to Keras 2, so these are our own. A layer's `call` returns a
`tfp.distributions` object, which is not a tensor: the layers live in
subclassed models, not in functional graphs. They compute in float32 whatever
the global dtype policy says, because rates are differences of large numbers.

    posterior p(z|x):  DiagonalGaussian (VIB), UnitGaussian (CEB), PointMass,
                       PointMassOnFeatures
    marginal:          StandardNormal q(z) (VIB),
                       ClassConditionalGaussian q(z|y) (CEB)
"""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from ib_keras.errors import UserError

tfd = tfp.distributions

# Far below any scale that training reaches; keeps log p(z|x) finite where
# the softplus underflows.
_MIN_SCALE = 1e-7


def ensure_built(layer: keras.layers.Layer, input_shape=None) -> None:
    """Builds `layer` unless it is built: loading a model builds parts first."""
    if not layer.built:
        layer.build(input_shape)


def check_features(shape, where: str) -> None:
    """Refuses features that are not one row per image.

    Args:
        shape: Static shape of the features, batch axis included.
        where: What takes them, for the message.

    Raises:
        UserError: If it is not `[batch, n]` with n known.
    """
    shape = tuple(shape)
    if len(shape) == 2 and isinstance(shape[1], int):
        return
    raise UserError(
        "The features are not one row per image",
        received=f"shape {shape} at {where}",
        expected="[batch, n], n known",
        fix="End what gives them with keras.layers.Flatten() or "
        "keras.layers.GlobalAveragePooling2D().",
    )


class _DistributionLayer(keras.layers.Layer):
    def __init__(self, latent_dim: int, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if int(latent_dim) < 1:
            raise UserError(
                "latent_dim cannot be the number of dimensions",
                received=f"latent_dim={latent_dim}",
                expected="1 or more",
                fix="The paper's bottlenecks have 256.",
            )
        self.latent_dim = int(latent_dim)

    def get_config(self):
        return {**super().get_config(), "latent_dim": self.latent_dim}


class _Head(_DistributionLayer):
    """An encoder head: one dense layer from features to parameters."""

    units_per_latent = 1

    def __init__(
        self, latent_dim: int, kernel_initializer="glorot_uniform", **kwargs
    ):
        super().__init__(latent_dim, **kwargs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.projection = keras.layers.Dense(
            self.units_per_latent * self.latent_dim,
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name="projection",
        )

    def build(self, input_shape):
        ensure_built(self.projection, input_shape)
        self.built = True

    def get_config(self):
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), "kernel_initializer": initializer}


@keras.saving.register_keras_serializable(package="ib_keras")
class DiagonalGaussian(_Head):
    """p(z|x) of VIB: a Gaussian with a mean and a scale for each latent.

    loc, raw = split(W' features + b);  scale = softplus(raw + scale_shift).

    Args:
        latent_dim: K, number of latent dimensions.
        scale_shift: Added before the softplus; -5 makes the initial scale
            about 0.007, so that training starts close to deterministic.
        kernel_initializer: Of the dense layer.

    Call arguments:
        features: Float tensor `[batch, features]`.

    Returns:
        `tfd.MultivariateNormalDiag`, batch shape `[batch]`, event shape
        `[latent_dim]`.

    References:
        Alemi et al., "Deep variational information bottleneck", ICLR 2017;
        Korshunova et al. 2021, appendix, architectures.
    """

    units_per_latent = 2

    def __init__(self, latent_dim: int, scale_shift: float = -5.0, **kwargs):
        super().__init__(latent_dim, **kwargs)
        self.scale_shift = scale_shift

    def call(self, features):
        loc, raw = tf.split(self.projection(features), 2, axis=-1)
        scale = tf.math.softplus(raw + self.scale_shift)
        return tfd.MultivariateNormalDiag(loc, tf.maximum(scale, _MIN_SCALE))

    def get_config(self):
        return {**super().get_config(), "scale_shift": self.scale_shift}


@keras.saving.register_keras_serializable(package="ib_keras")
class UnitGaussian(_Head):
    """p(z|x) of CEB: a Gaussian whose covariance is the identity.

    Args:
        latent_dim: K, number of latent dimensions.
        kernel_initializer: Of the dense layer that gives the mean.

    Call arguments:
        features: Float tensor `[batch, features]`.

    Returns:
        `tfd.MultivariateNormalDiag`, batch shape `[batch]`, event shape
        `[latent_dim]`.

    References:
        Fischer and Alemi, "CEB improves model robustness", Entropy 22(10),
        2020.
    """

    def call(self, features):
        loc = self.projection(features)
        return tfd.MultivariateNormalDiag(loc, tf.ones_like(loc))


@keras.saving.register_keras_serializable(package="ib_keras")
class PointMass(_Head):
    """p(z|x) of the deterministic baseline (twin): all mass on the mean.

    Args:
        latent_dim: K, width of the bottleneck.
        kernel_initializer: Of the dense layer.

    Call arguments:
        features: Float tensor `[batch, features]`.

    Returns:
        `tfd.VectorDeterministic`, batch shape `[batch]`, event shape
        `[latent_dim]`.
    """

    def call(self, features):
        return tfd.VectorDeterministic(self.projection(features))


@keras.saving.register_keras_serializable(package="ib_keras")
class PointMassOnFeatures(keras.layers.Layer):
    """p(z|x) without a bottleneck: all mass on the features, no weights.

    Call arguments:
        features: Float tensor `[batch, features]`.

    Returns:
        `tfd.VectorDeterministic`, batch shape `[batch]`, event shape
        `[features]`.
    """

    def __init__(self, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)

    def build(self, input_shape):
        self.built = True

    def call(self, features):
        return tfd.VectorDeterministic(features)


@keras.saving.register_keras_serializable(package="ib_keras")
class StandardNormal(_DistributionLayer):
    """q(z) of VIB: N(0, I), without parameters.

    Args:
        latent_dim: K, number of latent dimensions.

    Call arguments:
        labels: Ignored; all marginals have the same signature.

    Returns:
        `tfd.MultivariateNormalDiag`, batch shape `[]`, event shape
        `[latent_dim]`.
    """

    def build(self, input_shape=None):
        self.built = True

    def call(self, labels=None):
        return tfd.MultivariateNormalDiag(
            tf.zeros([self.latent_dim]), tf.ones([self.latent_dim])
        )


@keras.saving.register_keras_serializable(package="ib_keras")
class ClassConditionalGaussian(_DistributionLayer):
    """q(z|y) of CEB: N(mu_y, I), mu a linear map of the one-hot label.

    The product of a one-hot row with a matrix is a row of that matrix, so the
    layer looks its rows up.

    Args:
        num_classes: Number of classes.
        latent_dim: K, number of latent dimensions.
        kernel_initializer: Of the `[num_classes, latent_dim]` matrix.

    Call arguments:
        labels: int32 `[batch]`.

    Returns:
        `tfd.MultivariateNormalDiag`, batch shape `[batch]`, event shape
        `[latent_dim]`.

    References:
        Fischer and Alemi, "CEB improves model robustness", Entropy 22(10),
        2020, the backward encoder.
    """

    def __init__(
        self,
        num_classes: int,
        latent_dim: int,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(latent_dim, **kwargs)
        self.num_classes = int(num_classes)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape=None):
        self.class_means = self.add_weight(
            shape=(self.num_classes, self.latent_dim),
            initializer=self.kernel_initializer,
            name="class_means",
        )
        self.built = True

    def call(self, labels):
        # The gradient of a gather is a list of rows, in which a class occurs
        # as often as in the batch, and Keras' Adam squares them one by one;
        # that of the reshape is their sum.
        means = tf.reshape(self.class_means, [-1, self.latent_dim])
        loc = tf.gather(means, labels)
        return tfd.MultivariateNormalDiag(loc, tf.ones_like(loc))

    def get_config(self):
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "kernel_initializer": initializer,
        }
