"""D15, D16: does a run finish, and does its last iterate matter?"""

import numpy as np

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import traces
from ib_keras.audit.diagnostics.case import Case

_LAST = 10
_RANGE = 0.05
_SHARE = 0.1
_SOURCE = "Pintor et al. 2022 (IoAF), section 3"


class Convergence:
    """Records one run of the first stage that follows gradients."""

    cost = "cheap"
    ids = ("D15", "D16")

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D15 and D16."""
        attack = next(
            (
                s.attack
                for s in case.stages
                if s.attack.num_targets is None
                and s.attack.gradients_per_step
                and not s.attack.runs_eagerly
                and s.attack.num_steps >= 2 * _LAST
            ),
            None,
        )
        if attack is None:
            return []
        rows = case.rows
        trace = traces.run(case, attack, rows, each_step=True)
        return [
            self._silent(rows, trace),
            self._incomplete(rows, trace, attack.num_steps),
        ]

    def _silent(self, rows, trace):
        lost = trace.is_wrong & ~trace.step_is_wrong[-1]
        return base.Finding(
            id="D15",
            question="Is every success on the way counted?",
            status=base.PASS,
            value=0.0,
            threshold=0.0,
            evidence="Every iterate counts here, so none is lost. A tool that "
            "looks at the last iterate alone would miss "
            f"{int(lost.sum())} of {int(trace.is_wrong.sum())} "
            "examples that one run breaks.",
            source=_SOURCE,
            examples=tuple(rows[lost]),
            data={"missed_by_last_iterate": float(lost.mean())},
        )

    def _incomplete(self, rows, trace, num_steps):
        loss = trace.step_loss
        losses = np.where(np.isfinite(loss), loss, -1e30)
        best = np.maximum.accumulate(losses, axis=0)
        span = best[-1] - best[0]
        gain = (best[-1] - best[-1 - _LAST]) / np.where(span > 0, span, 1.0)
        # Broken examples need not converge.
        still = (gain > _RANGE) & ~trace.is_wrong
        share = float(still.mean())
        status = base.WARN if share > _SHARE else base.PASS
        return base.Finding(
            id="D16",
            question="Has the loss stopped rising when a run ends?",
            status=status,
            value=share,
            threshold=_SHARE,
            evidence=f"Of {len(rows)} examples {int(still.sum())} are robust "
            f"after {num_steps} steps while their loss still rose by more than "
            f"{100 * _RANGE:g}% of its whole rise in the last {_LAST}.",
            advice="Give the attack more steps, and see D5."
            if status == base.WARN
            else "",
            source=_SOURCE,
            examples=tuple(rows[still]) if status == base.WARN else (),
        )


def build() -> Convergence:
    """Builds the diagnostic."""
    return Convergence()
