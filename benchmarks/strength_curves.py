r"""Robust examples against gradients spent: APGD, MD, PMA and ART's ACG.

python -m benchmarks.strength_curves --output=results/strength_curves.csv \
    --zoo=wong_kolter_mnist_0.1.npz \
    --model=VIB=runs/mnist_vib/saved_model@0.1 \
    --model=pgd_at=runs/mnist_deterministic_pgd_at/saved_model@0.3

Every attack starts again, from other random points, until it has spent the most
gradients an example; a point of a curve is what is robust after so many, on the
same test images of MNIST in mean mode. APGD (100 steps) ascends cross-entropy,
DLR and the probability margin; MD is `margin_decomposition`, from each term in
turn; PMA is that of its paper, see `benchmarks.pma`.
ACG (Yamamura et al. 2022) is ART's, with its own stopping of examples and the
step of APGD, 2 epsilon, where `adversarial-robustness-toolbox` is installed; it
is run anew for each point. Also draws the curves, as a PNG beside the table.
"""

import pathlib

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from absl import app
from absl import flags
from matplotlib import ticker
from matplotlib.figure import Figure

from benchmarks import models as networks
from benchmarks import pma
from ib_keras.attacks import apgd
from ib_keras.attacks import compiled
from ib_keras.attacks import margin_decomposition
from ib_keras.attacks import runner
from ib_keras.types import ThreatModel

flags.DEFINE_string("zoo", None, "The arrays of a provably robust network.")
flags.DEFINE_integer("num_examples", 500, "Test images.")
flags.DEFINE_string("output", None, "CSV to write.", required=True)
flags.DEFINE_multi_string("model", [], "[NAME=]SAVED_MODEL@EPSILON.")
FLAGS = flags.FLAGS

# Gradients an example, at which curves are read.
BUDGETS = (10, 20, 50, 101, 202, 505, 1010)
_STEPS = 100  # Of APGD and of two runs of PMA.


def stages(name):
    """The stages of one of our attacks, as long as the largest budget."""
    num_runs = BUDGETS[-1] // (_STEPS + 1)
    if name in ALTERNATING:
        runs = [run for _ in range(num_runs) for run in ALTERNATING[name]()]
        return [runner.Stage(f"{i}", run) for i, run in enumerate(runs)]
    loss = {
        "APGD-CE": "cross_entropy",
        "APGD-DLR": "dlr",
        "APGD-PM": "probability_margin",
    }[name]
    return [runner.Stage("0", apgd.build(_STEPS, loss), num_runs)]


# Attacks of two kinds of runs in turn, of half as many steps.
ALTERNATING = {
    "MD": lambda: [
        margin_decomposition.build(_STEPS // 2, term)
        for term in ("label", "other")
    ],
    "PMA": lambda: [
        pma.ProbabilityMarginAttack(r, _STEPS // 2) for r in (False, True)
    ],
}
OURS = ("APGD-CE", "APGD-DLR", "APGD-PM", "MD", "PMA")


def by_us(name, logits_fn, epsilon, images, labels):
    """Budget -> examples that are robust after it."""
    made = runner.Runner(
        logits_fn, stages(name), ThreatModel("linf", epsilon), batch_size=500
    )
    ledger = made.run(images, made.start(images, labels))
    # Iterate s is evaluated by gradient s + 1 of its run.
    is_turned = name in ALTERNATING
    one = _STEPS // 2 + 1 if is_turned else _STEPS + 1
    run = ledger.broken_by_stage if is_turned else ledger.broken_by_restart
    spent = run * one + ledger.broken_at_step + 1
    is_right = ledger.clean_prediction == labels
    broken = ledger.broken_by_stage >= 0
    return {
        budget: int((is_right & ~(broken & (spent <= budget))).sum())
        for budget in BUDGETS
    }


def by_acg(logits_fn, epsilon, images, labels):
    """As `by_us`; None where ART is not installed."""
    try:
        from art.attacks.evasion import AutoConjugateGradient
        from art.estimators.classification import TensorFlowV2Classifier
    except ImportError:
        return None
    seed = tf.zeros([2], tf.int32)
    model = tf.function(lambda x: logits_fn(tf.cast(x, tf.float32), seed))
    wrapped = TensorFlowV2Classifier(
        model=lambda x, training=False: model(x),
        nb_classes=10,
        input_shape=images.shape[1:],
        clip_values=(0.0, 1.0),
        loss_object=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True
        ),
    )
    found = {}
    for budget in BUDGETS:
        attack = AutoConjugateGradient(
            wrapped,
            norm=np.inf,
            eps=epsilon,
            eps_step=2 * epsilon,
            max_iter=min(budget, _STEPS),
            nb_random_init=max(budget // _STEPS, 1),
            batch_size=len(images),
            loss_type="cross_entropy",
            verbose=False,
        )
        attacked = attack.generate(images, labels)
        # As every attack is judged: in the ball and in the box.
        attacked = np.clip(attacked, images - epsilon, images + epsilon)
        logits = [model(x).numpy() for x in (images, attacked.clip(0, 1))]
        right = [z.argmax(1) == labels for z in logits]
        found[budget] = int((right[0] & right[1]).sum())
    return found


def draw(table, path):
    """One panel a model."""
    names = list(table.model.unique())
    figure = Figure(figsize=(3.2 * len(names), 3.0), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(axes, names, strict=True):
        own = table[table.model == name]
        for attack, curve in own.groupby("attack", sort=False):
            panel.plot(curve.gradients, curve.robust, marker=".", label=attack)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        panel.yaxis.set_major_formatter(ticker.ScalarFormatter())
        panel.yaxis.set_minor_locator(ticker.NullLocator())
        panel.set_title(f"{name}, epsilon {own.epsilon.iloc[0]:g}", size=8)
        panel.set_xlabel("gradients an example")
    axes[0].set_ylabel(f"robust of {FLAGS.num_examples}")
    axes[-1].legend(fontsize=7)
    figure.savefig(path, dpi=150)


def main(unused_argv):
    images, labels = networks.mnist_images(FLAGS.num_examples)
    rows = []
    for name, load, epsilon in networks.attacked(FLAGS.zoo, FLAGS.model):
        logits_fn = load()
        curves = {
            attack: by_us(attack, logits_fn, epsilon, images, labels)
            for attack in OURS
        }
        plain = compiled.of(logits_fn)
        curves["ACG (ART)"] = by_acg(plain, epsilon, images, labels)
        for attack, curve in curves.items():
            rows += [
                {
                    "model": name,
                    "epsilon": epsilon,
                    "attack": attack,
                    "gradients": budget,
                    "robust": robust,
                }
                for budget, robust in (curve or {}).items()
            ]
            print(name, epsilon, attack, curve, flush=True)
        table = pd.DataFrame(rows)
        table.to_csv(FLAGS.output, index=False)
    draw(table, pathlib.Path(FLAGS.output).with_suffix(".png"))


if __name__ == "__main__":
    app.run(main)
