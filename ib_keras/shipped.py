"""The commands and configs that come with the package, in a checkout or not.

A wheel carries `launch/` and `configs/` inside of the package, in `_commands`.
"""

import contextlib
import json
import pathlib
import runpy
import sys
from collections.abc import Iterator
from typing import Any

from ib_keras.errors import UserError
from ib_keras.errors import unknown_name

# Files of a folder of configs that are none.
_NOT_CONFIGS = ("__init__", "common")


def home() -> pathlib.Path:
    """The folder that holds `launch` and `configs`."""
    package = pathlib.Path(__file__).resolve().parent
    inside = package / "_commands"
    return inside if inside.is_dir() else package.parent


def config_names(folder: str) -> list[str]:
    """The configs of a folder, by which `--config` takes them."""
    return sorted(
        path.stem
        for path in (home() / folder).glob("*.py")
        if path.stem not in _NOT_CONFIGS
    )


def protocol(name: str) -> dict[str, Any]:
    """The config of an audit's protocol, as nested JSON values.

    Args:
        name: A file of `configs/audits/` without its ending, or the path of a
            file of one's own that defines `get_config()`.

    Raises:
        UserError: If there is no such protocol.
    """
    folder = "configs/audits"
    path = pathlib.Path(name)
    if path.suffix != ".py":
        if name not in config_names(folder):
            raise unknown_name(
                "protocol",
                name,
                config_names(folder),
                "Or give the path of a file with get_config().",
            )
        path = home() / folder / f"{name}.py"
    elif not path.is_file():
        names = ", ".join(config_names(folder))
        raise UserError(
            "There is no such protocol",
            received=name,
            expected="the path of a file that defines get_config()",
            fix=f"Correct it, or name one of {names}.",
        )
    with _ours_first():
        config = runpy.run_path(str(path))["get_config"]()
    return json.loads(config.to_json())


@contextlib.contextmanager
def _ours_first() -> Iterator[None]:
    """Lets `configs` mean ours, and afterwards what it meant before."""

    def take_out():
        return {
            name: sys.modules.pop(name)
            for name in list(sys.modules)
            if name.partition(".")[0] == "configs"
        }

    theirs = take_out()
    sys.path.insert(0, str(home()))
    try:
        yield
    finally:
        sys.path.remove(str(home()))
        take_out()
        sys.modules.update(theirs)
