"""D22: is the expectation over noise taken well enough?"""

import functools
import inspect
import math

import numpy as np
import tensorflow as tf

from ib_keras import plugins
from ib_keras import seeds
from ib_keras.attacks import base as attacks_base
from ib_keras.attacks import geometry
from ib_keras.attacks import losses
from ib_keras.attacks.runner import Stage
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics import traces
from ib_keras.audit.diagnostics.case import Case
from ib_keras.types import ThreatModel

_COSINE = 0.9
_SOURCE = "Athalye et al. 2018, section 4.2; Carlini et al. 2019, section 4.6"


class Expectation:
    """Compares gradients of independent draws; the full set attacks with more.

    Args:
        num_eot: Draws that the first stage's gradient is averaged over in
            addition; empty for the comparison alone.
    """

    cost = "cheap"
    ids = ("D22",)

    def __init__(self, num_eot):
        self.num_eot = tuple(num_eot)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D22."""
        if not case.is_random:
            return []
        stage = case.lead
        build = plugins.load("attacks", stage.config["name"]).build
        if "num_eot" not in inspect.signature(build).parameters:
            return [self._agreement(case, 1)]
        answers = [self._agreement(case, stage.config.get("num_eot", 1))]
        for count in self.num_eot:
            more = Stage.build(
                {
                    "name": stage.name,
                    "num_restarts": 1,
                    "attack": {**stage.config, "num_eot": count},
                }
            )
            answers.append(
                breaks.ask(
                    case,
                    [more],
                    id="D22",
                    question=f"Does an expectation over {count} draws find "
                    "nothing more?",
                    source=_SOURCE,
                    threshold=0.005,
                    words=f"{stage.name} with {count} draws a gradient",
                    advice="Raise num_eot in the protocol's stages.",
                )
            )
        return answers

    def _agreement(self, case, num_eot):
        rows = case.rows
        norm = case.threat_model.norm
        gradient = traces.compiled(
            case.attacked,
            ("gradient", norm, num_eot),
            functools.partial(_gradient, norm, num_eot),
        )
        batched = (
            tf.constant(case.subject.images[rows]),
            tf.constant(case.subject.labels[rows]),
            seeds.fold(case.seed_of(22), rows.astype(np.int32)),
        )
        epsilon = tf.constant(case.threat_model.epsilon, tf.float32)
        one, other = (
            gradient(batched, (case.seed_of(22, i), epsilon)).numpy()
            for i in range(2)
        )
        case.gradient_evaluations += 2 * num_eot * len(rows)
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        cosines = (one * other).sum(axis=1) / np.where(norms > 0, norms, 1.0)
        cosines = np.where(np.isfinite(cosines), cosines, 0.0)
        value = float(np.median(cosines))
        status = base.PASS if value >= _COSINE else base.WARN
        return base.Finding(
            id="D22",
            question="Do two independent gradients agree?",
            status=status,
            value=value,
            threshold=_COSINE,
            evidence=f"The median cosine of two gradients, each over "
            f"{num_eot} draw(s) of the classifier, is {value:.3f}.",
            advice="Average over more draws (num_eot), and run the full set, "
            "which attacks with more."
            if status == base.WARN
            else "",
            source=_SOURCE,
            examples=tuple(rows[np.argsort(cosines)[:3]])
            if status == base.WARN
            else (),
        )


def _gradient(
    norm, num_eot, logits_fn, images, labels, example_seeds, seed, epsilon
):
    ball = geometry.ball(images, ThreatModel(norm, epsilon))
    found = attacks_base.evaluate_gradient(
        logits_fn,
        lambda logits: losses.cross_entropy(logits, labels),
        ball.random_point(example_seeds),
        labels,
        seed,
        num_eot,
    )[1]
    return tf.reshape(found, [-1, math.prod(found.shape[1:])])


def build(num_eot=()) -> Expectation:
    """Builds the diagnostic."""
    return Expectation(num_eot)
