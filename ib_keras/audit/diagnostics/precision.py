"""D34: does low precision hide gradients?"""

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import compiled
from ib_keras.attacks import losses
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import traces
from ib_keras.audit.diagnostics.case import Case

# Share of clean images on which the two precisions may answer differently.
_MOST_DIFFERING = 0.01


class Precision:
    """Compares gradients and predictions in low precision and float32."""

    cost = "cheap"
    ids = ("D34",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D34, except for models that compute in float32."""
        audited = case.subject.model
        other = audited.other_precision
        is_low = audited.precision not in (None, "float32")
        if other is None:
            return [self._alone(case)] if is_low else []
        low, full = (audited, other) if is_low else (other, audited)
        zero, answers = {}, {}
        for name, each in {"low": low, "float32": full}.items():
            answers[name], zero[name] = self._look(case, each)
        differ = answers["low"] != answers["float32"]
        zero_shares = {name: float(z.mean()) for name, z in zero.items()}
        # Gradients that are nonzero in float32 alone.
        hidden = float((zero["low"] & ~zero["float32"]).mean())
        differing = float(differ.mean())
        is_apart = differing > _MOST_DIFFERING
        status = base.WARN if is_low or is_apart else base.PASS
        return [
            base.Finding(
                id="D34",
                question="Are the attacked gradients those of float32?",
                status=status,
                value=differing,
                threshold=_MOST_DIFFERING,
                evidence=f"On {len(differ)} clean images "
                f"{100 * zero_shares['low']:.3g}% of the gradient's elements "
                f"are exactly zero in {low.precision} and "
                f"{100 * zero_shares['float32']:.3g}% in float32; "
                f"{100 * hidden:.3g}% are zero in {low.precision} alone. "
                f"Predictions differ on {100 * differing:.3g}% of the images. "
                f"Audited is {audited.endpoint.name}, in {audited.precision}.",
                advice=self._advice(is_low, is_apart),
                source="ib_keras; Athalye et al. 2018, section 3.1",
                examples=tuple(case.rows[differ]),
                data={
                    "audited": audited.precision,
                    "precision": low.precision,
                    "zero_share": zero_shares["low"],
                    "zero_share_float32": zero_shares["float32"],
                    "hidden_share": hidden,
                    "differing_share": differing,
                    "num_examples": len(differ),
                },
            )
        ]

    def _alone(self, case):
        """The finding without a float32 endpoint to compare with."""
        audited = case.subject.model
        _, zero = self._look(case, audited)
        share = float(zero.mean())
        return base.Finding(
            id="D34",
            question="Are the attacked gradients those of float32?",
            status=base.WARN,
            evidence=f"The model computes in {audited.precision} and cannot be "
            "compared, for it has no float32 endpoint. On "
            f"{len(zero)} clean images {100 * share:.3g}% of the gradient's "
            "elements are exactly zero.",
            advice="Export the same weights computing in float32 and audit "
            "that: low precision rounds small gradients away.",
            source="ib_keras; Athalye et al. 2018, section 3.1",
            data={
                "audited": audited.precision,
                "precision": audited.precision,
                "zero_share": share,
                "num_examples": len(zero),
            },
        )

    def _advice(self, is_low, is_apart):
        if is_low:
            return (
                "Audit the float32 endpoint: leave out "
                "--config.model.signature."
            )
        if is_apart:
            return (
                "The number is of the weights in float32; where the model is "
                "used in low precision, audit that too: "
                "--config.model.signature=mean."
            )
        return ""

    def _look(self, case, audited):
        """Predictions, and which elements of the gradients are zero.

        Returns:
            int `[n]` and bool `[n, ...]`.
        """
        subject = case.subject
        logits_fn = compiled.of(
            audited.logits_fn(subject.mode, subject.num_samples)
        ).times(subject.logit_scale)
        gradient = traces.compiled(logits_fn, "precision", _gradient)
        case.gradient_evaluations += len(case.rows)
        logits, found = gradient(
            (
                tf.constant(subject.images[case.rows]),
                tf.constant(subject.labels[case.rows]),
            ),
            (seeds.fold(case.seed_of(34), 0),),
        )
        return np.argmax(logits, axis=1), found.numpy() == 0.0


def _gradient(logits_fn, images, labels, seed):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits = logits_fn(images, seed)
        loss = losses.cross_entropy(logits, labels)
    return logits, tape.gradient(loss, images)


def build() -> Precision:
    """Builds the diagnostic."""
    return Precision()
