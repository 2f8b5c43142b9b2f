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


def check(room: str, config: Mapping[str, Any], **more: Any) -> None:
    """Refuses the section of a part that `build` would refuse by names alone.

    The part is not imported, its `build` is read. What lies outside of the
    package is left to `build`, which imports it.

    Args:
        room: As `build`.
        config: As `build`.
        **more: As `build`.

    Raises:
        UserError: If the part or one of its arguments does not exist, or one
            that it needs is missing.
    """
    _check_named(room, config)
    name = str(config["name"])
    if _is_elsewhere(name):
        return
    _check_name(room, name)
    parameters = _read_parameters(room, name)
    if parameters is not None:
        _check_arguments(room, config, parameters, more)


def _is_elsewhere(name: str) -> bool:
    return "." in name and not name.startswith(".")


def _check_named(room, config):
    if "name" not in config:
        raise UserError(
            f"A section of the config does not name one of the {room}",
            received=f"fields {', '.join(sorted(config)) or 'none'}",
            expected=f"name, one of {', '.join(names(room))}",
            fix="Add the field `name`.",
        )


def _check_name(room, name):
    if name not in names(room):
        raise unknown_name(
            room.removesuffix("s"), name, names(room), "Correct the name."
        )


def _read_parameters(room, name) -> list[inspect.Parameter] | None:
    """The parameters of a part's `build`; None where a decorator decides."""
    package = importlib.import_module(f"ib_keras.{room}")
    paths = [pathlib.Path(folder, f"{name}.py") for folder in package.__path__]
    path = next(path for path in paths if path.exists())
    (build,) = (
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == "build"
    )
    if build.decorator_list:
        return None
    kinds, given = inspect.Parameter, build.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [kinds.empty] * (len(plain) - len(given.defaults))
    found = [
        kinds(argument.arg, kinds.POSITIONAL_OR_KEYWORD, default=default)
        for argument, default in zip(
            plain, [*defaults, *given.defaults], strict=True
        )
    ]
    found += [
        kinds(
            argument.arg,
            kinds.KEYWORD_ONLY,
            default=kinds.empty if default is None else default,
        )
        for argument, default in zip(
            given.kwonlyargs, given.kw_defaults, strict=True
        )
    ]
    if given.kwarg is not None:
        found.append(kinds(given.kwarg.arg, kinds.VAR_KEYWORD))
    return found


def _check_arguments(room, config, parameters, more):
    """Refuses arguments that do not exist, or that are missing."""
    arguments = {key for key in config if key != "name"}
    valid = {p.name for p in parameters}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for key in config:
        if key != "name" and key not in valid and not takes_all:
            raise unknown_name(
                f"argument of {room} part {config['name']}",
                key,
                valid - set(more),
                "Correct or remove the field.",
            )
    needed = {
        p.name
        for p in parameters
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    }
    missing = needed - arguments - set(more)
    if missing:
        raise UserError(
            f"The {room} part {config['name']} misses arguments",
            received=", ".join(sorted(arguments)) or "none",
            expected=f"also {', '.join(sorted(missing))}",
            fix="Add the fields to the config section.",
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
    if _is_elsewhere(name):
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
    _check_name(room, name)
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
    _check_named(room, config)
    arguments = {key: value for key, value in config.items() if key != "name"}
    module = load(room, config["name"])
    parameters = inspect.signature(module.build).parameters.values()
    _check_arguments(room, config, parameters, more)
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
