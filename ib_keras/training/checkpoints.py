"""Checkpoints: one file each, written atomically; the newest valid is restored.

A checkpoint is a single `.npz` of every variable of model and optimizer (with
the averages and the step) and a JSON header. One file is atomic by a rename,
on object stores too, and its zip checksums tell a damaged one. The input
position needs no state: batches are a function of the seed and the step.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ib_keras import files
from ib_keras.errors import UserError

_NAME = re.compile(r"^step-(\d{10})\.npz$")
_HEADER = "header.json"


class Checkpoints:
    """The checkpoints of one run, in one folder.

    Args:
        folder: Where they are.
        keep: How many of the newest to keep.
    """

    def __init__(self, folder: str, keep: int = 2):
        self.folder = folder
        self._keep = keep

    def _steps(self) -> list[int]:
        matches = [_NAME.match(name) for name in files.listdir(self.folder)]
        return sorted(int(m[1]) for m in matches if m)

    def _path(self, step: int) -> str:
        return files.join(self.folder, f"step-{step:010d}.npz")

    def prepare(
        self, step: int, variables, header: dict[str, Any]
    ) -> Callable[[], None]:
        """Copies the current values for one checkpoint.

        Args:
            step: Optimiser steps made.
            variables: Keras variables, always in the same order.
            header: JSON values to restore with them.

        Returns:
            A function that writes the checkpoint and removes those that are
            not kept, on any thread. It raises UserError if there is no space
            or the place cannot be written; older checkpoints stay.
        """
        # Copies: training continues to change the variables.
        arrays = {
            _key(index, variable): np.array(variable.value)
            for index, variable in enumerate(variables)
        }
        text = json.dumps({"step": step, **header})
        arrays[_HEADER] = np.frombuffer(text.encode(), np.uint8)

        def write():
            files.make_folder(self.folder)
            files.write_npz(self._path(step), arrays)
            for old in self._steps()[: -self._keep]:
                files.remove(self._path(old))

        return write

    def save(self, step: int, variables, header: dict[str, Any]) -> None:
        """Writes one checkpoint at once; see `prepare`."""
        self.prepare(step, variables, header)()

    def remove_leftovers(self) -> None:
        """Removes the temporary files of interrupted writes."""
        for name in files.listdir(self.folder):
            if files.is_leftover(name):
                files.remove(files.join(self.folder, name))

    def restore(self, variables, say=print) -> dict[str, Any] | None:
        """Restores the newest complete checkpoint.

        Args:
            variables: As in `save`.
            say: Called with a line for each checkpoint that is skipped.

        Returns:
            The header with its step; None where there is no checkpoint.

        Raises:
            UserError: If there are checkpoints and none can be used: a run
                never restarts silently.
        """
        problems = []
        for step in reversed(self._steps()):
            try:
                return self._restore_one(self._path(step), variables)
            except UserError as error:
                problems.append(f"{error.what}: {error.received}")
                say(f"Checkpoint of step {step} is skipped: {error}")
        if problems:
            raise UserError(
                "No checkpoint can be restored",
                received=f"{len(problems)} in {self.folder}, the newest: "
                f"{problems[0]}",
                expected="at least one complete checkpoint of this model",
                fix="Restore the folder, or choose a new --workdir.",
            )
        return None

    def _restore_one(self, path, variables):
        arrays = files.read_npz(path)
        if _HEADER not in arrays:
            raise UserError(
                "The file is not a checkpoint",
                received=f"{path} without {_HEADER}",
                expected="a file that training wrote",
                fix="Remove it.",
            )
        header = json.loads(arrays.pop(_HEADER).tobytes())
        expected = {
            _key(index, variable): tuple(variable.shape)
            for index, variable in enumerate(variables)
        }
        received = {key: value.shape for key, value in arrays.items()}
        if received != expected:
            different = set(received.items()) ^ set(expected.items())
            raise UserError(
                "The checkpoint is of another model",
                received=f"{path}, which differs in {sorted(different)[0]}",
                expected=f"the {len(expected)} variables of this model",
                fix="Use the config it was trained with, or a new --workdir.",
            )
        for index, variable in enumerate(variables):
            variable.assign(arrays[_key(index, variable)])
        return header


def _key(index: int, variable) -> str:
    # Paths need not be unique; positions are. Keras numbers the layers of a
    # process in the order of creation, so a second model has other paths.
    path = re.sub(r"_\d+(?![^_/])", "", variable.path)
    return f"{index:04d}:{path.replace('/', '.')}"
