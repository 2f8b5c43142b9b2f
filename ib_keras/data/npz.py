"""Images and labels of a user's own, from one NumPy archive.

`numpy.savez("mine.npz", images=images, labels=labels)` makes one of the split
"test"; with `x_train, y_train, x_test, y_test`, as `keras.datasets` stores
them, it has both. Nothing is unpickled.
"""

import numpy as np

from ib_keras import files
from ib_keras.data import splits
from ib_keras.data.source import DataSource
from ib_keras.errors import UserError
from ib_keras.types import check_images
from ib_keras.types import check_labels

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
_EXPECTED = "arrays images and labels, or x_train, y_train, x_test and y_test"


def build(
    path: str, description: str | None = None, class_names=None
) -> DataSource:
    """Opens an archive of images and labels.

    Args:
        path: The file. Images are `[n, height, width, channels]` or, of one
            channel, `[n, height, width]`, uint8 or floating point in [0, 1];
            labels whole numbers from 0, `[n]` or `[n, 1]`.
        description: What reports call it; None for the file's name.
        class_names: One for each class; None for their numbers.

    Returns:
        A `DataSource` with the splits that the file has.

    Raises:
        UserError: If the file is not there, is none, or holds something else.
    """
    found = _pairs(path, files.read_npz(path))
    found = {split: _checked(path, *pair) for split, pair in found.items()}
    shapes = {images.shape[1:] for images, _ in found.values()}
    if len(shapes) > 1:
        raise _wrong(
            path, f"images of shapes {sorted(shapes)}", "images of one shape"
        )
    count = 1 + max(int(labels.max()) for _, labels in found.values())
    names = tuple(map(str, class_names or range(max(count, 2))))
    if len(names) < count:
        raise _wrong(
            path, f"labels up to {count - 1}", f"labels of {len(names)} classes"
        )
    sizes = {split: len(labels) for split, (_, labels) in found.items()}

    def load(split: str) -> tuple[np.ndarray, np.ndarray]:
        parts = [
            (found[name][0][start:stop], found[name][1][start:stop])
            for name, start, stop in splits.resolve(split, sizes)
        ]
        images, labels = zip(*parts, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    return DataSource(
        name="npz",
        description=description or str(path).rpartition("/")[2],
        image_shape=tuple(int(n) for n in shapes.pop()),
        class_names=names,
        load=load,
    )


def _pairs(path, arrays):
    """Split -> images and labels, as the file has them."""
    found = {}
    for split, pairs in _NAMES.items():
        for images, labels in pairs:
            if images in arrays and labels in arrays:
                found.setdefault(split, (arrays[images], arrays[labels]))
    if not found:
        raise _wrong(path, f"arrays {', '.join(arrays) or 'none'}", _EXPECTED)
    return found


def _checked(path, images, labels):
    """Images `[n, height, width, channels]` and labels int32 `[n]`."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size:
        raise _wrong(
            path,
            f"images of shape {images.shape}",
            "images [n, height, width, channels] or [n, height, width]",
        )
    if images.dtype.kind == "f":
        images = check_images(images)
    elif images.dtype != np.uint8:
        raise _wrong(
            path, f"images of dtype {images.dtype}", "uint8 or floating point"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    classes = int(labels.max()) + 1 if labels.size else 1
    if labels.ndim == 2:
        classes = labels.shape[1]  # One-hot, which is said.
    return images, check_labels(labels, len(images), max(classes, 1))


def _wrong(path, received, expected) -> UserError:
    return UserError(
        "The archive does not hold labelled images",
        received=f"{path} with {received}",
        expected=expected,
        fix="Save it so: numpy.savez(path, images=images, labels=labels).",
    )
