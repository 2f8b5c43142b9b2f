"""A step of each gradient attack against a bare input gradient.

python -m benchmarks.attack_step [mnist] [cifar10]

MNIST in batches of 500, 125 and 16, since a batch shrinks in an audit.

A step costs at least one forward and backward pass. The bare gradient is a
compiled function of its own that returns the gradient of the summed
cross-entropy; a step adds the move, the projection and the runner's record.
"""

import sys

import tensorflow as tf

from benchmarks import models
from benchmarks import timing
from ib_keras import plugins
from ib_keras import seeds
from ib_keras.attacks import compiled
from ib_keras.attacks import engine
from ib_keras.attacks import judging

SIZES = {"mnist": (500, 125, 16), "cifar10": (64,)}
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
    size = len(labels)
    judge = judging.Judge(logits_fn, "linf", batch_size=size)
    run = engine.Engine(logits_fn, attack, judge, "linf", size)
    run.resolve(images)
    state, record = run.start(
        images,
        labels,
        seeds.fold(seeds.from_int(0), tf.range(size)),
        (labels + 1) % 10,
        tf.constant(epsilon),
    )

    def steps():
        _, found = run.advance(state, record, 0, num_steps)
        return found.best.margin.numpy()

    return steps


def compare(data, model, size):
    images, labels = models.batch(data, size)
    num_steps = STEPS[data]

    @tf.function
    def gradient(x, labels):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels, model(x)
            )
        return tape.gradient(loss, x)

    def bare():
        for _ in range(num_steps):
            gradient(images, labels)
        return gradient(images, labels).numpy()

    functions = {"bare gradient": bare}
    units = {"bare gradient": num_steps + 1}
    targets = {}
    logits = compiled.CompiledLogits(lambda x, seed: model(x))
    for name, (section, target) in ATTACKS.items():
        functions[name] = loop_of(
            plugins.build("attacks", section),
            logits,
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
    timing.show(f"{data}, batch {size}", table, targets)


def main():
    for data in sys.argv[1:] or list(SIZES):
        model = models.build(data, "deterministic")
        for size in SIZES[data]:
            compare(data, model, size)


if __name__ == "__main__":
    main()
