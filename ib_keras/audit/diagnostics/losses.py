"""D11: does the loss saturate?"""

import tensorflow as tf

from ib_keras import strategy as strategies
from ib_keras.attacks import compiled
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics.case import Case
from ib_keras.audit.diagnostics.case import stage

_SOURCE = (
    "Croce and Hein 2020, section 4; Tramer et al. 2020; Carlini et al. 2019, "
    "section 4.4"
)
_ADVICE = (
    "The protocol's loss saturates on this model: add a stage whose loss does "
    "not depend on the scale of the logits (dlr, margin), as aa_mt does."
)


class Losses:
    """Runs AutoPGD on another loss, and the first stage on cooler logits.

    Args:
        num_steps: Of AutoPGD.
    """

    cost = "cheap"
    ids = ("D11",)

    def __init__(self, num_steps):
        self.num_steps = num_steps

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D11, by another loss and by temperatures."""
        loss = "dlr" if case.num_classes >= 3 else "margin"
        logits_fn = case.subject.logits_fn
        answers = [
            breaks.ask(
                case,
                [stage("apgd", num_steps=self.num_steps, loss=loss)],
                id="D11",
                question="Does a loss that ignores the scale of the logits "
                "find nothing more?",
                source=_SOURCE,
                threshold=0.01,
                words=f"AutoPGD on {loss.upper()}, {self.num_steps} steps,",
                advice=_ADVICE,
            )
        ]
        # A variable, so that both temperatures share compiled functions.
        divisor = tf.Variable(1.0, trainable=False)
        cooled = compiled.on(
            lambda x, seed: logits_fn(x, seed) / divisor,
            case.strategy,
            strategies.jit_compile(case.strategy),
        )
        for temperature in (10.0, 100.0):
            divisor.assign(temperature)
            answers.append(
                breaks.ask(
                    case,
                    case.lead_once(),
                    logits_fn=cooled,
                    id="D11",
                    question="Do logits divided by "
                    f"{temperature:g} change nothing?",
                    source=_SOURCE,
                    threshold=0.005,
                    words=f"{case.lead.name} on logits divided by "
                    f"{temperature:g}",
                    advice=_ADVICE,
                )
            )
        return answers


def build(num_steps: int = 100) -> Losses:
    """Builds the diagnostic."""
    return Losses(num_steps)
