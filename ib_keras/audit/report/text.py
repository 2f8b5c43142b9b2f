"""Formatted numbers, and foreign text made harmless.

Names come from foreign models. `clean` makes them short and plain; the template
engine escapes them, once. This module does not escape HTML.
"""

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

MISSING = "–"
NORMS = {"linf": "L∞", "l2": "L2"}


def clean(value: Any, limit: int = 200) -> str:
    """One line of printable text, cut with an ellipsis.

    Control characters, lone surrogates and invisible format characters (marks
    that reverse the direction of reading, zero widths) are dropped, and white
    space is collapsed.

    Args:
        value: Anything; its `str` is taken.
        limit: The longest result, in characters.

    Returns:
        The text.
    """
    return _cut(" ".join(_printable(str(value), limit).split()), limit)


def clean_lines(value: Any, limit: int = 4000) -> str:
    """As `clean`, but line breaks and indentation stay."""
    return _cut(_printable(str(value), limit), limit)


def _printable(text: str, limit: int) -> str:
    """Drops invisible characters, reading no more than could be shown."""
    shown = text[: 8 * limit]
    kept = "".join(
        char
        for char in shown
        if char in "\n\t" or unicodedata.category(char)[0] != "C"
    )
    return kept if len(shown) == len(text) else kept + "…"


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return text[: limit - 1].rstrip() + "…"


def percent(share: float) -> str:
    """0.123 -> "12.3%"; never rounds to 0% or 100% what is not."""
    text = f"{100 * share:.1f}%"
    if text in ("0.0%", "100.0%") and share not in (0, 1):
        text = f"{100 * share:.2f}%"
    return text


def interval(ends: tuple[float, float] | None) -> str:
    """(0.094, 0.151) -> "9.4% to 15.1%"."""
    return f"{percent(ends[0])} to {percent(ends[1])}" if ends else MISSING


def bracket(low: float, high: float) -> str:
    """(0.942, 0.957) -> "94.2%: the truth is between 94.2% and 95.7%"."""
    return (
        f"{percent(low)}: the truth is between {percent(low)} and "
        f"{percent(high)}"
    )


def count(number: int | None) -> str:
    """1234567 -> "1,234,567"."""
    if number is None or not math.isfinite(number):
        return MISSING
    return f"{int(number):,}"


def quantity(number: int, noun: str) -> str:
    """(1, "restart") -> "1 restart", (1200, "restart") -> "1,200 restarts"."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def figure(number: float | None) -> str:
    """0.0123456 -> "0.01235", -3.0 -> "−3", True -> "yes", None -> "–"."""
    if number is None:
        return MISSING
    if isinstance(number, bool):
        return "yes" if number else "no"
    if int(number) == number and abs(number) < 1e15:
        return f"{int(number):,}".replace("-", "−")
    return f"{number:.4g}".replace("-", "−")


def points(difference: float) -> str:
    """-0.045 -> "−4.5", in percentage points."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def p_value(probability: float) -> str:
    """0.0314 -> "0.031", 1e-7 -> "below 0.001"."""
    if probability < 0.001:
        return "below 0.001"
    return f"{probability:.2g}"


def duration(seconds: float | None) -> str:
    """12.34 -> "12.3 s", 3725 -> "1 h 2 min"."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{count(hours)} h {minutes} min"


def signed(number: float) -> str:
    """-2.314 -> "−2.31", with the minus sign of typography."""
    if not math.isfinite(number):
        return "not finite"
    return f"{number:+.2f}".replace("-", "−")


def epsilon(value: float) -> str:
    """0.2 -> "0.2", 0.0313725 -> "8/255"."""
    in_bytes = value * 255
    is_short = math.isclose(float(f"{value:.3g}"), value, rel_tol=1e-6)
    if not is_short and math.isclose(in_bytes, round(in_bytes), rel_tol=1e-4):
        return f"{round(in_bytes)}/255"
    return f"{value:.4g}"


def norm(name: str) -> str:
    """The norm as it is printed: "linf" -> "L∞"."""
    return NORMS.get(name, name)


def arguments(values: Mapping[str, Any]) -> str:
    """{"name": "pgd", "num_steps": 40} -> "pgd · num_steps 40"."""
    return " · ".join(
        f"{'' if name == 'name' else clean(name, 40)} "
        f"{clean(_plain(value), 60)}".strip()
        for name, value in values.items()
    )


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def class_name(label: int, names: Any) -> str:
    """The name of a class in a model's metadata, or its number.

    -1, the prediction from logits that are not finite, is described as
    that.
    """
    if label < 0:
        return "not finite"
    if isinstance(names, list) and 0 <= label < len(names):
        return clean(names[label], 24) or str(label)
    return str(label)
