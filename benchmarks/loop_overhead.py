"""The overhead of the loop over the compiled training step, and of feeding.

python -m benchmarks.loop_overhead mnist
python -m benchmarks.loop_overhead cifar10

The step alone is the same compiled step, averages and measured values
included, repeated on one batch in memory, without reading results. Ours is what
the training loop calls, with the input pipeline, augmentation included.
"""

import sys

import tensorflow as tf

from benchmarks import models
from benchmarks import timing
from ib_keras import strategy as strategies

# Data set -> batch size, examples, steps a call, rounds.
SIZES = {"mnist": (100, 60000, 100, 7), "cifar10": (64, 5000, 3, 5)}


def main():
    data = sys.argv[1] if sys.argv[1:] else "mnist"
    batch_size, size, num_steps, rounds = SIZES[data]
    strategy = strategies.get()
    steps, cached, _ = models.steps(data, "vib", batch_size)
    feed_steps, iterator, _ = models.steps(
        data, "vib", batch_size, num_examples=size
    )
    batch = next(cached)

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
        "ours": lambda: feed_steps.train_steps(iterator, num_steps),
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
