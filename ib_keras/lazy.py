"""Imports on first use: names of packages, and Keras."""

import contextlib
import gc
import importlib
import sys
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ib_keras.errors import UserError


def names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Makes the `__getattr__` of a package whose names lie in its modules.

    Args:
        package: The package's `__name__`.
        homes: Name -> the module of the package that defines it;
            "module:other" where it has another name there. A name whose
            module is called as it is means the module.

    Returns:
        A function from a name to the object, which it imports.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}", name=name
            )
        home, _, other = homes[name].partition(":")
        module = importlib.import_module(f"{package}.{home}")
        value = module if home == name else getattr(module, other or name)
        setattr(sys.modules[package], name, value)
        return value

    return find


def optional(name: str, extra: str, what: str) -> ModuleType:
    """Imports a library that only an extra of setup.py installs.

    Args:
        name: Of its module.
        extra: Of setup.py.
        what: What needs it, to begin a sentence.

    Returns:
        The module.

    Raises:
        UserError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(
            f"{what} needs {name}",
            received=f"no module {name}",
            expected="it installed",
            fix=f'Run pip install "ib_keras[{extra}]".',
        ) from None


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Postpones garbage collection.

    Code that makes many objects that stay alive triggers full collections, each
    of which visits all objects of TensorFlow and takes a quarter of a second.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Excludes what is imported inside from garbage collection, for good.

    Imported objects stay alive; collecting garbage in TensorFlow takes a sixth
    of the time of its import, and slows down tracing afterwards.
    """
    with no_collections():
        yield
    gc.freeze()


def tensorflow() -> ModuleType:
    """Imports TensorFlow without the Keras that it imports last.

    `import tensorflow` ends by importing Keras, with all that Keras plots and
    wraps: 2.6 of 7.2 s, which a SavedModel does not need. Code that uses
    `tf.keras` or imports Keras later still gets it.
    """
    last = "keras.src.optimizers"
    modules: dict[str, Any] = sys.modules
    if "tensorflow" not in modules and "keras" not in modules:
        modules[last] = None  # TensorFlow tolerates that it is missing.
        try:
            with importing():
                importlib.import_module("tensorflow")
        finally:
            if modules.get(last) is None:
                modules.pop(last, None)
    return importlib.import_module("tensorflow")
