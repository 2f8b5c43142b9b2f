r"""Our APGD against ART's at the same budget, on five small models.

python -m venv /tmp/peers && /tmp/peers/bin/pip install -e ".[cpu]" \
    adversarial-robustness-toolbox==1.20.1 torch
/tmp/peers/bin/python -m benchmarks.strength --output=results/strength.csv

Five networks are trained on scikit-learn's digits: deterministic, VIB, CEB, one
trained on FGS images, and one distilled at temperature 20. Each library attacks
the same 300 points with the same loss, steps and restarts; ART's step is 2
epsilon, as in AutoAttack, since its default is weaker.
"""

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from absl import app
from absl import flags
from sklearn.datasets import load_digits

from ib_keras import attacks
from ib_keras import classifier
from ib_keras.bottlenecks import ceb
from ib_keras.bottlenecks import deterministic
from ib_keras.bottlenecks import vib
from ib_keras.encoders import mlp

flags.DEFINE_string("output", None, "CSV to write.")
flags.DEFINE_float("epsilon", 0.1, "Radius, l_inf.")
flags.DEFINE_integer("num_examples", 300, "Points.")
flags.DEFINE_integer("num_restarts", 2, "Of each run.")
flags.DEFINE_integer("num_steps", 50, "Of each run.")
FLAGS = flags.FLAGS

SHAPE = (8, 8, 1)
TEMPERATURE = 20.0


def data():
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[..., None]
    return images, digits.target.astype(np.int32)


def bottleneck_model(bottleneck, images, labels):
    keras.utils.set_random_seed(0)
    model = classifier.IBClassifier(
        mlp.build(SHAPE, (128, 128)), bottleneck, 10, num_samples=12
    )
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(images, labels, batch_size=64, epochs=30, verbose=0)
    return lambda x: model(x)


def plain_network():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten()]
    layers += [keras.layers.Dense(128, activation="relu") for _ in range(2)]
    return keras.Sequential(
        [keras.Input(SHAPE), *layers, keras.layers.Dense(10)]
    )


def adversarially_trained(images, labels):
    """Trained on FGS images at the radius of the attack."""
    network = plain_network()
    optimizer = keras.optimizers.Adam(1e-3)
    loss_of = tf.nn.sparse_softmax_cross_entropy_with_logits

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = loss_of(y, network(x))
        moved = x + FLAGS.epsilon * tf.sign(tape.gradient(loss, x))
        moved = tf.clip_by_value(moved, 0.0, 1.0)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(loss_of(y, network(moved)))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)

    batches = tf.data.Dataset.from_tensor_slices((images, labels))
    for x, y in batches.shuffle(2000, seed=0).batch(64).repeat(40):
        step(x, y)
    return lambda x: network(x)


def distilled(images, labels):
    """Defensive distillation: soft labels at a high temperature."""
    scaled = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher = plain_network()
    teacher.compile("adam", loss=lambda y, z: scaled(y, z / TEMPERATURE))
    teacher.fit(images, labels, batch_size=64, epochs=40, verbose=0)
    soft = tf.nn.softmax(teacher(images) / TEMPERATURE).numpy()
    student = plain_network()
    crossed = keras.losses.CategoricalCrossentropy(from_logits=True)
    student.compile("adam", loss=lambda y, z: crossed(y, z / TEMPERATURE))
    student.fit(images, soft, batch_size=64, epochs=40, verbose=0)
    return lambda x: student(x)


def by_us(model, images, labels, loss):
    found = attacks.run(
        model,
        images,
        labels,
        "apgd",
        epsilon=FLAGS.epsilon,
        num_restarts=FLAGS.num_restarts,
        num_steps=FLAGS.num_steps,
        loss=loss,
        batch_size=300,
    )
    return int(found.is_robust.sum())


def by_art(model, images, labels, loss):
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    wrapped = TensorFlowV2Classifier(
        model=lambda x, training=False: model(tf.cast(x, tf.float32)),
        nb_classes=10,
        input_shape=SHAPE,
        clip_values=(0.0, 1.0),
        loss_object=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True
        ),
    )
    attack = AutoProjectedGradientDescent(
        wrapped,
        norm=np.inf,
        eps=FLAGS.epsilon,
        eps_step=2 * FLAGS.epsilon,
        max_iter=FLAGS.num_steps,
        nb_random_init=FLAGS.num_restarts,
        batch_size=300,
        loss_type=loss,
        verbose=False,
    )
    right = np.argmax(model(tf.constant(images)), 1) == labels
    rows = np.flatnonzero(right)
    found = attack.generate(x=images[rows], y=labels[rows])
    inside = np.abs(found - images[rows]).max() <= FLAGS.epsilon + 1e-5
    assert inside, "ART left the ball"
    robust = np.argmax(model(tf.constant(found)), 1) == labels[rows]
    return int(robust.sum())


def main(unused):
    images, labels = data()
    models = {
        "deterministic": bottleneck_model(
            deterministic.Deterministic(32), images, labels
        ),
        "vib": bottleneck_model(vib.VIB(32, beta=0.01), images, labels),
        "ceb": bottleneck_model(ceb.CEB(32, 10, rho=3.0), images, labels),
        "adversarially trained": adversarially_trained(images, labels),
        "distilled": distilled(images, labels),
    }
    names = {"cross_entropy": "cross_entropy", "dlr": "difference_logits_ratio"}
    x, y = images[: FLAGS.num_examples], labels[: FLAGS.num_examples]
    rows = []
    for name, model in models.items():
        for loss, theirs in names.items():
            rows.append(
                {
                    "model": name,
                    "loss": loss,
                    "epsilon": FLAGS.epsilon,
                    "steps": FLAGS.num_steps,
                    "restarts": FLAGS.num_restarts,
                    "points": len(y),
                    "right": int(
                        (np.argmax(model(tf.constant(x)), 1) == y).sum()
                    ),
                    "robust_ours": by_us(model, x, y, loss),
                    "robust_art": by_art(model, x, y, theirs),
                }
            )
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table["never_weaker"] = table.robust_ours <= table.robust_art
    print(table.to_string(index=False))
    if FLAGS.output:
        table.to_csv(FLAGS.output, index=False)


if __name__ == "__main__":
    app.run(main)
