"""Parts by name: the name of a part in a config is the name of its module.

A part is a module of a room (`encoders`, `bottlenecks`, `data`, `attacks`) that
defines `build(**arguments)`. To add one is to add one file. A name with a dot
is any importable module outside of the package that does the same, so users
keep their own parts in their own code.
"""

import ast
import functools
import importlib
import inspect
import pathlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ib_keras.errors import UserError
from ib_keras.errors import unknown_name


def _is_part(path: pathlib.Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(
        isinstance(node, ast.FunctionDef) and node.name == "build"
        for node in tree.body
    )


@functools.cache
def names(room: str) -> tuple[str, ...]:
    """Lists the parts of a room, found by their files alone.

    Args:
        room: A sub-package of `ib_keras`, such as "attacks".

    Returns:
        The sorted names of its modules that define `build`.
    """
    package = importlib.import_module(f"ib_keras.{room}")
    return tuple(
        sorted(
            path.stem
            for folder in package.__path__
            for path in pathlib.Path(folder).glob("*.py")
            if _is_part(path)
        )
    )


def load(room: str, name: str) -> ModuleType:
    """Imports the part `name` of `room`.

    Args:
        room: A sub-package of `ib_keras`, such as "attacks".
        name: The part's module name, or a dotted path to a module elsewhere.

    Returns:
        The module, which defines `build`.

    Raises:
        UserError: If there is no such part.
    """
    name = str(name)
    if "." in name and not name.startswith("."):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"The {room} part cannot be imported",
                received=f'"{name}" ({error})',
                expected=f"a module, or one of {', '.join(names(room))}",
                fix="Check the spelling and PYTHONPATH.",
            ) from error
        if not hasattr(module, "build"):
            raise UserError(
                f"The module is not one of the {room}",
                received=f'"{name}", which has no build()',
                expected="a module that defines build(**arguments)",
                fix="Define build() in it; CONTRIBUTING.md shows how.",
            )
        return module
    if name not in names(room):
        raise unknown_name(
            room.removesuffix("s"), name, names(room), "Correct the name."
        )
    return importlib.import_module(f"ib_keras.{room}.{name}")


def build(room: str, config: Mapping[str, Any], **more: Any):
    """Builds the part that a config section describes.

    Args:
        room: A sub-package of `ib_keras`, such as "attacks".
        config: `{"name": ..., **arguments of its build()}`.
        **more: Arguments that do not come from the config.

    Returns:
        What `build` of the part returns.

    Raises:
        UserError: If the part or one of its arguments does not exist, one
            that it needs is missing, or one has a value that does not do.
    """
    if "name" not in config:
        raise UserError(
            f"A section of the config does not name one of the {room}",
            received=f"fields {', '.join(sorted(config)) or 'none'}",
            expected=f"name, one of {', '.join(names(room))}",
            fix="Add the field `name`.",
        )
    arguments = {key: value for key, value in config.items() if key != "name"}
    module = load(room, config["name"])
    signature = inspect.signature(module.build)
    valid = set(signature.parameters)
    takes_all = any(
        p.kind is p.VAR_KEYWORD for p in signature.parameters.values()
    )
    for key in arguments:
        if key not in valid and not takes_all:
            raise unknown_name(
                f"argument of {room} part {config['name']}",
                key,
                valid - set(more),
                "Correct or remove the field.",
            )
    needed = {
        name
        for name, p in signature.parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD,)
    }
    missing = needed - set(arguments) - set(more)
    if missing:
        raise UserError(
            f"The {room} part {config['name']} misses arguments",
            received=", ".join(sorted(arguments)) or "none",
            expected=f"also {', '.join(sorted(missing))}",
            fix="Add the fields to the config section.",
        )
    try:
        return module.build(**arguments, **more)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).partition(" Received")[0][:200]
        raise UserError(
            f"The {room} part {config['name']} cannot be built",
            received=f"{arguments} ({type(error).__name__}: {reason})",
            expected="values that it can be built with",
            fix="Correct the section of the config.",
        ) from error
