"""What is typed once: which VM, where, and of what kind.

Remembered in a file of the current folder, so that one folder is one VM.
"""

import dataclasses
import json
import os
import re

from ib_keras.errors import UserError

FILE = ".ib_keras_tpu_vm.json"

# Software versions by how the type begins; the frameworks come by pip.
# https://docs.cloud.google.com/tpu/docs/runtimes
_VERSIONS = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """A VM as the flags of `launch.tpu_vm` name it."""

    project: str | None = None
    zone: str | None = None
    name: str | None = None
    type: str | None = None
    version: str | None = None
    spot: bool = False

    def check(self, *fields: str) -> None:
        """Refuses fields that are missing, or that `gcloud` takes for flags.

        Raises:
            UserError: If there is one.
        """
        for field in fields:
            value = getattr(self, field)
            if value is None or not re.fullmatch(r"[a-z0-9][\w.:-]*", value):
                raise UserError(
                    f"The {field} of the VM is missing, or is none",
                    received=repr(value)
                    if value
                    else f"no --{field}, and none in {FILE} here",
                    expected="lower-case letters, digits and hyphens",
                    fix=f"Add --{field}=..., or go to the folder where it was "
                    "given.",
                )

    def software(self) -> str:
        """The TPU software version to create the VM with."""
        generation = (self.type or "").partition("-")[0]
        if self.version is None and generation not in _VERSIONS:
            raise UserError(
                "The software version of this type is not known here",
                received=f"--type={self.type}",
                expected=f"a type of {', '.join(_VERSIONS)}, or --version",
                fix="Add --version=..., from gcloud compute tpus tpu-vm "
                "versions list.",
            )
        return self.version or _VERSIONS[generation]

    def updated(self, **given) -> "Settings":
        """These with the fields that are given, which None and "" are not.

        Another VM keeps project and zone; another type has another version.
        """
        given = {name: value for name, value in given.items() if value}
        old = dataclasses.asdict(self)
        if given.get("name", self.name) != self.name:
            old = {"project": self.project, "zone": self.zone}
        if given.get("type", self.type) != self.type:
            old.pop("version", None)
        return Settings(**(old | given))


def load() -> Settings:
    """What was remembered in the current folder; empty if nothing was."""
    try:
        with open(FILE, encoding="utf-8") as file:
            return Settings(**json.load(file))
    except FileNotFoundError:
        return Settings()
    except (OSError, TypeError, ValueError) as error:
        raise UserError(
            "The remembered settings cannot be used",
            received=f"{FILE}: {error}",
            expected="the file as it was written",
            fix="Delete the file and give the flags again.",
        ) from error


def save(settings: Settings) -> None:
    """Remembers settings in the current folder."""
    values = {k: v for k, v in dataclasses.asdict(settings).items() if v}
    with open(f"{FILE}.new", "w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
    os.replace(f"{FILE}.new", FILE)
