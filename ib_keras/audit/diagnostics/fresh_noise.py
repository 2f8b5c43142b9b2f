"""D23: do adversarial images stay adversarial on fresh noise?"""

import math
from typing import Any

import numpy as np

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import traces
from ib_keras.audit.diagnostics.case import Case

_DRAWS = 20
_BY_DRAW = 0.05
_REPRODUCED = 0.01
_BATCH = 250


class FreshNoise:
    """Classifies the saved images again, on twenty draws."""

    cost = "cheap"
    ids = ("D23",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D23: whether it reproduces, and what depends on the draw."""
        if not case.is_random:
            return []
        shares = self._shares(case)
        count = case.num_examples
        # Clean errors are not attacked and count as wrong.
        shares[case.ledger.clean_prediction != case.ledger.label] = 1.0
        by_rule = float((shares <= 0.5).mean())
        mean = float(1 - shares.mean())
        every = float((shares == 0.0).mean())
        claimed = case.robust_accuracy
        moved = (shares > 0.5) == case.ledger.is_robust
        up = int((moved & case.ledger.is_robust).sum())
        down = int(moved.sum()) - up
        drift = (up - down) / count
        # The same examples twice: only those that changed count.
        slack = max(_REPRODUCED, 2 * math.sqrt(up + down) / count)
        # A number that is too low comes from lucky noise samples of the attack,
        # which stops at the first image that most draws get wrong; one that is
        # too high is invalid.
        status = base.WARN if drift < -slack else base.PASS
        if drift > slack:
            status = base.FAIL
        by_draw = mean - every
        numbers = {
            "robust_accuracy": claimed,
            "majority": by_rule,
            "mean": mean,
            "every_draw": every,
            "num_draws": _DRAWS,
        }
        known: dict[str, Any] = dict(
            source="Korshunova et al. 2021, section 3.1; AutoAttack, "
            "evaluation of randomised defences",
            data=numbers,
        )
        return [
            base.Finding(
                id="D23",
                question="Does the number reproduce on fresh noise?",
                status=status,
                value=drift,
                threshold=slack,
                evidence=f"By most of {_DRAWS} fresh draws "
                f"{100 * by_rule:.3g}% are robust, where the audit says "
                f"{100 * claimed:.3g}%.",
                advice="Raise num_judge_samples and audit again."
                if status != base.PASS
                else "",
                examples=tuple(np.flatnonzero(moved)),
                **known,
            ),
            base.Finding(
                id="D23",
                question="Is robustness a property of the image, not of the "
                "draw?",
                status=base.WARN if by_draw > _BY_DRAW else base.PASS,
                value=by_draw,
                threshold=_BY_DRAW,
                evidence=f"One draw is right on {100 * mean:.3g}% on average, "
                f"all {_DRAWS} of them on {100 * every:.3g}%: an attacker who "
                "may repeat a query gains the difference.",
                advice="Report the accuracy of one draw and of many: the "
                "difference depends on the draw and is not robustness."
                if by_draw > _BY_DRAW
                else "",
                examples=tuple(np.flatnonzero((shares > 0) & (shares < 0.5))),
                **known,
            ),
        ]

    def _shares(self, case):
        parts = []
        size = min(case.batch_size or _BATCH, _BATCH)
        for first in range(0, case.num_examples, size):
            rows = slice(first, first + size)
            parts.append(
                traces.wrong_share(
                    case.subject.logits_fn,
                    case.ledger.adversarial_images[rows],
                    case.subject.labels[rows],
                    case.seed_of(23, first),
                    _DRAWS,
                )
            )
        return np.concatenate(parts)


def build() -> FreshNoise:
    """Builds the diagnostic."""
    return FreshNoise()
