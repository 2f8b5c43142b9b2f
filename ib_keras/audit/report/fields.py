"""Typed reading of JSON objects: fields of another kind are errors.

The files of an audit may be old, damaged or edited by hand. A `Record` wraps
one JSON object and names the file and the field in its errors. A field that is
null counts as missing; unknown fields are ignored.
"""

from typing import Any

from ib_keras.errors import UserError

REQUIRED = object()


class Record:
    """One JSON object, its fields read with their kinds checked.

    Every method takes the field's name and an optional `default` for where it
    is missing; without a default the field is required.

    Args:
        value: What the JSON held.
        where: Where it was, for messages: "DIR/summary.json: stages[0]".

    Raises:
        UserError: If it is not an object, here; in the methods if a required
            field is missing or a field is of another kind.
    """

    def __init__(self, value: Any, where: str):
        if not isinstance(value, dict):
            raise _wrong(where, value, "a JSON object")
        self.value = value
        self.where = where

    def text(self, name: str, default=REQUIRED) -> str:
        """A text."""
        return self._get(
            name, default, lambda value: isinstance(value, str), "a text"
        )

    def texts(self, name: str, default=REQUIRED) -> list[str]:
        """A list of texts."""
        return self._get(
            name,
            default,
            lambda value: (
                isinstance(value, list)
                and all(isinstance(text, str) for text in value)
            ),
            "a list of texts",
        )

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """One of some words."""
        return self._get(
            name,
            REQUIRED,
            lambda value: isinstance(value, str) and value in choices,
            f"one of {', '.join(choices)}",
        )

    def figure(self, name: str, default=REQUIRED) -> float:
        """A finite number of either sign."""
        return self._get(name, default, _is_figure, "a finite number")

    def figures(self, name: str, length: int, default=REQUIRED) -> list[float]:
        """A list of so many finite numbers of either sign."""
        return self._get(
            name,
            default,
            lambda value: (
                isinstance(value, list)
                and len(value) == length
                and all(map(_is_figure, value))
            ),
            f"a list of {length} finite numbers",
        )

    def number(self, name: str, default=REQUIRED) -> float:
        """A finite number, 0 or more."""
        return self._get(
            name,
            default,
            lambda value: _is_number(value) and value >= 0,
            "a finite number, 0 or more",
        )

    def count(self, name: str, default=REQUIRED) -> int:
        """A whole number, 0 or more."""
        return self._get(
            name,
            default,
            lambda value: (
                _is_number(value) and value >= 0 and int(value) == value
            ),
            "a whole number, 0 or more",
        )

    def share(self, name: str, default=REQUIRED) -> float:
        """A number from 0 to 1, such as an accuracy."""
        return self._get(name, default, _is_share, "a number from 0 to 1")

    def shares(self, name: str, default=REQUIRED) -> list[float]:
        """A list of numbers from 0 to 1."""
        return self._get(
            name,
            default,
            lambda value: (
                isinstance(value, list) and all(map(_is_share, value))
            ),
            "a list of numbers from 0 to 1",
        )

    def share_rows(
        self, name: str, num_rows: int, num_columns: int
    ) -> list[list[float]]:
        """A table of numbers from 0 to 1, row by row."""
        return self._get(
            name,
            REQUIRED,
            lambda rows: (
                isinstance(rows, list)
                and len(rows) == num_rows
                and all(
                    isinstance(row, list)
                    and len(row) == num_columns
                    and all(map(_is_share, row))
                    for row in rows
                )
            ),
            f"{num_rows} lists of {num_columns} numbers from 0 to 1",
        )

    def counts(self, name: str, default=REQUIRED) -> list[int]:
        """A list of whole numbers, 0 or more."""
        return self._get(
            name,
            default,
            lambda value: (
                isinstance(value, list)
                and all(_is_number(v) and v >= 0 and int(v) == v for v in value)
            ),
            "a list of whole numbers, 0 or more",
        )

    def interval(self, name: str, default=REQUIRED) -> list[float]:
        """Two numbers from 0 to 1, the lower first."""
        return self._get(
            name,
            default,
            lambda value: (
                isinstance(value, list)
                and len(value) == 2
                and all(map(_is_share, value))
                and value[0] <= value[1]
            ),
            "[low, high], numbers from 0 to 1",
        )

    def record(self, name: str, default=REQUIRED) -> "Record":
        """A JSON object; with `default={}` an empty one where it is missing."""
        value = self._get(
            name, default, lambda value: isinstance(value, dict), "an object"
        )
        return Record(value, f"{self.where}: {name}")

    def records(self, name: str, default=REQUIRED) -> "list[Record]":
        """A list of JSON objects."""
        values = self._get(
            name, default, lambda value: isinstance(value, list), "a list"
        )
        return [
            Record(value, f"{self.where}: {name}[{position}]")
            for position, value in enumerate(values)
        ]

    def _get(self, name: str, default, accepts, expected: str):
        value = self.value.get(name)
        if value is None:
            if default is REQUIRED:
                raise UserError(
                    "An audit's file lacks a field",
                    received=f'{self.where} without "{name}"',
                    expected=f'"{name}": {expected}',
                    fix="Run the audit again with this version.",
                )
            return default
        if not accepts(value):
            raise _wrong(f"{self.where}: {name}", value, expected)
        return value


def _is_number(value) -> bool:
    """Whether it is a number that fits a float; NaN does not."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < 1e18


def _is_figure(value) -> bool:
    """Whether it is finite; a boolean counts as 0 or 1."""
    return isinstance(value, int | float) and abs(value) < 1e300


def _is_share(value) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _wrong(where: str, value, expected: str) -> UserError:
    shown = repr(value)
    return UserError(
        "An audit's file holds a value of another kind",
        received=f"{where} = {shown[:80]}{'…' if len(shown) > 80 else ''}",
        expected=expected,
        fix="Restore the file, or run the audit again.",
    )
