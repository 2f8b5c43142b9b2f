"""The paper's networks with fresh weights, for benchmarks."""

import ml_collections
import numpy as np
import tensorflow as tf

from configs import common
from ib_keras import classifier
from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras.data import batches
from ib_keras.training import loop

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


def mnist_vib_steps(batch_size: int, is_cached: bool = False):
    """Our training steps of MNIST VIB, their batches and all variables.

    With `is_cached` there is one batch, again and again.
    """
    strategy = strategies.get()
    with strategy.scope():
        model = build("mnist", "vib")
        optimizer = loop.build_optimizer(
            config("mnist", "vib").optim.to_dict(), 0.999, 600
        )
        optimizer.build(model.trainable_variables)
    seed = seeds.from_int(0)
    steps = loop.Steps(model, optimizer, strategy, seed, batch_size)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60000, 28, 28, 1), np.uint8)
    labels = generator.integers(0, 10, 60000).astype(np.int32)
    if is_cached:
        one = (images[:batch_size], labels[:batch_size])
        dataset = tf.data.Dataset.from_tensors(one).cache().repeat()
    else:
        dataset = batches.train_batches(
            images,
            labels,
            batch_size=batch_size,
            seed=seed,
            start_step=0,
            num_steps=10**6,
        )
    iterator = iter(strategy.experimental_distribute_dataset(dataset))
    return steps, iterator, [*model.variables, *optimizer.variables]
