"""D19: are the model's outputs logits?"""

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics.case import Case


class Outputs:
    """Reads the kind of the model's outputs."""

    cost = "free"
    ids = ("D19",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D19."""
        seen = case.subject.behaviour
        is_rounded = seen.outputs == "probabilities"
        said = "The outputs are " + seen.outputs.replace("_", "-") + "."
        if is_rounded:
            said += " The audit works on their logarithm."
        return [
            base.Finding(
                id="D19",
                question="Are the outputs logits?",
                status=base.WARN if is_rounded else base.PASS,
                value=seen.saturated_share,
                threshold=0.0 if is_rounded else None,
                evidence=f"{said} On {seen.saturated_share:.1%} of "
                f"{seen.num_images} clean images the largest probability is "
                "exactly 1 in float32.",
                advice="Where a probability is rounded to 1 the model itself "
                "has no gradient left: export the logits, from before the "
                "softmax."
                if is_rounded
                else "",
                source="Croce and Hein 2020, AutoAttack, checks.py",
                data={"outputs": seen.outputs},
            )
        ]


def build() -> Outputs:
    """Builds the diagnostic."""
    return Outputs()
