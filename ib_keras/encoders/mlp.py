"""Dense ReLU layers on flattened images: the paper's MNIST encoder."""

import keras


def build(image_shape, hidden_units=(1024, 1024)) -> keras.Sequential:
    """Builds a multi-layer perceptron, Glorot uniform with zero biases.

    Args:
        image_shape: (height, width, channels).
        hidden_units: Width of each hidden layer.

    Returns:
        A model `[batch, *image_shape]` -> `[batch, hidden_units[-1]]`.
    """
    layers = [keras.Input(image_shape), keras.layers.Flatten()]
    for units in hidden_units:
        layers.append(keras.layers.Dense(units, activation="relu"))
    return keras.Sequential(layers, name="mlp")
