"""A workdir belongs to one config: `config.json` in it says which.

A config has the fields that are read and no others: one that is misspelt would
be passed over in silence.
"""

import json
from collections.abc import Mapping
from typing import Any

from ib_keras import files
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name

CONFIG_FILE = "config.json"


def check_fields(
    config: Mapping[str, Any], fields: Mapping[str, Any], inside: str = ""
) -> None:
    """Refuses a config with a field that nothing reads, or without one.

    Args:
        config: JSON values, nested.
        fields: Name -> None for a value, such a mapping for a section, or ...
            for a section that others check, such as a part's.
        inside: Dotted name of the section, with a dot behind.

    Raises:
        UserError: If a field is unknown or missing, or a section is none.
    """
    for name in config:
        if name not in fields:
            raise unknown_name(
                "config field",
                f"{inside}{name}",
                [f"{inside}{field}" for field in fields],
                "Correct or remove the field.",
            )
    for name, inner in fields.items():
        if name not in config:
            raise UserError(
                "The config misses a field",
                received=f"{', '.join(map(str, config)) or 'nothing'}"
                + (f" in {inside[:-1]}" if inside else ""),
                expected=f"also {inside}{name}",
                fix="Start from one of the files in configs/.",
            )
        if inner is None:
            continue
        if not isinstance(config[name], Mapping):
            raise UserError(
                "A section of the config is not a section",
                received=f"{inside}{name}={config[name]!r}",
                expected="fields and their values",
                fix="Start from one of the files in configs/.",
            )
        if inner is not ...:
            check_fields(config[name], inner, f"{inside}{name}.")


def check(
    workdir: str,
    config: Mapping[str, Any],
    may_differ: tuple[str, ...] = (),
) -> None:
    """Refuses a workdir that is not of this config; writes nothing.

    Args:
        workdir: The folder.
        config: JSON values, nested.
        may_differ: Dotted names of fields that change no result, such as
            "data.data_dir".

    Raises:
        UserError: If the workdir holds another config, or something else that
            is not ours.
    """
    if not workdir or (files.exists(workdir) and not files.is_folder(workdir)):
        raise UserError(
            "The workdir is not a folder",
            received=f'"{workdir}"',
            expected="a folder, which need not be there yet",
            fix="Choose another --workdir.",
        )
    path = files.join(workdir, CONFIG_FILE)
    if not files.exists(path):
        present = [
            n for n in files.listdir(workdir) if not files.is_leftover(n)
        ]
        if present:
            raise UserError(
                "The workdir holds something else",
                received=f"{workdir} with {', '.join(present[:3])}, and no "
                f"{CONFIG_FILE}",
                expected="a new or empty folder, or one of an earlier run",
                fix="Choose another --workdir.",
            )
        return
    there = _flatten(files.read_json(path))
    here = _flatten(json.loads(json.dumps(config)))
    different = sorted(
        key
        for key in there.keys() | here.keys()
        if there.get(key) != here.get(key) and key not in may_differ
    )
    if different:
        key = different[0]
        raise UserError(
            "The workdir belongs to another config",
            received=f"{key}={here.get(key)!r}"
            + (f" and {len(different) - 1} more" if different[1:] else ""),
            expected=f"{key}={there.get(key)!r}, as in {path}",
            fix="Choose another --workdir, or give the config it was made by.",
        )


def claim(
    workdir: str,
    config: Mapping[str, Any],
    may_differ: tuple[str, ...] = (),
) -> None:
    """Makes the workdir, or checks that it is of the same config.

    The arguments and errors are those of `check`.
    """
    check(workdir, config, may_differ)
    path = files.join(workdir, CONFIG_FILE)
    if not files.exists(path):
        files.make_folder(workdir)
        files.write_json(path, json.loads(json.dumps(config)))


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
