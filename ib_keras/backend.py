"""The Keras backend: parts that compute with Keras need TensorFlow's.

Attacks, verification and reports do not need Keras, so that `import ib_keras`
works whatever the backend is.
"""

import contextlib
import importlib.abc
import json
import os
import pathlib
import re
import sys
from typing import Any

from ib_keras.errors import UserError

_IMPORTS_KERAS = re.compile(r"^(import keras$|from keras )", re.MULTILINE)


def name() -> str:
    """The name of the backend that Keras uses, or would use when imported."""
    loaded: Any = getattr(sys.modules.get("keras"), "backend", None)
    if hasattr(loaded, "backend"):
        return loaded.backend()
    if said := os.environ.get("KERAS_BACKEND"):
        return said
    home = os.environ.get("KERAS_HOME", os.path.expanduser("~/.keras"))
    with contextlib.suppress(OSError, ValueError, AttributeError):
        file = pathlib.Path(home, "keras.json")
        said = json.loads(file.read_text("utf-8")).get("backend")
    return said or "tensorflow"


def guard() -> None:
    """Makes modules of ib_keras that import Keras refuse other backends."""
    if name() != "tensorflow":
        sys.meta_path.insert(0, _Refusal())


class _Refusal(importlib.abc.MetaPathFinder):
    """Precedes the other finders, and raises where they would import Keras."""

    def find_spec(self, fullname, path, target=None):
        if not fullname.startswith("ib_keras.") or name() == "tensorflow":
            return None
        module = fullname.rpartition(".")[2]
        files = [pathlib.Path(folder, f"{module}.py") for folder in path or ()]
        if any(map(_imports_keras, files)):
            raise UserError(
                f"{fullname} computes with TensorFlow, and Keras does not",
                received=f'Keras with the backend "{name()}"',
                expected='the backend "tensorflow"',
                fix="Set KERAS_BACKEND=tensorflow in the environment, before "
                "Keras is imported.",
            )
        return None


def _imports_keras(file: pathlib.Path) -> bool:
    return file.is_file() and bool(
        _IMPORTS_KERAS.search(file.read_text("utf-8"))
    )
