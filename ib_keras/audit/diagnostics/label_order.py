"""M2: do the data and the model have the same order of classes?"""

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics.case import Case


class LabelOrder:
    """Reads whether another order of the classes explains the labels."""

    cost = "free"
    ids = ("M2",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers M2."""
        seen = case.subject.behaviour
        is_other = seen.order is not None
        gain = (seen.order_accuracy - seen.accuracy) if is_other else 0.0
        said = ""
        if is_other:
            order = ", ".join(map(str, seen.order))
            said = (
                f"; it would be {seen.order_accuracy:.3f} if the model's "
                f"classes were the labels {order}"
            )
        return [
            base.Finding(
                id="M2",
                question="Are the labels in the model's order of classes?",
                status=base.FAIL if is_other else base.PASS,
                value=gain,
                threshold=0.1,
                evidence=f"The accuracy on up to 500 clean images is "
                f"{seen.accuracy:.3f}{said}.",
                advice="The labels of the data set are not those that the "
                "model was trained with: put one of them in the other's order."
                if is_other
                else "",
                source="ib_keras",
                data={"order": list(seen.order) if is_other else None},
            )
        ]


def build() -> LabelOrder:
    """Builds the diagnostic."""
    return LabelOrder()
