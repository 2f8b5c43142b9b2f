"""A training step of MNIST VIB by our loop, against its lower bound and `fit`.

python -m benchmarks.train_step

The lower bound is forward, backward and one fused Adam update, compiled, on a
batch in memory. Ours adds the Polyak average, the measured values and
the input pipeline.
"""

import keras
import tensorflow as tf

from benchmarks import models
from benchmarks import timing
from ib_keras import optimizers

BATCH = 100
STEPS = 100


def bare():
    model = models.build("mnist", "vib")
    optimizer = optimizers.FusedAdam(learning_rate=1e-4, beta_1=0.5)
    optimizer.build(model.trainable_variables)
    images, labels = models.batch("mnist", BATCH)

    @tf.function
    def run():
        total = tf.constant(0.0)
        for step in tf.range(STEPS):
            with tf.GradientTape() as tape:
                seed = tf.stack([step, step])
                terms = model.terms(images, labels, seed, step)
                loss = tf.reduce_mean(terms.loss)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
            total += loss
        return total

    return lambda: run().numpy()


def ours(num_examples: int | None):
    steps, iterator, _ = models.steps(
        "mnist", "vib", BATCH, num_examples=num_examples
    )
    return lambda: steps.train_steps(iterator, STEPS)


def fit():
    model = models.build("mnist", "vib")
    model.compile(
        keras.optimizers.Adam(
            1e-4, beta_1=0.5, use_ema=True, ema_momentum=0.999
        )
    )
    images, labels = models.batch("mnist", BATCH * STEPS)
    images, labels = images.numpy(), labels.numpy()
    return lambda: model.fit(images, labels, batch_size=BATCH, verbose=0)


def main():
    functions = {
        "bare step": bare(),
        "ours, cached batch": ours(None),
        "ours": ours(60000),
        "model.fit": fit(),
    }
    units = dict.fromkeys(functions, STEPS)
    table = timing.compare(functions, units, "bare step", rounds=7)
    timing.show(
        "MNIST VIB, batch 100, against the bare step", table, {"ours": 1.25}
    )
    table = timing.compare(functions, units, "model.fit", rounds=7)
    timing.show("against model.fit", table, {"ours": 0.85})
    table = timing.compare(functions, units, "ours, cached batch", rounds=7)
    timing.show("against a cached batch", table, {"ours": 1.05})


if __name__ == "__main__":
    main()
