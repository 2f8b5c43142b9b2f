"""A worker: a process that executes runs, one after the other.

It receives runs through a pipe, and sends its progress and the result of each.
Any other message during a run asks it to stop: at the next checkpoint it saves
and reports that.
"""

import contextlib
import dataclasses
import gc
import itertools
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable

import keras
import tensorflow as tf
from absl import logging

from ib_keras import files
from ib_keras import workdirs
from ib_keras.audit import audited_model
from ib_keras.audit import runner
from ib_keras.audit import settings as audit_settings
from ib_keras.audit.landscape import records as landscape_records
from ib_keras.errors import DivergedError
from ib_keras.errors import Interrupted
from ib_keras.sweeps import records
from ib_keras.sweeps.folder import Folder
from ib_keras.sweeps.plan import Run
from ib_keras.training import loop
from ib_keras.training import settings as training_settings

# The status of an interrupted run, beside those of records.
DOING, INTERRUPTED = "doing", "interrupted"

# A training or an audit that hangs for so long ends its process.
_WATCHDOG_MINUTES = 30.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that all runs of a sweep share.

    Attributes:
        workdir: Folder of the sweep.
        preset: Of its configs.
        command: How it was started.
        git_commit: Of the code.
    """

    workdir: str
    preset: str
    command: str
    git_commit: str | None


def serve(connection, settings: Settings) -> None:
    """The main function of a worker's process.

    Args:
        connection: A pipe: runs come in, None ends it; pairs of a word
            ("doing", "interrupted" or a status) and a text go out.
        settings: Of the sweep.
    """
    should_stop = _heed_signals(connection)
    logging.set_verbosity(logging.ERROR)  # As in every command.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The pipe breaks when the sweep itself ends.
    with contextlib.suppress(EOFError, OSError):
        while not should_stop.is_asked:
            run = connection.recv()
            if run is None:
                return
            word = do_run(
                run,
                settings,
                should_stop=should_stop,
                say=lambda text: connection.send((DOING, text)),
            )
            connection.send((word, run.name))
            if word == INTERRUPTED:
                return
            _forget()


class _Stop:
    """Whether to stop: after a signal or a message of the sweep."""

    def __init__(self, connection):
        self._connection = connection
        self.is_asked = False

    def on_signal(self, number, frame):
        self.is_asked = True

    def __call__(self) -> bool:
        return self.is_asked or self._connection.poll()


def _heed_signals(connection) -> _Stop:
    """Ignores Ctrl-C, which the sweep passes on by a message."""
    stop = _Stop(connection)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop.on_signal)
    # The sweep has blocked them until now.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    return stop


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def _forget() -> None:
    """Frees the memory of a run."""
    keras.backend.clear_session()
    gc.collect()


def do_run(
    run: Run,
    settings: Settings,
    *,
    should_stop: Callable[[], bool],
    say: Callable[[str], None],
) -> str:
    """Executes the rest of a run, and writes its record when it is complete.

    Args:
        run: The run.
        settings: Of the sweep.
        should_stop: Called often; true saves and stops.
        say: Called with the current step.

    Returns:
        The status of its record, or "interrupted".

    Raises:
        MemoryError: If this process has too little memory; so does
            TensorFlow's ResourceExhaustedError.
    """
    folder = Folder(settings.workdir)
    own = folder.run(run.name)
    began = time.monotonic()
    try:
        # Before the log, since it writes the folder's config.
        workdirs.claim(own, run.config, training_settings.MAY_DIFFER)
        with _output_to(folder.log(run)):
            record = _attempt(run, own, settings, should_stop, say)
    except (MemoryError, tf.errors.ResourceExhaustedError):
        raise  # A new process has the memory that this one uses.
    except Exception as error:
        record = records.failure(
            run,
            folder.record(run.name),
            one_line(error),
            settings.preset,
            settings.git_commit,
        )
    if record is None:
        return INTERRUPTED
    if not records.has_failed(record):
        record["seconds"]["wall"] = round(time.monotonic() - began, 3)
    files.make_folder(os.path.dirname(folder.record(run.name)))
    files.write_json(folder.record(run.name), record)
    return records.FAILED if records.has_failed(record) else record["status"]


def _attempt(run, own, settings, should_stop, say):
    """The record of a run; None if it was stopped."""
    try:
        _do(run, own, settings, should_stop, say)
        return records.compose(run, own, settings.preset, settings.git_commit)
    except Interrupted as error:
        print(error, flush=True)
        return None
    except DivergedError as error:
        print(error, flush=True)
        record = records.frame(
            run, settings.preset, records.DIVERGED, settings.git_commit
        )
        return record | {"error": one_line(error)}
    except Exception:
        traceback.print_exc()
        raise


def _do(run: Run, own, settings, should_stop, say) -> None:
    """Trains, audits and evaluates landscapes, where that is not done yet."""

    def begin(what):
        print(f"Begins: {what}.", flush=True)
        say(what)

    _stop_if(should_stop, "before the training")
    begin("training")
    loop.train(
        run.config,
        own,
        should_stop=should_stop,
        watchdog_minutes=_WATCHDOG_MINUTES,
        provenance={
            "git_commit": settings.git_commit,
            "command": settings.command,
        },
    )
    saved_model = files.join(own, training_settings.SAVED_MODEL)
    model = None
    for name, config in run.audits.items():
        _stop_if(should_stop, f"before audit {name}")
        begin(name)
        place = files.join(own, records.AUDITS, name)
        _set_aside_another(place, config)
        # Loaded once for all audits.
        model = model or audited_model.load(saved_model)
        runner.audit(
            config,
            model,
            place,
            should_stop=should_stop,
            watchdog_minutes=_WATCHDOG_MINUTES,
            command=settings.command,
            git_commit=settings.git_commit,
        )
    path = files.join(own, records.LANDSCAPES)
    if run.landscape is not None:
        if records.landscapes(path, run.landscape) is not None:
            return
        _stop_if(should_stop, "before the landscapes")
        begin("landscapes")
        found = landscape_records.evaluate(
            saved_model, run.landscape, run.config
        )
        files.write_json(path, {"spec": run.landscape, "surfaces": found})


def _set_aside_another(place: str, config) -> None:
    """Renames an audit folder of another config.

    For a finished run such a config was refused before; here the run failed or
    was stopped, and its config was corrected since.
    """
    path = files.join(place, workdirs.CONFIG_FILE)
    if not files.exists(path):
        return
    there = files.read_json(path).get("audit") or {}
    if workdirs.differences(there, config, *audit_settings.tolerated()):
        aside = (f"{place}.before_{k}" for k in itertools.count(1))
        free = next(name for name in aside if not os.path.exists(name))
        os.rename(place, free)
        print(f"Set aside, for it is of another config: {free}", flush=True)


def _stop_if(should_stop, where):
    if should_stop():
        raise Interrupted(f"Stopped {where}; the same command resumes there.")


def one_line(error: Exception) -> str:
    """The text of an error in a record."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500]


@contextlib.contextmanager
def _output_to(path: str):
    """Appends all output, also that of C libraries, to a file."""
    saved = [os.dup(1), os.dup(2)]
    try:
        with (
            open(path, "a", buffering=1, encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            for number in (1, 2):
                os.dup2(log.fileno(), number)
            yield
    finally:
        for number, old in zip((1, 2), saved, strict=True):
            os.dup2(old, number)
            os.close(old)
