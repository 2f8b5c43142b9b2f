"""Overrides of a config in convenient forms, converted for absl.

`--config.threat_model.epsilon=8/255`, `--config.num_examples=1e3` and
`--config.num_samples=None` are understood; all others are passed on to absl
unchanged.

A section that names a part holds the arguments of its `build`, and those that a
config file lacks are set in the same way: `--config.data.name=npz
--config.data.path=mine.npz`. They are not passed to absl, since the config is
locked.
"""

import ast
import fractions
import re
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from ib_keras import plugins
from ib_keras.errors import unknown_name

# Section -> the package of the part that it names.
_PACKAGES = {
    "attack": "attacks",
    "bottleneck": "bottlenecks",
    "data": "data",
    "dataset": "data",
    "encoder": "encoders",
}
# Arguments of `build` that come from elsewhere than the config.
_GIVEN = {
    "bottlenecks": ("num_classes", "steps_per_epoch"),
    "encoders": ("image_shape",),
}
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
            continue  # It is unset already.
        if value in _NONE and section.get_type(field) is tuple:
            value = "()"
        found.append(f"{name}={_value(value, section.get_type(field))}")
    return found


def take_arguments(
    arguments: Sequence[str], config
) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Extracts the arguments of parts that the config has no field for.

    Args:
        arguments: From `normalise`.
        config: As of `normalise`.

    Returns:
        The other arguments, and section -> field -> text.
    """
    rest: list[str] = []
    added: dict[str, dict[str, str]] = {}
    sections = dict(_parts(config))
    for word in arguments:
        name, equals, value = word.partition("=")
        inside, _, field = name.removeprefix(_PREFIX).rpartition(".")
        is_ours = name.startswith(_PREFIX) and inside in sections
        if is_ours and equals and field not in _section(config, inside):
            added.setdefault(inside, {})[field] = value
        else:
            rest.append(word)
    return rest, added


def extend(
    config: ConfigDict,
    before: ConfigDict,
    arguments: Sequence[str],
    added: Mapping[str, Mapping[str, str]],
) -> None:
    """Gives the parts of a config the arguments that it has no field for.

    A training on other data loses the fields of the data set that was there,
    such as `data_dir`, where the new one does not take them.

    Args:
        config: With its overrides; it is changed.
        before: Without them.
        arguments: Those of the command line that are left.
        added: As of `take_arguments`.

    Raises:
        UserError: If there is no such part, or it has no such argument.
    """
    typed = {re.split(r"[=\[]", word.lstrip("-"))[0] for word in arguments}
    for inside, package in _parts(before):
        section = _section(config, inside)
        is_other = section.name != _section(before, inside).name
        with config.unlocked():
            if inside == "data" and is_other:
                _leave_out(section, typed)
            for field, text in added.get(inside, {}).items():
                section[field] = _argument(
                    package, section, inside, field, text
                )


def _parts(config, inside="") -> Iterator[tuple[str, str]]:
    """The dotted names of the sections that name parts, and their packages."""
    for name in config if isinstance(config, ConfigDict) else ():
        section = config[name]
        if not isinstance(section, ConfigDict):
            continue
        if name in _PACKAGES and "name" in section:
            yield f"{inside}{name}", _PACKAGES[name]
        yield from _parts(section, f"{inside}{name}.")


def _section(config, dotted):
    for name in dotted.split("."):
        config = config[name]
    return config


def _leave_out(section, typed):
    """Removes the arguments of the previous data set."""
    for field in list(section):
        is_typed = {f"config.data.{field}", f"noconfig.data.{field}"} & typed
        if field == "name" or is_typed:
            continue
        if not plugins.takes("data", section.name, field):
            del section[field]


def _argument(package, section, inside, field, text):
    """The value of an argument on the command line, by its annotation."""
    if section.name is None:  # The model's own data set, from its metadata.
        return _literal(text)
    known = plugins.parameters(package, section.name)
    if known is None:
        return _literal(text)
    names = {p.name: p for p in known if p.kind is not p.VAR_KEYWORD}
    takes_all = len(names) < len(known)
    names = {n: p for n, p in names.items() if n not in _GIVEN.get(package, ())}
    if field not in names and not takes_all:
        raise unknown_name(
            f"argument of the {package} part {section.name}",
            f"{_PREFIX}{inside}.{field}",
            [f"{_PREFIX}{inside}.{name}" for name in {"name", *names}],
            "Correct or remove it.",
        )
    return _of_kind(text, names.get(field))


def _of_kind(text, parameter):
    """A value of the annotated type; without one a Python literal."""
    if parameter is None:
        return _literal(text)
    words = set(re.findall(r"\w+", str(parameter.annotation)))
    is_list = bool(words & {"tuple", "list", "Sequence"})
    if isinstance(parameter.default, str | bool | int | float):
        words.add(type(parameter.default).__name__)
    if text in _NONE:
        return None
    if words & {"str", "Path", "PathLike"} and not is_list:
        return text
    if "bool" in words and text in ("true", "false"):
        return text == "true"
    kind = next((k for k in (float, int) if k.__name__ in words), None)
    found = _literal(_number(text, kind) if kind and not is_list else text)
    if is_list and isinstance(found, str):
        return tuple(part.strip() for part in text.split(","))
    return found


def _literal(text: str) -> Any:
    """A Python literal: a number, a tuple, ...; or else the text."""
    if text in _NONE:
        return None
    try:
        found = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
    return tuple(found) if isinstance(found, list) else found


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
