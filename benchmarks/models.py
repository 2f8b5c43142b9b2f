"""The paper's networks with fresh weights, for benchmarks."""

import ml_collections
import numpy as np
import tensorflow as tf

from configs import common
from ib_keras import classifier

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def config(data: str, bottleneck: str) -> ml_collections.ConfigDict:
    """The training config of an experiment of the paper."""
    return getattr(common, data)(bottleneck, "")


def build(data: str, bottleneck: str) -> classifier.IBClassifier:
    """The classifier of an experiment of the paper, untrained."""
    return classifier.build(
        config(data, bottleneck).to_dict(),
        image_shape=SHAPES[data],
        num_classes=10,
        steps_per_epoch=600,
        channel_statistics=lambda: ((0.5,) * 3, (0.25,) * 3),
    )


def batch(data: str, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Random images in [0, 1] and labels."""
    generator = np.random.default_rng(0)
    images = generator.uniform(size=(size, *SHAPES[data]))
    labels = generator.integers(0, 10, size)
    return tf.constant(images, tf.float32), tf.constant(labels, tf.int32)
