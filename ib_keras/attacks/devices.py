"""Compiled functions of static batch sizes, on one device or several."""

import functools
from collections.abc import Callable

import tensorflow as tf

from ib_keras import strategy as strategies
from ib_keras import watchdog


class BySize:
    """One compiled function for each batch size, with one trace each.

    Under a strategy of several replicas the batch axis is cut into as many
    parts, each replica runs the function on its own, and the results are put
    together in order. A strategy that compiles what it runs is always gone
    through: what is called past it would run on the host.

    Attacks draw per example, so the cut changes rounding and, on models with
    noise, the noise; nothing else.

    Args:
        function: Takes structures of tensors that begin with the batch axis,
            then shared tensors; returns structures that begin with it.
        strategy: Where to run; None for TensorFlow's default device.
        jit_compile: Whether to compile with XLA. A model with operations that
            XLA does not have is run without it.
    """

    def __init__(
        self,
        function: Callable,
        strategy: tf.distribute.Strategy | None = None,
        jit_compile: bool | None = None,
    ):
        self._function = function
        self._strategy = strategy
        self._jit_compile = jit_compile
        self._compiled = {}

    def __call__(self, size: int, batched: tuple, shared: tuple = ()):
        """Runs the function on a batch of `size`, a static size."""
        watchdog.beat()
        if size in self._compiled:
            return self._call(size, batched, shared)
        self._compiled[size] = self._compile()
        try:
            return self._call(size, batched, shared)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            if not self._jit_compile:
                raise
        # XLA's "cannot compile" and a model's own assertion are errors of one
        # class; what fails without XLA too is the model's.
        self._jit_compile = False
        self._compiled[size] = self._compile()
        return self._call(size, batched, shared)

    def _call(self, size, batched, shared):
        run = self._compiled[size]
        if _is_direct(self._strategy):
            return run(*batched, *shared)
        parts = _split(batched, self._strategy.num_replicas_in_sync)
        batched = self._strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )
        return _join(self._strategy, run(batched, shared))

    def _compile(self):
        # A partial of its own: TensorFlow's warning of too many traces counts
        # by the underlying function, and these are meant.
        once = tf.function(
            functools.partial(self._function), jit_compile=self._jit_compile
        )
        if _is_direct(self._strategy):
            return once
        strategy = self._strategy

        def on_all(batched, shared):
            def on_one(batched, shared):
                return once(*batched, *shared)

            return strategy.run(on_one, args=(batched, shared))

        return tf.function(on_all)

    def num_traces(self) -> dict[int, int]:
        """Batch size -> number of traces so far."""
        return {
            size: function.experimental_get_tracing_count()
            for size, function in self._compiled.items()
        }


def _is_direct(strategy) -> bool:
    """Whether functions are called as they are, on one device."""
    if strategy is None:
        return True
    is_one = strategy.num_replicas_in_sync == 1
    return is_one and not strategies.is_compiling(strategy)


def _split(structure, count: int) -> list:
    """Cuts every tensor's batch axis; a list of `count` structures."""
    cut = [tf.split(t, count, axis=0) for t in tf.nest.flatten(structure)]
    return [
        tf.nest.pack_sequence_as(structure, [pieces[i] for pieces in cut])
        for i in range(count)
    ]


def _join(strategy, structure):
    """Puts the replicas' results together along the batch axis."""
    pieces = [
        tf.nest.flatten(part)
        for part in strategy.experimental_local_results(structure)
    ]
    whole = [
        tf.concat(tensors, axis=0) for tensors in zip(*pieces, strict=True)
    ]
    return tf.nest.pack_sequence_as(
        strategy.experimental_local_results(structure)[0], whole
    )
