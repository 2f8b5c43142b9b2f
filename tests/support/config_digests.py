"""Digests of every config, protocol and sweep as they were last meant to be.

A run and a sweep go on in their folders only with the config that began them,
so a config that changes without intent loses what users have done. Where a
change is meant: `python -m tests.support.config_digests`.
"""

import hashlib
import importlib
import json
import pathlib

from configs import common
from ib_keras import shipped

PATH = pathlib.Path(__file__).with_suffix(".json")


def read() -> dict[str, str]:
    """The digests that are committed, by `NAME[:PRESET][ sweep]`."""
    return json.loads(PATH.read_text())


def compute() -> dict[str, str]:
    """The digests of the configs as they are."""
    found = {}
    for name in shipped.config_names("configs"):
        module = importlib.import_module(f"configs.{name}")
        for preset in common.PRESETS:
            key = f"{name}:{preset}".rstrip(":")
            found[key] = _digest(module.get_config(preset).to_json())
            if hasattr(module, "sweep"):
                found[f"{key} sweep"] = _digest(_plan(module.sweep, preset))
    for name in shipped.config_names("configs/audits"):
        module = importlib.import_module(f"configs.audits.{name}")
        found[f"audits/{name}"] = _digest(module.get_config().to_json())
    return found


def _plan(sweep, preset) -> str:
    """What a sweep adds and says; of its dicts only audits have an order."""
    runs = []

    def add(name, fields, **more):
        runs.append([name, fields, list(more.get("audits", ())), more])

    said = sweep(add, preset)
    return json.dumps([runs, said], sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


if __name__ == "__main__":
    PATH.write_text(json.dumps(compute(), indent=1) + "\n")
