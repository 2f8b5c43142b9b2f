"""D13: are the logits differentiable with respect to the images?"""

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics.case import Case

_WHAT = {
    "present": "The gradient of the logits with respect to clean images "
    "exists; on {zero:.1%} of them it is exactly zero.",
    "zero": "The gradient exists, and on every clean image that was asked it "
    "is exactly zero: gradient attacks cannot work.",
    "none": "TensorFlow finds no gradient of the logits by the images.",
    "raises": "Taking the gradient fails: {problem}.",
}


class GradientExists:
    """Reads the result of one gradient on clean images."""

    cost = "free"
    ids = ("D13",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D13."""
        seen = case.subject.behaviour
        status = {"present": base.PASS, "zero": base.WARN}.get(
            seen.gradient, base.FAIL
        )
        return [
            base.Finding(
                id="D13",
                question="Does the gradient reach the images?",
                status=status,
                value=seen.zero_gradient_share,
                threshold=1.0,
                evidence=_WHAT[seen.gradient].format(
                    zero=seen.zero_gradient_share,
                    problem=seen.gradient_problem,
                ),
                advice=""
                if status == base.PASS
                else "Audit a differentiable copy (rounding, casts and "
                "stop_gradient replaced by the identity in the backward "
                "pass), and run attacks without gradients.",
                source="Athalye et al. 2018, section 3.1; IoAF (Pintor et al. "
                "2022)",
                data={"gradient": seen.gradient},
            )
        ]


def build() -> GradientExists:
    """Builds the diagnostic."""
    return GradientExists()
