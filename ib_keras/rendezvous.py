"""Workers wait for one another with a time limit, which TensorFlow lacks.

Each process listens at its own address until it has reached all others at
theirs, or the time is over. Then TensorFlow's server uses the port.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

from ib_keras.errors import UserError

VARIABLE = "TF_CONFIG"

_RETRY_SECONDS = 0.2
_CONNECT_SECONDS = 2.0
_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


class Cluster(NamedTuple):
    """The processes of a run.

    Attributes:
        own: Address "host:port" of this process.
        others: Addresses of the others.
    """

    own: str
    others: tuple[str, ...]


def _unusable(received: str) -> UserError:
    return UserError(
        f"{VARIABLE} does not describe the workers",
        received=received[:200],
        expected=f"JSON such as {_EXAMPLE}",
        fix=f"Set {VARIABLE} on each machine, with its own index.",
    )


def read_tf_config(text: str | None = None) -> Cluster:
    """Reads the environment variable that names the workers.

    Args:
        text: Its value; that of the environment by default.

    Returns:
        The `Cluster`, whose jobs are "chief" and "worker".

    Raises:
        UserError: If it is not set or cannot be used.
    """
    if text is None:
        text = os.environ.get(VARIABLE, "")
    if not text:
        raise _unusable("nothing")
    try:
        values = json.loads(text)
        jobs, task = values["cluster"], values["task"]
        own = _address(jobs[task["type"]], task["index"])
        known = {job: list(jobs[job]) for job in jobs}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _unusable(text) from error
    addresses = [a for addresses in known.values() for a in addresses]
    sound = all(_is_address(address) for address in addresses)
    if not sound or not set(known) <= {"chief", "worker"}:
        raise _unusable(text)
    if len(set(addresses)) < len(addresses):
        raise _unusable(f"an address twice in {text}")
    return Cluster(own, tuple(a for a in addresses if a != own))


def _address(addresses: list[str], index: Any) -> str:
    index = int(index)
    if index < 0:
        raise LookupError(index)
    return addresses[index]


def _is_address(text: Any) -> bool:
    host, _, port = str(text).rpartition(":")
    return bool(host) and port.isdigit() and 0 < int(port) < 2**16


def meet(cluster: Cluster, timeout: float) -> None:
    """Waits until all workers have started.

    Args:
        cluster: Who they are.
        timeout: Seconds.

    Raises:
        UserError: If the own address cannot be listened at, or a worker does
            not answer in time.
    """
    with _listening(cluster.own):
        wait_for(cluster.others, timeout)


@contextlib.contextmanager
def _listening(address: str) -> Iterator[None]:
    _, port = _split(address)
    # Of both families where the machine has them, as TensorFlow listens.
    try:
        server = socket.create_server(("", port), backlog=128)
    except OSError as error:
        raise UserError(
            "The address of this worker cannot be listened at",
            received=f"{address} ({error.strerror})",
            expected="a free port of this machine",
            fix=f"End the process that has it, or change {VARIABLE}.",
        ) from error
    with server:
        yield


def wait_for(addresses: Iterable[str], timeout: float) -> None:
    """Waits until each address takes a connection.

    Args:
        addresses: "host:port", or "grpc://host:port".
        timeout: Seconds, for all together.

    Raises:
        UserError: If one does not in time; names all that do not.
    """
    missing = list(addresses)
    deadline = time.monotonic() + timeout
    while missing:
        missing = [a for a in missing if not _answers(a)]
        if not missing:
            return
        if time.monotonic() >= deadline:
            raise UserError(
                "Workers do not answer",
                received=f"nothing from {', '.join(missing[:8])} within "
                f"{timeout:g} seconds",
                expected="all workers started within that time, and ports "
                "that a firewall lets through",
                fix="Start them, correct their addresses, or set "
                "--worker_timeout.",
            )
        time.sleep(_RETRY_SECONDS)


def _answers(address: str) -> bool:
    try:
        socket.create_connection(_split(address), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    return host.strip("[]"), int(port)
