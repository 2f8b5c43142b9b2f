"""A user's own images and labels, from one NumPy archive.

`numpy.savez("mine.npz", images=images, labels=labels)` makes one of the split
"test"; with `x_train, y_train, x_test, y_test`, as `keras.datasets` stores
them, it has both. Nothing is unpickled.
"""

import os
import zipfile
from collections.abc import Sequence

from ib_keras import files
from ib_keras.data import arrays
from ib_keras.data.source import DataSource
from ib_keras.errors import UserError

# Split -> pairs of names that its images and labels may have in the file.
_NAMES = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "test": (
        ("x_test", "y_test"),
        ("test_images", "test_labels"),
        ("images", "labels"),
        ("x", "y"),
    ),
}


def check(path: str, **unused) -> None:
    """Refuses a file that is not there, or has no such arrays.

    Args:
        path: As of `build`.
        **unused: The other arguments of `build`.

    Raises:
        UserError: If so.
    """
    if files.is_remote(path):
        return
    if not os.path.isfile(path):
        raise UserError(
            "There is no archive of images",
            received=path,
            expected="a .npz file that numpy.savez wrote",
            fix="Correct the path.",
        )
    try:
        with zipfile.ZipFile(path) as file:
            names = [name.removesuffix(".npy") for name in file.namelist()]
    except (OSError, zipfile.BadZipFile):
        files.read_npz(path)  # Raises the error.
        raise
    _pairs(path, names)


def build(
    path: str,
    description: str | None = None,
    class_names: Sequence[str] | None = None,
) -> DataSource:
    """Opens an archive of images and labels.

    Args:
        path: The file, with arrays as `arrays.make` takes them.
        description: What reports call it; None for the file's name.
        class_names: One for each class; None for their numbers.

    Returns:
        A `DataSource` with the splits that the file has.

    Raises:
        UserError: If the file is missing, or is not such an archive.
    """
    check(path)
    held = files.read_npz(path)
    try:
        return arrays.make(
            "npz",
            description=description or os.path.basename(path),
            class_names=class_names,
            **{
                split: (held[images], held[labels])
                for split, (images, labels) in _pairs(path, held).items()
            },
        )
    except UserError as error:
        raise UserError(
            error.what,
            received=f"{error.received} in {path}",
            expected=error.expected,
            fix=error.fix,
        ) from error


def _pairs(path, names) -> dict[str, tuple[str, str]]:
    """Split -> names of its images and labels, as the file has them."""
    found: dict[str, tuple[str, str]] = {}
    for split, pairs in _NAMES.items():
        for pair in pairs:
            if set(pair) <= set(names):
                found.setdefault(split, pair)
    if not found:
        raise UserError(
            "The archive does not hold labelled images",
            received=f"{path} with arrays {', '.join(names) or 'none'}",
            expected="arrays images and labels, or x_train, y_train, x_test "
            "and y_test",
            fix="Save it so: numpy.savez(path, images=images, labels=labels).",
        )
    return found
