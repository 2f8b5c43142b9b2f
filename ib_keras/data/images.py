"""Images of any size and colour, converted to those that a model takes.

Shared by the data sets whose images are the user's: `image_size` and
`color_mode` are those of `keras.utils.image_dataset_from_directory`, and so are
the pixels, rounded to 8 bits.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

from ib_keras.errors import UserError
from ib_keras.errors import unknown_name

CHANNELS = {"grayscale": 1, "rgb": 3, "rgba": 4}
_INTERPOLATIONS = (
    "area",
    "bicubic",
    "bilinear",
    "gaussian",
    "lanczos3",
    "lanczos5",
    "mitchellcubic",
    "nearest",
)


class Form(NamedTuple):
    """The form that images are converted to.

    Attributes:
        size: (height, width); None keeps their size.
        channels: 1, 3 or 4; None keeps theirs.
        interpolation: A method of `tf.image.resize`.
        crop: Whether to cut what does not fit the ratio of `size`, instead of
            stretching the image.
    """

    size: tuple[int, int] | None
    channels: int | None
    interpolation: str = "bilinear"
    crop: bool = False

    def __call__(self, image):
        """Converts a uint8 image `[height, width, channels]` to this form."""
        import tensorflow as tf

        if self.size is not None:
            image = tf.round(self._resized(image))
            image = tf.saturate_cast(image, tf.uint8)
        channels = image.shape[-1]
        if self.channels == 3 and channels == 1:
            image = tf.image.grayscale_to_rgb(image)
        elif self.channels == 1 and channels == 3:
            image = tf.image.rgb_to_grayscale(image)
        return image

    def _resized(self, image):
        import tensorflow as tf

        if not self.crop:
            return tf.image.resize(image, self.size, self.interpolation)
        import keras

        resize = keras.preprocessing.image.smart_resize
        return resize(image, self.size, self.interpolation)


def form(
    image_size: Sequence[int] | int | None = None,
    color_mode: str | None = None,
    interpolation: str = "bilinear",
    crop_to_aspect_ratio: bool = False,
) -> Form:
    """Checks the arguments of a data set that convert its images.

    Args:
        image_size: (height, width), or one number for both; None for the size
            that the images have.
        color_mode: "grayscale", "rgb" or "rgba"; None for what they have.
        interpolation: As of `keras.utils.image_dataset_from_directory`.
        crop_to_aspect_ratio: Likewise.

    Returns:
        The `Form`.

    Raises:
        UserError: If one of them is invalid.
    """
    if color_mode is not None and color_mode not in CHANNELS:
        raise unknown_name(
            "color mode", color_mode, CHANNELS, "Set color_mode to one."
        )
    if interpolation not in _INTERPOLATIONS:
        raise unknown_name(
            "interpolation",
            interpolation,
            _INTERPOLATIONS,
            "Set interpolation to one.",
        )
    if not isinstance(crop_to_aspect_ratio, bool):
        raise UserError(
            "crop_to_aspect_ratio is not a boolean",
            received=repr(crop_to_aspect_ratio),
            expected="True or False",
            fix="Set it to one.",
        )
    return Form(
        _size(image_size),
        None if color_mode is None else CHANNELS[color_mode],
        interpolation,
        crop_to_aspect_ratio,
    )


def _size(given) -> tuple[int, int] | None:
    if given is None:
        return None
    is_one = not isinstance(given, Sequence) or isinstance(given, str)
    size = (given, given) if is_one else tuple(given)
    if len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        raise UserError(
            "The size is not one of images",
            received=f"image_size={given!r}",
            expected="(height, width) in pixels, or one number for both",
            fix="Set it so: image_size=224,224.",
        )
    return size


def check_memory(what: str, count: int, image_shape: Sequence[int]) -> None:
    """Refuses a split that is larger than the memory of this machine.

    Args:
        what: The data set and split, for the message.
        count: Of images.
        image_shape: `(height, width, channels)`, of one byte each.

    Raises:
        UserError: If it is.
    """
    size = count
    for length in image_shape:
        size *= length
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise UserError(
            "The split is larger than the memory",
            received=f"{what}: {count} images of shape {tuple(image_shape)}, "
            f"{size / 2**30:.0f} GiB",
            expected=f"less than {memory / 2**30:.0f} GiB; splits are held "
            "as a whole",
            fix="Take a part, such as the split test[:5000], or a smaller "
            "image_size.",
        )
