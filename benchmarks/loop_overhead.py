"""What the loop adds to the compiled training step, and what feeding adds.

python -m benchmarks.loop_overhead mnist
python -m benchmarks.loop_overhead cifar10

The step alone is the same compiled step, averages and measured values
included, repeated on one batch that is already there, with no look of the
host. Ours is what the training loop calls, with the input pipeline,
augmentation included.
"""

import functools
import sys

import numpy as np
import tensorflow as tf

from benchmarks import models
from benchmarks import timing
from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras.data import augment
from ib_keras.data import batches
from ib_keras.training import loop

# Data set -> batch size, examples, steps a call, rounds.
SIZES = {"mnist": (100, 60000, 100, 7), "cifar10": (64, 5000, 3, 5)}


def main():
    data = sys.argv[1] if sys.argv[1:] else "mnist"
    batch_size, size, num_steps, rounds = SIZES[data]
    strategy = strategies.get()
    config = models.config(data, "vib")
    with strategy.scope():
        model = models.build(data, "vib")
        optimizer = loop.build_optimizer(
            config.optim.to_dict(), config.averaging.decay, 600
        )
        optimizer.build(model.trainable_variables)
    seed = seeds.from_int(0)
    steps = loop.Steps(model, optimizer, strategy, seed, batch_size)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (size, *models.SHAPES[data]), np.uint8)
    labels = generator.integers(0, 10, size).astype(np.int32)
    crop = functools.partial(augment.random_crop_and_flip, pad=4)
    dataset = batches.train_batches(
        images,
        labels,
        batch_size=batch_size,
        seed=seed,
        start_step=0,
        num_steps=10**6,
        augment=crop if config.train.augment else None,
    )
    iterator = iter(strategy.experimental_distribute_dataset(dataset))
    batch = (tf.constant(images[:batch_size]), tf.constant(labels[:batch_size]))
    cached = tf.data.Dataset.from_tensors(batch).cache().repeat()
    cached = iter(strategy.experimental_distribute_dataset(cached))

    @tf.function
    def alone():
        total = tf.constant(0.0)
        for _ in tf.range(num_steps):
            sums, _ = strategy.run(
                steps._train_step, args=(*batch, tf.constant(False))
            )
            total += strategy.reduce("SUM", sums, axis=None)[0]
        return total

    functions = {
        "the step alone": lambda: alone().numpy(),
        "ours, cached batch": lambda: steps.train_steps(cached, num_steps),
        "ours": lambda: steps.train_steps(iterator, num_steps),
    }
    units = dict.fromkeys(functions, num_steps)
    table = timing.compare(functions, units, "the step alone", rounds)
    timing.show(
        f"{data}, batch {batch_size}", table, {"ours, cached batch": 1.05}
    )
    pairs = table["ours"]["ms"] / table["ours, cached batch"]["ms"]
    met = "met" if pairs <= 1.05 else "NOT MET"
    print(f"  feeding x{pairs:.3f}   target 1.05: {met}")


if __name__ == "__main__":
    main()
