r"""fast_ensemble against AA+MT: robust accuracy, gradients and seconds.

python -m benchmarks.fast_ensemble --output=results/fast_ensemble.csv \
    --zoo=wong_kolter_mnist_0.1.npz \
    --model=runs/mnist_vib/saved_model@0.1 \
    --model=runs/mnist_deterministic_pgd_at/saved_model@0.3

Both protocols, and APGD on cross-entropy alone (5 x 100), run on the same test
images of MNIST in mean mode, without diagnostics. Each starts with a function
that was not traced before, so seconds include tracing.
"""

import importlib
import time

import pandas as pd
from absl import app
from absl import flags

from benchmarks import models as networks
from ib_keras.attacks import runner
from ib_keras.audit import protocol as protocols
from ib_keras.types import ThreatModel

flags.DEFINE_string("zoo", None, "The arrays of a provably robust network.")
flags.DEFINE_integer("num_examples", 500, "Test images.")
flags.DEFINE_string("output", None, "CSV to write.")
flags.DEFINE_multi_string("model", [], "[NAME=]SAVED_MODEL@EPSILON.")
FLAGS = flags.FLAGS

PROTOCOLS = ("fast_ensemble", "apgd_ce", "aa_mt")


def stages(name):
    """The stages of a protocol; `apgd_ce` is the first one of AA+MT."""
    whole = "aa_mt" if name == "apgd_ce" else name
    module = importlib.import_module(f"configs.audits.{whole}")
    found = protocols.build_stages(module.get_config().to_dict())
    return found[:1] if name == "apgd_ce" else found


def measure(load, epsilon, images, labels):
    """Protocol -> its ledger and seconds."""
    found = {}
    for protocol in PROTOCOLS:
        logits_fn = load()
        began = time.perf_counter()
        made = runner.Runner(
            logits_fn,
            stages(protocol),
            ThreatModel("linf", epsilon),
            batch_size=500,
        )
        ledger = made.run(images, made.start(images, labels))
        found[protocol] = ledger, time.perf_counter() - began
    return found


def main(unused_argv):
    images, labels = networks.mnist_images(FLAGS.num_examples)
    rows = []
    for name, load, epsilon in networks.attacked(FLAGS.zoo, FLAGS.model):
        found = measure(load, epsilon, images, labels)
        whole, whole_seconds = found["aa_mt"]
        for protocol, (ledger, seconds) in found.items():
            gradients = int(ledger.gradient_evaluations.sum())
            rows.append(
                {
                    "model": name,
                    "epsilon": epsilon,
                    "protocol": protocol,
                    "robust": int(ledger.is_robust.sum()),
                    "more_than_aa_mt": int(
                        ledger.is_robust.sum() - whole.is_robust.sum()
                    ),
                    "gradients": gradients,
                    "of_its_gradients": round(
                        gradients / whole.gradient_evaluations.sum(), 4
                    ),
                    "seconds": round(seconds, 1),
                    "of_its_seconds": round(seconds / whole_seconds, 3),
                }
            )
            print(rows[-1], flush=True)
        if FLAGS.output:
            pd.DataFrame(rows).to_csv(FLAGS.output, index=False)


if __name__ == "__main__":
    app.run(main)
