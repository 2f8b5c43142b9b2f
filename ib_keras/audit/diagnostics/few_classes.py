"""D20: are there enough classes for the losses of the protocol?"""

from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics.case import Case

# The ratio of dlr takes the third largest logit, that of targeted_dlr the
# fourth.
_NEEDED = {"dlr": 3, "targeted_dlr": 4}


class FewClasses:
    """Compares the number of classes with the fewest that the losses need."""

    cost = "free"
    ids = ("D20",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D20."""
        count = case.num_classes
        weak = {}
        for stage in case.stages:
            loss = _loss(stage)
            if count < _NEEDED.get(loss, 0):
                weak[stage.name] = f"{loss} needs {_NEEDED[loss]}"
        listed = "; ".join(f"{name}: {why}" for name, why in weak.items())
        return [
            base.Finding(
                id="D20",
                question="Are there enough classes for the losses?",
                status=base.WARN if weak else base.PASS,
                value=count,
                threshold=max(
                    (_NEEDED.get(_loss(s), 2) for s in case.stages), default=2
                ),
                evidence=f"The model has {count} classes. "
                + (listed + "." if weak else "No loss needs more."),
                advice="With so few classes the loss is not scale invariant: "
                "add a stage with the margin."
                if weak
                else "",
                source="Croce and Hein 2020, AutoAttack, checks.py",
            )
        ]


def _loss(stage) -> str:
    return str(stage.config.get("loss"))


def build() -> FewClasses:
    """Builds the diagnostic."""
    return FewClasses()
