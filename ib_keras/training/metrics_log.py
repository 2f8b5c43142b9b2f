"""`metrics.jsonl` and the TensorBoard files of one training run."""

import json
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from ib_keras import files
from ib_keras import workdirs
from ib_keras.errors import UserError

_FILE = "metrics.jsonl"


class MetricsLog:
    """Rows of measured values, one JSON object a line.

    The file is rewritten whole at each flush, which remote file systems allow.
    Checkpoints hold the rows too, and a resumed run continues from those: no
    row is repeated, and the file is not needed.

    Args:
        workdir: Folder of the run.
        config: Nested JSON values, for TensorBoard's table of runs (HParams).
    """

    def __init__(self, workdir: str, config: Mapping[str, Any] | None = None):
        self._path = files.join(workdir, _FILE)
        self._rows: list[dict[str, Any]] = []
        self._folder = files.join(workdir, "tensorboard")
        self._writer: Any = None
        self._hparams = {
            name: v
            if isinstance(v, bool | int | float | str)
            else json.dumps(v)
            for name, v in workdirs.flatten(config or {}).items()
        }

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows, as JSON values."""
        return list(self._rows)

    def restore(
        self, step: int, rows: list[dict[str, Any]] | None = None
    ) -> None:
        """Restores the rows up to a checkpoint's step.

        Args:
            step: Optimiser steps made; what is later is dropped.
            rows: Those of the checkpoint; read from the file if None.

        Raises:
            UserError: If the file has to be read and is damaged.
        """
        if rows is not None:
            self._rows = list(rows)
            return
        if not files.exists(self._path):
            return
        lines = files.read_text(self._path).splitlines()
        try:
            rows = [json.loads(line) for line in lines]
            self._rows = [row for row in rows if row["step"] <= step]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                "A file is damaged",
                received=f"{self._path} ({type(error).__name__}: {error})",
                expected="a JSON object with a step on each line",
                fix="Restore it, or remove it and lose its rows.",
            ) from error

    def add(self, step: int, epoch: float, kind: str, values) -> None:
        """Adds a row, in place of one of the same step and kind.

        Args:
            step: Optimiser steps made.
            epoch: The same in epochs.
            kind: "train" or "eval".
            values: Name -> float.
        """
        row = {"step": step, "epoch": round(epoch, 6), "kind": kind, **values}
        # A run that was killed at its end evaluates its last step again.
        self._rows = [
            other
            for other in self._rows
            if (other["step"], other["kind"]) != (step, kind)
        ]
        self._rows.append(row)
        with files.user_errors("write the summaries", self._folder):
            if self._writer is None:
                self._open()
            with self._writer.as_default(step=step):
                for name, value in values.items():
                    tf.summary.scalar(f"{kind}/{name}", value)

    def _open(self):
        # Imported here, since that is slow and not every command logs.
        from tensorboard.plugins.hparams import api

        self._writer = tf.summary.create_file_writer(self._folder)
        if self._hparams:
            with self._writer.as_default():
                api.hparams(self._hparams)

    def prepare(self) -> Callable[[], None]:
        """Copies the current rows; returns a function that writes them.

        The function writes the file atomically, on any thread.
        """
        text = "".join(json.dumps(row) + "\n" for row in self._rows)
        writer = self._writer

        def write():
            files.write_text(self._path, text)
            if writer is not None:
                with files.user_errors("write the summaries", self._folder):
                    writer.flush()

        return write

    def flush(self) -> None:
        """Writes all rows, atomically."""
        self.prepare()()
