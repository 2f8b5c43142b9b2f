"""`metrics.jsonl` and TensorBoard scalars of one training run."""

import json

import tensorflow as tf

from ib_keras import files
from ib_keras.errors import UserError

_FILE = "metrics.jsonl"


class MetricsLog:
    """Rows of measured values, one JSON object a line.

    The file is rewritten whole at each flush, which remote file systems allow
    and which keeps it in step with the checkpoints: a resumed run drops what
    is later than its checkpoint and so never says a thing twice.

    Args:
        workdir: Folder of the run.
    """

    def __init__(self, workdir: str):
        self._path = files.join(workdir, _FILE)
        self._rows = []
        self._folder = files.join(workdir, "tensorboard")
        self._writer = None

    def restore(self, step: int) -> None:
        """Reads the rows up to a checkpoint's step."""
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
        """Adds a row, in place of one that says the same.

        Args:
            step: Optimiser steps made.
            epoch: The same in epochs.
            kind: "train" or "eval".
            values: Name -> float.
        """
        row = {"step": step, "epoch": round(epoch, 6), "kind": kind, **values}
        # A run killed in its very last moments evaluates its last step again.
        self._rows = [
            other
            for other in self._rows
            if (other["step"], other["kind"]) != (step, kind)
        ]
        self._rows.append(row)
        with files.user_errors("write the summaries", self._folder):
            if self._writer is None:
                self._writer = tf.summary.create_file_writer(self._folder)
            with self._writer.as_default(step=step):
                for name, value in values.items():
                    tf.summary.scalar(f"{kind}/{name}", value)

    def flush(self) -> None:
        """Writes all rows, atomically."""
        text = "".join(json.dumps(row) + "\n" for row in self._rows)
        files.write_text(self._path, text)
        if self._writer is not None:
            with files.user_errors("write the summaries", self._folder):
                self._writer.flush()
