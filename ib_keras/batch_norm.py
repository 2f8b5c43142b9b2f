"""Batch normalisation in one pass over memory."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="ib_keras")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer, trained through TensorFlow's fused kernel.

    Keras 3 normalises by elementwise operations in float32, each of which goes
    through memory; in a residual network that is most of what is not a
    convolution. The fused operation reads bfloat16 as it is, and has TPU and
    GPU kernels. What it is not made for stays Keras': inference, where the
    statistics are constants that need no gradients, statistics
    over several replicas, and what is not `[batch, height, width, channels]`.

    Args:
        **kwargs: Those of `keras.layers.BatchNormalization`.
    """

    def call(self, inputs, training=None, mask=None):
        """Normalises `inputs`, which keep their shape and type."""
        is_plain = mask is None and self.scale and self.center
        is_plain = is_plain and not (self.synchronized or self.renorm)
        is_image = len(inputs.shape) == 4 and self.axis in (-1, 3)
        if not (training and self.trainable and is_plain and is_image):
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=tf.zeros([0]),  # In training the operation refuses others.
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel's variance is that of a sample; Keras keeps the batch's.
        count = tf.cast(tf.size(inputs) / inputs.shape[-1], tf.float32)
        variance *= (count - 1.0) / count
        keep = self.momentum
        self.moving_mean.assign(self.moving_mean * keep + mean * (1.0 - keep))
        self.moving_variance.assign(
            self.moving_variance * keep + variance * (1.0 - keep)
        )
        return outputs
