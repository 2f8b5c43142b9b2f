"""Two workers on this machine against one replica of the same global batch.

python -m benchmarks.two_workers

Prints the largest relative difference of the training losses over 100 steps;
the target is 1e-5.
"""

import tempfile

from ib_keras import strategy as strategies
from ib_keras.training import loop
from tests.training import workers_test

NUM_STEPS = 100


def main():
    for bottleneck in ("deterministic", "vib", "ceb"):
        config = workers_test.config(bottleneck, NUM_STEPS)
        with tempfile.TemporaryDirectory() as folder:
            one, two = f"{folder}/one", f"{folder}/two"
            strategy = strategies.get("one_device")
            loop.train(config, one, strategy=strategy, quiet=True)
            with workers_test.Workers(config, two) as workers:
                statuses, said = workers.wait(600)
            if statuses != [0, 0]:
                raise RuntimeError(said)
            pairs = zip(
                workers_test.losses(one), workers_test.losses(two), strict=True
            )
            worst = max(abs(a - b) / abs(a) for a, b in pairs)
        print(f"{bottleneck:13} {NUM_STEPS} steps: {worst:.1e}", flush=True)


if __name__ == "__main__":
    main()
