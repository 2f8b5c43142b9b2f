"""Small networks on digits, each trained on images of other values."""

import keras

from tests.support import foreign

MEAN, STD = 0.306, 0.376
# Scale and offset of what the networks are trained on.
INPUTS = {
    "[0, 1]": (1.0, 0.0),
    "[0, 255]": (255.0, 0.0),
    "[-1, 1]": (2.0, -1.0),
    "x - 0.5": (1.0, -0.5),
    "1 - x": (-1.0, 1.0),
    "constants of MNIST": (1 / 0.3081, -0.1307 / 0.3081),
    "own mean and deviation": (1 / STD, -MEAN / STD),
    "twice the deviation": (1 / (2 * STD), -MEAN / (2 * STD)),
}
NETWORKS = {
    "MLP": lambda: [
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
    ],
    "CNN": lambda: [
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.Flatten(),
    ],
}


def network(layers, scale, offset, seed=0, num_classes=10) -> keras.Model:
    """Trains a network that ends in logits on `scale * x + offset`.

    Labels are the digits modulo the number of classes; two have one logit.
    """
    keras.utils.set_random_seed(seed)
    units = 1 if num_classes == 2 else num_classes
    model = keras.Sequential(
        [keras.Input(foreign.SHAPE), *layers(), keras.layers.Dense(units)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if num_classes == 2:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    images, labels = foreign.data("train")
    labels = labels % num_classes
    given = scale * images + offset
    model.fit(given, labels, epochs=15, batch_size=64, verbose=0)
    return model
