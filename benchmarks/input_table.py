"""Whether a foreign model's input is found, asked about, or taken wrongly.

python -m benchmarks.input_table [--output=results/input_table.csv]

Small networks on digits: two architectures, trained on images of eight kinds,
exported with logits, with a softmax, and with logits that are too small by a
hundred. Each is settled on the 359 test images with nothing said of it. Wrong
is a model that is audited on other values than it was trained on.
"""

import collections
import csv
import itertools
import time

import ib_keras  # noqa: F401  Quiets TensorFlow, so it comes first.

# isort: split
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags
from absl import logging

from ib_keras import errors
from ib_keras.audit import target as targets
from tests.support import foreign
from tests.support import trained

flags.DEFINE_integer("seeds", 1, "Networks of each kind.")
flags.DEFINE_string("output", None, "CSV file to write.")
FLAGS = flags.FLAGS

OUTPUTS = {
    "logits": lambda logits: logits,
    "softmax": tf.nn.softmax,
    "logits / 100": lambda logits: 0.01 * logits,
}


def settle(path, scale, offset):
    """found, asked or WRONG; what was said; seconds."""
    began = time.perf_counter()
    try:
        target = targets.load(path).settle(*foreign.data("test"))
    except errors.UserError as error:
        return "asked", error.what, time.perf_counter() - began
    way = target.preprocessing
    is_right = np.allclose((*way.scale, *way.offset), (scale, offset), 1e-3)
    found = "found" if is_right else "WRONG"
    return found, way.describe(), time.perf_counter() - began


def answers(model, output):
    return lambda images: output(model(images))


def ask(network, trained_on, seed):
    """One row for each kind of outputs."""
    scale, offset = trained.INPUTS[trained_on]
    layers = trained.NETWORKS[network]
    model = trained.network(layers, scale, offset, seed)
    for name, output in OUTPUTS.items():
        path = foreign.module(answers(model, output), variables=model.variables)
        found, said, seconds = settle(path, scale, offset)
        yield network, trained_on, name, seed, found, said, round(seconds, 1)


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)
    kinds = itertools.product(
        trained.NETWORKS, trained.INPUTS, range(FLAGS.seeds)
    )
    rows, tally = [], collections.Counter()
    for row in itertools.chain.from_iterable(itertools.starmap(ask, kinds)):
        print(*row, sep=", ", flush=True)
        rows.append(row)
        tally[row[4]] += 1
    print(dict(tally))
    if FLAGS.output:
        with open(FLAGS.output, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            head = "network,trained on,outputs,seed,result,said,seconds"
            writer.writerow(head.split(","))
            writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
