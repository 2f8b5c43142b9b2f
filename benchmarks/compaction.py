r"""The savings by shrinking the batch inside of a run.

python -m benchmarks.compaction \
    --saved_model=runs/mnist_deterministic/saved_model

APGD-CE 5 x 100 on 1,000 MNIST test images, against the same protocol whose
batches shrink only between restarts. Then the cost where no example is broken.
"""

import time

import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

from benchmarks import timing
from ib_keras.attacks import runner
from ib_keras.audit import audited_model
from ib_keras.data import mnist
from ib_keras.data import source
from ib_keras.types import ThreatModel

flags.DEFINE_string("saved_model", None, "A deterministic MNIST model.")
flags.mark_flag_as_required("saved_model")

STAGE = {"attack": {"name": "apgd", "num_steps": 100}, "num_restarts": 5}
# Epsilon -> the targets for gradients and for time.
TARGETS = {0.2: (1 / 15, 1 / 10), 0.1: (0.45, None)}


def make(logits_fn, epsilon, compact):
    return runner.Runner(
        logits_fn,
        [runner.Stage.build(STAGE)],
        ThreatModel("linf", epsilon),
        batch_size=500,
        compact=compact,
    )


def attack(run, images, labels):
    began = time.perf_counter()
    ledger = run.run(images, run.start(images, labels))
    return ledger, time.perf_counter() - began


def main(unused):
    images, labels = mnist.build().load("test[:1000]")
    images = source.to_float(images).numpy()
    logits_fn = audited_model.load(flags.FLAGS.saved_model).logits_fn("mean")
    for epsilon, (gradients, seconds) in TARGETS.items():
        rows = {}
        for compact in (True, False):
            run = make(logits_fn, epsilon, compact)
            first = attack(run, images, labels)[1]  # Traces and compiles.
            rows[compact] = attack(run, images, labels)
            print(f"  compact {compact}: the first run took {first:.2f} s")
        (ours, our_time), (other, other_time) = rows[True], rows[False]
        used = ours.gradient_evaluations.sum(), other.gradient_evaluations.sum()
        print(
            f"epsilon {epsilon}: gradients {used[0]} / {used[1]} = "
            f"{used[0] / used[1]:.4f} (target {gradients:.4f}), seconds "
            f"{our_time:.2f} / {other_time:.2f} = {our_time / other_time:.4f}"
            f"{f' (target {seconds:.4f})' if seconds else ''}, broken by the "
            f"other alone {int((ours.is_robust & ~other.is_robust).sum())}, "
            f"least possible {505 * ours.is_robust.sum() / used[1]:.4f}, "
            f"robust {ours.robust_accuracy:.3f} / {other.robust_accuracy:.3f}"
        )
    survivors(logits_fn, images[:500], labels[:500])


def survivors(logits_fn, images, labels):
    """No example is broken at epsilon 0.001: the cost of checking."""
    right = np.argmax(logits_fn(tf.constant(images), None), 1) == labels
    images, labels = images[right][:400], labels[right][:400]
    runs = {}
    for compact, chunk in ((True, 16), (False, 100)):
        stage = {"attack": {"name": "apgd", "num_steps": 100}}
        run = runner.Runner(
            logits_fn,
            [runner.Stage.build(stage)],
            ThreatModel("linf", 0.001),
            batch_size=400,
            compact=compact,
            chunk_steps=chunk,
        )
        runs["ours" if compact else "one chunk, no check"] = lambda run=run: (
            run.run(images, run.start(images, labels))
        )
    table = timing.compare(
        runs, dict.fromkeys(runs, 100), "one chunk, no check", rounds=5
    )
    timing.show("every example robust", table, {"ours": 1.03})


if __name__ == "__main__":
    app.run(main)
