"""The bracket of a network that was trained to be provable.

python -m benchmarks.certify --zoo=wong_kolter_mnist_0.1.npz

The MNIST network of Wong and Kolter, "Provable defenses against adversarial
examples via the convex outer adversarial polytope", ICML 2018, trained at l_inf
0.1; its authors prove an error of at most 5.8%. Each method certifies the first
test images; APGD on cross-entropy and on DLR attacks the same ones. A certified
example with an adversarial image is a contradiction, and there must be none.
Seconds are of the whole method: reading the graph and tracing, too.
"""

import time

import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

from ib_keras import attacks
from ib_keras import certify
from ib_keras.data import mnist

flags.DEFINE_string("zoo", None, "The weights, as arrays.", required=True)
flags.DEFINE_float("epsilon", 0.1, "Radius, l_inf.")
flags.DEFINE_integer("num_examples", 1000, "Test images.")
flags.DEFINE_integer("num_restarts", 2, "Of each attack.")
FLAGS = flags.FLAGS

SHAPE = (28, 28, 1)
ATTACKS = ({"loss": "cross_entropy"}, {"loss": "dlr"})


def network(path):
    """The network: two convolutions and a dense layer, each with a ReLU."""
    w = dict(np.load(path))

    def convolve(x, kernel, bias):
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
        x = tf.nn.conv2d(x, w[kernel], strides=2, padding="VALID")
        return tf.nn.relu(x + w[bias])

    def logits(images):
        x = convolve(convolve(images, "c1", "b1"), "c2", "b2")
        x = tf.reshape(tf.transpose(x, [0, 3, 1, 2]), [-1, 1568])
        x = tf.nn.relu(tf.matmul(x, w["d1"]) + w["b3"])
        return tf.matmul(x, w["d2"]) + w["b4"]

    return logits


def attacked(model, images, labels):
    """Which examples neither attack breaks."""
    is_robust = np.ones(len(labels), bool)
    for arguments in ATTACKS:
        is_robust &= attacks.run(
            model,
            images,
            labels,
            "apgd",
            epsilon=FLAGS.epsilon,
            num_restarts=FLAGS.num_restarts,
            num_steps=50,
            **arguments,
        ).is_robust
    return is_robust


def main(unused_argv):
    model = network(FLAGS.zoo)
    images, labels = mnist.build().load("test")
    images = (images[: FLAGS.num_examples] / 255).astype(np.float32)
    labels = labels[: FLAGS.num_examples].astype(np.int32)
    is_robust = attacked(model, images, labels)
    print(f"attacked: {is_robust.mean():.1%} of {len(labels)} robust")
    for method in certify.METHODS:
        began = time.perf_counter()
        certifier = certify.Certifier(lambda x, seed: model(x), SHAPE, method)
        found = certifier.certify(images, labels, FLAGS.epsilon)
        seconds = time.perf_counter() - began
        print(
            f"{method}: {found.is_certified.mean():.1%} certified in "
            f"{seconds:.0f} s, contradictions: "
            f"{int((found.is_certified & ~is_robust).sum())}",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
