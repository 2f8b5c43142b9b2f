"""PreActResNet18 with the CIFAR stem, then the paper's MLP.

References:
    He et al., "Identity mappings in deep residual networks", ECCV 2016;
    Korshunova et al. 2021, section 3.2 and appendix.
"""

import keras
import tensorflow as tf

from ib_keras.batch_norm import FusedBatchNormalization

_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
_BLOCKS_PER_STAGE = 2


def _convolution(units: int, size: int, strides: int = 1):
    # He et al. pad by 1 on both sides for every stride; Keras' "same" pads
    # only at the end where the stride is 2. The shapes agree.
    return keras.layers.Conv2D(
        units, size, strides=strides, padding="same", use_bias=False
    )


def _normalise_and_activate(x):
    # Over the global batch, so that results do not depend on the replicas.
    count = tf.distribute.get_strategy().num_replicas_in_sync
    x = FusedBatchNormalization(
        momentum=0.9, epsilon=1e-5, synchronized=count > 1
    )(x)
    return keras.layers.ReLU()(x)


def _block(x, units: int, strides: int):
    """Adds BN-ReLU-conv-BN-ReLU-conv to a shortcut."""
    active = _normalise_and_activate(x)
    shortcut = x
    if strides != 1 or x.shape[-1] != units:
        shortcut = _convolution(units, 1, strides)(active)
    active = _convolution(units, 3, strides)(active)
    active = _convolution(units, 3)(_normalise_and_activate(active))
    return keras.layers.Add()([shortcut, active])


def build(image_shape, hidden_units=(1024, 1024)) -> keras.Model:
    """Builds the 18-layer pre-activation residual network and its MLP.

    Args:
        image_shape: (height, width, channels); the stem keeps the resolution,
            as suits 32 x 32 images.
        hidden_units: Widths of the ReLU layers after the pooled features.

    Returns:
        A model `[batch, *image_shape]` -> `[batch, features]`.
    """
    images = keras.Input(image_shape)
    x = _convolution(64, 3)(images)
    for units, strides in _STAGES:
        for block in range(_BLOCKS_PER_STAGE):
            x = _block(x, units, strides if block == 0 else 1)
    x = keras.layers.GlobalAveragePooling2D()(_normalise_and_activate(x))
    for units in hidden_units:
        x = keras.layers.Dense(units, activation="relu")(x)
    return keras.Model(images, x, name="preact_resnet18")
