"""The commands of ib_keras, for those who installed it and have no checkout.

ib_keras audit --config=aa_mt --saved_model=DIR --workdir=DIR
ib_keras COMMAND --help

`python -m ib_keras` is the same.

A wheel carries `launch/` and `configs/` inside of the package, in `_commands`,
so that such general names are not installed in site-packages. From a checkout
the commands are those of the checkout. A config may be named without its
folder: `--config=aa_mt` is `configs/audits/aa_mt.py`.
"""

import ast
import os
import runpy
import sys

from ib_keras import errors
from ib_keras import shipped
from ib_keras.version import __version__

COMMANDS = (
    "audit",
    "verify",
    "report",
    "show",
    "train",
    "sweep",
    "study",
    "figures",
    "controls",
    "doctor",
    "tpu_vm",
)
# Where the configs are that a command takes by name.
_CONFIGS = {
    "audit": "configs/audits",
    "train": "configs",
    "sweep": "configs",
    "study": "configs/studies",
}


def usage() -> str:
    """What --help prints."""
    lines = ["Usage: python -m ib_keras COMMAND [--flag=value ...]", ""]
    for name in COMMANDS:
        path = shipped.home() / "launch" / f"{name}.py"
        if path.exists():
            doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
            lines.append(f"  {name:8}{doc.partition(chr(10))[0]}")
    lines += ["", "python -m ib_keras COMMAND --help lists a command's flags."]
    for name, folder in _CONFIGS.items():
        lines.append(
            f"Configs of {name}: {', '.join(shipped.config_names(folder))}."
        )
    return "\n".join(lines)


def resolve(command: str, arguments: list[str]) -> list[str]:
    """Puts the path of a config where the arguments have its name.

    Args:
        command: One of `COMMANDS`.
        arguments: Of the command.

    Returns:
        The arguments, as the command itself understands them.

    Raises:
        UserError: If a name is none of the configs of the command.
    """
    if command not in _CONFIGS:
        return arguments
    resolved, is_value = [], False
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if is_value:
            argument = _config_path(command, argument)
        elif equals and flag in ("--config", "-config"):
            argument = f"{flag}={_config_path(command, value)}"
        is_value = not is_value and argument in ("--config", "-config")
        resolved.append(argument)
    return resolved


def _config_path(command: str, value: str) -> str:
    path, colon, preset = value.partition(":")
    if path and not path.endswith(".py") and os.path.basename(path) == path:
        names = shipped.config_names(_CONFIGS[command])
        if path not in names:
            raise errors.unknown_name(
                f"config of {command}",
                path,
                names,
                "Correct the name, or give the path of a file.",
            )
        path = str(shipped.home() / _CONFIGS[command] / f"{path}.py")
    elif path.endswith(".py") and not os.path.exists(path):
        if not (shipped.home() / path).is_file():
            folder = _CONFIGS[command]
            raise errors.unknown_name(
                "config file",
                path,
                [
                    f"{folder}/{name}.py"
                    for name in shipped.config_names(folder)
                ],
                "Correct the path.",
            )
        path = str(shipped.home() / path)
    return path + colon + preset


def main(arguments: list[str]) -> int:
    """Runs the command that the first argument names.

    Args:
        arguments: Those of the command line, without the program.

    Returns:
        The exit status; the command itself may exit with its own.
    """
    first = arguments[0] if arguments else None
    if first in ("--version", "-version", "version"):
        print(f"ib_keras {__version__}")
        return 0
    if first in (None, "--help", "-help", "-h", "help"):
        print(usage(), file=sys.stdout if first else sys.stderr)
        return 0 if first else errors.UserError.exit_status
    try:
        if first not in COMMANDS:
            raise errors.unknown_name(
                "command", first, COMMANDS, "See python -m ib_keras --help."
            )
        rest = resolve(first, arguments[1:])
    except errors.UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_status
    # First, so that folders of these names in the user's folder do not hide
    # ours.
    sys.path.insert(0, str(shipped.home()))
    sys.argv = [first, *rest]
    runpy.run_module(f"launch.{first}", run_name="__main__", alter_sys=True)
    return 0


def script() -> None:
    """What the installed script `ib_keras` runs."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    script()
