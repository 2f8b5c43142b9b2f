"""Adam in one pass over memory."""

import keras
import tensorflow as tf

from ib_keras.errors import UserError


@keras.saving.register_keras_serializable(package="ib_keras")
class FusedAdam(keras.optimizers.Adam):
    """Keras' Adam, with TensorFlow's fused update kernel.

    Keras 3 updates each weight by about ten elementwise operations, each of
    which goes through memory; for the paper's MNIST network that is a third of
    a training step on a CPU. The fused operation does the same arithmetic,
    also has TPU and GPU kernels, and keeps everything else (schedules,
    averaging, serialisation) Keras'.

    Args:
        **kwargs: Those of `keras.optimizers.Adam`; `amsgrad` is refused.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if self.amsgrad:
            raise UserError(
                "The fused kernel has no variant amsgrad",
                received="amsgrad=True",
                expected="False",
                fix="Use keras.optimizers.Adam instead.",
            )

    def update_step(self, gradient, variable, learning_rate):
        """Applies one update to one variable."""
        index = self._get_variable_index(variable)
        dtype = variable.dtype
        step = tf.cast(self.iterations + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            beta1_power=tf.pow(tf.cast(self.beta_1, dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, dtype), step),
            lr=tf.cast(learning_rate, dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(tf.convert_to_tensor(gradient), dtype),
        )


def _handle(variable):
    if isinstance(variable, keras.Variable):
        variable = variable.value
    return variable.handle
