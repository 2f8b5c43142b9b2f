r"""Does AA+MT break anything that is certified? It must not.

python -m benchmarks.contradictions --output=results/contradictions.csv

Points are pairs of an image and a radius, of every planted model that has
bounds, every encoder under every bottleneck, and the toys. The networks are
trained on scikit-learn's digits; half of an encoder's by interval bounds, for
of others little is certified. Of each image the largest certified radius is
found by bisection. The four radii at which a model is attacked are quintiles
of these, and the points are the images that are certified there: each as near
to the limit as four radii allow. Attacks are those of configs/audits/aa_mt.py.
A certified point with an adversarial image is a contradiction.

Interrupted, the same command goes on with the models that are not in the file.
"""

import functools
import os
import time

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from absl import app
from absl import flags

from configs.audits import aa_mt
from ib_keras import certify
from ib_keras import classifier
from ib_keras import modes
from ib_keras.attacks import runner
from ib_keras.audit import protocol
from ib_keras.data import toy_overlap
from ib_keras.data import toy_tsipras
from ib_keras.types import ThreatModel
from launch import control_models

flags.DEFINE_string("output", None, "CSV to write.", required=True)
flags.DEFINE_integer("num_examples", 200, "Images of each model.")
flags.DEFINE_float("most", 0.3, "The largest radius, l_inf.")
flags.DEFINE_multi_string("only", [], "A model's name; several times for more.")
FLAGS = flags.FLAGS

BOTTLENECKS = {
    "deterministic": {"name": "deterministic", "latent_dim": 16},
    "vib": {"name": "vib", "latent_dim": 16, "beta": 0.001},
    "ceb": {"name": "ceb", "latent_dim": 16, "rho": 4.0},
}
ENCODERS = {
    "linear": {"name": "linear"},
    "mlp": {"name": "mlp", "hidden_units": (64, 64)},
    "small_cnn": {
        "name": "small_cnn",
        "filters": (8, 16),
        "hidden_units": (50,),
    },
    "preact_resnet18": {"name": "preact_resnet18", "hidden_units": (32,)},
}
# Bounded by intervals alone, and attacked on few images at one radius.
LARGE = "preact_resnet18"
# What the rule of intervals is written for.
BY_INTERVALS = ("mlp", "small_cnn")
OBJECTIVES = {
    "standard": {"name": "standard"},
    "ibp": {
        "name": "ibp",
        "epsilon": 0.05,
        "kappa": 0.5,
        "warmup_epochs": 1.0,
        "ramp_epochs": 8.0,
    },
}
TOYS = {"overlap": toy_overlap, "tsipras": toy_tsipras}


def trained(encoder, bottleneck, images, labels, objective=None):
    """The mean mode of a classifier, trained for a few epochs."""
    config = {
        "encoder": encoder,
        "bottleneck": bottleneck,
        "decoder": {"initializer": "glorot_uniform"},
        "input": {"normalisation": "minus_one_one"},
        "num_samples": 4,
        "seed": 0,
        "objective": objective,
    }
    keras.utils.set_random_seed(0)
    epochs = 20 if len(images) * 20 < 60_000 else 3
    model = classifier.build(
        config,
        image_shape=images.shape[1:],
        num_classes=int(labels.max()) + 1,
        steps_per_epoch=len(images) // 50,
    )
    model.compile(optimizer=keras.optimizers.Adam(2e-3))
    model.fit(images, labels, batch_size=50, epochs=epochs, verbose=0)
    mean = modes.mean(model)
    return lambda x, seed: mean(x)


def planted():
    """Name -> how to make it: the controls without noise."""
    made = {}
    for control in control_models.CONTROLS:
        if control.mode != "mean" or control.make in made.values():
            continue
        made[control.name] = control.make
    data = {
        c.name: c.data or control_models.test_digits
        for c in control_models.CONTROLS
    }

    def build(make, own):
        model = make()
        return (lambda x, seed: model(x)), *own()

    return {
        f"control: {name}": functools.partial(build, make, data[name])
        for name, make in made.items()
    }


def encoders():
    """Every encoder under every bottleneck, on digits."""

    def build(encoder, bottleneck, objective):
        images, labels = control_models.digits()
        count = control_models.NUM_TRAIN
        model = trained(
            ENCODERS[encoder],
            BOTTLENECKS[bottleneck],
            images[:count],
            labels[:count],
            OBJECTIVES[objective],
        )
        return model, images[count:], labels[count:]

    return {
        f"{encoder}, {bottleneck}, {name}": functools.partial(
            build, encoder, bottleneck, name
        )
        for encoder in ENCODERS
        for bottleneck in BOTTLENECKS
        for name in OBJECTIVES
        if name == "standard" or encoder in BY_INTERVALS
    }


def toys():
    """The paper's toys, linear and by a bottleneck."""

    def build(toy, bottleneck):
        data = TOYS[toy].build()
        images, labels = (np.asarray(x) for x in data.load("train"))
        test, test_labels = (np.asarray(x) for x in data.load("test"))
        scale = 255.0 if images.dtype == np.uint8 else 1.0
        images, test = (
            (x / scale).astype(np.float32) for x in (images[:5000], test)
        )
        model = trained(
            ENCODERS["linear" if bottleneck == "deterministic" else "mlp"],
            BOTTLENECKS[bottleneck],
            images,
            labels[: len(images)].astype(np.int32),
        )
        return model, test, test_labels.astype(np.int32)

    return {
        f"toy {toy}, {bottleneck}": functools.partial(build, toy, bottleneck)
        for toy in TOYS
        for bottleneck in ("deterministic", "vib")
    }


def examine(build, is_large):
    """The row of one model."""
    began = time.perf_counter()
    logits_fn, images, labels = build()
    count = FLAGS.num_examples // 10 if is_large else FLAGS.num_examples
    shares = [0.2] if is_large else [0.2, 0.4, 0.6, 0.8]
    method = "ibp" if is_large else "crown"
    images, labels = images[:count], labels[:count]
    try:
        certifier = certify.Certifier(logits_fn, images.shape[1:], method)
        radius = certifier.radius(images, labels, FLAGS.most, num_steps=10)
    except certify.NotCovered as error:
        return {"points": 0, "why": str(error)}
    proved = np.sort(radius[radius > 0])
    if not len(proved):
        return {"points": 0, "why": "no image is certified"}
    points = contradictions = 0
    nearest = -np.inf
    for epsilon in np.quantile(proved, shares, method="lower"):
        rows = np.flatnonzero(radius >= epsilon)
        found = aa_mt_of(logits_fn, images[rows], labels[rows], epsilon)
        broken = np.flatnonzero(~found.is_robust)
        # A bisection need not be monotone: this radius is proved by itself.
        again = certifier.certify(
            images[rows], labels[rows], float(epsilon)
        ).is_certified
        contradictions += int(again[broken].sum())
        points += int(again.sum())
        nearest = max(nearest, found.margin[again].max(initial=-np.inf))
    return {
        "points": points,
        "contradictions": contradictions,
        "certified_images": len(proved),
        "median_radius": float(np.median(proved)),
        "nearest": float(nearest),  # Other logit less the label's, in reach.
        "seconds": round(time.perf_counter() - began),
        "why": "",
    }


def aa_mt_of(logits_fn, images, labels, epsilon):
    """What AA+MT leaves, as a ledger."""
    stages = protocol.build_stages(aa_mt.get_config().to_dict())
    made = runner.Runner(
        logits_fn, stages, ThreatModel("linf", float(epsilon)), batch_size=500
    )
    return made.run(images, made.start(images, labels))


def main(unused_argv):
    path = FLAGS.output
    rows = pd.read_csv(path).to_dict("records") if os.path.exists(path) else []
    done = {row["model"] for row in rows}
    models = {**planted(), **encoders(), **toys()}
    if unknown := set(FLAGS.only) - models.keys():
        raise app.UsageError(
            f"No model is called {', '.join(map(repr, sorted(unknown)))}. "
            f"There are: {'; '.join(models)}."
        )
    for name in FLAGS.only or models:
        if name in done:
            continue
        rows.append({"model": name, **examine(models[name], LARGE in name)})
        print(rows[-1], flush=True)
        pd.DataFrame(rows).to_csv(path, index=False)
        tf.keras.backend.clear_session()
    table = pd.DataFrame(rows)
    print(
        f"{int(table.points.sum()):,} points of {len(table)} models, "
        f"contradictions: {int(table.contradictions.fillna(0).sum())}"
    )


if __name__ == "__main__":
    app.run(main)
