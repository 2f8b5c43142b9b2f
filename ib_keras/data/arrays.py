"""Data sets from images and labels: NumPy arrays or a `tf.data.Dataset`.

`npz` and users' own data sets are made of it:

    def build(path):
        images, labels = my_reader(path)
        return arrays.make("mine", test=(images, labels))
"""

import sys

import numpy as np

from ib_keras.data import splits as split_strings
from ib_keras.data.source import DataSource
from ib_keras.errors import UserError
from ib_keras.types import as_array
from ib_keras.types import check_images
from ib_keras.types import check_labels
from ib_keras.types import count_classes


def make(
    name: str, *, description: str | None = None, class_names=None, **splits
) -> DataSource:
    """Makes a data set from splits.

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
    if class_names is None or not len(class_names):
        class_names = range(max(count, 2))
    names = tuple(map(str, class_names))
    if len(names) < count:
        raise _wrong(
            f"labels up to {count - 1}", f"labels of {len(names)} classes"
        )
    height, width, channels = map(int, shapes.pop())
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
        image_shape=(height, width, channels),
        class_names=names,
        load=load,
    )


def _checked(split, pair):
    """Images `[n, height, width, channels]` and labels int32 `[n]`."""
    images, labels = _pair(split, pair)
    images = as_array(images, "images", "[n, height, width, channels]")
    labels = as_array(labels, "labels", "[n]")
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
    return images, check_labels(labels, len(images), count_classes(labels))


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
        raise _wrong("an infinite dataset", "a finite one")
    spec = dataset.element_spec
    if not isinstance(spec, tuple):
        raise _wrong("a dataset of single tensors", "one of (image, label)")
    if len(spec) != 2 or not all(hasattr(part, "shape") for part in spec):
        raise _wrong("a dataset of other elements", "one of (image, label)")
    if not _is_in_batches(*(part.shape for part in spec)):
        dataset = dataset.batch(1000 if spec[0].shape.is_fully_defined() else 1)
    pairs = list(dataset.as_numpy_iterator())
    if not pairs:
        raise _wrong("an empty dataset", "an image or more")
    images, labels = zip(*pairs, strict=True)
    shapes = sorted({batch.shape[1:] for batch in images})
    if len(shapes) > 1:
        raise _wrong(
            f"images of shapes {', '.join(map(str, shapes[:3]))}",
            "images of one shape",
        )
    return np.concatenate(images), np.concatenate(labels)


def _is_in_batches(image, label) -> bool:
    """Whether elements of these shapes are batches.

    Three axes are those of an image, or of a batch of gray images: then the
    labels have its batch axis, too.
    """
    if image.rank != 3:
        return image.rank != 2
    is_one = label.rank == 0 or image[0] != label[0]
    return not is_one and image[2] not in (1, 3)


def _wrong(received, expected) -> UserError:
    return UserError(
        "These are not labelled images",
        received=received,
        expected=expected,
        fix="Give images [n, height, width, channels] and labels [n].",
    )
