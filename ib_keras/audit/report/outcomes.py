"""The outcome of an example, in the words of the page and `launch.show`."""

from collections.abc import Mapping
from typing import Any

from ib_keras.audit.report import text

BROKEN, ROBUST, WRONG = "broken", "robust", "wrong before any attack"
CERTIFIED = "certified"
# Outcome -> what the picture of an example shows.
NOUNS = {
    BROKEN: "adversarial",
    ROBUST: "nearest miss",
    WRONG: "not attacked",
    CERTIFIED: "certified",
}


def of(values: Mapping[str, Any]) -> str:
    """The outcome of an example, by its values in `examples.npz`."""
    if values["is_robust"]:
        return CERTIFIED if values.get("is_certified", False) else ROBUST
    return BROKEN if values["broken_by_stage"] >= 0 else WRONG


def note(values: Mapping[str, Any]) -> str:
    """Explains an outcome that the margin or share seems to contradict.

    The margin of a robust example is that of the attack, on its own noise. An
    example is broken if most draws of the judge are wrong, and the share is
    counted afterwards, on fresh draws.

    Args:
        values: Of an example that was judged by more than one draw.

    Returns:
        A sentence; "" where there is nothing to explain.
    """
    outcome = of(values)
    margin, share = values.get("margin", 0.0), float(values["wrong_share"])
    shown = text.percent(share)
    if outcome == ROBUST and share > 0.5:
        return (
            f"Barely robust: wrong in {shown} of fresh draws, but in no "
            "more than half of those that it was judged by."
        )
    if outcome == ROBUST and margin > 0:
        return (
            "Robust although its margin is above 0: that is on the noise that "
            f"the attack saw. It is wrong in {shown} of fresh draws; broken "
            "takes more than half."
        )
    if outcome == BROKEN and margin < 0:
        return (
            "Broken although its margin is below 0: that is of the mean of all "
            "draws, and most of them are wrong."
        )
    return ""
