"""Where computation runs, by name: the one file that knows devices.

Everything else is written against `tf.distribute.Strategy` and asks here
whether to compile with XLA.
"""

import contextlib
import functools
from collections.abc import Callable
from collections.abc import Iterator

import tensorflow as tf

from ib_keras.errors import UserError
from ib_keras.errors import unknown_name

NAMES = ("one_device", "mirrored")

_is_fusing = True


def get(name: str = "one_device") -> tf.distribute.Strategy:
    """Makes the strategy of this name.

    Args:
        name: "one_device" (the first GPU, else the CPU) or "mirrored" (all
            GPUs, else all logical CPUs).

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        UserError: If the name is unknown.
    """
    if name not in NAMES:
        raise unknown_name("strategy", name, NAMES, "Set --strategy to it.")
    devices = tf.config.list_logical_devices("GPU")
    devices = devices or tf.config.list_logical_devices("CPU")
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy(devices[0].name)
    return _mirrored(tuple(device.name for device in devices))


@functools.cache
def _mirrored(names: tuple[str, ...]) -> tf.distribute.Strategy:
    # One a process: TensorFlow numbers the sums of each from the same start,
    # and takes those of a second one for the first one's.
    return tf.distribute.MirroredStrategy(names)


def jit_compile(strategy: tf.distribute.Strategy | None = None) -> bool:
    """Whether compiled functions should go through XLA.

    On GPUs it fuses the elementwise operations that attacks are full of. On
    CPUs TensorFlow's own kernels were measured to be faster for these models.
    """
    del strategy
    return bool(tf.config.list_logical_devices("GPU"))


def fused(function: Callable) -> Callable:
    """Makes one pass over memory of a chain of elementwise operations.

    Where whole programs are compiled anyway the function is left as it is. In
    a plain graph on a CPU it becomes an island compiled by XLA: a chain that
    TensorFlow's kernels run in ten passes over a batch of images takes one (a
    third of the time, measured), while the model's matrix products and
    convolutions stay with TensorFlow's kernels, which are the faster ones.

    Args:
        function: Of tensors or structures of them, without side effects.

    Returns:
        The function, to be called in the same way.
    """

    @functools.wraps(function)
    def call(*arguments):
        if tf.executing_eagerly() or jit_compile() or not _is_fusing:
            return function(*arguments)
        # Made at each trace, which happens once for each batch size: one
        # function for all of them would set off warnings of retracing.
        island = tf.function(functools.partial(function), jit_compile=True)
        return island(*arguments)

    return call


@contextlib.contextmanager
def unfused() -> Iterator[None]:
    """Leaves what is traced inside as plain graphs, for runs that are short.

    An island takes about a second to compile, which many steps win back and a
    few do not. It holds for the whole process, since replicas are traced in
    threads of their own.
    """
    global _is_fusing
    before, _is_fusing = _is_fusing, False
    try:
        yield
    finally:
        _is_fusing = before


def check_global_batch(strategy, batch_size: int) -> None:
    """Refuses a global batch that the replicas cannot share equally.

    Raises:
        UserError: If it is not a multiple of the number of replicas.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise UserError(
            "The replicas cannot share the global batch equally",
            received=f"batch size {batch_size} on {replicas} replicas",
            expected=f"a multiple of {replicas}",
            fix="Change the batch size, which is global on every strategy.",
        )
