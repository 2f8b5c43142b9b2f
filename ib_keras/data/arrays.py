"""Images and labels that a program has: NumPy arrays or a `tf.data.Dataset`.

What `npz` and a data set of one's own are made of:

    def build(path):
        images, labels = my_reader(path)
        return arrays.make("mine", test=(images, labels))
"""

import sys

import numpy as np

from ib_keras.data import splits as split_strings
from ib_keras.data.source import DataSource
from ib_keras.errors import UserError
from ib_keras.types import check_images
from ib_keras.types import check_labels


def make(
    name: str, *, description: str | None = None, class_names=None, **splits
) -> DataSource:
    """Makes a data set of whole splits.

    Args:
        name: What records call it.
        description: What reports call it; None for the name.
        class_names: One for each class; None for their numbers.
        **splits: Split, such as `train` or `test` -> `(images, labels)`, or a
            finite `tf.data.Dataset` of such pairs, in batches or not. Images
            are `[n, height, width, channels]` or, of one channel,
            `[n, height, width]`, uint8 or floating point in [0, 1]; labels
            whole numbers from 0, `[n]` or `[n, 1]`.

    Returns:
        A `DataSource` with these splits.

    Raises:
        UserError: If there are none, or they are something else.
    """
    found = {split: _checked(split, pair) for split, pair in splits.items()}
    shapes = {images.shape[1:] for images, _ in found.values()}
    if len(shapes) != 1:
        raise _wrong(
            f"splits {list(found)} with images of shapes {sorted(shapes)}",
            "a split or more, with images of one shape",
        )
    count = 1 + max(int(labels.max()) for _, labels in found.values())
    names = tuple(map(str, class_names or range(max(count, 2))))
    if len(names) < count:
        raise _wrong(
            f"labels up to {count - 1}", f"labels of {len(names)} classes"
        )
    sizes = {split: len(labels) for split, (_, labels) in found.items()}

    def load(split: str) -> tuple[np.ndarray, np.ndarray]:
        parts = [
            (found[name][0][start:stop], found[name][1][start:stop])
            for name, start, stop in split_strings.resolve(split, sizes)
        ]
        images, labels = zip(*parts, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    return DataSource(
        name=name,
        description=description or name,
        image_shape=tuple(int(n) for n in shapes.pop()),
        class_names=names,
        load=load,
    )


def _checked(split, pair):
    """Images `[n, height, width, channels]` and labels int32 `[n]`."""
    images, labels = map(np.asarray, _pair(split, pair))
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size:
        raise _wrong(
            f"images of shape {images.shape}",
            "images [n, height, width, channels] or [n, height, width]",
        )
    if images.dtype.kind == "f":
        images = check_images(images)
    elif images.dtype != np.uint8:
        raise _wrong(
            f"images of dtype {images.dtype}", "uint8 or floating point"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    classes = int(labels.max()) + 1 if labels.size else 1
    if labels.ndim == 2:
        classes = labels.shape[1]  # One-hot, which is said.
    return images, check_labels(labels, len(images), max(classes, 1))


def _pair(split, value):
    if isinstance(value, tuple | list) and len(value) == 2:
        return value
    tf = sys.modules.get("tensorflow")
    if tf is not None and isinstance(value, tf.data.Dataset):
        return _gather(value)
    raise _wrong(
        f"a {type(value).__name__} for the split {split}",
        "(images, labels), or a tf.data.Dataset of such pairs",
    )


def _gather(dataset):
    """All pairs of a `tf.data.Dataset`, which may be in batches."""
    if int(dataset.cardinality()) == -1:
        raise _wrong("a dataset without end", "a finite one")
    if not isinstance(dataset.element_spec, tuple):
        raise _wrong("a dataset of single tensors", "one of (image, label)")
    if dataset.element_spec[0].shape.rank == 3:
        dataset = dataset.batch(1000)
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _wrong(received, expected) -> UserError:
    return UserError(
        "These are not labelled images",
        received=received,
        expected=expected,
        fix="Give images [n, height, width, channels] and labels [n].",
    )
