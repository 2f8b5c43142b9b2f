"""Terms that all packages share, with their units and conventions.

* Images: float32 `[batch, height, width, channels]` in [0, 1]. Every rescaling
  or normalisation happens inside the model.
* Labels: int32 `[batch]`. Latents: `[samples, batch, latent_dim]`.
* Information is in nats. Losses are per example and unreduced; inside attacks
  a larger loss is better for the attacker. Epsilons are in pixel units of
  [0, 1].
* Seeds: int32 `[2]`; one seed per example: int32 `[batch, 2]` (`seeds.py`).
"""

import dataclasses
import math
import numbers
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from ib_keras.errors import UserError
from ib_keras.errors import unknown_name

if TYPE_CHECKING:
    import tensorflow as tf

# (images, seed int32 [2]) -> logits [batch, classes]. In stochastic mode the
# logits are log((1/S) sum_s softmax(decoder(z_s))): the scored classifier.
LogitsFn = Callable[["tf.Tensor", "tf.Tensor"], "tf.Tensor"]

NORMS = ("linf", "l2")
# Kinds of outputs of a classifier.
KINDS = ("logits", "log_probabilities", "probabilities")


@dataclasses.dataclass(frozen=True)
class ThreatModel:
    """The images that an attacker may choose: a ball intersected with [0, 1].

    Args:
        norm: "linf" or "l2".
        epsilon: Radius of the ball in pixel units of [0, 1]: a float, or a
            scalar tensor inside compiled code (so that two radii share one
            trace).

    Raises:
        UserError: If the norm is unknown, or the radius is negative, not
            finite, or plainly in other units (above 1 for linf).
    """

    norm: str
    epsilon: Any

    def __post_init__(self):
        if self.norm not in NORMS:
            raise unknown_name(
                "norm", self.norm, NORMS, "Set threat_model.norm to it."
            )
        if _is_tensor(self.epsilon):
            return
        try:
            epsilon = float(self.epsilon)
        except (TypeError, ValueError):
            epsilon = math.nan
        if not math.isfinite(epsilon) or epsilon < 0:
            raise UserError(
                "Epsilon cannot be the radius of a ball",
                received=self.epsilon,
                expected="a finite number, 0 or more",
                fix="Give epsilon in pixel units of [0, 1].",
            )
        if self.norm == "linf" and epsilon > 1:
            raise UserError(
                "Epsilon is larger than the whole box of images",
                received=self.epsilon,
                expected="at most 1 for linf, in pixel units of [0, 1]",
                fix=f"Did you mean {epsilon:g}/255 = {epsilon / 255:.6g}?",
            )


def _is_tensor(value) -> bool:
    """Whether it is a tensor; False if TensorFlow has not been imported."""
    tf = sys.modules.get("tensorflow")
    return tf is not None and isinstance(value, tf.Tensor)


def is_number(value) -> bool:
    """Whether a value of a config is a finite number, not a boolean."""
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def check_count(name: str, value, smallest: int = 1) -> int:
    """Returns a count from a config.

    Raises:
        UserError: If it is not a whole number, or too small.
    """
    if not is_number(value) or int(value) != value or value < smallest:
        raise UserError(
            f"{name} is not a count",
            received=repr(value),
            expected=f"a whole number, {smallest} or more",
            fix=f"Set {name} to a count in the config.",
        )
    return int(value)


def as_array(values, what: str, shape: str) -> np.ndarray:
    """Returns an array, refusing lists of unequal lengths.

    Args:
        values: Array-like.
        what: What they are, for the message.
        shape: The expected one, for the message.

    Raises:
        UserError: If the lengths differ.
    """
    try:
        return np.asarray(values)
    except ValueError as error:
        raise UserError(
            f"The {what} are not of one shape",
            received=f"a {type(values).__name__} of unequal parts",
            expected=shape,
            fix="Make them alike, for example by resizing.",
        ) from error


def check_images(images) -> np.ndarray:
    """Returns `images` as float32, refusing what is not an image batch.

    Args:
        images: Array-like `[batch, height, width, channels]` in [0, 1].

    Returns:
        A float32 array of the same shape.

    Raises:
        UserError: If the rank, the dtype or the range is wrong, or a value is
            not finite.
    """
    images = as_array(images, "images", "[batch, height, width, channels]")
    if images.ndim != 4:
        raise UserError(
            "Images have the wrong number of axes",
            received=f"shape {images.shape}",
            expected="[batch, height, width, channels]",
            fix="Add the missing axes, for example images[..., None].",
        )
    if images.dtype.kind not in "f":
        raise UserError(
            "Images are not floating point",
            received=f"dtype {images.dtype}",
            expected="float32 in [0, 1]",
            fix='Convert them: images.astype("float32") / 255.',
        )
    images = images.astype(np.float32)
    low, high = (images.min(), images.max()) if images.size else (0.0, 0.0)
    if not (low >= 0.0 and high <= 1.0):
        raise UserError(
            "Images are outside of [0, 1] or not finite",
            received=f"values from {low} to {high}",
            expected="values from 0 to 1; the model rescales by itself",
            fix="Divide 8-bit images by 255; undo any normalisation.",
        )
    return images


def count_classes(labels) -> int:
    """The fewest classes that labels can be of, 1 or more.

    Args:
        labels: Array-like. For values that are not integers it is 1, and
            `check_labels` raises the error.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] > 1:
        return labels.shape[1]  # One-hot.
    is_whole = labels.dtype.kind in "iu" and labels.size
    return max(int(labels.max()) + 1, 1) if is_whole else 1


def check_labels(labels, num_examples: int, num_classes: int) -> np.ndarray:
    """Returns `labels` as int32, refusing what is not one class per image.

    Args:
        labels: Array-like `[batch]` of integers.
        num_examples: How many labels there must be.
        num_classes: Classes are 0 to `num_classes - 1`.

    Returns:
        An int32 array `[batch]`.

    Raises:
        UserError: If the labels are one-hot, not integers, too few or too
            many, or out of range.
    """
    labels = as_array(labels, "labels", "[batch]")
    if labels.ndim == 2 and labels.shape[1] == num_classes:
        raise UserError(
            "Labels are one-hot",
            received=f"shape {labels.shape}",
            expected="integer classes of shape [batch]",
            fix="Use labels.argmax(axis=-1).",
        )
    if labels.shape != (num_examples,) or labels.dtype.kind not in "iu":
        raise UserError(
            "Labels are not one integer class per image",
            received=f"shape {labels.shape}, dtype {labels.dtype}",
            expected=f"shape ({num_examples},), an integer dtype",
            fix="Give one integer class for each image.",
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise UserError(
            "Labels are out of range",
            received=f"classes from {labels.min()} to {labels.max()}",
            expected=f"classes from 0 to {num_classes - 1}",
            fix="Check that the labels belong to this model's data set.",
        )
    return labels.astype(np.int32)
