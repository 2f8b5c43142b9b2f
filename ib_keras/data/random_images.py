"""Random images whose class is weakly visible: for tests and smoke runs.

Each class has a pattern of uniform noise, and an image is, in every pixel,
    image = 3/4 noise + 1/4 pattern of its class        (units of [0, 1]).
So one pixel has little information on the class, but all of them have much, and
a model learns it in a few steps. Image i of a split is a function of the seed,
the split's name and i alone: more images never change the earlier ones.
"""

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.data import splits
from ib_keras.data.source import DataSource
from ib_keras.errors import UserError

SPLITS = ("train", "test")
_PATTERN_SHARE = 0.25
# Constants that seeds are folded with, one per purpose.
_PATTERNS, _TRAIN, _TEST = 0, 1, 2
_BLOCK = 256  # Images drawn at once.


def build(
    image_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    num_train: int = 512,
    num_test: int = 128,
    seed: int = 0,
) -> DataSource:
    """Builds a synthetic source; its splits are "train" and "test".

    Args:
        image_shape: `(height, width, channels)`.
        num_classes: How many classes; image i is of class i modulo this.
        num_train: Size of the train split.
        num_test: Size of the test split.
        seed: Whole number that fixes the patterns and all images.

    Returns:
        A `DataSource` that is a pure function of the arguments.

    Raises:
        UserError: If a size is not a positive whole number.
    """
    shape: tuple[int, ...] = tuple(image_shape)
    numbers = (*shape, num_classes, num_train, num_test)
    whole = all(isinstance(number, int | np.integer) for number in numbers)
    if len(shape) != 3 or not whole or min(numbers) < 1:
        raise UserError(
            "Random images cannot be made in these sizes",
            received=f"image_shape {shape}, num_classes {num_classes}, "
            f"num_train {num_train}, num_test {num_test}",
            expected="(height, width, channels) and whole numbers above 0",
            fix="Correct these fields of the data section.",
        )
    height, width, channels = shape
    sizes = {"train": num_train, "test": num_test}

    def load(split: str) -> tuple[np.ndarray, np.ndarray]:
        images, labels = [], []
        for name, start, stop in splits.resolve(split, sizes):
            purpose = {"train": _TRAIN, "test": _TEST}[name]
            for first in range(start, stop, _BLOCK):
                indices = tf.range(first, min(first + _BLOCK, stop))
                of_class = indices % num_classes
                images.append(_draw(seed, purpose, indices, of_class, shape))
                labels.append(of_class.numpy())
        return np.concatenate(images), np.concatenate(labels)

    return DataSource(
        name="random_images",
        description="random images",
        image_shape=(height, width, channels),
        class_names=tuple(f"class {i}" for i in range(num_classes)),
        load=load,
    )


def _draw(seed, purpose, indices, labels, image_shape) -> np.ndarray:
    run = seeds.from_int(seed)
    noise = seeds.uniform(seeds.fold(run, purpose, indices), image_shape)
    pattern = seeds.uniform(seeds.fold(run, _PATTERNS, labels), image_shape)
    image = noise + _PATTERN_SHARE * (pattern - noise)
    return np.floor(image.numpy() * 256.0).astype(np.uint8)
