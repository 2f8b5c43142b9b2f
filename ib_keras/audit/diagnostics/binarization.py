"""D31: does the attack find an adversarial example that is known to exist?"""

import numpy as np
import tensorflow as tf

from ib_keras import plugins
from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras.attacks import compiled
from ib_keras.attacks import geometry
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import traces
from ib_keras.audit.diagnostics.case import Case

_INNER = 64
_CANDIDATES = 16
_FOUND = 0.9


class Binarization:
    """Adds a binary head with a planted adversarial example to the model.

    For each image the logits of random points of half the radius are inner
    points; of random corners of the ball the one whose logits are farthest
    from their mean is planted. The new binary classifier reads the logits
    along that direction, with its threshold in the middle of the gap between
    the farthest inner point and the planted one. So an adversarial example
    exists, and the attack must find one. Zimmermann et al. read the
    penultimate features; a SavedModel gives logits alone.
    """

    cost = "full"
    ids = ("D31",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D31."""
        if case.is_random:
            return []
        attacks = self._attacks(case)
        if not attacks:
            return []
        rows = case.rows
        weights, turn, is_planted = self._heads(case, rows)
        logits_fn = case.subject.logits_fn

        def binary(images, seed):
            value = tf.reduce_sum(logits_fn(images, seed) * weights, 1) - turn
            return tf.stack([-value, value], axis=1)

        binary = compiled.on(binary, None, strategies.jit_compile())

        other = case.with_subject(_Zero(case))
        is_found = np.zeros(len(rows), bool)
        for attack in attacks:
            trace = traces.run(other, attack, rows, binary)
            is_found |= trace.is_wrong
        case.gradient_evaluations = other.gradient_evaluations
        found = is_found[is_planted]
        if not len(found):
            return []
        share = float(found.mean())
        is_low = share < _FOUND
        return [
            base.Finding(
                id="D31",
                question="Does the attack find an adversarial example that "
                "was planted?",
                status=base.FAIL if is_low else base.PASS,
                value=share,
                threshold=_FOUND,
                evidence="One run of each stage that can be asked finds it "
                f"for {int(found.sum())} of {len(found)} examples.",
                advice="The attack is too weak for this model: its number is "
                "no evidence."
                if is_low
                else "",
                source="Zimmermann et al. 2022, binarization test, on logits",
                examples=tuple(rows[is_planted][~found]),
            )
        ]

    def _attacks(self, case):
        """The stages that can be traced, with losses for two classes."""
        found = []
        for stage in case.stages:
            attack = stage.attack
            is_plain = attack.num_targets is None and not attack.runs_eagerly
            if is_plain and attack.gradients_per_step:
                section = dict(stage.config)
                if section.get("loss") not in (None, "cross_entropy"):
                    section["loss"] = "margin"
                found.append(plugins.build("attacks", section))
        return found

    def _heads(self, case, rows):
        images = tf.constant(case.subject.images[rows])
        ball = geometry.ball(images, case.threat_model)
        shape = tuple(images.shape[1:])

        def logits(points):
            return case.subject.logits_fn(points, case.seed_of(31)).numpy()

        def unit(purpose):
            example_seeds = seeds.fold(
                case.seed_of(31, purpose), rows.astype(np.int32)
            )
            return seeds.uniform(example_seeds, shape, -1.0, 1.0)

        inner = np.stack(
            [
                logits(images + (ball.full_step(unit(i)) - images) / 2)
                for i in range(_INNER)
            ]
        )
        outer = np.stack(
            [
                logits(ball.full_step(unit(_INNER + i)))
                for i in range(_CANDIDATES)
            ]
        )
        middle = inner.mean(axis=0)
        distance = np.linalg.norm(outer - middle, axis=2)
        best = outer[distance.argmax(axis=0), np.arange(len(rows))]
        weights = best - middle
        weights /= np.maximum(
            np.linalg.norm(weights, axis=1, keepdims=True), 1e-12
        )
        farthest = (inner * weights).sum(axis=2).max(axis=0)
        planted = (best * weights).sum(axis=1)
        turn = (farthest + planted) / 2
        return (
            tf.constant(weights, tf.float32),
            tf.constant(turn, tf.float32),
            planted > farthest,
        )


class _Zero:
    """The examples with label 0, which all have in the new task."""

    def __init__(self, case):
        self.model = case.subject.model
        self.images = case.subject.images
        self.labels = np.zeros_like(case.subject.labels)
        self.logits_fn = case.subject.logits_fn
        self.logit_scale = case.subject.logit_scale
        self.num_judge_samples = 1


def build() -> Binarization:
    """Builds the diagnostic."""
    return Binarization()
