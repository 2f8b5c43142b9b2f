"""Vectors of features as images, for data sets that are drawn.

The features `[n, k]` of a data set become images `[n, 1, k, 1]`,
    pixel = 1/2 + feature / (2 bound),
and a model that is built with `input.normalisation = "features"` computes on
the features again. The bound is a power of two and a pixel a multiple of
2^-24, so that the way back is exact: what the model sees is what was drawn,
rounded once to a multiple of `grid(bound)`.
"""

from collections.abc import Callable
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.data import splits
from ib_keras.data.source import DataSource
from ib_keras.errors import UserError

_STEP = 2.0**-24  # Between two pixels; float32 has them all up to 1.

# Seeds int32 [n, 2] -> features float32 [n, k] and y float32 [n], -1 or +1.
FeatureFn = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def grid(bound: float) -> float:
    """The distance between two values of a feature."""
    return 2 * bound * _STEP


def to_images(features: tf.Tensor, bound: float) -> tf.Tensor:
    """Takes features, float32 `[n, k]`, to images in [0, 1], `[n, 1, k, 1]`."""
    pixels = tf.round((0.5 + features / (2 * bound)) / _STEP) * _STEP
    pixels = tf.clip_by_value(pixels, 0.0, 1.0)
    return pixels[:, None, :, None]


def make_source(
    name: str,
    description: str,
    *,
    num_features: int,
    bound: float,
    draws: Mapping[str, tuple[int, FeatureFn]],
    num_examples: int,
    seed: int,
) -> DataSource:
    """Makes the source of a data set with the labels y = -1 and y = +1.

    Args:
        name: The part's name.
        description: The name for reports.
        num_features: k.
        bound: Features lie in [-bound, bound]; a power of two.
        draws: Split -> (what its seeds are folded with, function that draws
            it); two splits that fold alike are drawn from the same seeds.
            One is called "train".
        num_examples: Size of each split, as `load` gives them.
        seed: Whole number that fixes what `load` gives.

    Returns:
        A `DataSource` that is a pure function of the arguments; the class of
        y = -1 is 0 and that of y = +1 is 1.

    Raises:
        UserError: If the size is not a positive whole number.
    """
    if not isinstance(num_examples, int | np.integer) or num_examples < 1:
        raise UserError(
            "The splits cannot be made in this size",
            received=f"num_examples={num_examples!r}",
            expected="a whole number above 0",
            fix="Correct data.num_examples; the paper has 10000.",
        )
    sizes = dict.fromkeys(draws, int(num_examples))

    def draw(example_seeds, split="train"):
        features, y = draws[split][1](example_seeds)
        return to_images(features, bound), tf.cast(y > 0, tf.int32)

    def load(split: str) -> tuple[np.ndarray, np.ndarray]:
        images, labels = [], []
        for whole, start, stop in splits.resolve(split, sizes):
            # Whole: the rounding of a draw may depend on how many there are.
            with tf.device("CPU:0"):
                purpose = seeds.fold(seeds.from_int(seed), draws[whole][0])
                drawn = draw(seeds.fold(purpose, tf.range(sizes[whole])), whole)
            images.append(drawn[0].numpy()[start:stop])
            labels.append(drawn[1].numpy()[start:stop])
        return np.concatenate(images), np.concatenate(labels)

    return DataSource(
        name=name,
        description=description,
        image_shape=(1, num_features, 1),
        class_names=("-1", "+1"),
        load=load,
        draw=draw,
        feature_range=(-bound, bound),
    )


def signs(unit: tf.Tensor, probability: float = 0.5) -> tf.Tensor:
    """Turns uniform numbers into +1 with this probability, and else -1."""
    return tf.where(unit < probability, 1.0, -1.0)
