"""Image files in a folder for each class.

    photos/train/cat/1.png      photos/cat/1.png
    photos/train/dog/7.jpg      photos/dog/7.jpg
    photos/test/cat/2.png

On the left, the splits are those of the folders `train`, `test` and
`validation` that exist. On the right there is one split, `test`; with
`test_fraction` it is that part of each class, and `train` is the rest.

Names of classes, kinds of files and pixels are as those of
`keras.utils.image_dataset_from_directory`, but that pixels are rounded to 8
bits. That function sorts by class, and an audit takes the first examples of a
split: so the order here is that of a hash of each file's path below its split.
It is the same on every machine and mixes the classes, and adding a file moves
no file of another class to another split.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from typing import NamedTuple
from typing import cast

import numpy as np

from ib_keras.data import images
from ib_keras.data import splits
from ib_keras.data.source import DataSource
from ib_keras.errors import UserError

_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
_SPLITS = ("train", "test", "validation")


class _Files(NamedTuple):
    """The images of a split, in its order."""

    paths: list[str]
    labels: np.ndarray


class _Folder(NamedTuple):
    """The content of a folder, and how its images are converted."""

    files: dict[str, _Files]
    class_names: tuple[str, ...]
    form: images.Form


def build(
    path: str,
    image_size: Sequence[int] | int | None = None,
    color_mode: str = "rgb",
    class_names: Sequence[str] | None = None,
    test_fraction: float | None = None,
    interpolation: str = "bilinear",
    crop_to_aspect_ratio: bool = False,
    description: str | None = None,
) -> DataSource:
    """Opens a folder of images.

    Files are listed at once, and read when a split is loaded.

    Args:
        path: The folder, of this machine. It holds one for each class, or one
            for each split with those of the classes.
        image_size: (height, width), or one number for both; None for the size
            that the images have, where they all have one.
        color_mode: "rgb", "grayscale" or "rgba".
        class_names: The names of folders in the order of the labels; None for
            all, in the order of the alphabet. Folders of other names are left
            out, and a class may have no folder: so a few classes of a model of
            many keep its labels.
        test_fraction: Share of each class that is the split `test`, where the
            folder has no splits; None for all.
        interpolation: As of `keras.utils.image_dataset_from_directory`.
        crop_to_aspect_ratio: Likewise.
        description: What reports call it; None for the folder's name.

    Returns:
        A `DataSource` of uint8 images.

    Raises:
        UserError: If the folder is not there or holds no such images, or an
            argument cannot be used.
    """
    form = images.form(
        image_size, color_mode, interpolation, crop_to_aspect_ratio
    )
    folder = _open(path, form, class_names, test_fraction)
    sizes = {split: len(f.labels) for split, f in folder.files.items()}
    # `_open` has set the size, and a color mode the channels.
    height, width = cast(tuple[int, int], folder.form.size)
    shape = height, width, cast(int, folder.form.channels)

    def load(split: str) -> tuple[np.ndarray, np.ndarray]:
        paths, labels = [], []
        for name, start, stop in splits.resolve(split, sizes):
            paths += folder.files[name].paths[start:stop]
            labels.append(folder.files[name].labels[start:stop])
        images.check_memory(f"{path} {split}", len(paths), shape)
        is_resized = image_size is not None
        return _decode(paths, folder.form, is_resized), np.concatenate(labels)

    return DataSource(
        name="image_folder",
        description=description or os.path.basename(os.path.abspath(path)),
        image_shape=shape,
        class_names=folder.class_names,
        load=load,
    )


def check(**arguments) -> None:
    """Refuses what `build` refuses; lists files, but reads no image."""
    build(**arguments)


def _open(path, form, class_names, test_fraction) -> _Folder:
    """Lists the files of each split."""
    if not os.path.isdir(path):
        raise _wrong(path, "no such folder", "Correct the path.")
    roots = {
        split: os.path.join(path, split)
        for split in _SPLITS
        if _folders(os.path.join(path, split))
    }
    if roots and test_fraction is not None:
        raise _wrong(
            path,
            f"folders {', '.join(roots)}, and test_fraction={test_fraction}",
            "Leave out test_fraction: the splits are these folders.",
        )
    if class_names is None:
        class_names = _class_names(path, roots or {"test": path})
    names = _checked_names(path, class_names)
    found = {
        split: _files(root, names)
        for split, root in (roots or {"test": path}).items()
    }
    for split, some in found.items():
        if not some.paths:
            raise _wrong(
                path,
                f"none in the folders {', '.join(names[:5])} of {split}",
                "Correct path or class_names.",
            )
    if test_fraction is not None:
        found = _cut(path, found["test"], test_fraction)
    if form.size is None:
        form = form._replace(size=_size(next(iter(found.values())).paths[0]))
    return _Folder(found, names, form)


def _folders(path) -> list[str]:
    """The folders in a folder, sorted; none where there is no such folder."""
    if not os.path.isdir(path):
        return []
    return sorted(
        entry.name
        for entry in os.scandir(path)
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _checked_names(path, names) -> tuple[str, ...]:
    if isinstance(names, str):
        names = [names]
    names = tuple(map(str, names))
    if len(set(names)) < max(len(names), 2):
        raise _wrong(
            path,
            f"the classes {', '.join(names) or 'none'}",
            "Name two folders or more, each once, as class_names=cat,dog.",
        )
    return names


def _class_names(path, roots) -> list[str]:
    by_split = {split: _folders(root) for split, root in roots.items()}
    first, *others = by_split.values()
    if any(other != first for other in others):
        told = "; ".join(f"{s}: {len(n)}" for s, n in by_split.items())
        raise _wrong(
            path,
            f"other folders of classes in one split than in another ({told})",
            "Make them alike, or name the classes by class_names.",
        )
    inner = [_folders(os.path.join(path, name)) for name in first]
    if "test" in roots and roots["test"] == path and _are_alike(inner):
        raise _wrong(
            path,
            f"folders {', '.join(first)}, each with the folders "
            f"{', '.join(inner[0][:5])}",
            f"Call the splits {', '.join(_SPLITS)}; or, where these are the "
            "classes, name them by class_names.",
        )
    if len(first) < 2:
        raise _wrong(
            path,
            f"folders {', '.join(first) or 'none'}",
            "Put the images of each class into a folder of its own.",
        )
    return first


def _are_alike(folders) -> bool:
    """Whether all hold the same folders, as splits do and classes do not."""
    return (
        len(folders) > 0
        and len(folders[0]) > 1
        and all(found == folders[0] for found in folders)
    )


def _files(root, names) -> _Files:
    """The images below a split's folder, ordered by their paths' hashes."""
    found = []
    for label, name in enumerate(names):
        for folder, _, entries in os.walk(os.path.join(root, name)):
            found += [
                (os.path.join(folder, entry), label)
                for entry in entries
                if entry.lower().endswith(_ENDINGS)
            ]
    found.sort(key=lambda pair: _hash(os.path.relpath(pair[0], root)))
    labels = np.array([label for _, label in found], np.int32)
    return _Files([path for path, _ in found], labels)


def _hash(path: str) -> bytes:
    return hashlib.sha256(os.fsencode(path.replace(os.sep, "/"))).digest()


def _cut(path, whole, fraction) -> dict[str, _Files]:
    """Holds out the first images of each class for the split `test`."""
    is_number = isinstance(fraction, float) and 0 < fraction < 1
    is_test = np.zeros(len(whole.labels), bool)
    for label in np.unique(whole.labels) if is_number else ():
        rows = np.flatnonzero(whole.labels == label)
        is_test[rows[: round(fraction * len(rows))]] = True
    if not is_test.any() or is_test.all():
        raise _wrong(
            path,
            f"{len(is_test)} images and test_fraction={fraction!r}",
            "Set test_fraction to a number between 0 and 1, such as 0.2.",
        )
    return {
        split: _Files(
            [p for p, is_in in zip(whole.paths, rows, strict=True) if is_in],
            whole.labels[rows],
        )
        for split, rows in (("train", ~is_test), ("test", is_test))
    }


def _size(path) -> tuple[int, int]:
    """Height and width of an image, from the header of its file."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        # Also PIL's own error for files that are not images.
        raise _damaged(path, error) from error


def _decode(paths, form, is_resized) -> np.ndarray:
    """The images of files, uint8 `[n, height, width, channels]`."""
    import tensorflow as tf

    def read(path):
        data = tf.io.read_file(path)
        image = tf.io.decode_image(
            data, channels=form.channels, expand_animations=False
        )
        return form(image) if is_resized else image

    # As bytes, since a name on disk may not be valid text.
    dataset = tf.data.Dataset.from_tensor_slices(list(map(os.fsencode, paths)))
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    found = np.empty((len(paths), *form.size, form.channels), np.uint8)
    read_so_far = 0
    try:
        for image in dataset.as_numpy_iterator():
            if image.shape != found.shape[1:]:
                raise _odd(paths[read_so_far], image.shape, found.shape[1:])
            found[read_so_far] = image
            read_so_far += 1
    except tf.errors.OpError as error:
        raise _damaged(paths[read_so_far], error) from error
    return found


def _odd(path, shape, expected) -> UserError:
    return UserError(
        "The images are not of one size",
        received=f"{path} of shape {tuple(shape)}",
        expected=f"{tuple(expected)}, as the first one",
        fix="Set image_size to (height, width), such as 224,224.",
    )


def _damaged(path, error) -> UserError:
    why = (getattr(error, "message", None) or str(error)).splitlines()[0]
    # The prefixes of TensorFlow's messages are nodes and iterators.
    why = re.sub(r"^(\{\{.*?\}\} )?(.*Iterator::Root\S*: )?", "", why)
    return UserError(
        "An image cannot be read",
        received=f"{path} ({why[:100]})",
        expected="a whole image of the kind that its name says, which can be "
        "read with this color_mode",
        fix="Replace, convert or remove the file.",
    )


def _wrong(path, received, fix) -> UserError:
    return UserError(
        "The folder does not hold labelled images",
        received=f"{path}: {received}",
        expected="PATH/CLASS/*.png, or PATH/train/CLASS/*.png and PATH/test/"
        f"CLASS/*.png; also {', '.join(_ENDINGS)}",
        fix=fix,
    )
