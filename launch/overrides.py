"""Overrides of a config as people type them, made into what absl reads.

`--config.threat_model.epsilon=8/255`, `--config.num_examples=1e3` and
`--config.num_samples=None` are understood; what is none of these goes on as it
was typed, and absl has the word.
"""

import fractions
import re
from collections.abc import Sequence

from ml_collections import ConfigDict

_FRACTION = re.compile(r"\s*([-+\d.eE]+)\s*/\s*([-+\d.eE]+)\s*")
_NONE = ("None", "none", "null")
_PREFIX = "--config."


def normalise(arguments: Sequence[str], config) -> list[str]:
    """Rewrites the overrides of a config's fields.

    Args:
        arguments: Of the command line, without the program.
        config: The `ConfigDict` before the overrides.

    Returns:
        The arguments, in their order.
    """
    found, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        word = re.sub(r"^-(?=config\.)", "--", word)
        name, equals, value = word.partition("=")
        if not name.startswith(_PREFIX):
            found.append(word)
            continue
        if not equals and rest and not rest[0].startswith("--"):
            value, equals = rest.pop(0), "="
        if not equals:
            found.append(word)
            continue
        section, field = _place(config, name[len(_PREFIX) :])
        if section is None:
            found.append(f"{name}={value}")
            continue
        if value in _NONE and section[field] is None:
            continue  # Unset is what it is already.
        found.append(f"{name}={_value(value, section.get_type(field))}")
    return found


def _place(config, dotted):
    """The section and the name of a field; (None, None) if there is none."""
    *sections, field = dotted.split(".")
    for name in (*sections, field):
        if not isinstance(config, ConfigDict) or name not in config:
            return None, None
        section, config = config, config[name]
    return section, field


def _value(text: str, kind: type) -> str:
    if kind is tuple:
        return ",".join(_number(part, float) for part in text.split(","))
    return _number(text, kind)


def _number(text: str, kind: type) -> str:
    """The text of a number of a kind, or the text as it is."""
    try:
        if kind is float and (parts := _FRACTION.fullmatch(text)):
            return repr(float(parts[1]) / float(parts[2]))
        if kind is int:
            whole = fractions.Fraction(text.strip())
            if whole.denominator == 1:
                return str(whole.numerator)
    except (ValueError, ZeroDivisionError, OverflowError):
        pass
    return text
