"""Parts by name: the name of a part in a config is the name of its module.

A part is a module, of `encoders`, `bottlenecks`, `data` or `attacks`, that
defines `build(**arguments)`. To add one is to add one file. Users keep parts of
their own in their own modules, named by a dotted path, or without a dot where
the package has no part of that name: `my_data` for `my_data.py` in the current
folder.

`PART:VALUE` is short for a part and the one argument that its `build` cannot do
without: `tfds:kmnist` for `{"name": "tfds", "tfds_name": "kmnist"}`.

A part of ours may also define `check(**arguments)`, with the arguments of
`build`: it refuses what can be refused before TensorFlow is imported, so the
module itself may not import TensorFlow.
"""

import functools
import importlib
import inspect
import pathlib
import sys
import traceback
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ib_keras import arguments
from ib_keras import introspection
from ib_keras.errors import UserError
from ib_keras.errors import reason
from ib_keras.errors import unknown_name


def _is_part(path: pathlib.Path) -> bool:
    return introspection.function(path, "build") is not None


@functools.cache
def names(package: str) -> tuple[str, ...]:
    """Lists the parts of a package, found by their files alone.

    Args:
        package: A sub-package of `ib_keras`, such as "attacks".

    Returns:
        The sorted names of its modules that define `build`.
    """
    module = importlib.import_module(f"ib_keras.{package}")
    return tuple(
        sorted(
            path.stem
            for folder in module.__path__
            for path in pathlib.Path(folder).glob("*.py")
            if _is_part(path)
        )
    )


def expand(package: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the short form of a part's section, `PART:VALUE`, in full.

    Args:
        package: A sub-package of `ib_keras`, such as "data".
        config: `{"name": ..., **arguments of its build()}`.

    Returns:
        The section; without a colon in the name as it is.

    Raises:
        UserError: If the part does not exist, takes nothing behind a colon, or
            is given the same argument twice.
    """
    _check_named(package, config)
    name, colon, value = str(config["name"]).partition(":")
    if not colon:
        return dict(config)
    first = next(iter(needed(package, name)), None)
    if first is None or not value:
        raise UserError(
            f"The {package} part {name} takes nothing behind a colon"
            if value
            else f"Nothing follows the colon of the {package} part {name}",
            received=f'"{config["name"]}"',
            expected=f"{name}:{first.upper()}" if first else name,
            fix="Correct the name.",
        )
    if config.get(first, value) not in (value, None):
        raise UserError(
            f"{first} of the {package} part {name} is given twice",
            received=f'"{config["name"]}" and {first}="{config[first]}"',
            expected="one of them",
            fix=f"Leave out {first}, or what follows the colon.",
        )
    return {**config, "name": name, first: value}


def needed(package: str, name: str) -> list[str]:
    """The arguments that `build` of a part cannot do without.

    The arguments and errors are those of `parameters`.
    """
    return [
        p.name
        for p in _known_parameters(package, name)
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]


def takes(package: str, name: str, argument: str) -> bool:
    """Whether `build` of a part has an argument of this name.

    Args:
        package: As `parameters`.
        name: As `parameters`.
        argument: Its name; one that `**arguments` would take does not count.

    Raises:
        UserError: If there is no such part.
    """
    return any(
        p.name == argument and p.kind is not p.VAR_KEYWORD
        for p in _known_parameters(package, name)
    )


def _known_parameters(package, name) -> list[inspect.Parameter]:
    """As `parameters`; a module whose source does not tell is imported."""
    found = parameters(package, name)
    return _signature(load(package, name)) if found is None else found


def check(package: str, config: Mapping[str, Any], **more: Any) -> None:
    """Refuses the section of a part, as far as that needs no TensorFlow.

    The `build` of the part is read, not called, and so is that of a module
    outside of the package, which is not imported; a part's own `check` is
    called.

    Args:
        package: As `build`.
        config: As `build`.
        **more: As `build`.

    Raises:
        UserError: If the part or one of its arguments does not exist, one that
            it needs is missing, or one has a value that it does not take.
    """
    config = expand(package, config)
    name = config["name"]
    found = parameters(package, name)
    if found is not None:
        _check_arguments(package, config, found, more)
    if name not in names(package):
        return
    arguments.check(package, config, found or ())
    if introspection.function(_file(package, name), "check"):
        load(package, name).check(**_arguments(config))


def constant(package: str, name: str, variable: str):
    """A constant of a part of ours, read without importing it.

    Args:
        package: As `build`.
        name: Of the part, also `PART:VALUE`.
        variable: Of the constant.

    Returns:
        Its value; None where there is no such part or constant.
    """
    part = str(name).partition(":")[0]
    if part not in names(package):
        return None
    return introspection.literal(_file(package, part), variable)


def _arguments(config) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "name"}


def is_ours(package: str, name: str) -> bool:
    """Whether a name, also `PART:VALUE`, is of a part of this package."""
    return str(name).partition(":")[0] in names(package)


def _is_elsewhere(package: str, name: str) -> bool:
    """Whether a name is of a module outside of the package."""
    if name in names(package) or name.startswith("."):
        return False
    if "." in name or hasattr(sys.modules.get(name), "build"):
        return True
    source = introspection.source(introspection.find(name))
    return source is not None and _is_part(source)


def _check_named(package, config):
    if config.get("name") is None:
        raise UserError(
            f"A section of the config does not name one of the {package}",
            received=f"fields {', '.join(sorted(config)) or 'none'}",
            expected=f"name, one of {', '.join(names(package))}",
            fix="Add the field `name`.",
        )


def _check_name(package, name):
    if name in names(package):
        return
    here = pathlib.Path(f"{name}.py")
    if name.isidentifier() and here.exists():
        if not _is_part(here):
            raise _without_build(package, here)
        why = f"its folder, {here.absolute().parent}, is not searched"
        raise _not_importable(package, name, why, "Add it to PYTHONPATH.")
    raise unknown_name(
        package.removesuffix("s"),
        name,
        names(package),
        "Correct the name, or give that of a module of your own that defines "
        "build(), such as my_package.my_module.",
    )


def _without_build(package, name) -> UserError:
    return UserError(
        f"The module is not one of the {package}",
        received=f'"{name}", which has no build()',
        expected="a module that defines build(**arguments)",
        fix="Define build() in it; CONTRIBUTING.md shows how.",
    )


def _not_importable(package, name, why, fix) -> UserError:
    return UserError(
        f"The {package} part cannot be imported",
        received=f'"{name}" ({why})',
        expected=f"a module, or one of {', '.join(names(package))}",
        fix=fix,
    )


def _file(package, name) -> pathlib.Path:
    """The source file of a part of ours."""
    module = importlib.import_module(f"ib_keras.{package}")
    paths = [pathlib.Path(folder, f"{name}.py") for folder in module.__path__]
    return next(path for path in paths if path.exists())


def parameters(package: str, name: str) -> list[inspect.Parameter] | None:
    """Reads what `build` of a part takes, without importing the part.

    Args:
        package: A sub-package of `ib_keras`, such as "data".
        name: Of the part; what follows a colon is passed over.

    Returns:
        The parameters, their annotations as text; None where they cannot be
        told from the source, as for a `build` with a decorator.

    Raises:
        UserError: If there is no such part.
    """
    name = str(name).partition(":")[0]
    if not _is_elsewhere(package, name):
        _check_name(package, name)
        return introspection.parameters(_file(package, name), "build")
    if hasattr(sys.modules.get(name), "build"):
        return _signature(sys.modules[name])
    spec = introspection.find(name)
    if spec is None:
        raise _not_importable(
            package,
            name,
            "no such module",
            "Check the spelling and PYTHONPATH.",
        )
    source = introspection.source(spec)
    return introspection.parameters(source, "build") if source else None


def _signature(module) -> list[inspect.Parameter]:
    return list(inspect.signature(module.build).parameters.values())


def _check_arguments(package, config, parameters, more):
    """Refuses arguments that do not exist, or that are missing."""
    given = _arguments(config).keys()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    valid = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    valid -= set(more)
    for key in given:
        if key not in valid and not takes_all:
            raise unknown_name(
                f"argument of {package} part {config['name']}",
                key,
                valid,
                "Correct or remove the field.",
            )
    missing = {
        p.name
        for p in parameters
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    } - {*given, *more}
    if missing:
        raise UserError(
            f"The {package} part {config['name']} misses arguments",
            received=", ".join(sorted(given)) or "none",
            expected=f"also {', '.join(sorted(missing))}",
            fix="Add the fields to the config section.",
        )


def load(package: str, name: str) -> ModuleType:
    """Imports the part `name` of `package`.

    Args:
        package: A sub-package of `ib_keras`, such as "attacks".
        name: The part's module name, or that of a module elsewhere; what
            follows a colon is passed over.

    Returns:
        The module, which defines `build`.

    Raises:
        UserError: If there is no such part.
    """
    name = str(name).partition(":")[0]
    if not _is_elsewhere(package, name):
        _check_name(package, name)
        return importlib.import_module(f"ib_keras.{package}.{name}")
    try:
        module = importlib.import_module(name)
    except Exception as error:  # A module of the user's can raise anything.
        fix = "Check the spelling and PYTHONPATH."
        if not isinstance(error, ImportError):
            fix = f"Fix the module: {_where(error)}."
        raise _not_importable(package, name, reason(error), fix) from error
    if not hasattr(module, "build"):
        raise _without_build(package, name)
    return module


def _where(error: BaseException) -> str:
    """The line of foreign code that an error came from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {last.filename}:{last.lineno}"


def build(package: str, config: Mapping[str, Any], **more: Any):
    """Builds the part that a config section describes.

    Args:
        package: A sub-package of `ib_keras`, such as "attacks".
        config: `{"name": ..., **arguments of its build()}`.
        **more: Arguments that do not come from the config.

    Returns:
        What `build` of the part returns.

    Raises:
        UserError: If the part or one of its arguments does not exist, one
            that it needs is missing, or one has a value that does not do.
    """
    config = expand(package, config)
    given = _arguments(config)
    module = load(package, config["name"])
    _check_arguments(package, config, _signature(module), more)
    # Our own parts raise these for a wrong value; user code can raise anything.
    is_own = is_ours(package, config["name"])
    kinds = (TypeError, ValueError) if is_own else Exception
    try:
        return module.build(**given, **more)
    except UserError:
        raise
    except kinds as error:
        why = reason(error).partition(" Received")[0]
        where = "" if is_own else f", {_where(error)}"
        raise UserError(
            f"The {package} part {config['name']} cannot be built",
            received=f"{given} ({type(error).__name__}: {why}{where})",
            expected="valid values",
            fix="Correct the section of the config.",
        ) from error
