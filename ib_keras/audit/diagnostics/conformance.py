"""D33: are the adversarial images admissible?"""

import numpy as np

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics.case import Case

_SLACK = 1e-6


class Conformance:
    """Measures every adversarial image again, with NumPy alone."""

    cost = "free"
    ids = ("D33",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D33."""
        return [
            self._measure(case, epsilon, ledger)
            for epsilon, (ledger, _) in case.radii.items()
        ]

    def _measure(self, case, epsilon, ledger):
        found = np.float64(ledger.adversarial_images)
        change = found - np.float64(case.subject.images)
        change = np.abs(change.reshape(len(change), -1))
        if case.threat_model.norm == "linf":
            distance = change.max(axis=1)
        else:
            distance = np.sqrt((change**2).sum(axis=1))
        flat = found.reshape(len(found), -1)
        bad = (
            ~np.isfinite(flat).all(axis=1)
            | (flat.min(axis=1) < 0.0)
            | (flat.max(axis=1) > 1.0)
            | ~(distance <= epsilon * (1 + _SLACK) + _SLACK)
            | (ledger.label != case.subject.labels)
        )
        return base.Finding(
            id="D33",
            question=f"At radius {epsilon:.4g}, is every adversarial image in "
            "the ball, in the box and of its label?",
            status=base.FAIL if bad.any() else base.PASS,
            value=float(np.nanmax(distance)),
            threshold=epsilon,
            evidence=f"{int(bad.sum())} of {len(bad)} are not; the farthest is "
            f"{np.nanmax(distance):.6g} from its image.",
            advice="The numbers are invalid: report this as a bug."
            if bad.any()
            else "",
            source="AutoAttack, final check; recomputed here by other code",
            examples=tuple(np.flatnonzero(bad)),
        )


def build() -> Conformance:
    """Builds the diagnostic."""
    return Conformance()
