"""D21, D24: does an attack on one mode of the model break another?"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras.attacks import compiled
from ib_keras.attacks.runner import Stage
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics import traces
from ib_keras.audit.diagnostics.case import Case

MODES = ("mean", "stochastic", "fixed noise")
_DRAWS = 25
_THRESHOLD = 0.01
_SLACK = 0.02


class Modes:
    """One run against each mode, scored by each: the cross matrix."""

    cost = "cheap"
    ids = ("D21", "D24")

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D21 and D24."""
        model = case.subject.model
        if not model.is_stochastic:
            return []
        classifiers = _Classifiers(case)
        attack = self._attack(case).attack

        # One run a mode, on robust examples as well.
        rows = np.union1d(case.rows, case.robust_rows)

        def scores(attacked):
            """Which examples are wrong after a run on a mode, in each mode."""
            trace = traces.run(case, attack, rows, classifiers.take(attacked))
            return {
                scored: traces.wrong_share(
                    classifiers.take(scored),
                    trace.images,
                    case.subject.labels[rows],
                    case.seed_of(25),
                    _DRAWS if scored == "stochastic" else 1,
                )
                > 0.5
                for scored in MODES
            }

        everywhere = {mode: scores(mode) for mode in MODES}

        def of(some):
            """The same for some of the rows."""
            where = np.searchsorted(rows, some)
            return {
                mode: {scored: w[where] for scored, w in found.items()}
                for mode, found in everywhere.items()
            }

        wrong = of(case.rows)
        data = {
            "rows": list(MODES),
            "columns": list(MODES),
            "robust_accuracy": [
                [float(1 - wrong[a][s].mean()) for s in MODES] for a in MODES
            ],
            "num_examples": len(case.rows),
        }
        return [
            self._cross(case, of(case.robust_rows), data),
            self._frozen(case.rows, wrong),
        ]

    def _attack(self, case) -> Stage:
        """The protocol's first stage that can be traced, or PGD."""
        for stage in case.stages:
            attack = stage.attack
            is_plain = attack.num_targets is None and not attack.runs_eagerly
            if is_plain and attack.gradients_per_step:
                return stage
        return Stage.build(
            {"name": "pgd", "num_restarts": 1, "attack": {"name": "pgd"}}
        )

    def _cross(self, case, wrong, data):
        """Robust examples that an attack on another mode breaks."""
        own, rows = case.subject.mode, case.robust_rows
        known: dict[str, Any] = dict(
            id="D24",
            question="Does an attack on another mode of the model find "
            "nothing more?",
            source="Korshunova et al. 2021, sections 2.3 and 3.1; Tramer et "
            "al. 2020",
        )
        if not len(rows):
            return breaks.none_is_robust(**known, data=data)
        others = [wrong[m][own] for m in MODES if m != own]
        found = breaks.finding(
            case,
            rows,
            np.any(others, axis=0),
            threshold=_THRESHOLD,
            words=f"One run against the other modes, scored in {own} mode,",
            advice="Noise hides the gradient of this mode: attack the other "
            "mode too and count the union.",
            **known,
        )
        found.data.update(data)
        return found

    def _frozen(self, rows, wrong):
        """With fixed noise the model is simpler, and must be broken as well."""
        free = float(1 - wrong["stochastic"]["stochastic"].mean())
        robust = ~wrong["fixed noise"]["fixed noise"]
        fixed = float(robust.mean())
        gap = fixed - free
        # With one fixed draw examples at the boundary are broken by chance.
        broken = wrong["stochastic"]["stochastic"]
        up, down = (robust & broken).sum(), (~robust & ~broken).sum()
        is_clear = up - down > 2 * math.sqrt(up + down)
        status = base.FAIL if gap > _SLACK and is_clear else base.PASS
        return base.Finding(
            id="D21",
            question="With the noise fixed, does the attack succeed at least "
            "as well?",
            status=status,
            value=gap,
            threshold=_SLACK,
            evidence=f"One run leaves {100 * free:.3g}% against fresh noise "
            f"and {100 * fixed:.3g}% against one fixed draw.",
            advice="The attack fails without randomness, so noise is not the "
            "reason: look for another weakness of the attack."
            if status == base.FAIL
            else "",
            source="Carlini et al. 2019, section 4.6",
            examples=tuple(rows[robust] if status == base.FAIL else ()),
        )


class _Classifiers:
    """The model in each of `MODES`, with few compiled functions."""

    def __init__(self, case):
        self._mean = case.subject.logits_fn
        model, jit_compile = case.subject.model, strategies.jit_compile()
        if case.subject.mode != "mean":
            self._mean = compiled.on(model.logits_fn("mean"), None, jit_compile)
        stochastic = model.logits_fn("stochastic", case.subject.num_samples)
        frozen = seeds.fold(case.seed_of(24), 0)
        # Fresh noise and fixed noise share compiled functions.
        is_frozen = tf.Variable(False, trainable=False)

        def noisy(images, seed):
            seed = tf.where(is_frozen, frozen, seed)
            return stochastic(images, seed)

        self._is_frozen = is_frozen
        self._noisy = compiled.on(noisy, None, jit_compile)

    def take(self, mode):
        """The model in this mode, until another one is selected."""
        # The batch stays whole, so each example keeps its own fixed noise.
        self._is_frozen.assign(mode == "fixed noise")
        return self._mean if mode == "mean" else self._noisy


def build() -> Modes:
    """Builds the diagnostic."""
    return Modes()
