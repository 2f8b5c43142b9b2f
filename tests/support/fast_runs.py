"""Trainings of a tenth of a second, whose files are written like any other's.

Arithmetic replaces the steps, so that a test can afford hundreds of runs.
"""

import os
import pathlib

import numpy as np

from ib_keras import files
from ib_keras.training import loop
from tests.support import runs

# Calls end at 2, 3, 4, 5, 6 and 8, most of them inside a row of the log.
UNEVEN = {
    "steps_per_call": 2,
    "train.log_every_steps": 3,
    "eval.every_epochs": 1.0,
    "checkpoint.every_steps": 5,
    "checkpoint.keep": 2,
}


class FastSteps:
    """Steps without a gradient or a trace: arithmetic that depends on all."""

    train_values = loop._TRAIN_VALUES

    def __init__(self, model, optimizer, *unused):
        self.model, self.optimizer = model, optimizer

    def trace(self, iterator):
        pass

    def train_steps(self, iterator, num_steps):
        for _ in range(num_steps):
            step = float(self.optimizer.iterations.numpy())
            for variable in self.optimizer.variables[1:]:
                variable.assign(variable * 0.9 + step)
            for variable in self.model.trainable_variables:
                variable.assign(variable * 0.9 - step)
            self.optimizer.iterations.assign_add(1)
        value = float(np.mean(self.model.trainable_variables[0].numpy()))
        names = (*loop._TRAIN_VALUES, "gradient_norm")
        return dict.fromkeys(names, value)

    def evaluate(self, images, labels, batch_size):
        value = float(np.mean(self.model.trainable_variables[0].numpy()))
        return dict.fromkeys(loop._EVAL_VALUES, value)


def _export(model, path, *, image_shape, metadata):
    def write(folder):
        weights = {str(i): w.numpy() for i, w in enumerate(model.weights)}
        files.write_npz(os.path.join(folder, "weights.npz"), weights)

    files.write_folder(path, write)


def install(monkeypatch) -> None:
    """Makes `loop.train` fast."""
    monkeypatch.setattr(loop, "Steps", FastSteps)
    monkeypatch.setattr(loop._Run, "iterator", lambda self, start: None)
    monkeypatch.setattr(loop.export, "save", _export)


def outcome(workdir):
    """All that a fast run wrote, but for what a clock measured."""
    workdir = pathlib.Path(workdir)
    return {
        "metrics": runs.metrics(workdir),
        "checkpoint": {
            name: array.tobytes()
            for name, array in runs.checkpoint(workdir).items()
        },
        "checkpoints": sorted(
            path.name for path in workdir.glob("checkpoints/step-*")
        ),
        **{
            name: (workdir / name).read_bytes()
            for name in (
                "config.json",
                "result.json",
                "saved_model/weights.npz",
            )
        },
    }
