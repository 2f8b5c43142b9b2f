"""Augmentation of a whole batch at once, as a function of one seed.

Every function takes images and a seed int32 `[2]`; images and randomness in,
images of the same shape and dtype out. They are plain tensor operations, for
the input pipeline or the device alike.
"""

import tensorflow as tf


def random_crop_and_flip(
    images: tf.Tensor, seed: tf.Tensor, pad: int = 4
) -> tf.Tensor:
    """Shifts each image by up to `pad` pixels and mirrors every second one.

    An image is padded with `pad` zeros on all sides, cut out again at one of
    the `(2 pad + 1)^2` places, and then mirrored left to right, or not; all
    choices are equally likely and independent between the images. The whole
    batch is one gather of pixels, much faster than a loop over examples.

    Args:
        images: `[batch, height, width, channels]` of any dtype; all but
            `batch` static.
        seed: int32 `[2]`.
        pad: Largest shift in pixels; 0 only mirrors.

    Returns:
        Images of the same shape and dtype. They depend on the seed, and on
        an image's place in the batch.
    """
    images = tf.convert_to_tensor(images)
    height, width, channels = images.shape[1:]
    batch = tf.shape(images)[0]
    places = 2 * pad + 1
    # One number holds all three choices, so one draw is enough.
    choice = tf.random.stateless_uniform(
        [batch], seed, 0, 2 * places**2, tf.int32, alg="philox"
    )
    is_flipped = choice % 2 == 1
    left = choice // 2 % places
    top = choice // (2 * places)
    column = tf.range(width)[None, :]
    column = tf.where(is_flipped[:, None], width - 1 - column, column)
    column = left[:, None] + column
    row = top[:, None] + tf.range(height)[None, :]
    row = tf.range(batch)[:, None] * (height + 2 * pad) + row
    pixel = row[:, :, None] * (width + 2 * pad) + column[:, None, :]
    padded = tf.pad(images, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
    result = tf.gather(tf.reshape(padded, [-1, channels]), pixel)
    return tf.ensure_shape(result, images.shape)
