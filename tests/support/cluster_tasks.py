"""Tasks of workers, without TensorFlow: what they do is in their names."""

import os
import pathlib
import random
import signal
import time

from ib_keras.errors import Interrupted
from ib_keras.errors import UserError

CALL = "tests.support.cluster_tasks:do"


def do(folder, name, should_stop):
    """Books that it began, and does what the first word of its name says."""
    with open(os.path.join(folder, name), "a") as file:
        file.write(f"{os.getpid()}\n")
    kind = name.partition("_")[0]
    is_first = len(pids(folder, name)) == 1
    if kind == "die" or (kind == "once" and is_first):
        time.sleep(0.1)  # The scheduler has booked that it was begun.
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raise" or (kind == "odd" and is_first):
        raise MemoryError("planted")
    if kind == "bad":
        raise UserError("Planted", received=1, expected=2, fix="None.")
    if kind == "long" or (kind == "leave" and is_first):
        while not should_stop():
            time.sleep(0.02)
        pathlib.Path(folder, f"{name}.saved").touch()
        raise Interrupted("Saved.")
    if kind == "draw":
        random.seed(1)
        # Meanwhile the worker sends heartbeats.
        time.sleep(2.0)
        return {"is_same": random.random() == random.Random(1).random()}
    if kind == "slow":
        time.sleep(0.5)
    return {"name": name}


def pids(folder, name) -> list[int]:
    """The processes that began a task, in order."""
    path = pathlib.Path(folder, name)
    return (
        [int(pid) for pid in path.read_text().split()] if path.exists() else []
    )
