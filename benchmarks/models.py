"""The paper's networks with fresh weights, for benchmarks."""

import functools
import importlib
from collections.abc import Sequence

import ml_collections
import numpy as np
import tensorflow as tf

from ib_keras import classifier
from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras.audit import audited_model
from ib_keras.data import augment
from ib_keras.data import batches
from ib_keras.data import mnist
from ib_keras.training import loop

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def config(data: str, bottleneck: str) -> ml_collections.ConfigDict:
    """The training config of an experiment of the paper."""
    return importlib.import_module(f"configs.{data}_{bottleneck}").get_config()


def build(
    data: str, bottleneck: str, precision: str = "float32", changes=None
) -> classifier.IBClassifier:
    """The classifier of an experiment of the paper, untrained.

    Args:
        data: "mnist" or "cifar10".
        bottleneck: Its module's name.
        precision: What the encoder computes in.
        changes: Sections of the config to replace.
    """
    return classifier.build(
        config(data, bottleneck).to_dict()
        | {"precision": precision, **(changes or {})},
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


def steps(
    data: str,
    bottleneck: str,
    batch_size: int,
    *,
    precision: str = "float32",
    num_examples: int | None = None,
    changes=None,
):
    """Our training steps, an iterator of their batches and all variables.

    Args:
        data: "mnist" or "cifar10".
        bottleneck: Its module's name.
        batch_size: Images a step.
        precision: What the encoder computes in.
        num_examples: Random images to draw batches from, augmented where the
            paper does; None for one batch in memory, repeated.
        changes: As `build`.
    """
    own = config(data, bottleneck)
    own.precision = precision
    strategy = strategies.get()
    with strategy.scope():
        model = build(data, bottleneck, precision, changes)
        optimizer = loop.build_optimizer(
            own.optim.to_dict(), own.averaging.decay, 600
        )
        optimizer.build(model.trainable_variables)
    seed = seeds.from_int(0)
    made = loop.Steps(model, optimizer, strategy, seed, batch_size)
    generator = np.random.default_rng(0)
    shape = (num_examples or batch_size, *SHAPES[data])
    images = generator.integers(0, 256, shape, np.uint8)
    labels = generator.integers(0, 10, shape[0]).astype(np.int32)
    if num_examples is None:
        one = tf.data.Dataset.from_tensors((images, labels))
        dataset = one.cache().repeat()
    else:
        crop = functools.partial(augment.random_crop_and_flip, pad=4)
        dataset = batches.train_batches(
            images,
            labels,
            batch_size=batch_size,
            seed=seed,
            start_step=0,
            num_steps=10**6,
            augment=crop if own.train.augment else None,
        )
    iterator = iter(strategy.experimental_distribute_dataset(dataset))
    return made, iterator, [*model.variables, *optimizer.variables]


def wong_kolter(path):
    """The MNIST network of Wong and Kolter, ICML 2018, from its arrays.

    Two convolutions and a dense layer, each with a ReLU.
    """
    w = dict(np.load(path))

    def convolve(x, kernel, bias):
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
        x = tf.nn.conv2d(x, w[kernel], strides=2, padding="VALID")
        return tf.nn.relu(x + w[bias])

    def logits(images):
        x = convolve(convolve(images, "c1", "b1"), "c2", "b2")
        x = tf.reshape(tf.transpose(x, [0, 3, 1, 2]), [-1, 1568])
        x = tf.nn.relu(tf.matmul(x, w["d1"]) + w["b3"])
        return tf.matmul(x, w["d2"]) + w["b4"]

    return logits


def mnist_images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first test images of MNIST, float32 in [0, 1], and their labels."""
    images, labels = mnist.build().load("test")
    images = (images[:count] / 255).astype(np.float32)
    return images, labels[:count].astype(np.int32)


def named(texts: Sequence[str]):
    """Yields (name, path, epsilon) of texts `[NAME=]SAVED_MODEL@EPSILON`."""
    for text in texts:
        model, _, epsilon = text.rpartition("@")
        name, _, path = model.rpartition("=")
        yield name or path, path, float(epsilon)


def attacked(zoo: str | None, texts: Sequence[str], mode: str = "mean"):
    """The trained models of a benchmark of attacks.

    Args:
        zoo: The arrays of a provably robust network, attacked at 0.1; or None.
        texts: Of others, `[NAME=]SAVED_MODEL@EPSILON`.
        mode: "mean" or "stochastic".

    Yields:
        (name, how to load its function, epsilon).
    """
    if zoo:
        network = wong_kolter(zoo)
        yield "Wong and Kolter", lambda: lambda x, seed: network(x), 0.1
    for name, path, epsilon in named(texts):

        def load(path=path):
            return audited_model.load(path).logits_fn(mode)

        yield name, load, epsilon
