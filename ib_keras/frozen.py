"""A classifier's graph for one image, as constants and operations alone."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from collections.abc import Sequence

import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from ib_keras.types import LogitsFn

# What TensorFlow logs at INFO when it puts the bodies of calls in place, to the
# process's standard error and whatever TF_CPP_MIN_LOG_LEVEL is.
_NOISE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) |"
    rb"I\d{4} \S+ +\d+ (devices|single_machine)\.cc:"
)


def freeze(logits_fn: LogitsFn, image_shape: Sequence[int]):
    """Traces a classifier, without calls and variables.

    Args:
        logits_fn: `(images, seed) -> logits`.
        image_shape: (height, width, channels).

    Returns:
        A `ConcreteFunction` of float32 images `[1, height, width, channels]`
        and an int32 seed `[2]`, in that order, whether it uses them or not.

    Raises:
        Exception: Anything that the function, or TensorFlow of it, raises.
    """
    # Its arguments are kept though the function may not use the seed.
    traced = tf.function(
        lambda images, seed: tf.identity(logits_fn(images, seed)),
        autograph=False,
    ).get_concrete_function(
        tf.TensorSpec([1, *image_shape], tf.float32, name="images"),
        tf.TensorSpec([2], tf.int32, name="seed"),
    )
    with _quiet():
        return convert_to_constants.convert_variables_to_constants_v2(traced)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back those lines of standard error, and no others."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # There is no standard error.
        yield
        return
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught:
                if not _NOISE.match(line):
                    os.write(2, line)
