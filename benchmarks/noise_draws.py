r"""Which draws of a model's noise an attack does best to see.

python -m benchmarks.noise_draws --output=results/noise_draws.csv \
    --model=runs/mnist_vib/saved_model@0.1 \
    --model=runs/mnist_ceb/saved_model@0.1

AutoPGD attacks the stochastic mode at equal gradients: an example costs about
400, in one run or several. Gradients are averaged over 1, 2 or 4 draws
(`num_eot`) that are `fresh` in every step, `common` to a whole run (common
random numbers), or common to an `interval` between two checkpoints of the step
size, which is what `apgd` does. Judgements are of fresh draws, as in an audit.
Robust examples of each seed of the attack are counted; fewer is stronger.
"""

import numpy as np
import pandas as pd
from absl import app
from absl import flags

from benchmarks import models as networks
from ib_keras.attacks import apgd
from ib_keras.attacks import runner
from ib_keras.types import ThreatModel

flags.DEFINE_integer("num_examples", 300, "Test images.")
flags.DEFINE_integer("num_seeds", 3, "Of the attack.")
flags.DEFINE_string("output", None, "CSV to write.", required=True)
flags.DEFINE_multi_string("model", [], "[NAME=]SAVED_MODEL@EPSILON.")
FLAGS = flags.FLAGS

GRADIENTS = 400
EOT = (1, 2, 4)
DRAWS = ("fresh", "interval", "common")


def attack(draws, num_eot):
    """AutoPGD whose draws are as named."""
    made = apgd.build(num_steps=100, loss="cross_entropy", num_eot=num_eot)
    steps = np.arange(made.num_steps, dtype=np.int32)
    if draws == "fresh":
        made.intervals = steps
    elif draws == "common":
        made.intervals = 0 * steps
    return made


def robust(logits_fn, epsilon, draws, num_eot, images, labels, seed):
    """How many examples are robust."""
    made = runner.Runner(
        logits_fn,
        [
            runner.Stage(
                "apgd", attack(draws, num_eot), GRADIENTS // (100 * num_eot)
            )
        ],
        ThreatModel("linf", epsilon),
        batch_size=500,
        seed=seed,
        num_judge_samples=5,
    )
    ledger = made.run(images, made.start(images, labels))
    return int(ledger.is_robust.sum())


def main(unused_argv):
    images, labels = networks.mnist_images(FLAGS.num_examples)
    rows = []
    for name, load, epsilon in networks.attacked(
        None, FLAGS.model, "stochastic"
    ):
        logits_fn = load()
        for num_eot in EOT:
            for draws in DRAWS:
                found = [
                    robust(
                        logits_fn,
                        epsilon,
                        draws,
                        num_eot,
                        images,
                        labels,
                        seed,
                    )
                    for seed in range(FLAGS.num_seeds)
                ]
                rows.append(
                    {
                        "model": name,
                        "epsilon": epsilon,
                        "num_eot": num_eot,
                        "draws": draws,
                        "robust": " ".join(map(str, found)),
                        "mean": round(float(np.mean(found)), 1),
                    }
                )
                print(rows[-1], flush=True)
                pd.DataFrame(rows).to_csv(FLAGS.output, index=False)


if __name__ == "__main__":
    app.run(main)
