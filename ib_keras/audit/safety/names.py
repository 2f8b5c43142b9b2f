"""Names of operations, known without importing TensorFlow."""

import difflib
import functools
import importlib.machinery
import pathlib
import re
from collections.abc import Iterable

from ib_keras.errors import UserError

# Where TensorFlow's package lists its operations, one import per line.
_LIST = "_api/v2/raw_ops/__init__.py"
_IMPORT = re.compile(r"^from \S+ import (\w+)", re.MULTILINE)


@functools.cache
def known() -> frozenset[str]:
    """The operations that TensorFlow's package lists; empty if it has none."""
    # This finds the package and does not import it.
    found = importlib.machinery.PathFinder.find_spec("tensorflow")
    if found is None or found.origin is None:
        return frozenset()
    path = pathlib.Path(found.origin).parent / _LIST
    if not path.exists():
        return frozenset()
    return frozenset(_IMPORT.findall(path.read_text(encoding="utf-8")))


def check(allow_ops: Iterable[str]) -> None:
    """Refuses a likely misspelling of the name of an operation.

    The list is not complete: names that are near to none of it are left to
    `safety.check`, which uses TensorFlow's registry.

    Args:
        allow_ops: As of `safety.check`.

    Raises:
        UserError: If there is one.
    """
    for name in sorted(set(allow_ops)):
        is_op = name.isidentifier() and not name.startswith("_")
        if not is_op or name in known():
            continue
        near = difflib.get_close_matches(name, sorted(known()), 1, cutoff=0.8)
        if near:
            raise UserError(
                "No operation of TensorFlow has this name",
                received=f"{name} in --allow_ops",
                expected="names of operations",
                fix=f'Did you mean "{near[0]}"? Give the names from the '
                "refusal.",
            )
