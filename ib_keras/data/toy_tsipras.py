"""The toy problem of Tsipras et al.: a robust feature and many weak ones.

The label y is -1 or +1, each with probability 1/2, and
    x1 = y with probability p = 0.95, and else -y,
    x2, ..., x101 ~ N(eta y, 1), independent, with eta = 0.3.
The mean of the 100 Gaussian features predicts y in Phi(eta sqrt(100)) = 99.87%
of the cases, better than x1 does, until they are shifted by 2 eta.

Splits: "train" is newly drawn for each batch (`load` gives a fixed sample of
it); "test"; and "adversarial": the same examples after the paper's attack of
l_inf size 2 eta, x2, ..., x101 shifted by -2 eta y, and x1 as it was.

A pixel is 1/2 + x/16, so 0 and 1 mean -8 and 8, and 2 eta = 0.6 is 0.0375
in pixel units. Nothing is cut off: normal numbers of `seeds.normal` are below
5.8 in size, as they come from uniform ones of 24 bits.

References:
    Tsipras et al., "Robustness may be at odds with accuracy", ICLR 2019;
    Korshunova et al. 2021, appendix, equation 4.
"""

import functools

import tensorflow as tf

from ib_keras import seeds
from ib_keras.data import features
from ib_keras.data.source import DataSource

SPLITS = ("train", "test", "adversarial")
ETA = 0.3
NUM_GAUSSIANS = 100
_PROBABILITY = 0.95
_BOUND = 8.0
_TRAIN, _TEST = 0, 1  # What a seed is folded for: a split,
_UNIFORM, _NORMAL = 0, 1  # and a part of an example.


def build(num_examples: int = 10_000, seed: int = 0) -> DataSource:
    """Builds the source; its splits are "train", "test" and "adversarial".

    Args:
        num_examples: Size of each split, as `load` gives them.
        seed: Whole number that fixes what `load` gives. What is drawn for
            training has the seed of the run.

    Returns:
        A `DataSource` with float32 images 1x101x1 in [0, 1].

    Raises:
        UserError: If the size is not a positive whole number.
    """
    usual = functools.partial(_draw, eta=ETA)
    return features.make_source(
        "toy_tsipras",
        "toy problem of Tsipras et al.",
        num_features=1 + NUM_GAUSSIANS,
        bound=_BOUND,
        draws={
            "train": (_TRAIN, usual),
            "test": (_TEST, usual),
            "adversarial": (_TEST, functools.partial(_draw, eta=-ETA)),
        },
        num_examples=num_examples,
        seed=seed,
    )


def _draw(example_seeds, eta):
    """Draws x and y; `eta` times y is the mean of the Gaussian features."""
    units = seeds.uniform(seeds.fold(example_seeds, _UNIFORM), (2,))
    y = features.signs(units[:, 0])
    x1 = y * features.signs(units[:, 1], _PROBABILITY)
    noise = seeds.normal(seeds.fold(example_seeds, _NORMAL), (NUM_GAUSSIANS,))
    return tf.concat([x1[:, None], eta * y[:, None] + noise], axis=1), y
