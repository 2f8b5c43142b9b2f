"""M1: does the model change itself when it is called?"""

from ib_keras.audit.audited_model import behaviour
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics.case import Case


class OwnState:
    """Compares the model's variables before the first call and now."""

    cost = "free"
    ids = ("M1",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers M1."""
        seen, model = case.subject.behaviour, case.subject.model
        now = model.state_hash()
        changed = behaviour.changed(seen.state, now)
        changed = tuple(dict.fromkeys((*seen.changed_variables, *changed)))
        status = base.FAIL if changed else base.PASS
        if not now:
            status = base.NOT_APPLICABLE
        said = f": {', '.join(changed[:5])}" if changed else ""
        return [
            base.Finding(
                id="M1",
                question="Does the model stay the same when it is called?",
                status=status,
                value=len(changed),
                threshold=0,
                evidence=f"{len(changed)} of {len(now)} variables differ from "
                f"what was loaded{said}.",
                advice="The model that is audited last is not the one that "
                "was audited first, and it may answer differently after many "
                "calls: re-export a function that writes no variables"
                + (
                    ", with training=False so that augmentation is off."
                    if seen.augmentation
                    else "."
                )
                if changed
                else "",
                source="ib_keras",
                data={"assign_ops": list(seen.assign_ops)},
            )
        ]


def build() -> OwnState:
    """Builds the diagnostic."""
    return OwnState()
