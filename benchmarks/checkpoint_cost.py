"""What checkpoints cost: the training loop with them, and without.

python -m benchmarks.checkpoint_cost

Calls of `steps_per_call` steps of MNIST VIB are timed in turns: alone, with a
checkpoint that is written in the background, and with one that the call waits
for. The additional time of a call, the end of the write included, is the cost
of a checkpoint; the loop has it once in `checkpoint.every_steps`.
"""

import statistics
import tempfile

import numpy as np

from benchmarks import models
from benchmarks import timing
from ib_keras.training.background import Background
from ib_keras.training.checkpoints import Checkpoints

BATCH = 100
ROUNDS = 11


def main():
    config = models.config("mnist", "vib")
    steps, iterator, variables = models.steps(
        "mnist", "vib", BATCH, num_examples=60000
    )
    per_call, every = config.steps_per_call, config.checkpoint.every_steps
    megabytes = sum(np.asarray(v.value).nbytes for v in variables) / 1e6
    with tempfile.TemporaryDirectory() as folder, Background() as background:
        checkpoints = Checkpoints(folder)

        def call():
            steps.train_steps(iterator, per_call)

        def in_background():
            background.run(checkpoints.prepare(1, variables, {}))
            call()
            background.wait()

        def in_foreground():
            checkpoints.save(1, variables, {})
            call()

        kinds = {
            "without": call,
            "in the background": in_background,
            "in the foreground": in_foreground,
        }
        for function in kinds.values():
            function()
        times = {name: [] for name in kinds}
        for _ in range(ROUNDS):
            for name, function in kinds.items():
                times[name].append(timing.seconds(function))
    alone = statistics.median(times["without"])
    print(
        f"MNIST VIB, calls of {per_call} steps ({alone:.2f} s), a checkpoint "
        f"of {megabytes:.0f} MB every {every} steps"
    )
    for name in list(kinds)[1:]:
        pairs = zip(times[name], times["without"], strict=True)
        cost = statistics.median(a - b for a, b in pairs)
        ratio = 1 + cost / (alone * every / per_call)
        met = "met" if ratio <= 1.02 else "NOT MET"
        print(
            f"  {name:<20}{1e3 * cost:>8.0f} ms each, x{ratio:.4f}   "
            f"target 1.02: {met}"
        )


if __name__ == "__main__":
    main()
