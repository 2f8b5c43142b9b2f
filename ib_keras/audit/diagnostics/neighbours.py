"""D38: is what lies next to the nearest misses still robust?"""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras import watchdog
from ib_keras.attacks import base as attacks_base
from ib_keras.attacks import geometry
from ib_keras.attacks import losses
from ib_keras.attacks.base import check_count
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics import judged
from ib_keras.audit.diagnostics import traces
from ib_keras.audit.diagnostics.case import Case
from ib_keras.types import ThreatModel

# Shares of the change that are kept.
_SHARES = (0.25, 0.5, 0.75, 0.9, 0.97)
# Of epsilon: how far pixels are moved at random.
_JITTERS = (1 / 32, 1 / 4)
# Largest values of stored pixels; the first is of 8-bit files.
_LARGEST = (255, 16, 15, 1)


class Neighbours:
    """Shrinks, shakes and rounds the nearest miss of each robust example.

    And attacks the model through images that a file can hold.

    Args:
        num_draws: Random neighbours for each width.
        num_steps: Of the attack.
    """

    cost = "cheap"
    ids = ("D38",)

    def __init__(self, num_draws, num_steps):
        self.num_draws = num_draws
        self.num_steps = num_steps

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D38."""
        known: dict[str, Any] = dict(
            id="D38",
            question="Are the neighbours of the nearest misses robust, too, "
            "and images that a file can hold?",
            source="ib_keras; of images as files Kurakin et al. 2017",
        )
        rows = case.robust_rows
        if not len(rows):
            return [breaks.none_is_robust(**known)]
        clean = case.subject.images[rows]
        misses = case.ledger.adversarial_images[rows]
        values = lattices(case.subject.images)
        found = neighbours(
            clean,
            misses,
            case.threat_model.epsilon,
            values,
            self.num_draws,
            np.random.default_rng(case.seed),
        )
        words = (
            f"{len(found)} neighbours of each nearest miss (shrunk, moved a "
            "little, rounded to the values of stored pixels)"
        )
        # The smallest fits the data if any does.
        stored = self._stored(case, rows, values[0])
        if stored:
            words += f" and {self.num_steps} steps of PGD on rounded images"
        found += stored
        broken = np.zeros(len(rows), bool)
        by_kind: dict[str, int] = {}
        for index, (kind, images) in enumerate(found):
            wrong = judged.judge(case, rows, images, 38 + index).is_wrong
            by_kind[kind] = by_kind.get(kind, 0) + int(wrong.sum())
            broken |= wrong
        answer = breaks.finding(
            case,
            rows,
            broken,
            threshold=0.002,
            words=words,
            advice="The model answers otherwise next to where attacks end: it "
            "reacts to the attack, not to the image. Attack it through "
            "rounded or smoothed images.",
            **known,
        )
        data = {**answer.data, "broken_by_kind": by_kind}
        return [dataclasses.replace(answer, data=data)]

    def _stored(self, case, rows, largest):
        """What PGD finds whose every iterate the model sees rounded."""
        # Rounding leaves no ball whose radius is a stored value.
        num_levels = math.floor(case.threat_model.epsilon * largest + 1e-4)
        epsilon = num_levels / largest
        has_gradient = case.subject.behaviour.gradient in ("present", "zero")
        is_linf = case.threat_model.norm == "linf"
        if not (epsilon and is_linf and has_gradient):
            return []
        ascend = traces.compiled(case.attacked, "stored", _ascend)
        clean = tf.constant(case.subject.images[rows])
        labels = tf.constant(case.subject.labels[rows])
        step_size = max(epsilon / 4, 1 / largest)
        numbers = tf.constant([epsilon, step_size, largest], tf.float32)
        images = best = clean
        highest = tf.fill([len(rows)], -np.inf)
        for step in range(self.num_steps):
            watchdog.beat()
            seed = seeds.fold(case.seed_of(38), step)
            images, stored, margin = ascend(
                (images, clean, labels), (seed, numbers)
            )
            is_higher = margin > highest
            highest = tf.where(is_higher, margin, highest)
            best = tf.where(geometry.per_image(is_higher, best), stored, best)
        case.gradient_evaluations += self.num_steps * len(rows)
        return [("stored", best.numpy())]


def _ascend(logits_fn, images, clean, labels, seed, numbers):
    """A step of PGD on the margin at the rounded images, and those."""
    epsilon, step_size, largest = tf.unstack(numbers, num=3)
    stored = tf.round(images * largest) / largest
    found, gradient = attacks_base.evaluate_gradient(
        logits_fn,
        lambda logits: losses.margin(logits, labels),
        stored,
        labels,
        seed,
    )
    ball = geometry.ball(clean, ThreatModel("linf", epsilon))
    moved = ball.project(images + step_size * ball.steepest(gradient))
    is_finite = tf.math.is_finite(found.gradient_norm)
    moved = tf.where(geometry.per_image(is_finite, images), moved, images)
    return moved, stored, found.margin


def lattices(images: np.ndarray) -> list[int]:
    """The largest stored values L for which all pixels are multiples of 1/L.

    Args:
        images: float32, clean ones in [0, 1].

    Returns:
        Of the usual ones those that fit, and 255.
    """
    fitting = [
        largest
        for largest in _LARGEST
        if np.abs(images * largest - np.rint(images * largest)).max() < 1e-3
    ]
    return sorted({_LARGEST[0], *fitting[-1:]})


def neighbours(
    clean: np.ndarray,
    misses: np.ndarray,
    epsilon: float,
    largest_values: list[int],
    num_draws: int,
    rng: np.random.Generator,
) -> list[tuple[str, np.ndarray]]:
    """Points next to nearest misses; the judge takes them into their balls.

    Args:
        clean: float32 `[n, ...]`.
        misses: float32 `[n, ...]`, within epsilon of them.
        epsilon: Radius.
        largest_values: As `lattices` gives them.
        num_draws: Random neighbours for each width.
        rng: Of the random ones.

    Returns:
        Pairs of the kind ("shrunk", "corner", "shaken", "rounded") and images
        `[n, ...]` in the box.
    """
    change = misses - clean
    found = [("shrunk", clean + share * change) for share in _SHARES]
    # Of l2 this leaves the ball, and the projection keeps its direction.
    found.append(("corner", clean + epsilon * np.sign(change)))
    for width in _JITTERS:
        for _ in range(num_draws):
            noise = rng.uniform(-1.0, 1.0, clean.shape)
            found.append(("shaken", misses + width * epsilon * noise))
    for largest in largest_values:
        # To the nearest value, and to the nearest one that is not farther from
        # the clean image: the first can leave the ball and be cut again.
        steps = change * largest
        whole = np.fix(steps + 1e-4 * np.sign(steps)) / largest
        found.append(("rounded", np.rint(misses * largest) / largest))
        found.append(("rounded", clean + whole))
    return [
        (kind, np.clip(images, 0.0, 1.0).astype(np.float32))
        for kind, images in found
    ]


def build(num_draws: int = 3, num_steps: int = 20) -> Neighbours:
    """Builds the diagnostic."""
    return Neighbours(
        check_count("num_draws", num_draws), check_count("num_steps", num_steps)
    )
