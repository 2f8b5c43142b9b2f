"""Compiled functions, on one device or several."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from ib_keras import strategy as strategies
from ib_keras import watchdog

# The smallest of static batch sizes, which are halves of the largest.
_SMALLEST_BATCH = 8


# Names of the functions that this process has traced, in order.
TRACES: list[str] = []


class Compiled:
    """A compiled function: one trace, or one for each batch size.

    The batch axis is left open if nothing needs its size. XLA does, and so do
    strategies of several replicas and models that cannot be traced otherwise.

    Under a strategy of several replicas the batch axis is cut into as many
    parts, each replica runs the function on its own, and the results are
    concatenated in order. A strategy that compiles what it runs is always used:
    calls without it would run on the host.

    Attacks draw per example, so the split changes only rounding and, for models
    with noise, the noise.

    Args:
        function: Takes structures of tensors that begin with the batch axis,
            then shared tensors; returns structures that begin with it.
        logits: The `compiled.CompiledLogits` that the function calls, which
            says where to run and how. A model with operations that XLA does
            not have is run without it.
        name: In `TRACES`.
    """

    def __init__(self, function: Callable, logits: Any, name: str = ""):
        self._function = function
        self._name = name
        self._logits = logits
        self._jit_compile = logits.jit_compile
        self._compiled: dict[int | None, Any] = {}
        # Structure of the function's results, known when it is traced.
        self._structure: Any = None
        self._concrete: Any = None

    def __call__(self, size: int, batched: tuple, shared: tuple = ()):
        """Runs the function on a batch of `size`."""
        watchdog.beat()
        key = None if self._logits.has_open_batch else size
        if key in self._compiled:
            return self._call(key, batched, shared)
        self._compiled[key] = self._compile(key, batched, shared)
        try:
            return self._call(key, batched, shared)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            if not self._jit_compile:
                raise
        # XLA's "cannot compile" and a model's own assertion are errors of one
        # class; what fails without XLA too is the model's.
        self._jit_compile = False
        self._compiled[key] = self._compile(key, batched, shared)
        return self._call(key, batched, shared)

    def _call(self, key, batched, shared):
        run, strategy = self._compiled[key], self._logits.strategy
        if key is None and not tf.config.functions_run_eagerly():
            # Without the search for a trace, which takes longer than small
            # steps.
            run = self._concrete = self._concrete or run.get_concrete_function()
        if strategy is None:
            found = run(*tf.nest.flatten((batched, shared)))
            return tf.nest.pack_sequence_as(self._structure, found)
        parts = _split(batched, strategy.num_replicas_in_sync)
        batched = strategy.experimental_distribute_values_from_function(
            lambda context: tf.nest.flatten(
                parts[context.replica_id_in_sync_group]
            )
        )
        found = _join(strategy, run(batched, tf.nest.flatten(shared)))
        return tf.nest.pack_sequence_as(self._structure, found)

    def _compile(self, key, batched, shared):
        strategy = self._logits.strategy
        # Tensors in one list, since TensorFlow takes milliseconds to process
        # structures of them in each call.
        inputs = tf.nest.map_structure(lambda t: None, (batched, shared))

        def flat(*tensors):
            TRACES.append(self._name)
            batched, shared = tf.nest.pack_sequence_as(inputs, tensors)
            found = self._function(*batched, *shared)
            self._structure = tf.nest.map_structure(lambda t: None, found)
            return tf.nest.flatten(found)

        signature = None
        if key is None:
            signature = [
                *map(_open, tf.nest.flatten(batched)),
                *map(_open_table, tf.nest.flatten(shared)),
            ]
        once = tf.function(
            flat,
            input_signature=signature,
            jit_compile=self._jit_compile,
            autograph=False,
        )
        if strategy is None:
            return once

        def on_all(batched, shared):
            def on_one(batched, shared):
                return once(*batched, *shared)

            return strategy.run(on_one, args=(batched, shared))

        return tf.function(on_all, autograph=False)

    def num_traces(self) -> dict[int | None, int]:
        """Batch size (None: every one) -> number of traces so far."""
        return {
            size: function.experimental_get_tracing_count()
            for size, function in self._compiled.items()
        }


def _open(tensor) -> tf.TensorSpec:
    """The spec of a tensor whose first axis may have any length."""
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)


def _open_table(tensor) -> tf.TensorSpec:
    """The spec of a shared tensor; vectors may have any length."""
    is_table = tensor.shape.rank == 1
    return _open(tensor) if is_table else tf.TensorSpec.from_tensor(tensor)


def is_direct(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether functions are called directly, on one device."""
    if strategy is None:
        return True
    is_one = strategy.num_replicas_in_sync == 1
    return is_one and not strategies.is_compiling(strategy)


def batch_sizes(largest: int, num_replicas: int = 1) -> tuple[int, ...]:
    """The static batch sizes, ascending: `largest` and its halves.

    Each is rounded up to a multiple of `num_replicas`.
    """
    sizes = [-(-int(largest) // num_replicas) * num_replicas]
    while sizes[-1] >= 2 * max(_SMALLEST_BATCH, num_replicas):
        half = (sizes[-1] + 1) // 2
        sizes.append(-(-half // num_replicas) * num_replicas)
    return tuple(reversed(sizes))


def _split(structure, count: int) -> list:
    """Splits every tensor's batch axis; a list of `count` structures."""
    cut = [tf.split(t, count, axis=0) for t in tf.nest.flatten(structure)]
    return [
        tf.nest.pack_sequence_as(structure, [pieces[i] for pieces in cut])
        for i in range(count)
    ]


def _join(strategy, structure):
    """Concatenates the replicas' results along the batch axis."""
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
