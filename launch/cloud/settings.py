"""What is typed once: which VM, where, of what kind, and its job.

Remembered in a file of the folder where the command runs, so that one folder
is one VM.
"""

import dataclasses
import json
import os
import re

from ib_keras.errors import UserError

FILE = ".ib_keras_tpu_vm.json"

# Google's table of software versions, by how the type begins; the frameworks
# come by pip. https://docs.cloud.google.com/tpu/docs/runtimes
_VERSIONS = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
_FORMS = {
    "name": (
        r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?",
        "lower case letters, digits and hyphens, a letter first",
    ),
    "request": (
        r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?",
        "the name of a queued resource",
    ),
    "project": (r"[a-z][-a-z0-9.:]*[a-z0-9]", "the ID of a project"),
    "zone": (r"[a-z]+-[a-z]+[0-9]+-[a-z]", "a zone such as us-central2-b"),
    "type": (r"[a-z0-9]+-[0-9]+", "an accelerator type such as v4-8"),
    "version": (r"[a-z0-9][-a-z0-9._]*", "a TPU software version"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """A VM as `gcloud` names it, and what was started on it.

    Args:
        project: ID of the Google Cloud project.
        zone: Such as "us-central2-b".
        name: Of the VM.
        type: Accelerator type, such as "v4-8".
        version: TPU software version; None for the one of the type.
        spot: Whether it may be taken away, at a lower price.
        request: The queued resource that it comes from, if any.
        job: The command that was started last, as words.
    """

    project: str | None = None
    zone: str | None = None
    name: str | None = None
    type: str | None = None
    version: str | None = None
    spot: bool = False
    request: str | None = None
    job: tuple[str, ...] = ()

    def __post_init__(self):
        for field, (form, expected) in _FORMS.items():
            value = getattr(self, field)
            if value is not None and not re.fullmatch(form, str(value)):
                raise UserError(
                    f"The {field} cannot be one",
                    received=repr(value),
                    expected=expected,
                    fix=f"Correct --{field}.",
                )

    def needing(self, *fields: str) -> "Settings":
        """Returns itself.

        Raises:
            UserError: If one of the `fields` was never given.
        """
        missing = [name for name in fields if getattr(self, name) is None]
        if missing:
            raise UserError(
                f"The {missing[0]} of the VM is missing",
                received=f"no --{missing[0]}, and none in {FILE} here",
                expected=f"{', '.join(fields)}, each given once",
                fix=f"Add --{missing[0]}=..., or go to the folder where it "
                "was given.",
            )
        return self

    def software(self) -> str:
        """The TPU software version to create the VM with."""
        if self.version is not None:
            return self.version
        generation = (self.type or "").partition("-")[0]
        if generation not in _VERSIONS:
            raise UserError(
                "The software version for this type is not known here",
                received=f"--type={self.type}",
                expected=f"a type of {', '.join(_VERSIONS)}, or --version",
                fix="Add --version=..., from gcloud compute tpus tpu-vm "
                "versions list.",
            )
        return _VERSIONS[generation]


def load(folder: str = ".") -> Settings:
    """What was remembered in a folder; empty settings if nothing was.

    Raises:
        UserError: If the file is not one of ours.
    """
    path = os.path.join(folder, FILE)
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        names = {field.name for field in dataclasses.fields(Settings)}
        unknown = set(values) - names
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        return Settings(**(values | {"job": tuple(values.get("job", ()))}))
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            "The remembered settings cannot be used",
            received=f"{path}: {error}",
            expected="the file as it was written",
            fix="Delete the file and give the flags again.",
        ) from error


def save(settings: Settings, folder: str = ".") -> None:
    """Remembers settings in a folder."""
    path = os.path.join(folder, FILE)
    values = {k: v for k, v in dataclasses.asdict(settings).items() if v}
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
        file.write("\n")
    os.replace(f"{path}.new", path)


def merge(old: Settings, **given) -> Settings:
    """Puts what was given over what was remembered.

    Args:
        old: What was remembered.
        **given: Fields; None is not given. `queued` is whether to ask by a
            queued resource, of the VM's name unless another is known.

    Returns:
        New settings. Those of another VM keep project and zone alone.
    """
    queued = given.pop("queued", None)
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("name", old.name) != old.name:
        old = Settings(project=old.project, zone=old.zone)
    if given.get("type", old.type) != old.type:
        old = dataclasses.replace(old, version=None)
    new = dataclasses.replace(old, **given)
    if queued is not None:
        request = (new.request or new.name) if queued else None
        new = dataclasses.replace(new, request=request)
    return new
