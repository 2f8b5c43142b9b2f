"""D6: have restarts converged?"""

import dataclasses
from typing import Any

import numpy as np

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics.case import Case

_ENOUGH = 10
_SLOPE = 0.005
_KNOWN: dict[str, Any] = dict(
    id="D6",
    question="Do more restarts change nothing?",
    source="Korshunova et al. 2021, section 3.1 and figure 2; Carlini et al. "
    "2019, section 4.4",
)
_ADVICE = (
    "Accuracy still falls with restarts, the paper's key sign of gradient "
    "obfuscation: report it as an upper bound, and run more restarts or "
    "another attack until it is flat."
)


class Restarts:
    """Reads the curves of the audit, or makes ten more restarts."""

    cost = "cheap"
    ids = ("D6",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D6."""
        answers = []
        for epsilon, (ledger, summary) in case.radii.items():
            for index, stage in enumerate(summary["stages"]):
                if len(stage["restart_curve"]) >= _ENOUGH:
                    answers.append(
                        self._of_curve(
                            epsilon, ledger, index, stage["restart_curve"]
                        )
                    )
        # The lead's curve at the radius in question, or more restarts of it.
        lead = case.summary_here["stages"][case.stages.index(case.lead)]
        if len(lead["restart_curve"]) < _ENOUGH:
            answers.append(self._of_more(case))
        return answers

    def _of_curve(self, epsilon, ledger, index, curve):
        half = curve[(len(curve) + 1) // 2 - 1]
        fall = half - curve[-1]
        count = round(fall * len(ledger.label))
        status = base.PASS
        if count:
            is_steep = fall > _SLOPE and base.is_clear(count)
            status = base.FAIL if is_steep else base.WARN
        late = (ledger.broken_by_stage == index) & (
            ledger.broken_by_restart >= (len(curve) + 1) // 2
        )
        return base.Finding(
            **_KNOWN,
            status=status,
            value=fall,
            threshold=_SLOPE,
            evidence=f"At radius {epsilon:.4g}, {100 * curve[0]:.3g}% are "
            f"robust after one restart, {100 * half:.3g}% after "
            f"{(len(curve) + 1) // 2} and {100 * curve[-1]:.3g}% after "
            f"{len(curve)}.",
            advice=_ADVICE if status == base.FAIL else "",
            examples=tuple(np.flatnonzero(late)),
            data={
                "epsilon": epsilon,
                "stage": index,
                "restart_curve": list(curve),
            },
        )

    def _of_more(self, case):
        own = case.lead
        return breaks.ask(
            case,
            [dataclasses.replace(own, num_restarts=_ENOUGH)],
            **_KNOWN,
            threshold=_SLOPE,
            words=f"{_ENOUGH} restarts more of {own.name}",
            advice=_ADVICE,
        )


def build() -> Restarts:
    """Builds the diagnostic."""
    return Restarts()
