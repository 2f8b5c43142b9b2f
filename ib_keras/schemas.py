"""Schemas: what a JSON object holds, declared once and checked by one reader.

A schema is a dataclass, whose instance is made; or a dict, of what is only
checked. The annotation of a field says what it may be:

    str, bool, Any                 as they are
    Count, Share, ...              numbers of a kind, below
    Annotated[str, one_of(...)]    one of some words
    X | None                       X or null
    tuple[X, ...], tuple[X, Y]     a list, of any length or of so many
    Mapping[str, X]                an object, whatever its names
    a dataclass or a dict          an object with these fields

A field with a default may be missing; null counts as missing.

Example:
    >>> @dataclasses.dataclass
    ... class Stage:
    ...     name: str
    ...     robust_accuracy: Share
    ...     restart_curve: tuple[Share, ...] = ()
    >>> source = Source("An example's file", "Mend it.", "stage.json")
    >>> source.read(Stage, {"name": "pgd", "robust_accuracy": 0.5})
    Stage(name='pgd', robust_accuracy=0.5, restart_curve=())
    >>> source.read({"robust_accuracy": Share}, {"robust_accuracy": 2})
    Traceback (most recent call last):
    ib_keras.errors.UserError: An example's file holds a value of another \
kind. Received: stage.json: robust_accuracy = 2. Expected: a number from 0 to \
1. Fix: Mend it.
"""

import dataclasses
import functools
import numbers
import types
import typing
from collections.abc import Callable
from collections.abc import Mapping
from typing import Annotated
from typing import Any

from ib_keras.errors import UserError
from ib_keras.errors import unknown_name


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a value must be besides its type: `Annotated[type, Kind(...)]`."""

    expected: str
    accepts: Callable[[Any], bool]


def one_of(*words: str) -> Kind:
    """The kind of a text that is one of some words."""
    return Kind(f"one of {', '.join(words)}", lambda v: v in list(words))


def _is_number(value, lowest=-1e18, most=1e18) -> bool:
    """Whether it is a number that arithmetic can bear; NaN is not."""
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and lowest <= value <= most


def _is_whole(value, lowest=0) -> bool:
    return _is_number(value, lowest) and int(value) == value


def _is_seed(value) -> bool:
    return _is_whole(value) and isinstance(value, numbers.Integral)


def _is_figure(value) -> bool:
    return isinstance(value, bool) or _is_number(value, -1e300, 1e300)


def _is_mapping(value) -> bool:
    return isinstance(value, Mapping)


# A flag counts as 0 or 1.
Figure = Annotated[float, Kind("a finite number", _is_figure)]
Finite = Annotated[float, Kind("a finite number", _is_number)]
Number = Annotated[
    float, Kind("a finite number, 0 or more", lambda v: _is_number(v, 0))
]
Length = Annotated[
    float, Kind("a number above 0", lambda v: _is_number(v, 0) and v > 0)
]
Share = Annotated[
    float, Kind("a number from 0 to 1", lambda v: _is_number(v, 0, 1))
]
Interval = Annotated[
    tuple[Share, Share],
    Kind("[low, high], numbers from 0 to 1", lambda v: v[0] <= v[1]),
]
Count = Annotated[int, Kind("a whole number, 0 or more", _is_whole)]
Positive = Annotated[
    int, Kind("a whole number, 1 or more", lambda v: _is_whole(v, 1))
]
# 1.0 is none.
Seed = Annotated[int, Kind("a whole number, 0 or more", _is_seed)]
# Of a dataclass that says what is usual, where others check.
SECTION = Kind("fields and their values", _is_mapping)
_PLAIN = {
    str: Kind("a text", lambda v: isinstance(v, str)),
    bool: Kind("true or false", lambda v: isinstance(v, bool)),
}


def field(*, key: str | None = None, is_new: bool = False, **arguments):
    """As `dataclasses.field`, for what a schema says of a field besides.

    Args:
        key: Its name in JSON, where that is another.
        is_new: Whether configs of older versions lack it.
        **arguments: Those of `dataclasses.field`.
    """
    metadata = {"key": key, "is_new": is_new}
    return dataclasses.field(metadata=metadata, **arguments)


class _Field(typing.NamedTuple):
    name: str
    key: str
    annotation: Any
    has_default: bool = False
    is_new: bool = False


@functools.cache
def _fields_of_class(schema):
    hints = typing.get_type_hints(schema, include_extras=True)
    return [
        _Field(
            each.name,
            each.metadata.get("key") or each.name,
            hints[each.name],
            (each.default, each.default_factory)
            != (dataclasses.MISSING, dataclasses.MISSING),
            each.metadata.get("is_new", False),
        )
        for each in dataclasses.fields(schema)
    ]


def _fields(schema) -> list[_Field]:
    if isinstance(schema, dict):
        return [_Field(name, name, kind) for name, kind in schema.items()]
    return _fields_of_class(schema)


def plain_types(schema: type) -> dict[str, type]:
    """Field -> type of its values that are not None: str of `str | None`."""
    found = {}
    for each in _fields(schema):
        kind, _ = _without_none(each.annotation)
        if typing.get_origin(kind) is Annotated:
            kind = typing.get_args(kind)[0]
        found[each.name] = typing.get_origin(kind) or kind
    return found


def _without_none(annotation) -> tuple[Any, bool]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [a for a in typing.get_args(annotation) if a is not type(None)]
        return kinds[0], True
    return annotation, False


@dataclasses.dataclass(frozen=True)
class Source:
    """Where JSON came from, and how to speak of it.

    Args:
        what: What it is, to begin a sentence: "An audit's file".
        fix: What to do where it is wrong.
        path: Of the file; "" for a config.
        is_exact: Whether it has all fields of its schema and no others, as a
            config has: a misspelt field would be passed over. Null is a value
            then.
    """

    what: str
    fix: str
    path: str = ""
    is_exact: bool = False

    def read(self, schema, value, name: str = "") -> Any:
        """Checks a value, and makes it what its schema says.

        Args:
            schema: A dataclass, a dict or another annotation.
            value: JSON values, nested.
            name: Dotted, of the value in its file.

        Returns:
            The value; an object is the instance of its dataclass, a list a
            tuple.

        Raises:
            UserError: If a field is missing or of another kind.
        """
        kind, is_optional = _without_none(schema)
        if kind is Any or (value is None and is_optional):
            return value
        if isinstance(kind, dict) or dataclasses.is_dataclass(kind):
            return self._object(kind, value, name)
        origin, inner = typing.get_origin(kind), typing.get_args(kind)
        if origin is Mapping:
            self._check(_is_mapping(value), "an object", value, name)
            items = value.items()
            return {k: self.read(inner[1], v, _join(name, k)) for k, v in items}
        if origin is tuple:
            return self._list(inner, value, name)
        base, rule = inner if origin is Annotated else (kind, _PLAIN[kind])
        if typing.get_origin(base) is tuple:
            value = self.read(base, value, name)
        self._check(rule.accepts(value), rule.expected, value, name)
        return int(value) if base is int else value

    def _object(self, schema, value, name):
        self._check(_is_mapping(value), "an object", value, name)
        fields, found = _fields(schema), {}
        if self.is_exact:
            self._check_known([each.key for each in fields], value, name)
        for each in fields:
            if self.is_exact:
                is_there, may_lack = each.key in value, each.is_new
            else:
                is_there = value.get(each.key) is not None
                may_lack = each.has_default
            full = _join(name, each.key)
            if is_there:
                inner = value[each.key]
                found[each.name] = self.read(each.annotation, inner, full)
            elif not may_lack:
                raise UserError(
                    f"{self.what} lacks a field",
                    received=f'{self._where(name)} without "{each.key}"',
                    expected=f"also {full}",
                    fix=self.fix,
                )
        return value if isinstance(schema, dict) else schema(**found)

    def _check_known(self, known, value, name):
        for key in value:
            if key not in known:
                raise unknown_name(
                    "config field",
                    _join(name, key),
                    [_join(name, each) for each in known],
                    "Correct or remove the field.",
                )

    def _list(self, kinds, value, name):
        self._check(isinstance(value, list | tuple), "a list", value, name)
        if kinds[-1] is ...:
            kinds = kinds[:1] * len(value)
        is_right = len(value) == len(kinds)
        self._check(is_right, f"a list of {len(kinds)}", value, name)
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(self.read(k, v, f"{name}[{i}]") for i, (k, v) in pairs)

    def _check(self, is_right, expected, value, name):
        if not is_right:
            shown = repr(value)
            shown = shown[:80] + "…" * (len(shown) > 80)
            # A config's field as the command line has it.
            equals = " = " if self.path else "="
            raise UserError(
                f"{self.what} holds a value of another kind",
                received=f"{self._where(name)}{equals}{shown}",
                expected=expected,
                fix=self.fix,
            )

    def _where(self, name):
        return ": ".join(filter(None, (self.path, name))) or "it"


def _join(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


CONFIG = Source(
    "The config",
    "Set it, as --config.NAME=VALUE does; the files in configs/ show all.",
    is_exact=True,
)
