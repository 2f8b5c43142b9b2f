"""One reader checks every JSON file and config by its schema."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated
from typing import Any

import numpy as np
import pytest

from ib_keras import schemas
from tests.support import runs

FILE = schemas.Source("A file", "Mend it.", "a.json")
CONFIG = dataclasses.replace(FILE, path="", is_exact=True)

# Kind -> what it takes, what it refuses.
KINDS = {
    str: (["", "a"], [1, None, ["a"]]),
    bool: ([True, False], [0, 1, "no", None]),
    schemas.Count: ([0, 3, 2.0], [-1, 2.5, True, "1", float("nan"), 1e400]),
    schemas.Positive: ([1, np.int64(2)], [0, -1, 1.5, True]),
    schemas.Seed: ([0, 7], [1.0, -1, True, "a"]),
    schemas.Number: ([0, 0.5, 1e17], [-0.1, float("inf"), 10**400, False]),
    schemas.Length: ([0.5, 3], [0, -1, float("nan")]),
    schemas.Share: ([0, 0.5, 1], [-0.01, 1.01, None, True]),
    schemas.Finite: ([-1e9, 3], [float("nan"), float("-inf"), "3"]),
    schemas.Figure: ([True, -1e200], [10**400, "0.5"]),
    schemas.Interval: ([[0.1, 0.1]], [[0.2, 0.1], [0.1], [0, 2], "01", 3]),
    Annotated[str, schemas.one_of("a", "b")]: (["a"], ["ab", ["a"], None]),
    tuple[str, ...]: ([[], ("a", "b")], ["ab", [1], {"a": 1}]),
    schemas.Share | None: ([None, 0.2], [2]),
    Mapping[str, schemas.Count]: ([{}, {"a": 1}], [[], {"a": -1}]),
    Any: ([None, object], []),
}


@pytest.mark.parametrize("kind", KINDS, ids=range(len(KINDS)))
def test_a_kind_takes_its_values_and_no_others(kind):
    taken, refused = KINDS[kind]
    for value in taken:
        FILE.read(kind, value)
    for value in refused:
        error = runs.refused(FILE.read, kind, value, "x")
        assert error.received.startswith("a.json: x")


@dataclasses.dataclass
class Inner:
    name: str
    size: schemas.Count = schemas.field(key="num", default=5)


@dataclasses.dataclass
class Outer:
    parts: tuple[Inner, ...]
    end: tuple[schemas.Share, schemas.Share] | None = None
    later: bool = schemas.field(is_new=True, default=True)


def test_an_object_is_made_of_what_is_there_and_of_defaults():
    found = FILE.read(
        Outer,
        {
            "parts": [{"name": "a", "num": 2.0}, {"name": "b", "num": None}],
            "end": [0, 1],
            "unknown": 1,
        },
    )
    assert found == Outer((Inner("a", 2), Inner("b", 5)), (0, 1), True)


@pytest.mark.parametrize(
    ("value", "received"),
    [
        ({}, 'a.json without "parts"'),
        ({"parts": [{}]}, 'a.json: parts[0] without "name"'),
        ({"parts": [{"name": None}]}, 'a.json: parts[0] without "name"'),
        ({"parts": [{"name": "a", "num": -1}]}, "a.json: parts[0].num = -1"),
        ({"parts": [], "end": [0, 2]}, "a.json: end[1] = 2"),
        ([1], "a.json = [1]"),
    ],
)
def test_an_error_names_the_place(value, received):
    assert runs.refused(FILE.read, Outer, value).received == received


def test_a_config_has_all_fields_and_no_others():
    whole = {"parts": [{"name": "a", "num": 1}], "end": None, "later": False}
    assert CONFIG.read(Outer, whole) == Outer((Inner("a", 1),), None, False)
    old = {k: v for k, v in whole.items() if k != "later"}
    assert CONFIG.read(Outer, old).later
    error = runs.refused(CONFIG.read, Outer, whole | {"ende": 1})
    assert 'Did you mean "end"?' in error.fix
    error = runs.refused(CONFIG.read, Outer, {"parts": [], "later": True})
    assert error.received == 'it without "end"'
    # Null is a value here, and none that stands for the default.
    error = runs.refused(CONFIG.read, Outer, whole | {"later": None})
    assert error.received == "later=None"


def test_a_dict_is_a_schema_of_what_is_only_checked():
    value = {"a": {"b": 1}, "c": "x"}
    assert FILE.read({"a": {"b": schemas.Count}}, value) is value
    error = runs.refused(FILE.read, {"a": {"d": str}}, value)
    assert error.received == 'a.json: a without "d"'
