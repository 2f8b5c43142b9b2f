"""Cost against examples and steps, and memory against examples.

python -m benchmarks.scaling

PGD on a model that it cannot break (with constant margin), so that every
example costs the same. Prints the fitted exponents and, from a process each,
the peak memory at 100, 1,000 and 10,000 examples.
"""

import resource
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf

from benchmarks import models
from ib_keras.attacks import runner
from ib_keras.types import ThreatModel


def make_runner(num_steps):
    model = models.build("mnist", "deterministic")

    def logits_fn(images, seed):
        # The network is run and differentiated, but its prediction is constant.
        return tf.one_hot([0], 10) * 1e6 + 1e-3 * model(images)

    stage = {"attack": {"name": "pgd", "num_steps": num_steps}}
    return runner.Runner(
        logits_fn,
        [runner.Stage.build(stage)],
        ThreatModel("linf", 0.1),
        batch_size=250,
    )


def seconds(run, count):
    images = np.random.default_rng(0).random((count, 28, 28, 1))
    images, labels = images.astype(np.float32), np.zeros(count, np.int32)
    began = time.perf_counter()
    run.run(images, run.start(images, labels))
    return time.perf_counter() - began


def exponent(sizes, times):
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def main():
    if sys.argv[1:]:
        seconds(make_runner(2), int(sys.argv[1]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    counts, steps = [250, 500, 1000, 2000], [10, 20, 40, 80]
    run = make_runner(20)
    seconds(run, 250)
    times = [seconds(run, count) for count in counts]
    print(f"examples {counts}: {np.round(times, 2)} s")
    print(f"  exponent {exponent(counts, times):.3f}")
    times = []
    for num_steps in steps:
        run = make_runner(num_steps)
        seconds(run, 250)
        times.append(seconds(run, 500))
    print(f"steps {steps}: {np.round(times, 2)} s")
    print(f"  exponent {exponent(steps, times):.3f}")
    for count in (100, 1000, 10000):
        found = subprocess.run(
            [sys.executable, "-m", "benchmarks.scaling", str(count)],
            capture_output=True,
            text=True,
            check=True,
        )
        peak = int(found.stdout.split()[-1]) / 1024
        one = count * 28 * 28 * 4 / 2**20
        print(
            f"{count} examples: peak {peak:.0f} MB; their images once "
            f"{one:.1f} MB"
        )


if __name__ == "__main__":
    main()
