"""D29, D32: does this protocol, on this machine, find known examples?"""

import numpy as np
import tensorflow as tf

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics.case import Case

_COUNT = 64
_MISSES = 0.02


class Validation:
    """Runs the protocol on a linear model of the same shape.

    The logits are w.(x - 1/2) for class 0 and -w.(x - 1/2) - k/10 for class k,
    so the nearest other class is 1 and the smallest margin in a ball is known:
    the ball moves w.x by epsilon |w|_1 (l_inf) or epsilon |w|_2 (l2). Images
    stay away from the bounds of the box, which then have no effect.
    """

    cost = "full"
    ids = ("D29", "D32")

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D29, and D32 by the same closed form."""
        images, labels, exact, logits_fn = _planted(case)
        other = case.with_subject(_Planted(case, images, labels))
        found = other.attack(
            case.own_stages(),
            np.arange(_COUNT),
            logits_fn=logits_fn,
            is_random=False,
        ).is_robust
        case.gradient_evaluations = other.gradient_evaluations
        missed = found & ~exact
        false = ~found & exact
        share = float(missed.mean())
        source = "Carlini et al. 2019, section 4.5; closed form"
        return [
            base.Finding(
                id="D29",
                question="Does the protocol find all that exists on a linear "
                "model?",
                status=base.FAIL if share > _MISSES else base.PASS,
                value=share,
                threshold=_MISSES,
                evidence=f"Of {int((~exact).sum())} examples that can be "
                f"broken it misses {int(missed.sum())}.",
                advice="The attack is too weak for the simplest model: use "
                "more or larger steps."
                if share > _MISSES
                else "",
                source=source,
            ),
            base.Finding(
                id="D32",
                question="Does it break nothing that cannot be broken?",
                status=base.FAIL if false.any() else base.PASS,
                value=float(false.mean()),
                threshold=0.0,
                evidence=f"Of {int(exact.sum())} examples of a linear model "
                f"that no image of the ball breaks it breaks "
                f"{int(false.sum())}.",
                advice="This installation is faulty: do not use its numbers."
                if false.any()
                else "",
                source=source,
            ),
        ]


class _Planted:
    """The attributes of a subject that `Case.attack` reads."""

    def __init__(self, case, images, labels):
        self.model = case.subject.model
        self.images, self.labels = images, labels
        self.num_judge_samples = 1


def _planted(case):
    """Images, labels, which of them are robust, and the model."""
    shape = case.subject.images.shape[1:]
    size = int(np.prod(shape))
    rng = np.random.default_rng(case.seed)
    weights = rng.uniform(0.5, 1.5, size) * rng.choice([-1, 1], size) / size
    epsilon = float(case.threat_model.epsilon)
    reach = epsilon * np.abs(weights).sum()
    if case.threat_model.norm == "l2":
        reach = epsilon * np.linalg.norm(weights)
    # Along sign(w), where a step of a moves w.x by a |w|_1.
    steps = np.linspace(0.05, 1.95, _COUNT) * reach / np.abs(weights).sum()
    steps = np.minimum(steps, 0.45)
    flat = 0.5 + steps[:, None] * np.sign(weights)
    scale = 1.0 / reach
    # The margin is 2 scale w.(x - 1/2) + 1/10, and least at -epsilon.
    least = 2 * scale * (steps * np.abs(weights).sum() - reach) + 0.1
    kernel = tf.constant(scale * weights[:, None], tf.float32)
    offsets = tf.constant(0.1 * np.arange(case.num_classes), tf.float32)
    signs = tf.constant([1.0] + [-1.0] * (case.num_classes - 1))

    def logits_fn(images, seed):
        del seed
        value = tf.reshape(images - 0.5, [-1, size]) @ kernel
        return value * signs - offsets

    images = flat.reshape([_COUNT, *shape]).astype(np.float32)
    return images, np.zeros(_COUNT, np.int32), least > 0, logits_fn


def build() -> Validation:
    """Builds the diagnostic."""
    return Validation()
