"""D10: are there gradients that are not zero?"""

import functools

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import base as attacks_base
from ib_keras.attacks import geometry
from ib_keras.attacks import losses
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import traces
from ib_keras.audit.diagnostics.case import Case
from ib_keras.types import ThreatModel


class ZeroGradients:
    """Takes the gradient of each loss at a random point of each ball."""

    cost = "cheap"
    ids = ("D10",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D10."""
        right = case.ledger.clean_prediction == case.ledger.label
        rows = case.rows[right[case.rows]]
        if not len(rows):
            return []
        names = ["cross_entropy", "margin"]
        if case.num_classes >= 3:
            names.append("dlr")
        zero = self._are_zero(case, rows, names)
        # A protocol without gradients uses no loss: all losses are tried.
        used = _used_losses(case, names) or sorted(names)
        # An example counts only if no loss of the protocol has a gradient.
        blind = np.all([zero[name] for name in used], axis=0)
        some = np.any(list(zero.values()), axis=0)
        status = base.PASS
        if some.any():
            status = base.FAIL if blind.any() else base.WARN
        shares = ", ".join(
            f"{name} {100 * zero[name].mean():.3g}%" for name in names
        )
        return [
            base.Finding(
                id="D10",
                question="Does every example have a gradient?",
                status=status,
                value=float(blind.mean()),
                threshold=0.0,
                evidence="Examples whose float32 gradient is exactly zero at "
                f"a random start: {shares}. Losses: {', '.join(used)}.",
                advice="Gradient attacks cannot work there: use a loss that "
                "does not saturate (dlr, margin), and an attack without "
                "gradients."
                if some.any()
                else "",
                source="Athalye et al. 2018, section 3.1; Croce and Hein "
                "2020, AutoAttack's own check; IoAF, vanishing gradients",
                examples=tuple(rows[blind if blind.any() else some]),
                data={n: float(z.mean()) for n, z in zero.items()},
            )
        ]

    def _are_zero(self, case, rows, names):
        """Loss -> which gradients are zero, at the same points and noise."""
        norms = traces.compiled(
            case.attacked,
            ("norms", case.threat_model.norm, tuple(names)),
            functools.partial(_norms, case.threat_model.norm, names),
        )
        seed = case.seed_of(10)
        case.gradient_evaluations += len(names) * len(rows)
        found = norms(
            (
                tf.constant(case.subject.images[rows]),
                tf.constant(case.subject.labels[rows]),
                seeds.fold(seed, rows.astype(np.int32)),
            ),
            (seed, tf.constant(case.threat_model.epsilon, tf.float32)),
        )
        return {
            name: norm.numpy() == 0.0
            for name, norm in zip(names, found, strict=True)
        }


def _norms(
    norm, names, logits_fn, images, labels, example_seeds, seed, epsilon
):
    ball = geometry.ball(images, ThreatModel(norm, epsilon))
    points = ball.random_point(example_seeds)
    return [
        attacks_base.evaluate_gradient(
            logits_fn,
            lambda logits, name=name: losses.get(name)(logits, labels),
            points,
            labels,
            seed,
        )[0].gradient_norm
        for name in names
    ]


def _used_losses(case, names):
    """The losses that the protocol's gradient attacks maximise."""
    used = set()
    for stage in case.stages:
        attack = stage.attack
        if not (attack.gradients_at_init or attack.gradients_per_step):
            continue
        default = "margin"
        if stage.config["name"] in ("fgs", "pgd", "apgd", "cleverhans"):
            default = "cross_entropy"
        used.add(stage.config.get("loss", default))
    # Targeted losses and those of other libraries vanish where margins do.
    return sorted({name if name in names else "margin" for name in used})


def build() -> ZeroGradients:
    """Builds the diagnostic."""
    return ZeroGradients()
