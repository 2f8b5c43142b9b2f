"""Where tasks run: here, on an existing cluster, or by Slurm.

What can be refused without Dask is refused by `check`, in milliseconds.
"""

import contextlib
import importlib.util
import logging
import os
import pathlib
import re
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

from ib_keras import files
from ib_keras import lazy
from ib_keras.errors import UserError

LOCAL, SLURM = "local", "slurm"
# Seconds that workers of this machine have to start.
START = 120.0
# Seconds in which a process of this machine that was lost is replaced; a busy
# machine takes minutes to import TensorFlow.
PATIENCE = 300.0
SLURM_FILE = str(pathlib.Path(__file__).with_name("slurm.yaml"))

_ADDRESS = re.compile(r"(tcp|tls)://[^/\s:]+:\d+")
# Seconds to wait for a scheduler that does not answer.
_TIMEOUT = 10.0


def check(scheduler: str, paths: Iterable[str] = ()) -> None:
    """Refuses a scheduler that is none, without Dask and without asking it.

    Args:
        scheduler: "local", "slurm" or an address such as tcp://HOST:8786.
        paths: Of the workdir, models and data.

    Raises:
        UserError: If it is unknown, the extra is not installed, or a path is
            of this machine's current folder and the scheduler may be another
            machine's.
    """
    if scheduler not in (LOCAL, SLURM) and not _ADDRESS.fullmatch(scheduler):
        raise UserError(
            "There is no scheduler of this kind",
            received=f"--scheduler={scheduler}",
            expected="local, slurm, or an address such as tcp://HOST:8786",
            fix="Correct --scheduler.",
        )
    check_installed()
    if scheduler == LOCAL:
        return
    for path in paths:
        if not files.is_remote(path) and not os.path.isabs(path):
            raise UserError(
                "A path of this machine's current folder, with a scheduler of "
                "others",
                received=f"{path} with --scheduler={scheduler}",
                expected="an absolute path on a shared file system, or gs://",
                fix=f"Give {os.path.abspath(path)} if all workers see it, or "
                "copy it to where they do.",
            )


def check_installed() -> None:
    """Refuses to go on without the extra, which is looked for, not imported.

    Raises:
        UserError: If it is not installed.
    """
    if importlib.util.find_spec("distributed") is None:
        _distributed()


def _distributed():
    return lazy.optional("distributed", "cluster", "Work on several processes")


def share_cores(num_workers: int) -> None:
    """Gives each new process of this machine its part of the cores."""
    cores = max(len(os.sched_getaffinity(0)) // num_workers, 1)
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(cores))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", str(cores))


@contextlib.contextmanager
def connect(
    scheduler: str,
    num_workers: int,
    retries: int,
    slurm: str | None = None,
) -> Iterator[Any]:
    """A client of a scheduler, and workers of one thread each.

    Args:
        scheduler: As of `check`.
        num_workers: Processes or Slurm jobs to start; those of an
            existing cluster are its own.
        retries: How often a task is begun again whose worker was lost; an
            existing cluster has its own `allowed-failures`.
        slurm: A YAML file of `dask_jobqueue`; None takes ours.

    Yields:
        A `distributed.Client`. What was started ends with the context.

    Raises:
        UserError: If Dask is not installed, nothing answers or the file
            cannot be used.
    """
    distributed = _distributed()
    import dask

    settings = {
        "distributed.scheduler.allowed-failures": retries,
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.limit": "60s",
    }
    _quieten()
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        where: Any = scheduler
        if scheduler == LOCAL:
            where = stack.enter_context(_local(distributed, num_workers))
        elif scheduler == SLURM:
            cluster = slurm_cluster(slurm or SLURM_FILE)
            where = stack.enter_context(cluster)
            cluster.scale(jobs=num_workers)
        yield stack.enter_context(_client(distributed, where))


def _quieten():
    """Leaves the console to our own messages."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "dask_jobqueue"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _client(distributed, where):
    try:
        return distributed.Client(where, timeout=_TIMEOUT, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise UserError(
            "No scheduler answers at this address",
            received=f"{where} ({type(error).__name__})",
            expected="the address that `dask scheduler` prints",
            fix="Start it, or correct --scheduler.",
        ) from error


def _local(distributed, num_workers):
    share_cores(num_workers)
    return distributed.LocalCluster(
        n_workers=num_workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        # TensorFlow's memory is not what Dask can spill.
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address=None,
        silence_logs=50,
    )


def slurm_cluster(path: str, **changes: Any) -> Any:
    """A `dask_jobqueue.SLURMCluster` by a YAML file; it starts no job yet.

    Args:
        path: The file: `jobqueue: slurm:` and the arguments of the class.
        **changes: Arguments in place of those of the file.

    Returns:
        The cluster.

    Raises:
        UserError: If the file cannot be used, or its jobs have processes of
            more than one thread.
    """
    jobqueue = lazy.optional("dask_jobqueue", "cluster", "--scheduler=slurm")
    arguments = _read_slurm(path) | changes
    cores, processes = arguments.get("cores"), arguments.get("processes")
    if cores is None or cores != processes:
        raise threads_error(f"cores={cores}, processes={processes} in {path}")
    try:
        return jobqueue.SLURMCluster(**arguments)
    except (TypeError, ValueError) as error:
        raise _bad_slurm(path, error) from error


def _read_slurm(path):
    import yaml

    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        found = yaml.safe_load(text)["jobqueue"]["slurm"]
        return {name.replace("-", "_"): found[name] for name in found}
    except (OSError, TypeError, KeyError, ValueError, yaml.YAMLError) as error:
        raise _bad_slurm(path, error) from error


def _bad_slurm(path, error):
    return UserError(
        "The file of Slurm's jobs cannot be used",
        received=f"{path} ({type(error).__name__}: {error})",
        expected="YAML with a section jobqueue: slurm: and the arguments of "
        "dask_jobqueue.SLURMCluster",
        fix=f"Begin with a copy of {SLURM_FILE}.",
    )


def threads_error(received: str) -> UserError:
    """The error for workers of several threads."""
    return UserError(
        "Workers have one thread each",
        received=received,
        expected="one thread, for TensorFlow has threads of its own",
        fix="Start `dask worker --nthreads=1`; for Slurm set processes to "
        "cores.",
    )
