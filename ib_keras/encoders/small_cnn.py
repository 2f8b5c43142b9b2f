"""The small network of the literature on adversarial training of MNIST.

References:
    Wong and Kolter, "Provable defenses against adversarial examples via the
    convex outer adversarial polytope", ICML 2018, and Wong et al., "Fast is
    better than free", ICLR 2020: convolutions of 16 and 32 filters, 4x4 of
    stride 2, and a dense layer of 100 (1024 in Madry et al., ICLR 2018, whose
    convolutions are larger).
"""

import keras


def build(
    image_shape, filters=(16, 32), hidden_units=(100,)
) -> keras.Sequential:
    """Builds ReLU convolutions 4x4 of stride 2, then dense ReLU layers.

    Args:
        image_shape: (height, width, channels).
        filters: Of each convolution.
        hidden_units: Width of each dense layer.

    Returns:
        A model `[batch, *image_shape]` -> `[batch, hidden_units[-1]]`.
    """
    layers = [keras.Input(image_shape)]
    for count in filters:
        layers.append(
            keras.layers.Conv2D(
                count, 4, strides=2, padding="same", activation="relu"
            )
        )
    layers.append(keras.layers.Flatten())
    for units in hidden_units:
        layers.append(keras.layers.Dense(units, activation="relu"))
    return keras.Sequential(layers, name="small_cnn")
