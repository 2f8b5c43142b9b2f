"""Whether a foreign model's input is inferred, asked for, or taken wrongly.

python -m benchmarks.input_table [--output=results/input_table.csv]

Small networks on digits: two architectures, trained on images of eight kinds to
tell ten classes, three or two (of one logit), and saved in the ways that people
save models: with logits, probabilities, logits that are too small by a hundred,
several outputs or axes of one, as a `tf.Module`, by Keras' `export` and as a
`.keras` file. The inputs of each are inferred on the 359 test images without
any option. Wrong is a model that is audited on other values than it was trained
on.
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
from ib_keras.audit import audited_model
from tests.support import foreign
from tests.support import trained

flags.DEFINE_integer("seeds", 1, "Networks of each kind.")
flags.DEFINE_string("output", None, "CSV file to write.")
FLAGS = flags.FLAGS


def of_module(output):
    """Saves a `tf.Module` whose output is a function of the logits."""

    def save(model):
        return foreign.module(
            lambda images: output(model(images)), variables=model.variables
        )

    return save


def probabilities(logits):
    is_one = logits.shape[-1] == 1
    return tf.sigmoid(logits) if is_one else tf.nn.softmax(logits)


# How a network is saved -> the path of a model, from the network.
WAYS = {
    "tf.Module, logits": of_module(lambda logits: logits),
    "tf.Module, probabilities": of_module(probabilities),
    "tf.Module, logits / 100": of_module(lambda logits: 0.01 * logits),
    "tf.Module, [n, 1, 1, classes]": of_module(
        lambda logits: logits[:, None, None, :]
    ),
    "tf.Module, a dictionary": of_module(
        lambda logits: {"logits": logits, "norm": tf.norm(logits, axis=1)}
    ),
    "Keras export, logits": foreign.export,
    ".keras, logits": foreign.keras_file,
}
CLASSES = (10, 3, 2)
HEAD = "network,trained on,classes,saved as,seed,result,said,seconds"


def infer_io(path, num_classes, scale, offset):
    """found, asked or WRONG; the message; seconds."""
    images, labels = foreign.data("test")
    began = time.perf_counter()
    try:
        audited = audited_model.load(path).infer_io(
            images, labels % num_classes
        )
    except errors.UserError as error:
        return "asked", error.what, time.perf_counter() - began
    way = audited.preprocessing
    is_right = np.allclose((*way.scale, *way.offset), (scale, offset), 1e-3)
    found = "found" if is_right else "WRONG"
    return found, way.describe(), time.perf_counter() - began


def ask(network, trained_on, num_classes, seed):
    """One row for each way to save a network; all of them for ten classes."""
    scale, offset = trained.INPUTS[trained_on]
    layers = trained.NETWORKS[network]
    model = trained.network(layers, scale, offset, seed, num_classes)
    names = list(WAYS) if num_classes == 10 else list(WAYS)[:2]
    for name in names:
        path = WAYS[name](model)
        found, said, seconds = infer_io(path, num_classes, scale, offset)
        yield (
            *(network, trained_on, num_classes, name, seed),
            *(found, said, round(seconds, 1)),
        )


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)
    kinds = itertools.product(
        trained.NETWORKS, trained.INPUTS, CLASSES, range(FLAGS.seeds)
    )
    rows, tally = [], collections.Counter()
    for row in itertools.chain.from_iterable(itertools.starmap(ask, kinds)):
        print(*row, sep=", ", flush=True)
        rows.append(row)
        tally[row[5]] += 1
    print(dict(tally))
    if FLAGS.output:
        with open(FLAGS.output, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(HEAD.split(","))
            writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
