"""Marks of tests: which cases of a parametrised test every change runs."""

from collections.abc import Callable
from collections.abc import Container
from collections.abc import Iterable
from typing import Any

import pytest


def others_slow(
    cases: Iterable[Any], quick: Container[str], name: Callable = str
) -> list:
    """The cases as pytest takes them; those not named quick are slow.

    The quick ones stand for the rest: what breaks one of the others alone is
    found by `make test-slow`.
    """
    return [
        pytest.param(
            case,
            id=name(case),
            marks=() if name(case) in quick else pytest.mark.slow,
        )
        for case in cases
    ]
