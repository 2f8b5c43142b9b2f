"""Whether a foreign model's input is found, asked about, or taken wrongly.

python -m benchmarks.input_table [--output=results/input_table.csv]

Small networks on digits: two architectures, trained on images of eight kinds,
exported with logits, with a softmax, and with logits that are too small by a
hundred. Each is settled on the 359 test images with nothing said of it. Wrong
is a model that is audited on other values than it was trained on.
"""

import collections
import csv
import os
import tempfile
import time

import ib_keras  # noqa: F401  Quiets TensorFlow, so it comes first.

# isort: split
import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags
from absl import logging

from ib_keras import errors
from ib_keras.audit import target as targets
from ib_keras.data import digits

flags.DEFINE_integer("seeds", 1, "Networks of each kind.")
flags.DEFINE_string("output", None, "CSV file to write.")
FLAGS = flags.FLAGS

MEAN, STD = 0.306, 0.376
# Scale and offset of what the networks are trained on.
TRAINED_ON = {
    "[0, 1]": (1.0, 0.0),
    "[0, 255]": (255.0, 0.0),
    "[-1, 1]": (2.0, -1.0),
    "x - 0.5": (1.0, -0.5),
    "1 - x": (-1.0, 1.0),
    "constants of MNIST": (1 / 0.3081, -0.1307 / 0.3081),
    "own mean and deviation": (1 / STD, -MEAN / STD),
    "twice the deviation": (1 / (2 * STD), -MEAN / (2 * STD)),
}
OUTPUTS = {
    "logits": lambda logits: logits,
    "softmax": tf.nn.softmax,
    "logits / 100": lambda logits: 0.01 * logits,
}
NETWORKS = {
    "MLP": lambda: [
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
    ],
    "CNN": lambda: [
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.Flatten(),
    ],
}


def data(split):
    images, labels = digits.build().load(split)
    return images.astype(np.float32) / 255, labels


def train(layers, scale, offset, seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), *layers(), keras.layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    images, labels = data("train")
    given = scale * images + offset
    model.fit(given, labels, epochs=15, batch_size=64, verbose=0)
    return model


def save(model, output, path):
    module = tf.Module()
    module.model = model
    module.predict = tf.function(
        lambda images: OUTPUTS[output](model(images)),
        input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32)],
    )
    tf.saved_model.save(module, path)


def settle(path, scale, offset):
    """found, asked or WRONG; what was said; seconds."""
    began = time.perf_counter()
    try:
        target = targets.load(path).settle(*data("test"))
    except errors.UserError as error:
        return "asked", error.what, time.perf_counter() - began
    way = target.preprocessing
    is_right = np.allclose((*way.scale, *way.offset), (scale, offset), 1e-3)
    found = "found" if is_right else "WRONG"
    return found, way.describe(), time.perf_counter() - began


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)
    rows, tally = [], collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(FLAGS.seeds):
            for network, layers in NETWORKS.items():
                for name, (scale, offset) in TRAINED_ON.items():
                    model = train(layers, scale, offset, seed)
                    for output in OUTPUTS:
                        path = os.path.join(folder, str(len(rows)))
                        save(model, output, path)
                        found, said, seconds = settle(path, scale, offset)
                        rows.append(
                            (network, name, output, seed, found, said)
                            + (round(seconds, 1),)
                        )
                        tally[found] += 1
                        print(*rows[-1], sep=", ", flush=True)
    print(dict(tally))
    if FLAGS.output:
        with open(FLAGS.output, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            head = "network,trained on,outputs,seed,result,said,seconds"
            writer.writerow(head.split(","))
            writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
