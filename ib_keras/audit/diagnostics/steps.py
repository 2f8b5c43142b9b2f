"""D5: have steps converged?"""

from ib_keras.attacks.runner import Stage
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics.case import Case

_FACTORS = (2, 4)


class Steps:
    """Runs the first stage with twice and four times its steps."""

    cost = "full"
    ids = ("D5",)

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D5."""
        stage = case.lead
        if "num_steps" not in stage.config:
            return []
        return [self._longer(case, stage, factor) for factor in _FACTORS]

    def _longer(self, case, stage, factor):
        num_steps = factor * stage.attack.num_steps
        longer = Stage.build(
            {
                "name": stage.name,
                "num_restarts": stage.num_restarts,
                "attack": {**stage.config, "num_steps": num_steps},
            }
        )
        return breaks.ask(
            case,
            [longer],
            id="D5",
            question=f"Do {factor} times as many steps change nothing?",
            source="Carlini et al. 2019, section 4.4",
            threshold=0.005,
            words=f"{stage.name} with {num_steps} steps",
            advice="Raise num_steps until accuracy is flat.",
        )


def build() -> Steps:
    """Builds the diagnostic."""
    return Steps()
