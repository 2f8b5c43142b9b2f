"""A step of each gradient attack against a bare input gradient.

python -m benchmarks.attack_step [mnist] [cifar10]

The floor of a step is one forward and backward pass. The bare gradient is a
compiled function of its own that returns the gradient of the summed
cross-entropy; a step adds the move, the projection and the runner's record.
"""

import sys

import tensorflow as tf

from benchmarks import models
from benchmarks import timing
from ib_keras import plugins
from ib_keras import seeds
from ib_keras.attacks import engine

SIZES = {"mnist": 500, "cifar10": 64}
STEPS = {"mnist": 20, "cifar10": 2}
ROUNDS = {"mnist": 9, "cifar10": 4}
EPSILONS = {"mnist": 0.2, "cifar10": 8 / 255}
# Attack section -> the target for its ratio.
ATTACKS = {
    "pgd": ({"name": "pgd"}, 1.05),
    "apgd, cross-entropy": ({"name": "apgd"}, 1.08),
    "apgd, DLR": ({"name": "apgd", "loss": "dlr"}, 1.08),
    "multi_targeted": ({"name": "multi_targeted"}, 1.08),
}


def loop_of(attack, logits_fn, images, labels, epsilon, num_steps):
    """A function that makes `num_steps` steps as the engine makes them."""
    judge = engine.Judge(logits_fn, "linf")
    runs = engine.Engine(logits_fn, attack, judge, "linf", len(labels))
    example_seeds = seeds.fold(seeds.from_int(0), tf.range(len(labels)))
    targets = (labels + 1) % 10
    state, record = runs._start(
        len(labels),
        (images, labels, example_seeds, targets),
        (tf.constant(epsilon),),
    )
    first, last = tf.constant(0), tf.constant(num_steps)

    def run():
        _, found = runs._advance(len(labels), (state, record), (first, last))
        return found.margin.numpy()

    return run


def main():
    for data in sys.argv[1:] or list(SIZES):
        images, labels = models.batch(data, SIZES[data])
        model = models.build(data, "deterministic")
        num_steps = STEPS[data]

        def logits_fn(x, seed, model=model):
            return model(x)

        @tf.function
        def gradient(x, labels, model=model):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
                    labels, model(x)
                )
            return tape.gradient(loss, x)

        def bare(gradient=gradient, images=images, labels=labels, n=num_steps):
            for _ in range(n):
                gradient(images, labels)
            return gradient(images, labels).numpy()

        functions = {"bare gradient": bare}
        units = {"bare gradient": num_steps + 1}
        targets = {}
        for name, (section, target) in ATTACKS.items():
            functions[name] = loop_of(
                plugins.build("attacks", section),
                logits_fn,
                images,
                labels,
                EPSILONS[data],
                num_steps,
            )
            units[name] = num_steps
            targets[name] = target
        table = timing.compare(
            functions, units, "bare gradient", rounds=ROUNDS[data]
        )
        timing.show(f"{data}, batch {SIZES[data]}", table, targets)


if __name__ == "__main__":
    main()
