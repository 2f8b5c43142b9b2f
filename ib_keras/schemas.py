"""Schemas: what a JSON object holds, written once, as a dataclass.

The annotation of a field says what it may be:

    str, bool                   as they are
    Count, Share, ...           numbers of a kind, below
    Annotated[str, one_of(...)] one of some words
    tuple[X, ...]               a list; tuple[X, Y]: a list of so many
    Mapping[str, X]             an object, whatever its names
    a dataclass                 an object with the fields of that class
    X | None                    X or null
    Any                         anything: others check it

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
    >>> source.read(Stage, {"name": "pgd"})
    Traceback (most recent call last):
    ib_keras.errors.UserError: An example's file lacks a field. Received: \
stage.json without "robust_accuracy". Expected: "robust_accuracy". Fix: Mend it.
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


def _is_number(value, most: float = 1e18) -> bool:
    """Whether it is a number that arithmetic can bear; NaN is not."""
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and abs(value) < most


def _is_whole(value) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_count(value, smallest: int = 0) -> bool:
    return _is_number(value) and value >= smallest and int(value) == value


# A flag counts as 0 or 1.
Figure = Annotated[
    float,
    Kind(
        "a finite number",
        lambda v: isinstance(v, bool) or _is_number(v, 1e300),
    ),
]
Finite = Annotated[float, Kind("a finite number", _is_number)]
Number = Annotated[
    float,
    Kind("a finite number, 0 or more", lambda v: _is_number(v) and v >= 0),
]
Length = Annotated[
    float, Kind("a number above 0", lambda v: _is_number(v) and v > 0)
]
Share = Annotated[
    float, Kind("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1)
]
Count = Annotated[int, Kind("a whole number, 0 or more", _is_count)]
Positive = Annotated[
    int, Kind("a whole number, 1 or more", lambda v: _is_count(v, 1))
]
# 1.0 is no seed.
Seed = Annotated[
    int, Kind("a whole number, 0 or more", lambda v: _is_whole(v) and v >= 0)
]
Interval = Annotated[
    tuple[Share, Share],
    Kind("[low, high], numbers from 0 to 1", lambda v: v[0] <= v[1]),
]
# `Annotated[a dataclass, SECTION]`: the dataclass says what is usual, and
# others check it.
SECTION = Kind("fields and their values", lambda v: isinstance(v, Mapping))
_PLAIN = {
    str: Kind("a text", lambda v: isinstance(v, str)),
    bool: Kind("true or false", lambda v: isinstance(v, bool)),
}


def one_of(*words: str) -> Kind:
    """The kind of a text that is one of some words."""
    return Kind(
        f"one of {', '.join(words)}",
        lambda v: isinstance(v, str) and v in words,
    )


def field(*, key: str | None = None, is_new: bool = False, **arguments):
    """As `dataclasses.field`, for what a schema says of a field besides.

    Args:
        key: Its name in JSON, where that is another.
        is_new: Whether configs of older versions lack it.
        **arguments: Those of `dataclasses.field`.
    """
    metadata = {"key": key, "is_new": is_new}
    return dataclasses.field(metadata=metadata, **arguments)


def keys(schema: type) -> dict[str, Any]:
    """Name in JSON -> annotation, of the fields of a dataclass."""
    return {key: annotation for _, key, annotation in _fields(schema)}


def plain_type(annotation) -> type:
    """The type of the values that are not None: str of `str | None`."""
    inner, _ = _without_none(annotation)
    if typing.get_origin(inner) is Annotated:
        inner = typing.get_args(inner)[0]
    return typing.get_origin(inner) or inner


@functools.cache
def _fields(schema):
    hints = typing.get_type_hints(schema, include_extras=True)
    return [
        (each, each.metadata.get("key") or each.name, hints[each.name])
        for each in dataclasses.fields(schema)
    ]


def _without_none(annotation) -> tuple[Any, bool]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return inner[0], True
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
        """Checks a value and makes an instance of its schema.

        Args:
            schema: A dataclass, or another annotation.
            value: JSON values, nested.
            name: Dotted, of the value in its file.

        Returns:
            The instance; lists are tuples.

        Raises:
            UserError: If a field is missing or of another kind.
        """
        annotation, is_optional = _without_none(schema)
        origin = typing.get_origin(annotation)
        arguments = typing.get_args(annotation)
        if annotation is Any or (value is None and is_optional):
            return value
        if dataclasses.is_dataclass(annotation):
            return self._object(annotation, value, name)
        if origin is Mapping:
            self._check(isinstance(value, Mapping), "an object", value, name)
            return {
                key: self.read(arguments[1], inner, _join(name, key))
                for key, inner in value.items()
            }
        if origin is tuple:
            return self._list(arguments, value, name)
        kind = _PLAIN.get(annotation)
        if origin is Annotated:
            inner, kind = arguments
            if typing.get_origin(inner) is tuple:
                value = self.read(inner, value, name)
        self._check(kind.accepts(value), kind.expected, value, name)
        return int(value) if plain_type(annotation) is int else value

    def _object(self, schema, value, name):
        self._check(isinstance(value, Mapping), "an object", value, name)
        if self.is_exact:
            self._check_known(schema, value, name)
        found = {}
        for field, key, annotation in _fields(schema):
            if self.is_exact:
                is_there, may_lack = key in value, field.metadata.get("is_new")
            else:
                is_there = value.get(key) is not None
                may_lack = _has_default(field)
            if is_there:
                inner = self.read(annotation, value[key], _join(name, key))
                found[field.name] = inner
            elif not may_lack:
                raise UserError(
                    f"{self.what} lacks a field",
                    received=f'{self._where(name)} without "{key}"'.strip(),
                    expected=f'"{_join(name, key)}"',
                    fix=self.fix,
                )
        return schema(**found)

    def _check_known(self, schema, value, name):
        known = [_join(name, key) for _, key, _ in _fields(schema)]
        for key in value:
            if _join(name, key) not in known:
                raise unknown_name(
                    "config field",
                    _join(name, key),
                    known,
                    "Correct or remove the field.",
                )

    def _list(self, arguments, value, name):
        self._check(isinstance(value, list | tuple), "a list", value, name)
        inner = arguments
        if arguments[-1] is ...:
            inner = arguments[:1] * len(value)
        is_right = len(value) == len(inner)
        self._check(is_right, f"a list of {len(inner)}", value, name)
        return tuple(
            self.read(each, item, f"{name}[{position}]")
            for position, (each, item) in enumerate(
                zip(inner, value, strict=True)
            )
        )

    def _check(self, is_right, expected, value, name):
        if is_right:
            return
        shown = repr(value)
        raise UserError(
            f"{self.what} holds a value of another kind",
            received=f"{self._where(name)} = {shown[:80]}"
            + "…" * (len(shown) > 80),
            expected=expected,
            fix=self.fix,
        )

    def _where(self, name):
        return ": ".join(part for part in (self.path, name) if part)


def _join(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


def _has_default(field: dataclasses.Field) -> bool:
    given = (field.default, field.default_factory)
    return any(value is not dataclasses.MISSING for value in given)


# A config has all fields of its schema and no others.
CONFIG = Source(
    "The config",
    "Correct the field; the files in configs/ show all of them.",
    is_exact=True,
)
