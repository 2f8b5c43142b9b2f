"""The format of a model's inputs and outputs.

The audit's images are float32 `[batch, height, width, channels]` in [0, 1]; a
model may want them with channels first, flat, in other units, in another
dtype or by a fixed number. All that happens inside of the wrapped function,
so attacks, epsilons and judgements stay in pixel units of [0, 1].
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ib_keras.attacks import outputs as outputs_
from ib_keras.audit.audited_model.options import LAYOUTS
from ib_keras.audit.audited_model.preprocessing import Preprocessing
from ib_keras.audit.audited_model.signatures import Endpoint
from ib_keras.types import LogitsFn


@dataclasses.dataclass(frozen=True)
class IOSpec:
    """The inputs and outputs of one endpoint.

    Attributes:
        image_shape: (height, width, channels) of the audit's images.
        layout: The model's.
        preprocessing: Of images in [0, 1], as the model needs it.
        output: Name of the tensor in its output; "" if that is one tensor.
        outputs: Kind of the scores, one of `outputs.KINDS`.
        num_classes: How many logits there are.
    """

    image_shape: tuple[int, ...]
    layout: str = "channels_last"
    preprocessing: Preprocessing = Preprocessing()
    output: str = ""
    outputs: str = "logits"
    num_classes: int = 0


def layouts(
    shape: Sequence[int | None] | None, image_shape: Sequence[int]
) -> list[str]:
    """Lists the layouts by which images fit into an endpoint.

    Args:
        shape: The endpoint's, of one image; None where the graph is silent.
        image_shape: (height, width, channels).

    Returns:
        None, one or both of `LAYOUTS`, the usual one first.
    """
    height, width, channels = image_shape
    if shape is None:
        return list(LAYOUTS)
    shape = tuple(shape)
    if len(shape) == 3:
        orders = {
            "channels_last": (height, width, channels),
            "channels_first": (channels, height, width),
        }
        return [
            name
            for name, order in orders.items()
            if all(s in (None, o) for s, o in zip(shape, order, strict=True))
        ]
    flat = len(shape) == 1 and shape[0] in (None, height * width * channels)
    gray = len(shape) == 2 and channels == 1
    gray = gray and shape[0] in (None, height) and shape[1] in (None, width)
    return ["channels_last"] if flat or gray else []


def prepare(
    images: tf.Tensor, endpoint: Endpoint, io_spec: IOSpec
) -> tf.Tensor:
    """Converts images of the audit to the inputs of the endpoint."""
    images = _apply(images, io_spec.preprocessing)
    return arrange(images, endpoint, io_spec)


def arrange(
    images: tf.Tensor, endpoint: Endpoint, io_spec: IOSpec
) -> tf.Tensor:
    """Converts images in the model's units to its layout, shape and dtype."""
    if io_spec.layout == "channels_first":
        images = tf.transpose(images, [0, 3, 1, 2])
    shape = endpoint.shape
    if shape is not None and len(shape) == 1:
        images = tf.reshape(images, [-1, _size(io_spec.image_shape)])
    elif shape is not None and len(shape) == 2:
        images = images[..., 0]
    if endpoint.spec is None or endpoint.spec.dtype == images.dtype:
        return images
    if endpoint.spec.dtype.is_integer:
        images = tf.round(images)
    return tf.cast(images, endpoint.spec.dtype)


def logits_of(answer: Any, io_spec: IOSpec) -> tf.Tensor:
    """The logits in the output of a model."""
    scores = outputs_.flatten(answer)[io_spec.output]
    return outputs_.to_logits(scores, io_spec.outputs)


def _apply(images, preprocessing):
    if preprocessing.is_identity:
        return images
    if preprocessing.channel_order == "bgr":
        images = tf.reverse(images, [-1])
    scale, offset = (
        tf.constant(values, images.dtype)
        for values in (preprocessing.scale, preprocessing.offset)
    )
    return offset + images * scale


def _size(shape) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size


def wrap(
    call: Callable[[tf.Tensor, tf.Tensor], Any],
    endpoint: Endpoint,
    io_spec: IOSpec,
) -> LogitsFn:
    """Makes a function from the audit's images to logits.

    Args:
        call: The model, `(its images, seed) -> its output`.
        endpoint: Its endpoint.
        io_spec: Its inputs and outputs.

    Returns:
        A function `(images, seed) -> logits`.
    """

    def logits_fn(images, seed):
        answer = call(prepare(images, endpoint, io_spec), seed)
        return logits_of(answer, io_spec)

    if endpoint.batch_size is None:
        return logits_fn
    return _by_fixed_batches(logits_fn, endpoint.batch_size, io_spec)


def _by_fixed_batches(logits_fn, size, io_spec):
    """Pads the last batch with copies, whose outputs are dropped."""

    def padded(images, seed):
        count = images.shape[0]
        if count is None:
            count = tf.shape(images)[0]
            return tf.cond(
                count == size,
                lambda: logits_fn(tf.ensure_shape(images, shape), seed),
                lambda: by_batches(images, count, seed),
            )
        if count == size:
            return logits_fn(images, seed)
        return by_batches(images, count, seed)

    shape = [size, *io_spec.image_shape]

    def by_batches(images, count, seed):
        batches = (count + size - 1) // size
        full = batches * size
        copies = (full + count - 1) // count
        # Tiled, since a gather would make sparse slices of the gradient.
        filled = tf.tile(images, [copies, 1, 1, 1])[:full]
        logits = tf.map_fn(
            lambda batch: logits_fn(batch, seed),
            tf.reshape(filled, [batches, *shape]),
            fn_output_signature=tf.TensorSpec(
                [size, io_spec.num_classes], tf.float32
            ),
        )
        return tf.reshape(logits, [full, io_spec.num_classes])[:count]

    return padded
