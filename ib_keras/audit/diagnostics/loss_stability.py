"""D14: is the loss stable in a small neighbourhood?"""

import numpy as np
import tensorflow as tf

from ib_keras.attacks import losses
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import traces
from ib_keras.audit.diagnostics.case import Case

_SIDE = 8 / 255
_THRESHOLD = 0.1


class LossStability:
    """Compares the margin at an image and around it.

    Cross-entropy is near zero on clean images, where its relative changes are
    meaningless; so the margin is used.

    Args:
        num_draws: Points per example.
    """

    cost = "cheap"
    ids = ("D14",)

    def __init__(self, num_draws):
        self.num_draws = num_draws

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D14."""
        rows = case.rows
        images = tf.constant(case.subject.images[rows])
        labels = tf.constant(case.subject.labels[rows])
        margins = traces.compiled(case.subject.logits_fn, "margins", _margins)
        rng = np.random.default_rng(case.seed)
        # The same draw of the model's noise for both.
        seed = case.seed_of(14)
        there = margins((images, labels), (seed,)).numpy()
        total = np.zeros(len(rows))
        for _ in range(self.num_draws):
            moved = images + rng.uniform(
                -_SIDE / 2, _SIDE / 2, images.shape
            ).astype(np.float32)
            moved = tf.clip_by_value(moved, 0.0, 1.0)
            here = margins((moved, labels), (seed,)).numpy()
            change = np.abs(here - there) / np.maximum(np.abs(there), 1e-12)
            total += np.minimum(change, 1.0)
        change = total / self.num_draws
        finite = np.isfinite(change)
        change = np.where(finite, change, 1.0)
        value = float(np.median(change))
        is_rough = value > _THRESHOLD or not finite.all()
        status = base.WARN if is_rough else base.PASS
        return [
            base.Finding(
                id="D14",
                question="Is the loss stable around an image?",
                status=status,
                value=value,
                threshold=_THRESHOLD,
                evidence=f"In a cube of side {_SIDE:.3g} the margin changes "
                f"by {100 * value:.2g}% of itself (median of {len(rows)} "
                f"examples, {self.num_draws} points each); on "
                f"{int((~finite).sum())} it is not finite.",
                advice="A loss this rough misleads single gradients: average "
                "gradients over a neighbourhood, or attack without them."
                if status == base.WARN
                else "",
                source="Pintor et al. 2022 (IoAF), unstable predictions",
                examples=tuple(rows[np.argsort(-change)[:3]])
                if status == base.WARN
                else (),
            )
        ]


def _margins(logits_fn, images, labels, seed):
    return losses.margin(logits_fn(images, seed), labels)


def build(num_draws: int = 100) -> LossStability:
    """Builds the diagnostic."""
    return LossStability(num_draws)
