"""D12: was every number of the audit finite?"""

import numpy as np

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics.case import Case


class NonFinite:
    """Reads the counts of NaN and infinity that the audit kept."""

    cost = "free"
    ids = ("D12",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D12."""
        ledger, seen = case.ledger, case.subject.behaviour
        met = ledger.num_nonfinite > 0
        blind = met & ledger.is_robust
        clean = ledger.clean_prediction < 0
        gradients = seen.nonfinite_gradient_share
        status = base.PASS
        if met.any() or gradients > 0:
            status = base.FAIL if blind.any() else base.WARN
        return [
            base.Finding(
                id="D12",
                question="Were all logits, losses and gradients finite?",
                status=status,
                value=float(met.mean()),
                threshold=0.0,
                evidence=f"{int(met.sum())} of {len(met)} examples met a NaN "
                f"or an infinity; {int(blind.sum())} of them are robust, and "
                f"{int(clean.sum())} have no finite logits when clean. Of the "
                f"first clean gradients {gradients:.1%} are not finite.",
                advice=""
                if status == base.PASS
                else "Without finite numbers an attack cannot work, so the "
                "example counts as robust without reason: fix the model's "
                "arithmetic (a logarithm of 0, a division by 0, an overflow).",
                source="IBM ART, gradient_check",
                examples=tuple(np.flatnonzero(blind if blind.any() else met)),
            )
        ]


def build() -> NonFinite:
    """Builds the diagnostic."""
    return NonFinite()
