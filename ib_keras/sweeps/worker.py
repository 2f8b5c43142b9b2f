"""Executes a run of a sweep: its training, its audits and its landscapes."""

import contextlib
import dataclasses
import gc
import itertools
import os
import time
import traceback
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

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


def do(
    run: Mapping[str, Any],
    settings: Mapping[str, Any],
    should_stop: Callable[[], bool],
) -> str:
    """Executes a run, as a task of `ib_keras.cluster`.

    Args:
        run: The fields of a `Run`.
        settings: The fields of `Settings`.
        should_stop: Called often; true saves and stops.

    Returns:
        The status of its record.

    Raises:
        Interrupted: If it was stopped; its progress is saved.
        MemoryError: As `do_run`.
    """
    logging.set_verbosity(logging.ERROR)  # As in every command.
    try:
        return do_run(Run(**run), Settings(**settings), should_stop=should_stop)
    finally:
        _forget()


def _forget() -> None:
    """Frees the memory of a run."""
    keras.backend.clear_session()
    gc.collect()


def do_run(
    run: Run,
    settings: Settings,
    *,
    should_stop: Callable[[], bool],
) -> str:
    """Executes the rest of a run, and writes its record when it is complete.

    Args:
        run: The run.
        settings: Of the sweep.
        should_stop: Called often; true saves and stops.

    Returns:
        The status of its record.

    Raises:
        Interrupted: If it was stopped; its progress is saved.
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
            record = _attempt(run, own, settings, should_stop)
    except (Interrupted, MemoryError, tf.errors.ResourceExhaustedError):
        raise  # A new process has the memory that this one uses.
    except Exception as error:
        record = records.failure(
            run,
            folder.record(run.name),
            one_line(error),
            settings.preset,
            settings.git_commit,
        )
    if not records.has_failed(record):
        record["seconds"]["wall"] = round(time.monotonic() - began, 3)
    files.make_folder(os.path.dirname(folder.record(run.name)))
    files.write_json(folder.record(run.name), record)
    return records.FAILED if records.has_failed(record) else record["status"]


def _attempt(run, own, settings, should_stop):
    """The record of a run."""
    try:
        _do(run, own, settings, should_stop)
        return records.compose(run, own, settings.preset, settings.git_commit)
    except Interrupted as error:
        print(error, flush=True)
        raise
    except DivergedError as error:
        print(error, flush=True)
        record = records.frame(
            run, settings.preset, records.DIVERGED, settings.git_commit
        )
        return record | {"error": one_line(error)}
    except Exception:
        traceback.print_exc()
        raise


def _do(run: Run, own, settings, should_stop) -> None:
    """Trains, audits and evaluates landscapes, where that is not done yet."""

    def begin(what):
        print(f"Begins: {what}.", flush=True)

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
