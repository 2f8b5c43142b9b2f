"""Where computation runs, by name: the only module that knows devices.

Everything else is written against `tf.distribute.Strategy` and asks here
whether to compile with XLA, who writes, and what all workers agree on.
"""

import contextlib
import functools
import signal
from collections.abc import Iterator

import tensorflow as tf

from ib_keras import rendezvous
from ib_keras.errors import Interrupted
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name

NAMES = ("one_device", "mirrored", "multi_worker", "tpu")

# Seconds within which all workers of a cluster have to start.
TIMEOUT = 120.0

# Errors of collective operations after a worker was lost.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)


def get(
    name: str = "one_device",
    *,
    tpu: str | None = None,
    timeout: float = TIMEOUT,
) -> tf.distribute.Strategy:
    """Makes the strategy of this name.

    Args:
        name: "one_device" (the first GPU, else the CPU), "mirrored" (all
            GPUs, else all logical CPUs), "multi_worker" (one process a
            machine, which the environment variable TF_CONFIG names) or "tpu".
        tpu: Which TPU: "local" (the default) for the chips of this VM, the
            name of a TPU node or slice, or the address of its first worker,
            "grpc://HOST:8470". For a slice of several VMs run one process, on
            its first worker, with the slice's name.
        timeout: Seconds to wait for workers that do not answer.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        UserError: If the name is unknown, TF_CONFIG cannot be used, a worker
            does not answer in time or there is no TPU.
    """
    if name not in NAMES:
        raise unknown_name("strategy", name, NAMES, "Set --strategy to it.")
    if tpu and name != "tpu":
        raise UserError(
            "A TPU is named, but another strategy",
            received=f'tpu "{tpu}" with strategy "{name}"',
            expected='strategy "tpu"',
            fix="Leave out one of --tpu and --strategy.",
        )
    if name == "multi_worker":
        return _multi_worker(timeout)
    if name == "tpu":
        return _tpu(tpu or "local", timeout)
    devices = tf.config.list_logical_devices("GPU")
    devices = devices or tf.config.list_logical_devices("CPU")
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy(devices[0].name)
    return _mirrored(tuple(device.name for device in devices))


def _multi_worker(timeout: float) -> tf.distribute.Strategy:
    cluster = rendezvous.read_tf_config()
    # TensorFlow itself would wait forever and ignore signals.
    rendezvous.meet(cluster, timeout)
    before = signal.getsignal(signal.SIGTERM)
    try:
        made = tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UserError(
            "The workers cannot be joined",
            received=f"{_first_line(error)}, as {cluster.own}",
            expected="a free port of this machine, and workers that stay",
            fix="Start all workers again, at about the same time.",
        ) from error
    # It handles SIGTERM, which has to save a checkpoint.
    if before is not None and before != signal.getsignal(signal.SIGTERM):
        signal.signal(signal.SIGTERM, before)
    return made


def _tpu(tpu: str, timeout: float) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu)
        if tpu != "local":
            addresses = resolver.cluster_spec().as_dict().values()
            rendezvous.wait_for([a for job in addresses for a in job], timeout)
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except UserError:
        raise
    except (OSError, ImportError, RuntimeError, ValueError) as error:
        raise _no_tpu(tpu, error) from error
    except tf.errors.OpError as error:
        raise _no_tpu(tpu, error) from error


def _no_tpu(tpu: str, error: Exception) -> UserError:
    return UserError(
        "There is no TPU to use",
        received=f'"{tpu}" ({_first_line(error)})',
        expected='"local" on a TPU VM with tensorflow-tpu installed, or the '
        "name of a TPU that this machine may use",
        fix="Run on a TPU VM, correct --tpu, or take --strategy=one_device.",
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160].rstrip(" .")


@functools.cache
def _mirrored(names: tuple[str, ...]) -> tf.distribute.Strategy:
    # One per process: TensorFlow numbers collective operations from the same
    # start, and would confuse those of two strategies.
    return tf.distribute.MirroredStrategy(names)


def jit_compile(strategy: tf.distribute.Strategy | None = None) -> bool:
    """Whether compiled functions should go through XLA.

    On GPUs it fuses the elementwise operations that attacks are full of. On
    CPUs TensorFlow's own kernels were measured to be faster for these models.
    A TPU's strategy compiles all that it runs, so nothing has to ask for it.
    """
    if is_compiling(strategy):
        return False
    return bool(tf.config.list_logical_devices("GPU"))


def is_compiling(strategy: tf.distribute.Strategy | None = None) -> bool:
    """Whether the strategy, or the current one, compiles whatever it runs."""
    strategy = strategy or tf.distribute.get_strategy()
    return isinstance(strategy, tf.distribute.TPUStrategy)


def why_inexact() -> str:
    """Why models do not compute in IEEE float32 here; "" where they do."""
    kinds = {device.device_type for device in tf.config.list_logical_devices()}
    if "TPU" in kinds:
        return "the audit runs on a TPU, which does not multiply in float32."
    if "GPU" in kinds and (
        tf.config.experimental.tensor_float_32_execution_enabled()
    ):
        return (
            "the GPU multiplies in TensorFloat-32; "
            "NVIDIA_TF32_OVERRIDE=0 turns it off."
        )
    return ""


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes."""
    resolver = strategy.cluster_resolver
    if not _has_workers(strategy):
        return True
    return resolver.task_type == "chief" or (
        "chief" not in resolver.cluster_spec().jobs and resolver.task_id == 0
    )


def place(strategy: tf.distribute.Strategy | None) -> tuple[int, int]:
    """Which process of how many this is: (0, 1) where there is one.

    The one that writes is number 0.
    """
    if strategy is None or not _has_workers(strategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().as_dict()
    num_chiefs = len(jobs.get("chief", ()))
    before = num_chiefs if resolver.task_type == "worker" else 0
    return resolver.task_id + before, num_chiefs + len(jobs.get("worker", ()))


def _has_workers(strategy) -> bool:
    is_kind = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return is_kind and bool(strategy.cluster_resolver.cluster_spec().jobs)


def sum_over_workers(strategy: tf.distribute.Strategy, value: float) -> float:
    """Sums a number over all workers; every worker has to call it.

    Args:
        strategy: That of the run.
        value: This process' number.

    Returns:
        The sum; `value` itself where there is one process.
    """
    if not _has_workers(strategy):
        return float(value)
    own = tf.constant(value, tf.float32)
    return float(strategy.reduce("SUM", own, axis=None))


def check_agreement(strategy, value: int, what: str, where: str) -> None:
    """Refuses workers that start from different states.

    Raises:
        UserError: If a whole number is not the same on all workers.
    """
    if not _has_workers(strategy):
        return
    count = strategy.extended._num_workers
    mean = sum_over_workers(strategy, value) / count
    # Their squares too: a mean can be equal by chance.
    square = sum_over_workers(strategy, (value - mean) ** 2)
    if square > 0:
        raise UserError(
            "The workers do not see the same files",
            received=f"{what} {value} here, on average {mean:g}, in {where}",
            expected="a folder that all workers share",
            fix="Put --workdir on a shared file system or on gs://.",
        )


@contextlib.contextmanager
def watched(strategy: tf.distribute.Strategy | None) -> Iterator[None]:
    """Turns the error of a lost worker into one line.

    Raises:
        Interrupted: If so: the run goes on when all workers are started again.
    """
    try:
        yield
    except _LOST as error:
        if not _has_workers(strategy):
            raise
        raise Interrupted(
            f"A worker was lost ({_first_line(error)}). Start all workers "
            "again; the same commands resume from the last checkpoint."
        ) from error


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
