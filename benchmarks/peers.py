"""APGD-CE and APGD-DLR against ART and torchattacks: time and strength.

python -m venv /tmp/peers && /tmp/peers/bin/pip install -e ".[cpu]" \
    adversarial-robustness-toolbox==1.20.1 torch torchattacks
/tmp/peers/bin/python -m benchmarks.peers --saved_model=... [--num_examples=500]

The same weights (the network is rebuilt layer by layer from the SavedModel's
variables), the same points, 5 restarts of 100 steps of each loss, one process,
one after the other. ART runs with eps_step = 2 epsilon and torchattacks with
100 steps, since their defaults are weaker. A peer that is not installed is
named and left out.
"""

import json
import time

import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

from ib_keras.attacks import runner
from ib_keras.audit import target
from ib_keras.data import mnist
from ib_keras.data import source
from ib_keras.types import ThreatModel

flags.DEFINE_string("saved_model", None, "A deterministic MNIST model.")
flags.DEFINE_float("epsilon", 0.1, "Radius.")
flags.DEFINE_integer("num_examples", 500, "MNIST test images.")
flags.DEFINE_integer("num_restarts", 5, "Of each loss.")
flags.DEFINE_integer("num_steps", 100, "Of each run.")
flags.mark_flag_as_required("saved_model")
FLAGS = flags.FLAGS


def weights_of(path):
    """Kernels and biases in the order of the layers of the MNIST network."""
    loaded = target.load(path).loaded
    arrays = [v.numpy() for v in loaded._model_variables]
    assert [a.ndim for a in arrays] == [2, 1] * 4, "not a deterministic MLP"
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def ours(path, images, labels):
    stages = [
        runner.Stage.build(
            {
                "attack": {
                    "name": "apgd",
                    "loss": loss,
                    "num_steps": FLAGS.num_steps,
                },
                "num_restarts": FLAGS.num_restarts,
            }
        )
        for loss in ("cross_entropy", "dlr")
    ]
    run = runner.Runner(
        target.load(path).logits_fn("mean"),
        stages,
        ThreatModel("linf", FLAGS.epsilon),
        batch_size=500,
    )
    ledger = run.run(images, run.start(images, labels))
    return ledger.robust_accuracy


def art(path, images, labels):
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    loaded = target.load(path).loaded  # Named, or its variables are dropped.
    endpoint = loaded.mean
    classifier = TensorFlowV2Classifier(
        model=lambda x, training=False: endpoint(tf.cast(x, tf.float32)),
        nb_classes=10,
        input_shape=(28, 28, 1),
        clip_values=(0.0, 1.0),
        loss_object=tf.keras.losses.SparseCategoricalCrossentropy(
            from_logits=True
        ),
    )
    robust = np.argmax(endpoint(tf.constant(images)), 1) == labels
    for loss in ("cross_entropy", "difference_logits_ratio"):
        attack = AutoProjectedGradientDescent(
            classifier,
            norm=np.inf,
            eps=FLAGS.epsilon,
            eps_step=2 * FLAGS.epsilon,
            max_iter=FLAGS.num_steps,
            nb_random_init=FLAGS.num_restarts,
            batch_size=500,
            loss_type=loss,
            verbose=False,
        )
        rows = np.flatnonzero(robust)
        if not len(rows):
            break
        found = attack.generate(x=images[rows], y=labels[rows])
        robust[rows] = (
            np.argmax(endpoint(tf.constant(found)), 1) == labels[rows]
        )
    return float(robust.mean())


def torchattacks_(path, images, labels):
    import torch
    import torchattacks

    layers = [torch.nn.Flatten()]
    for index, (kernel, bias) in enumerate(weights_of(path)):
        layer = torch.nn.Linear(*kernel.shape)
        layer.weight.data = torch.from_numpy(kernel.T.copy())
        layer.bias.data = torch.from_numpy(bias.copy())
        layers.append(layer)
        if index < 2:
            layers.append(torch.nn.ReLU())

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(*layers)

        def forward(self, x):
            return self.layers(2.0 * x - 1.0)

    network = Network().eval()
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    y = torch.from_numpy(labels.astype(np.int64))
    robust = (network(x).argmax(1) == y).numpy()
    for loss in ("ce", "dlr"):
        attack = torchattacks.APGD(
            network,
            norm="Linf",
            eps=FLAGS.epsilon,
            steps=FLAGS.num_steps,
            n_restarts=FLAGS.num_restarts,
            seed=0,
            loss=loss,
        )
        rows = np.flatnonzero(robust)
        for start in range(0, len(rows), 500):
            part = rows[start : start + 500]
            found = attack(x[part], y[part])
            robust[part] = (network(found).argmax(1) == y[part]).numpy()
    return float(robust.mean())


def main(unused):
    images, labels = mnist.build().load(f"test[:{FLAGS.num_examples}]")
    images = source.to_float(images).numpy()
    rows = {}
    peers = {"ours": ours, "art": art, "torchattacks": torchattacks_}
    for name, attack in peers.items():
        try:
            attack(FLAGS.saved_model, images[:8], labels[:8])  # Warm up.
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        began = time.perf_counter()
        accuracy = attack(FLAGS.saved_model, images, labels)
        rows[name] = {
            "robust_accuracy": accuracy,
            "seconds": round(time.perf_counter() - began, 2),
        }
        ratio = rows["ours"]["seconds"] / rows[name]["seconds"]
        rows[name]["ours_over_it"] = round(ratio, 3)
        print(name, rows[name], flush=True)
    print(json.dumps({"epsilon": FLAGS.epsilon, "rows": rows}))


if __name__ == "__main__":
    app.run(main)
