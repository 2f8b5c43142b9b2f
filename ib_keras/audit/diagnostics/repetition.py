"""M4: does the model repeat its answers for the audited images?"""

from typing import Any

import numpy as np

from ib_keras import seeds
from ib_keras.attacks import losses
from ib_keras.audit.audited_model import behaviour
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import batch_invariance
from ib_keras.audit.diagnostics.case import Case

_BATCH = 48
# Factor of the measured rounding error; and the largest one that is tolerated,
# a few digits of bfloat16, in which a TPU multiplies.
_ROUNDINGS = 4
_LARGEST_ROUNDING = 2.0**-7


class Repetition:
    """Asks about all clean and adversarial images, from the last to the first.

    In batches of at most 48. A model with hidden state, or that depends on the
    batch, gives other answers. For models with noise D23 asks this question.
    """

    cost = "free"
    ids = ("M4",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers M4."""
        ledger = case.ledger
        known: dict[str, Any] = dict(
            id="M4",
            question="Does the model repeat its answers in the audit?",
            source="ib_keras",
        )
        if case.is_random:
            return [
                base.Finding(
                    **known,
                    status=base.NOT_APPLICABLE,
                    evidence="The model has noise; see D23.",
                )
            ]
        size = max(min(_BATCH, len(ledger.label) // 2), 1)
        clean, attacked = (
            behaviour.batched(
                case.subject.logits_fn, images[::-1], seeds.from_int(0), size
            )[::-1]
            for images in (case.subject.images, ledger.adversarial_images)
        )
        relative = max(
            batch_invariance.threshold(case.subject.model.precision),
            _ROUNDINGS * (case.subject.behaviour.batch_difference or 0.0),
            _ROUNDINGS * _rounding(attacked, ledger),
        )
        changed = _says_otherwise(clean, ledger.clean_prediction, relative)
        changed |= _says_otherwise(
            attacked, ledger.adversarial_prediction, relative
        )
        count = int(changed.sum())
        return [
            base.Finding(
                **known,
                status=base.FAIL if count else base.PASS,
                value=count,
                threshold=0,
                evidence="Asked again after the attacks, from the last image "
                f"to the first in batches of {size}, the model gave {count} "
                f"of {len(changed)} examples another class, by more than "
                "rounding.",
                advice="The model has hidden state, or depends on the other "
                "images of a batch: export a function of "
                "one image alone."
                if count
                else "",
                examples=tuple(np.flatnonzero(changed)),
            )
        ]


def _rounding(logits, ledger):
    """By how much margins differ from the audit's, over 1 + the largest logit.

    The median, since the audit ran compiled, maybe on hardware that multiplies
    with fewer digits, and this call does not.
    """
    finite = np.isfinite(logits).all(axis=1) & np.isfinite(ledger.margin)
    if not finite.any():
        return 0.0
    logits = logits[finite]
    margin = losses.margin(logits, ledger.label[finite]).numpy()
    gap = np.abs(margin - ledger.margin[finite])
    relative = gap / (1 + np.abs(logits).max(axis=1))
    return min(float(np.median(relative)), _LARGEST_ROUNDING)


def _says_otherwise(logits, prediction, relative):
    """Where another class beats the recorded one by more than rounding."""
    finite = np.isfinite(logits).all(axis=1)
    safe = np.where(finite[:, None], logits, 0.0)
    recorded = np.maximum(prediction, 0)
    said = safe[np.arange(len(safe)), recorded]
    slack = relative * (1 + np.abs(safe).max(axis=1))
    is_beaten = safe.max(axis=1) - said > slack
    return np.where(finite, is_beaten | (prediction < 0), prediction >= 0)


def build() -> Repetition:
    """Builds the diagnostic."""
    return Repetition()
