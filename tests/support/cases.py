"""Audits of planted models, as diagnostics see them."""

import dataclasses
import types

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import runner
from ib_keras.attacks import scale
from ib_keras.audit.diagnostics.case import Case
from ib_keras.audit.diagnostics.case import stage
from ib_keras.types import ThreatModel


class AuditedModel:
    """The attributes of a model that diagnostics read."""

    precision = "float32"
    other_precision = None

    def __init__(self, num_classes, modes):
        self.num_classes = num_classes
        self.is_stochastic = "stochastic" in modes
        self._modes = modes

    def logits_fn(self, mode, num_samples=None):
        return self._modes[mode]


def subject(logits_fn, images, labels, *, draws=1, modes=None, classes=3):
    """A model in one mode with its examples; all of it None is a stand-in."""
    modes = {"mean": logits_fn} if modes is None else modes
    logit_scale = 1.0
    if images is not None:
        clean = logits_fn(tf.constant(images), seeds.from_int(0))
        logit_scale = scale.find(np.asarray(clean), labels)
    return types.SimpleNamespace(
        model=AuditedModel(classes, modes),
        logits_fn=logits_fn,
        mode="stochastic" if draws > 1 else "mean",
        num_samples=None,
        num_judge_samples=draws,
        images=images,
        labels=labels,
        logit_scale=logit_scale,
    )


def make(
    logits_fn,
    images,
    labels,
    *stages,
    norm="linf",
    epsilon=0.1,
    num_examples=100,
    **arguments,
) -> Case:
    """Audits a model by these stages (PGD where none is given)."""
    stages = stages or (stage("pgd", 2, num_steps=20, step_size=0.02),)
    model = subject(logits_fn, images, labels, **arguments)
    attacker = runner.Runner(
        logits_fn,
        list(stages),
        ThreatModel(norm, epsilon),
        batch_size=len(labels),
        num_judge_samples=model.num_judge_samples,
        compact=False,
    )
    progress = attacker.start(images, labels)
    ledger = attacker.run(images, progress)
    count = len(labels)
    rows = []
    for statistics in progress.stages:
        curve = {
            r: num_robust / count for r, _, num_robust, _ in statistics.curve
        }
        rows.append({"restart_curve": list(curve.values())})
    summary = {
        "stages": rows,
        "epsilon_curve": [],
        "robust_accuracy": ledger.robust_accuracy,
    }
    rng = np.random.default_rng(0)
    return Case(
        subject=model,
        ledger=ledger,
        summary=summary,
        threat_model=ThreatModel(norm, epsilon),
        stages=list(stages),
        rows=np.sort(rng.permutation(count)[:num_examples]),
        robust_rows=np.flatnonzero(ledger.is_robust)[:num_examples],
        radii={epsilon: (ledger, summary)},
    )


def with_gradient(case, gradient="present"):
    """The case of a model of which this much is known of its gradient."""
    behaviour = types.SimpleNamespace(gradient=gradient)
    known = {**vars(case.subject), "behaviour": behaviour}
    return dataclasses.replace(case, subject=types.SimpleNamespace(**known))
