"""No hidden layer: the bottleneck's dense layer sees the pixels."""

import keras


def build(image_shape) -> keras.Sequential:
    """Builds the encoder of the toy problems (paper, appendix).

    Args:
        image_shape: (height, width, channels).

    Returns:
        A model `[batch, *image_shape]` -> `[batch, pixels]`.
    """
    return keras.Sequential(
        [keras.Input(image_shape), keras.layers.Flatten()], name="linear"
    )
