"""Models of the Hugging Face Hub, by paths such as `hf://ORG/NAME`.

A snapshot is fetched to the cache of `huggingface_hub`. That holds links, and
repositories hold files that no model has, so the files of the model alone are
copied to a folder of their own. Nothing is loaded here: the copy goes through
the same safety check as any other path.
"""

import functools
import os
import re
import shutil
import tempfile
import urllib.parse
import zipfile
from collections.abc import Callable

from ib_keras import lazy
from ib_keras.errors import UserError
from ib_keras.errors import reason

_FORM = re.compile(
    r"hf://(?P<repository>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>[\w.%-]+))?(?:/(?P<inside>[^@\\]+?))?/?"
)
# Of a SavedModel.
_FILES = (
    *("saved_model.pb", "fingerprint.pb", "keras_metadata.pb"),
    *("variables/*", "assets/*", "assets.extra/*"),
)
# A .keras file, unpacked, as `model.save("hf://...")` of Keras uploads it.
_UNPACKED = ("config.json", "metadata.json", "model.weights.h5")


def is_hub(path: object) -> bool:
    """Whether a path names a model of the hub."""
    return isinstance(path, str) and path.startswith("hf://")


def fetch(path: str) -> str:
    """Fetches a model to the cache.

    Args:
        path: `hf://ORG/NAME[@REVISION][/PLACE]`. The revision is a branch, a
            tag or a commit, a slash in it written as %2F; the place is a
            folder of the repository or a `.keras` file in it.

    Returns:
        The local path of a SavedModel folder or a `.keras` file, whose name
        has the organisation, the repository and the commit.

    Raises:
        UserError: If the path is none, `huggingface_hub` is not installed, the
            hub does not have it or cannot be reached and the cache has no copy,
            or it holds no one model.
    """
    repository, revision, inside = _parse(path)
    hub = lazy.optional("huggingface_hub", "hub", f"The path {path}")
    patterns = [inside]
    if not inside.endswith(".keras"):
        names = (*_FILES, *_UNPACKED, "*.keras")
        patterns = [f"{inside}/{name}".lstrip("/") for name in names]
    try:
        snapshot = hub.snapshot_download(
            repository, revision=revision, allow_patterns=patterns
        )
    except Exception as error:  # Of the network, the hub or the disk.
        raise UserError(
            "The model cannot be fetched",
            received=f"{path} ({type(error).__name__}: {reason(error)})",
            expected="a model of huggingface.co that you may read, or one that "
            "was fetched before",
            fix="Check the name, the revision and the network; for private "
            "models run hf auth login.",
        ) from error
    name, write = _model_in(os.path.join(snapshot, inside), path)
    own = repository.replace("/", "--"), os.path.basename(snapshot)
    place = os.path.join(hub.constants.HF_HOME, "ib_keras", *own, inside, name)
    return _once(place.rstrip("/"), write)


def _parse(path):
    found = _FORM.fullmatch(path)
    inside = (found and found["inside"]) or ""
    if found is None or ".." in inside.split("/"):
        raise UserError(
            "The path names no model of the hub",
            received=path,
            expected="hf://ORG/NAME, hf://ORG/NAME@REVISION, or either with a "
            "folder or a .keras file behind it",
            fix="Write, for example, hf://my-org/my-model@main.",
        )
    revision = urllib.parse.unquote(found["revision"] or "") or None
    return found["repository"], revision, inside


def _model_in(source: str, path: str) -> tuple[str, Callable[[str], object]]:
    """The name of the model at a place of a snapshot, and what copies it."""
    if os.path.isfile(source):
        return "", functools.partial(shutil.copyfile, source)
    there = os.listdir(source) if os.path.isdir(source) else []
    archives = [name for name in there if name.endswith(".keras")]
    found: list[tuple[str, Callable[[str], object]]] = []
    if "saved_model.pb" in there:
        found.append(("saved_model", functools.partial(_copy_files, source)))
    elif set(_UNPACKED) <= set(there):
        found.append(("model.keras", functools.partial(_pack, source)))
    for name in archives:
        file = os.path.join(source, name)
        found.append((name, functools.partial(shutil.copyfile, file)))
    if len(found) != 1:
        names = ", ".join(sorted(name for name, _ in found))
        raise UserError(
            "There is not one model at this path",
            received=f"{path} with {names or 'none'}",
            expected="a SavedModel, a .keras file, or the config.json, "
            "metadata.json and model.weights.h5 of one",
            fix="Put the folder or the file behind the name: hf://ORG/NAME/"
            "FOLDER.",
        )
    return found[0]


def _copy_files(source, target):
    os.makedirs(target)
    for name in _FILES:
        name = name.removesuffix("/*")
        file = os.path.join(source, name)
        if os.path.isdir(file):
            shutil.copytree(file, os.path.join(target, name))
        elif os.path.exists(file):
            shutil.copyfile(file, os.path.join(target, name))


def _pack(source, target):
    """Packs an unpacked .keras file; equal files give equal bytes."""
    with zipfile.ZipFile(target, "w") as archive:
        for name in _UNPACKED:
            with open(os.path.join(source, name), "rb") as file:
                archive.writestr(zipfile.ZipInfo(name), file.read())


def _once(target: str, write) -> str:
    """Writes a file or folder, whole or not at all, unless it is there."""
    if not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as folder:
            new = os.path.join(folder, os.path.basename(target))
            write(new)
            try:
                os.rename(new, target)
            except OSError:  # Another process was quicker.
                if not os.path.exists(target):
                    raise
    return target
