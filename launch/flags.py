"""Flags and the main function that all commands share.

Flags are defined once, here, by name; a command picks those that it takes.
The main function turns a `UserError` into one line and its exit status, and
signals into a request to stop at the next checkpoint.
"""

import json
import logging as python_logging
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

import ib_keras  # noqa: F401  Quiets the console before TensorFlow is imported.
from launch import console
from launch import overrides

FLAGS = flags.FLAGS

# Sections of a training that a config has with an objective alone.
_OF_PRESETS = ("config.objective", "config.monitor")

# What absl says of a flag that is required, and a config of its preset.
_MISSING = re.compile(r"flag (--\w+)=None: .* other than None")
_PRESET = re.compile(
    r"ValueError: Received (preset .*)\. Expected (.*)\. (Correct .*)"
)

# The command line after `_parse`, in which absl looks for the config's fields.
_ARGUMENTS: list[str] = []
# Those of `ib_keras.strategy`, which imports TensorFlow.
STRATEGIES = ("one_device", "mirrored", "multi_worker", "tpu")

# The name of a node, or addresses.
_TPU = re.compile(r"[a-z][a-z0-9-]*|grpc://[^\s/]+(,grpc://[^\s/]+)*")

# Libraries that log hundreds of lines under --verbosity=1.
_LIBRARIES = ("h5py", "matplotlib", "PIL")

# The flags belong to the command that picks them, whose --help lists them.
flags.disclaim_key_flags()


def define_config(is_required: bool = True) -> None:
    """--config and its --config.field overrides."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "The experiment or protocol, a file of configs/; fields after it, "
        "such as --config.seed=1.",
        lock_config=True,
        sys_argv=_ARGUMENTS,
    )
    if is_required:
        flags.mark_flag_as_required("config")


def define_workdir() -> None:
    """--workdir."""
    flags.DEFINE_string(
        "workdir", None, "Folder to write to; the same one again resumes."
    )
    flags.mark_flag_as_required("workdir")


def define_quiet() -> None:
    """--quiet."""
    flags.DEFINE_bool("quiet", False, "Print the result alone.")


def define_strategy() -> None:
    """--strategy, --tpu and --worker_timeout."""
    flags.DEFINE_string(
        "strategy",
        "one_device",
        "Where to run: one_device, mirrored (all GPUs), multi_worker (the "
        "processes that TF_CONFIG names; of trainings alone) or tpu.",
    )
    flags.DEFINE_string(
        "tpu",
        None,
        "Runs on a TPU: local for this VM's chips, a node's name, or an "
        "address grpc://HOST:8470.",
    )
    flags.DEFINE_float(
        "worker_timeout",
        120.0,
        "Seconds that the workers of a cluster have to appear.",
        lower_bound=0.0,
    )


def define_watchdog() -> None:
    """--watchdog_minutes."""
    flags.DEFINE_float(
        "watchdog_minutes",
        10.0,
        "Exit with status 76, and the stack of every thread, when no call of "
        "training steps or of an audited model ends for this long, its "
        "compilation included; 0 for never.",
        lower_bound=0.0,
    )


def check_strategy() -> None:
    """Refuses an unknown strategy, before TensorFlow is imported."""
    from ib_keras.errors import UserError
    from ib_keras.errors import unknown_name

    name, tpu = _strategy()
    if name not in STRATEGIES:
        raise unknown_name("strategy", name, STRATEGIES, "Set --strategy.")
    if tpu and name != "tpu":
        raise UserError(
            "A TPU is named, but another strategy",
            received=f"--tpu={tpu} --strategy={name}",
            expected="--strategy=tpu",
            fix="Leave out one of --tpu and --strategy.",
        )
    if tpu and not _TPU.fullmatch(tpu):
        raise UserError(
            "--tpu does not name a TPU",
            received=repr(tpu),
            expected="local, the name of a node (lower-case letters, digits "
            "and hyphens) or grpc://HOST:8470",
            fix="Take --tpu=local on a TPU VM; `gcloud compute tpus tpu-vm "
            "list` has the names of nodes.",
        )


def make_strategy():
    """The `tf.distribute.Strategy` of the flags."""
    from ib_keras import strategy

    name, tpu = _strategy()
    return strategy.get(name, tpu=tpu, timeout=FLAGS.worker_timeout)


def _strategy() -> tuple[str, str | None]:
    """--strategy, which a --tpu implies, and --tpu."""
    name, tpu = FLAGS.strategy, FLAGS.tpu
    if tpu and not FLAGS["strategy"].present:
        name = "tpu"
    return name, tpu


def config_values() -> dict[str, Any]:
    """The config with its overrides, as nested JSON values."""
    return json.loads(FLAGS.config.to_json(sort_keys=False))


def command_line() -> str:
    """The command as typed, for reports."""
    words = _of_package()
    if words is None:
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        program = ["-m", spec.name] if spec else [sys.argv[0]]
        words = ["python", *program, *sys.argv[1:]]
    return shlex.join(words)


def _of_package() -> list[str] | None:
    """The command as typed, of `ib_keras COMMAND`; None of others.

    That is the script of an installed package, or `python -m ib_keras`.
    """
    words = sys.orig_argv[1:]
    if "-m" in words and words[words.index("-m") + 1 :][:1] == ["ib_keras"]:
        return ["python", *words[words.index("-m") :]]
    if words and pathlib.PurePath(words[0]).stem == "ib_keras":
        return ["ib_keras", *words[1:]]
    return None


def git_commit() -> str | None:
    """The commit of the checkout this runs from; None outside of one."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # An installed copy may be inside of another repository.
    if not os.path.exists(os.path.join(folder, ".git")):
        return None
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


class StopRequest:
    """Whether SIGTERM or SIGINT has asked to stop; the second one kills."""

    def __init__(self):
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number, frame):
        if self._asked:
            signal.signal(number, signal.SIG_DFL)
        self._asked = True

    def __call__(self) -> bool:
        return self._asked


def run(main: Callable[..., int | None], *, takes_words: bool = False) -> None:
    """Parses flags and runs a command with our exit statuses.

    Args:
        main: Takes nothing, or the words, and returns an exit status; None
            is 0.
        takes_words: Whether the command takes words that are not flags.
    """
    logging.set_verbosity(logging.ERROR)
    for name in _LIBRARIES:
        python_logging.getLogger(name).setLevel(python_logging.WARNING)
    console.protect()
    if _of_package() is not None:
        command = sys.modules["__main__"]
        command.__doc__ = (command.__doc__ or "").replace(
            "python -m launch.", "python -m ib_keras "
        )

    def framed(argv):
        from ib_keras.errors import ContradictionError
        from ib_keras.errors import Interrupted
        from ib_keras.errors import UserError
        from ib_keras.errors import reason

        if argv[1:] and not takes_words:
            print(
                f"Error: Arguments are not understood. Received: {argv[1:]}. "
                "Expected: flags alone. Fix: write --flag=value.",
                file=sys.stderr,
            )
            return 2
        try:
            return (main(argv[1:]) if takes_words else main()) or 0
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr)
            return error.exit_status
        except (ContradictionError, Interrupted) as error:
            print(str(error), file=sys.stderr)
            return error.exit_status
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            print(
                "Error: The memory does not suffice. "
                f"Received: {type(error).__name__}: {reason(error)}. "
                "Expected: a model and batches that fit. "
                "Fix: lower batch_size; a model that honestly needs more takes "
                "--allow_ops=memory_gb=NUMBER.",
                file=sys.stderr,
            )
            return 2

    app.run(framed, flags_parser=_parse)


def _is_out_of_memory(error) -> bool:
    """Whether Python or TensorFlow, not imported here, ran out of memory."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "ResourceExhaustedError"})


def _parse(argv):
    from ib_keras.errors import UserError

    try:
        arguments, config, added = _as_meant(argv[1:])
        argv = [argv[0], *arguments]
        _ARGUMENTS[:] = argv
        left = flags.FLAGS(argv)
        if config is not None:
            overrides.extend(FLAGS.config, config, arguments, added)
        if "config" in flags.FLAGS and FLAGS.config is not None:
            config_values()  # A missing file is detected only here.
        return left
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except Exception as error:  # A config file can raise any error.
        print(f"Error: {_explain(argv, error)}", file=sys.stderr)
        sys.exit(2)


def _as_meant(arguments):
    """The arguments with paths for names of configs, and plain numbers.

    Also the config before its overrides, None where there is none, and the
    arguments of its parts that it has no fields for.
    """
    from ib_keras.__main__ import resolve

    if "config" not in flags.FLAGS:
        return arguments, None, {}
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    command = spec.name.rpartition(".")[2] if spec else ""
    arguments = resolve(command, arguments)
    config = _unchanged_config(arguments)
    if config is None:
        return arguments, None, {}
    arguments = overrides.normalise(arguments, config)
    arguments, added = overrides.take_arguments(arguments, config)
    return arguments, config, added


def _words(arguments) -> list[str]:
    """Flags and values apart, of --flag=value as of --flag value."""
    return [word for item in arguments for word in item.split("=", 1)]


def _unchanged_config(arguments):
    """The config that --config names, before overrides; None without one."""
    words = _words(arguments)
    is_flag = [word in ("--config", "-config") for word in words]
    try:
        path = words[is_flag.index(True) + 1]
        config = flags.FLAGS["config"].parser.parse(path)
    except Exception:  # Another error, which is explained elsewhere.
        return None
    # For an unreadable file absl makes an object that raises when used.
    is_read = issubclass(type(config), ml_collections.ConfigDict)
    return config if is_read else None


def _explain(argv, error) -> str:
    """The error line for an invalid command line."""
    unknown = _unknown_field(argv)
    if unknown is not None:
        return str(unknown)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in lines):
        lines = lines[-1:]  # The error of the config file itself.
        if refused := _PRESET.match(lines[0]):
            received, expected, fix = refused.groups()
            return (
                f"No preset has this name. Received: {received}. "
                f"Expected: {expected}. Fix: {fix}"
            )
    elif missing := _MISSING.search(str(error)):
        return (
            f"A flag is missing. Received: no {missing[1]}. "
            f"Expected: {missing[1]}=... among the flags. "
            "Fix: add it; --help says what it means."
        )
    elif not isinstance(error, flags.Error | OSError):
        lines.insert(0, f"{type(error).__name__}:")
    return (
        "The command line cannot be used. "
        f"Received: {' '.join(lines)}. "
        "Expected: flags and config fields that exist, of their types. "
        "Fix: see --help and the config's file."
    )


def _error_of_field(name, inside, part, section):
    """The error of an override, of which `part` is not in its section."""
    from ib_keras.errors import UserError
    from ib_keras.errors import unknown_name

    fields = [f"--{inside}{field}" for field in section]
    if f"{inside}{part}" in _OF_PRESETS:
        return UserError(
            "The config lacks a section that some presets have",
            received=f'"--{name}"',
            expected=f"one of {', '.join(sorted(fields))}",
            fix="Name an objective behind the config's file, as in "
            "--config=configs/mnist_vib.py:pgd_at.",
        )
    return unknown_name(
        "config field", f"--{name}", fields, "See the config's file."
    )


def _unknown_field(argv):
    """The error of the first override of a field that the config lacks."""
    config = _unchanged_config(argv[1:])
    if config is None:  # Another error.
        return None
    words = [word for word in _words(argv[1:]) if word.startswith("-")]
    for name in (word.lstrip("-") for word in words):
        section, inside = config.to_dict(), "config."
        for part in name.split(".")[1:] if name.startswith(inside) else ():
            part = part.partition("[")[0]
            if not isinstance(section, dict):
                break
            if part not in section:
                return _error_of_field(name, inside, part, section)
            section, inside = section[part], f"{inside}{part}."
    return None
