"""The paper's toy problem: one feature decides, another one nearly.

The label y is -1 or +1, each with probability 1/2, and
    x1 = y U(0, 10),
    x2 = y U(0, 1) with probability 0.9, and else -y U(0, 1).
So the sign of x1 is always right, with a margin of up to 10, and that of x2 in
9 of 10 cases, with a margin of up to 1.

Splits: "train" is newly drawn for each batch (`load` gives a fixed sample of
it); "test"; and "adversarial", the paper's attack computed in advance: x1 is
the same, x2 from the low-density regions alone, so that its sign is always
wrong. Test and adversarial examples are independent.

A pixel is 1/2 + x/32, so 0 and 1 mean -16 and 16, and the paper's
perturbation of x2 by 1 is 1/32 in pixel units. No feature is ever exactly 0.

References:
    Korshunova et al. 2021, section 3.3 and appendix, "Toy example".
"""

import functools

import tensorflow as tf

from ib_keras import seeds
from ib_keras.data import features
from ib_keras.data.source import DataSource

SPLITS = ("train", "test", "adversarial")
_BOUND = 16.0
# Constants that seeds are folded with, one per purpose.
_TRAIN, _TEST, _ADVERSARIAL = 0, 1, 2


def build(num_examples: int = 10_000, seed: int = 0) -> DataSource:
    """Builds the source; its splits are "train", "test" and "adversarial".

    Args:
        num_examples: Size of each split, as `load` gives them.
        seed: Whole number that fixes what `load` gives. What is drawn for
            training has the seed of the run.

    Returns:
        A `DataSource` with float32 images 1x2x1 in [0, 1].

    Raises:
        UserError: If the size is not a positive whole number.
    """
    usual = functools.partial(_draw, probability=0.9)
    return features.make_source(
        "toy_overlap",
        "toy problem of two features",
        num_features=2,
        bound=_BOUND,
        draws={
            "train": (_TRAIN, usual),
            "test": (_TEST, usual),
            "adversarial": (
                _ADVERSARIAL,
                functools.partial(_draw, probability=0.0),
            ),
        },
        num_examples=num_examples,
        seed=seed,
    )


def _draw(example_seeds, probability):
    """Draws x and y; `probability` is that of an x2 with the sign of y."""
    units = seeds.uniform(example_seeds, (4,))
    which, first, second, agrees = tf.unstack(units, axis=1)
    y = features.signs(which)
    # Rounded to the grid, 0 would have no sign.
    least = features.grid(_BOUND)
    x1 = y * tf.maximum(10.0 * first, least)
    x2 = y * features.signs(agrees, probability) * tf.maximum(second, least)
    return tf.stack([x1, x2], axis=1), y
