"""The bracket of an MNIST network that was trained to be provable.

python -m benchmarks.certify --zoo=wong_kolter_mnist_0.1.npz
python -m benchmarks.certify --saved_model=runs/mnist_vib_ibp/saved_model

The second is of a model of ours. If it is stochastic, certificates of the
classifier with the noise of one seed follow, and of fresh noise, by
concentration. Attacks are on mean mode alone.

The MNIST network of Wong and Kolter, "Provable defenses against adversarial
examples via the convex outer adversarial polytope", ICML 2018, trained at l_inf
0.1; its authors prove an error of at most 5.8%. Each method certifies the first
test images; APGD on cross-entropy and on DLR attacks the same ones. A certified
example with an adversarial image is a contradiction, and there must be none.
Seconds are of the whole method: reading the graph and tracing, too.
"""

import time

import numpy as np
from absl import app
from absl import flags

from benchmarks import models
from ib_keras import attacks
from ib_keras import certify
from ib_keras.audit import audited_model

flags.DEFINE_string("zoo", None, "The weights, as arrays.")
flags.DEFINE_string("saved_model", None, "A model of ours.")
flags.mark_flags_as_mutual_exclusive(["zoo", "saved_model"], required=True)
flags.DEFINE_integer("num_draws", 10, "Seeds of fresh noise.")
flags.DEFINE_float("epsilon", 0.1, "Radius, l_inf.")
flags.DEFINE_integer("num_examples", 1000, "Test images.")
flags.DEFINE_integer("num_restarts", 2, "Of each attack.")
FLAGS = flags.FLAGS

SHAPE = (28, 28, 1)
ATTACKS = ({"loss": "cross_entropy"}, {"loss": "dlr"})


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


def by_zoo():
    """Name -> classifier: the one of the file."""
    model = models.wong_kolter(FLAGS.zoo)
    return {"mean": lambda x, seed: model(x)}


def by_saved_model():
    """Name -> classifier: each mode of the model."""
    model = audited_model.load(FLAGS.saved_model)
    modes = ("mean", "stochastic") if model.is_stochastic else ("mean",)
    return {mode: model.logits_fn(mode) for mode in modes}


def report(name, logits_fn, images, labels, is_robust=None):
    """Certifies one classifier by each method, with the noise of one seed."""
    for method in certify.METHODS:
        began = time.perf_counter()
        certifier = certify.Certifier(logits_fn, SHAPE, method)
        found = certifier.certify(images, labels, FLAGS.epsilon)
        line = f"{name}, {method}: {found.is_certified.mean():.1%} certified"
        line += f" in {time.perf_counter() - began:.0f} s"
        if is_robust is not None:
            wrong = int((found.is_certified & ~is_robust).sum())
            line += f", contradictions: {wrong}"
        print(line, flush=True)


def report_fresh(logits_fn, images, labels):
    """Certifies a classifier whose noise is drawn anew."""
    began = time.perf_counter()
    found = certify.certify_over_noise(
        certify.Certifier(logits_fn, SHAPE, "crown"),
        images,
        labels,
        FLAGS.epsilon,
        num_draws=FLAGS.num_draws,
    )
    seconds = time.perf_counter() - began
    print(
        f"fresh noise, crown: {found.is_certified.mean():.1%} "
        f"certified in {seconds:.0f} s"
    )


def main(unused_argv):
    images, labels = models.mnist_images(FLAGS.num_examples)
    modes = by_zoo() if FLAGS.zoo else by_saved_model()
    mean = modes.pop("mean")
    is_robust = attacked(lambda x: mean(x, None), images, labels)
    print(f"mean: {is_robust.mean():.1%} of {len(labels)} robust if attacked")
    report("mean", mean, images, labels, is_robust)
    for logits_fn in modes.values():
        report("noise of one seed", logits_fn, images, labels)
        report_fresh(logits_fn, images, labels)


if __name__ == "__main__":
    app.run(main)
