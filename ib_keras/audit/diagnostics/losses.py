"""D11: does the loss depend on the scale of the logits?"""

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
    "The protocol's loss suffers from the scale of this model's logits, which "
    "is not one for all images: add a stage whose loss does not depend on it "
    "(dlr, margin), as aa_mt does."
)
# Smaller logits where the loss saturates, larger ones where it is flat.
_FACTORS = (0.1, 0.01, 10.0, 100.0)


class Losses:
    """Runs AutoPGD on another loss, and the first stage on scaled logits.

    Args:
        num_steps: Of AutoPGD.
    """

    cost = "cheap"
    ids = ("D11",)

    def __init__(self, num_steps):
        self.num_steps = num_steps

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D11, by another loss and by scales in both directions."""
        loss = "dlr" if case.num_classes >= 3 else "margin"
        attacked = case.attacked
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
        # A variable, so that all factors share compiled functions.
        factor = tf.Variable(1.0, trainable=False)
        scaled = compiled.on(
            lambda x, seed: attacked(x, seed) * factor,
            case.strategy,
            strategies.jit_compile(case.strategy),
        )
        for value in _FACTORS:
            factor.assign(value)
            answers.append(
                breaks.ask(
                    case,
                    case.lead_once(),
                    logits_fn=scaled,
                    # Unscaled: the measured scale would undo the factor.
                    logit_scale=1.0,
                    id="D11",
                    question=f"Do logits times {value:g} change nothing?",
                    source=_SOURCE,
                    threshold=0.005,
                    words=f"{case.lead.name} on logits times {value:g}",
                    advice=_ADVICE,
                )
            )
        return answers


def build(num_steps: int = 100) -> Losses:
    """Builds the diagnostic."""
    return Losses(num_steps)
