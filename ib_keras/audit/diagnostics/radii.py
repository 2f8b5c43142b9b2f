"""D2, D3, D4: does accuracy fall with the radius, and as far as it must?"""

import math

import numpy as np

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics.case import Case
from ib_keras.audit.diagnostics.case import stage

_SOURCE = "Athalye et al. 2018, section 3.1; Carlini et al. 2019, section 4.2"


class Radii:
    """Runs the protocol's shorter stages at other radii, and without bound."""

    cost = "cheap"
    ids = ("D2", "D3", "D4")

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D2, D3 and D4, the last for each example as D17."""
        rows = case.rows
        side = 1.0
        if case.threat_model.norm == "l2":
            side = math.sqrt(case.subject.images[0].size)
        epsilon = float(case.threat_model.epsilon)
        radii = sorted(
            {r for r in (epsilon / 2, epsilon, 2 * epsilon) if r <= side}
            | {side / 2}
        )
        stages = case.short_stages()
        robust = {
            radius: case.attack(stages, rows, epsilon=radius).is_robust
            for radius in radii
        }
        return [
            self._monotone(rows, robust),
            *self._of_audit(case),
            self._grey(case, rows, robust[side / 2], side / 2),
            self._unbounded(case, rows, side),
        ]

    def _of_audit(self, case):
        """The same question of the audit's own radii, where it has several."""
        if len(case.radii) < 2:
            return []
        robust = {r: case.radii[r][0].is_robust for r in sorted(case.radii)}
        rows = np.arange(case.num_examples)
        return [self._monotone(rows, robust, "The audit")]

    def _monotone(self, rows, robust, who="One run of each short stage"):
        """What is broken in a ball is broken in every larger ball."""
        radii = list(robust)
        accuracies = [float(robust[r].mean()) for r in radii]
        rises, missed = [], np.zeros(len(rows), bool)
        for small, large in zip(radii, radii[1:], strict=False):
            up = robust[large] & ~robust[small]
            down = robust[small] & ~robust[large]
            error = math.sqrt(up.sum() + down.sum())
            rises.append((int(up.sum()) - int(down.sum()), error))
            missed |= up
        rise, error = max(
            rises, key=lambda r: r[0] - 2 * r[1], default=(0, 0.0)
        )
        status = base.PASS
        if rise > 0:
            status = base.FAIL if rise > 2 * error else base.WARN
        curve = ", ".join(
            f"{100 * a:.3g}% at {r:.4g}"
            for r, a in zip(radii, accuracies, strict=True)
        )
        return base.Finding(
            id="D2",
            question="Does robust accuracy fall as the radius grows?",
            status=status,
            value=max(rise, 0) / len(rows),
            threshold=2 * error / len(rows),
            evidence=f"{who} leaves {curve}.",
            advice=""
            if status == base.PASS
            else "A larger ball holds the smaller one, so the attack misses "
            "what it has found: give it larger steps or restarts.",
            source=_SOURCE,
            examples=tuple(rows[missed]),
            data={"epsilon": radii, "robust_accuracy": accuracies},
        )

    def _grey(self, case, rows, robust, radius):
        """At radius 1/2 every image can be made the same grey."""
        labels = case.subject.labels[rows]
        # On one image a classifier is right for one class alone.
        chance = max(
            1 / case.num_classes, np.bincount(labels).max() / len(labels)
        )
        # Exact for a classifier without noise.
        slack = 0.0
        if case.is_random:
            slack = 2 * math.sqrt(chance * (1 - chance) / len(rows))
        accuracy = float(robust.mean())
        is_high = accuracy > chance + slack
        return base.Finding(
            id="D3",
            question="Where solid grey can be reached, is accuracy at most "
            "chance?",
            status=base.FAIL if is_high else base.PASS,
            value=accuracy,
            threshold=chance + slack,
            evidence=f"At radius {radius:.4g} every image can be made the "
            f"same grey, so at most {100 * chance:.3g}% can be right; one run "
            f"of each short stage leaves {100 * accuracy:.3g}%.",
            advice="The attack does not find what is known to exist: it is "
            "too weak for this model, at the audited radius too."
            if is_high
            else "",
            source="Carlini et al. 2019, section 4.2; Korshunova et al. 2021, "
            "section 3.1",
            examples=tuple(rows[robust]) if is_high else (),
        )

    def _unbounded(self, case, rows, side):
        attack = stage("pgd", num_steps=100, step_size=2 * side / 100)
        robust = case.attack([attack], rows, epsilon=side).is_robust
        if robust.any():
            # Its loss may be the wrong one; the protocol has others.
            own = case.attack(case.short_stages(), rows, epsilon=side)
            robust &= own.is_robust
        accuracy = float(robust.mean())
        status = base.PASS
        if robust.any():
            is_high = accuracy > 1 / case.num_classes
            status = base.FAIL if is_high else base.WARN
        return base.Finding(
            id="D4",
            question="Without a bound, does the attack always succeed?",
            status=status,
            value=accuracy,
            threshold=0.0,
            evidence="In the whole box PGD with 100 steps, and the protocol's "
            f"short stages, leave {int(robust.sum())} of {len(rows)} examples "
            "(D17: these).",
            advice="An unbounded attack that fails has no useful gradients: "
            "read D8 and D10, and attack a smoother surrogate."
            if robust.any()
            else "",
            source=f"{_SOURCE}; ART, security curve; IoAF, failure of the "
            "unconstrained attack",
            examples=tuple(rows[robust]),
        )


def build() -> Radii:
    """Builds the diagnostic."""
    return Radii()
