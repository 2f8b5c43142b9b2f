"""Requirements on a model that is to be attacked."""

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.errors import UserError
from ib_keras.errors import reason
from ib_keras.types import LogitsFn


def check_gradients(
    logits_fn: LogitsFn,
    images: np.ndarray,
    num_classes: int,
    is_needed: bool = True,
) -> None:
    """Refuses a model that attacks cannot differentiate.

    Args:
        logits_fn: The audited classifier.
        images: float32 `[examples, ...]`, clean ones; the first is repeated,
            since a model may hold assertions about images.
        num_classes: How many logits there should be.
        is_needed: False where no attack takes a gradient.

    Raises:
        UserError: If it is not a function from such images to so many logits,
            or there is no gradient with respect to images.
    """
    images = tf.repeat(tf.constant(images[:1]), 2, axis=0)
    seed = seeds.from_int(0)
    try:
        logits = logits_fn(images, seed)
        answer = f"shape {tuple(logits.shape)}, {logits.dtype.name}"
    except Exception as error:  # A foreign graph can raise any error.
        answer = f"{type(error).__name__}: {reason(error)}"
    if answer != f"shape {(2, num_classes)}, float32":
        raise UserError(
            "The model does not answer clean images with logits",
            received=f"{answer} for images of shape {tuple(images.shape)}",
            expected=f"logits of shape {(2, num_classes)}, float32",
            fix="Name another endpoint with --config.model.signature, or "
            "export the model again.",
        )
    if not is_needed:
        return
    problem = "None"
    gradient = None
    try:
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = logits_fn(images, seed)
        gradient = tape.gradient(logits, images)
    except Exception as error:  # A foreign graph can raise any error.
        problem = reason(error)
    if gradient is None:
        raise UserError(
            "The model has no gradient with respect to images",
            received=problem,
            expected="a differentiable function from images to logits",
            fix="Export it without rounding, casts to integers or operations "
            "that have no gradient, and with its custom gradients: "
            "tf.saved_model.SaveOptions(experimental_custom_gradients=True). "
            "Or use a protocol of attacks without gradients, such as square.",
        )


def check_finite(
    logits_fn: LogitsFn, images: np.ndarray, batch_size: int
) -> None:
    """Refuses a model without finite logits for any image.

    The runner refuses it too, but here nothing is written yet.

    Raises:
        UserError: If there is no finite answer.
    """
    for first in range(0, len(images), batch_size):
        batch = tf.constant(images[first : first + batch_size])
        logits = logits_fn(batch, seeds.from_int(0)).numpy()
        if np.isfinite(logits).all(axis=-1).any():
            return
    raise UserError(
        "The model's logits are not finite on any clean image",
        received="NaN or infinity for every example",
        expected="finite logits",
        fix="Check the model's weights, and that images in [0, 1] are what it "
        "takes.",
    )
