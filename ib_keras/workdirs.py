"""A workdir belongs to one config: `config.json` in it says which."""

import json
from collections.abc import Mapping
from typing import Any

from ib_keras import files
from ib_keras.errors import UserError

CONFIG_FILE = "config.json"


def claim(
    workdir: str,
    config: Mapping[str, Any],
    may_differ: tuple[str, ...] = (),
) -> None:
    """Makes the workdir, or checks that it is of the same config.

    Args:
        workdir: The folder.
        config: JSON values, nested.
        may_differ: Dotted names of fields that change no result, such as
            "data.data_dir".

    Raises:
        UserError: If the workdir holds another config, or something else that
            is not ours.
    """
    config = json.loads(json.dumps(config))
    path = files.join(workdir, CONFIG_FILE)
    if not files.exists(path):
        present = files.listdir(workdir)
        if present:
            raise UserError(
                "The workdir holds something else",
                received=f"{workdir} with {', '.join(present[:3])}, and no "
                f"{CONFIG_FILE}",
                expected="a new or empty folder, or one of an earlier run",
                fix="Choose another --workdir.",
            )
        files.make_folder(workdir)
        files.write_json(path, config)
        return
    there = _flatten(files.read_json(path))
    here = _flatten(config)
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


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
