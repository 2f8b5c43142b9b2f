"""A worker without TensorFlow: what it does is in the name of its run."""

import contextlib
import os
import pathlib
import signal
import time


def serve(connection, folder) -> None:
    """As `ib_keras.sweeps.worker.serve`; the settings are a folder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    with contextlib.suppress(EOFError):
        while (run := connection.recv()) is not None:
            with open(os.path.join(folder, run.name), "a") as file:
                file.write(f"{os.getpid()}\n")
            connection.send(("doing", "training"))
            word = _do(run.name, connection, folder)
            connection.send((word, run.name))
            if word == "interrupted":
                return


def _do(name, connection, folder):
    kind = name.partition("_")[0]
    is_first = len(pids(folder, name)) == 1
    if kind == "die" or (kind == "once" and is_first):
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "leave" and is_first:
        return "interrupted"
    if kind == "exit":
        os._exit(76)
    if kind == "long":
        while not connection.poll():
            time.sleep(0.01)
        return "interrupted"
    return {"bad": "diverged"}.get(kind, "done")


def pids(folder, name) -> list[str]:
    """The processes that began a run, in order."""
    path = pathlib.Path(folder, name)
    return path.read_text().split() if path.exists() else []
