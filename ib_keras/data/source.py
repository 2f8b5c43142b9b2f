"""The interface of data sets to the library, and their units.

A `DataSource` gives splits as arrays. `to_float` converts them to the library's
units, float32 in [0, 1]; `channel_statistics` measures them in these units, for
models that normalise their input.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from ib_keras import plugins
from ib_keras.errors import UserError
from ib_keras.types import check_images
from ib_keras.types import check_labels

# A data set is opened, and its arguments are refused, without TensorFlow.
if TYPE_CHECKING:
    import tensorflow as tf

# (images uint8 [batch, height, width, channels], seed int32 [2]) -> images of
# the same shape. Drawn once for a whole batch.
AugmentFn = Callable[["tf.Tensor", "tf.Tensor"], "tf.Tensor"]

# Seeds int32 [n, 2], one an example -> images [n, height, width, channels] and
# labels int32 [n].
DrawFn = Callable[["tf.Tensor"], tuple["tf.Tensor", "tf.Tensor"]]

# Images per block of `channel_statistics`: 3 MB in float64 for CIFAR-10.
_BLOCK = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSource:
    """A data set of labelled images.

    Args:
        name: The part's name, such as "cifar10".
        description: The name for reports, such as "CIFAR-10", with a remark
            where the local copy is not the original.
        image_shape: `(height, width, channels)`.
        class_names: One name for each class, in the order of the labels.
        load: Takes a split in TFDS's syntax ("train", "test[:1000]",
            "train[:90%]") and returns images, uint8 or float32 in [0, 1]
            `[n, height, width, channels]`, and labels, int32 `[n]`, always in
            the same order. The arrays may be shared between callers and are
            not to be written to.
        augment: Takes images uint8 `[batch, ...]` and a seed int32 `[2]` and
            returns images to train on, or None where the data set is trained
            on as it is.
        draw: Draws new examples of the split "train", where its distribution
            is known: training on that whole split then sees no example
            twice, and `load` gives a fixed sample of it. Takes seeds
            int32 `[n, 2]`, also inside compiled code, and returns images and
            labels as `load` does.
        feature_range: The values of the pixels 0 and 1 in the data set's own
            units, for models that compute in those; None if it has none.
    """

    name: str
    description: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    load: Callable[[str], tuple[np.ndarray, np.ndarray]]
    augment: AugmentFn | None = None
    draw: DrawFn | None = None
    feature_range: tuple[float, float] | None = None

    @property
    def num_classes(self) -> int:
        """How many classes there are; labels are 0 to `num_classes - 1`."""
        return len(self.class_names)


def make(section: Mapping[str, Any]) -> DataSource:
    """Builds the data set that a section of a config names.

    Args:
        section: `{"name": ..., **arguments of its build()}`.

    Returns:
        The `DataSource`.

    Raises:
        UserError: As `plugins.build`, or if the module returns something
            else.
    """
    source = plugins.build("data", section)
    if not isinstance(source, DataSource):
        raise UserError(
            "The result of build() is not a data set",
            received=f"a {type(source).__name__} from build() of "
            f"{section['name']}",
            expected="an ib_keras.data.source.DataSource",
            fix="Return one, such as arrays.make(name, test=(images, labels)) "
            "of ib_keras.data.arrays.",
        )
    return source


def read(source: DataSource, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Loads a split, and checks that of a user's own data set.

    Args:
        source: The data set.
        split: As `DataSource.load`.

    Returns:
        Images uint8, or float32 in [0, 1], and labels int32.

    Raises:
        UserError: If the split does not exist, or differs from what `source`
            declares.
    """
    images, labels = source.load(split)
    shape = tuple(source.image_shape)
    if tuple(images.shape[1:]) != shape:
        raise UserError(
            "The images do not have the shape that the data set declares",
            received=f"{source.name} {split} of shape {tuple(images.shape)}",
            expected=f"[n, {', '.join(map(str, shape))}]",
            fix="Correct load() or image_shape of the data set.",
        )
    if images.dtype != np.uint8:
        images = check_images(images)
    return images, check_labels(labels, len(images), source.num_classes)


def to_float(images) -> "tf.Tensor":
    """Converts images to the library's units, also in compiled code.

    Gives the same bits as `images.astype("float32") / 255` in NumPy: compilers
    turn a float32 division by a constant into a product with its reciprocal,
    which differs for half of the 256 values, so it is computed in float64.

    Args:
        images: uint8 in [0, 255] of any shape, or floating point.

    Returns:
        float32 in [0, 1], `images / 255`; floating point images are returned
        unchanged.

    Raises:
        UserError: If the images have another dtype.
    """
    import tensorflow as tf

    images = tf.convert_to_tensor(images)
    if images.dtype.is_floating:
        return images
    if images.dtype != tf.uint8:
        raise UserError(
            "Images have a dtype without known units",
            received=f"dtype {images.dtype.name}",
            expected="uint8 in [0, 255], or floating point in [0, 1]",
            fix='Convert them: images.astype("uint8").',
        )
    return tf.cast(tf.cast(images, tf.float64) / 255.0, tf.float32)


def channel_statistics(
    images: np.ndarray,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measures each channel over all images and positions.

    Sums are in float64 over deviations from the mean, block by block, so the
    memory needed does not grow with the data set.

    Args:
        images: `[n, height, width, channels]`, uint8 or in [0, 1].

    Returns:
        `(mean, std)`, two tuples of `channels` floats in the units of [0, 1];
        the variance divides by the count, and is 0 for a constant channel.

    Raises:
        UserError: If there are no images.
    """
    if images.ndim != 4 or not images.size:
        raise UserError(
            "There are no images to measure",
            received=f"shape {images.shape}",
            expected="[n, height, width, channels] with n > 0",
            fix="Give the images of the train split.",
        )
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    count = images.size // images.shape[-1]
    mean = _sum(images, lambda block: block) / count
    variance = _sum(images, lambda block: (block - mean) ** 2) / count
    deviation = np.sqrt(variance)
    return tuple((mean / scale).tolist()), tuple((deviation / scale).tolist())


def _sum(images: np.ndarray, function) -> np.ndarray:
    """Sums `function(block)` over all axes but the channels."""
    return sum(
        function(images[start : start + _BLOCK].astype(np.float64)).sum(
            axis=(0, 1, 2)
        )
        for start in range(0, len(images), _BLOCK)
    )
