"""A model's function to logits, and functions compiled around it, each once.

Tracing takes seconds, and so may a judgement: so all attacks of one model (the
stages of a protocol, its radii, the diagnostics) share compiled functions
through one `CompiledLogits`. If nothing needs static shapes their batch axis is
open, and one trace serves a batch that shrinks.
"""

import functools
from collections.abc import Callable
from collections.abc import Hashable
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras.attacks import devices
from ib_keras.errors import UserError
from ib_keras.types import LogitsFn


class CompiledLogits:
    """A `LogitsFn` that keeps the functions compiled around it.

    Inside of compiled code its graph is traced once and then called by all
    callers; eagerly it is the function itself.

    A function that cannot be traced unchanged is traced by AutoGraph, which
    rewrites Python's `if` and `for` over tensors; one that does not trace with
    an open batch axis is traced for each batch size.

    Args:
        logits_fn: `(images, seed) -> logits [batch, classes]`.
        strategy: Where to run; None for TensorFlow's default device.
        jit_compile: Whether to compile with XLA; None leaves it to
            TensorFlow.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        strategy: tf.distribute.Strategy | None = None,
        jit_compile: bool | None = None,
    ):
        self.strategy = None if devices.is_direct(strategy) else strategy
        self.jit_compile = jit_compile
        self._logits_fn = logits_fn
        self._in_graph: Any = None
        self._has_open_batch = False
        self._compiled: dict[Hashable, devices.Compiled] = {}
        # Objects whose id is part of a key, kept alive so that it is not
        # reused.
        self._kept: list[Any] = []
        self._scaled: dict[float, CompiledLogits] = {}

    def __call__(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """float32 logits `[batch, classes]`, of images and a seed."""
        if tf.executing_eagerly():
            logits = self._logits_fn(images, seed)
        else:
            self.resolve(images.shape)
            logits = self._in_graph(images, tf.ensure_shape(seed, [2]))
        logits = tf.cast(logits, tf.float32)
        # Loops need the batch size that a SavedModel leaves open.
        return tf.ensure_shape(logits, [images.shape[0], None])

    def times(self, scale: float) -> "CompiledLogits":
        """The function with its logits multiplied by `scale`, made once."""
        if scale == 1.0:
            return self
        if scale not in self._scaled:

            def scaled(images, seed):
                logits = tf.cast(self._logits_fn(images, seed), tf.float32)
                return _finite_product(logits, scale)

            self._scaled[scale] = CompiledLogits(
                scaled, self.strategy, self.jit_compile
            )
        return self._scaled[scale]

    @property
    def has_open_batch(self) -> bool:
        """Whether one trace takes batches of every size; see `resolve`."""
        return self._has_open_batch

    def resolve(self, shape: tf.TensorShape) -> None:
        """Determines, once, how the function can be traced.

        Args:
            shape: Of a batch of images.
        """
        if self._in_graph is not None:
            return
        sizes = [shape[0]]
        if self.strategy is None and not self.jit_compile:
            sizes.insert(0, None)
        ways = [(size, a) for size in sizes for a in (False, True)]
        for size, autograph in ways:
            traced = tf.function(
                functools.partial(self._logits_fn), autograph=autograph
            )
            images = tf.TensorSpec([size, *shape[1:]], tf.float32)
            try:
                with tf.init_scope():
                    concrete = traced.get_concrete_function(
                        images, tf.TensorSpec([2], tf.int32)
                    )
            except UserError:
                raise
            except Exception:  # A foreign function can raise any error.
                continue
            self._has_open_batch = size is None
            if self._has_open_batch:
                self._in_graph = concrete
            else:
                # Variables of a strategy are read where they are called.
                self._in_graph = traced if autograph else self._logits_fn
            return
        # Then calling it raises its own error.
        self._in_graph = self._logits_fn

    def pad(self, rows: np.ndarray, largest: int) -> np.ndarray:
        """Repeats the first row up to a number that needs no new trace.

        Args:
            rows: int `[n]`, n from 1 to `largest`.
            largest: The largest batch.

        Returns:
            int `[size]`; the rows themselves if any number is possible.
        """
        if self._has_open_batch:
            return rows
        replicas = 1
        if self.strategy is not None:
            replicas = self.strategy.num_replicas_in_sync
        sizes = devices.batch_sizes(largest, replicas)
        size = next(s for s in sizes if s >= len(rows))
        return np.concatenate([rows, np.full(size - len(rows), rows[0])])

    def compiled(
        self, key: str | tuple, make: Callable[[], Callable], keep: Any = None
    ) -> devices.Compiled:
        """The compiled function of this key, which is made if missing.

        Args:
            key: Identifies the function: a name, or a tuple that begins with
                one.
            make: Returns the function; see `devices.Compiled`.
            keep: An object whose id is in the key.
        """
        if key not in self._compiled:
            self._kept.append(keep)
            name = key if isinstance(key, str) else key[0]
            self._compiled[key] = devices.Compiled(make(), self, name)
        return self._compiled[key]

    def num_traces(self) -> dict[Hashable, dict[int | None, int]]:
        """Key -> batch size (None: every one) -> number of traces."""
        return {k: f.num_traces() for k, f in self._compiled.items()}


def _finite_product(logits, scale):
    """The product, which does not overflow where the logits are finite.

    Classes may be masked by the lowest float.
    """
    product = logits * scale
    if scale <= 1.0:
        return product
    within = tf.clip_by_value(product, tf.float32.min, tf.float32.max)
    return tf.where(tf.math.is_finite(logits), within, product)


def of(logits_fn: LogitsFn) -> CompiledLogits:
    """The function with its compiled functions, shared if there are any."""
    if isinstance(logits_fn, CompiledLogits):
        return logits_fn
    return CompiledLogits(logits_fn)


def on(
    logits_fn: LogitsFn,
    strategy: tf.distribute.Strategy | None,
    jit_compile: bool | None,
) -> CompiledLogits:
    """The same for a place to run, shared where it is that place already.

    Args:
        logits_fn: As of `CompiledLogits`, or one already.
        strategy: As of `CompiledLogits`.
        jit_compile: As of `CompiledLogits`.
    """
    if not isinstance(logits_fn, CompiledLogits):
        return CompiledLogits(logits_fn, strategy, jit_compile)
    place = None if devices.is_direct(strategy) else strategy
    is_same = bool(logits_fn.jit_compile) == bool(jit_compile)
    if is_same and logits_fn.strategy is place:
        return logits_fn
    return CompiledLogits(logits_fn._logits_fn, strategy, jit_compile)
