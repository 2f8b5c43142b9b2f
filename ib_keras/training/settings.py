"""The config of a training, and its checks that do not need TensorFlow.

`check` checks fields and numbers; `check_start` checks all that can be checked
before anything is built, in milliseconds.
"""

import math
from collections.abc import Mapping
from typing import Any

from ib_keras import arguments
from ib_keras import files
from ib_keras import plugins
from ib_keras import workdirs
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name

RESULT_FILE = "result.json"
SAVED_MODEL = "saved_model"
CHECKPOINTS = "checkpoints"
# Of the step with the highest accuracy against PGD, where that is measured.
BEST_CHECKPOINT = "best_checkpoint"
BEST_SAVED_MODEL = "saved_model_best"

# Fields that change no result: a run may be resumed with other values.
MAY_DIFFER = (
    "data.data_dir",
    "data.download",
    "checkpoint.every_steps",
    "checkpoint.keep",
    "steps_per_call",
)

# The fields of a config; the sections of parts are checked by the parts.
FIELDS = {
    "seed": None,
    "num_epochs": None,
    "num_samples": None,
    "steps_per_call": None,
    "precision": None,
    "data": ...,
    "input": {"normalisation": None},
    "encoder": ...,
    "bottleneck": ...,
    "decoder": {"initializer": None},
    "optim": ...,
    "averaging": {"decay": None},
    "train": {
        "split": None,
        "batch_size": None,
        "augment": None,
        "log_every_steps": None,
    },
    "eval": {
        "split": None,
        "other_splits": None,
        "batch_size": None,
        "every_epochs": None,
    },
    "checkpoint": {"every_steps": None, "keep": None},
}
# Sections that may be missing; without `objective` it is the paper's.
OPTIONAL = {
    "objective": ...,
    "monitor": {
        "split": None,
        "epsilon": None,
        "step_size": None,
        "num_steps": None,
        "gap": None,
        "action": None,
    },
}
_COUNTS = (
    ("num_samples",),
    ("steps_per_call",),
    ("train", "batch_size"),
    ("train", "log_every_steps"),
    ("eval", "batch_size"),
    ("checkpoint", "every_steps"),
    ("checkpoint", "keep"),
)
_LENGTHS = (("num_epochs",), ("eval", "every_epochs"))
OPTIMIZERS = ("adam", "sgd")


def check(config: Mapping[str, Any]) -> None:
    """Refuses fields that do not exist, and numbers that cannot be used.

    Raises:
        UserError: If there is one.
    """
    optional = {k: v for k, v in OPTIONAL.items() if k in config}
    workdirs.check_fields(config, FIELDS | optional)
    for path in (*_COUNTS, *_LENGTHS):
        value = config
        for name in path:
            value = value[name]
        is_count = path in _COUNTS
        kind = int if is_count else int | float
        if isinstance(value, kind) and 0 < value < math.inf:
            continue
        raise UserError(
            f"{path[-1]} is not a {'count' if is_count else 'length'}",
            received=f"{'.'.join(path)}={value!r}",
            expected="a whole number, 1 or more"
            if is_count
            else "a number above 0",
            fix=f"Set --config.{'.'.join(path)} to one.",
        )
    others = config["eval"]["other_splits"]
    if not isinstance(others, tuple | list) or not all(
        isinstance(split, str) for split in others
    ):
        raise UserError(
            "other_splits is not a list of splits",
            received=f"eval.other_splits={others!r}",
            expected='names in parentheses, such as ("adversarial",), or ()',
            fix="Set --config.eval.other_splits to them.",
        )


def check_optimizer(section: Mapping[str, Any]) -> None:
    """Refuses an optimiser that does not exist.

    Raises:
        UserError: If the section `optim` names an unknown one.
    """
    name = section.get("name")
    if name not in OPTIMIZERS:
        raise unknown_name(
            "optimizer", name, OPTIMIZERS, "Set optim.name to it."
        )


def _flat(config) -> dict[str, Any]:
    """The fields of a config and of its sections, as "section.field"."""
    inner = {
        f"{section}.{field}": value
        for section, fields in config.items()
        if isinstance(fields, Mapping)
        for field, value in fields.items()
    }
    return {**config, **inner}


def check_start(
    config: Mapping[str, Any], workdir: str, is_alone: bool = True
) -> None:
    """Refuses what can be refused before TensorFlow is imported.

    Args:
        config: A training config.
        workdir: The run's folder; a remote one is left to `loop.train`.
        is_alone: Whether no other process shares the training.

    Raises:
        UserError: If config or workdir cannot be used.
    """
    check_values(config)
    if files.is_remote(workdir):
        plugins.check("data", config["data"])
        return
    workdirs.check(workdir, config, MAY_DIFFER)
    # A finished run does not need its data any more.
    if not files.exists(files.join(workdir, RESULT_FILE)):
        plugins.check("data", config["data"])
        workdirs.check_writable(workdir)
        if is_alone:
            workdirs.check_free(workdir)


def check_values(config: Mapping[str, Any]) -> None:
    """Refuses parts, fields and values that cannot be used.

    Raises:
        UserError: If there is one.
    """
    check(config)
    plugins.check("encoders", config["encoder"], image_shape=None)
    plugins.check(
        "bottlenecks",
        config["bottleneck"],
        num_classes=None,
        steps_per_epoch=None,
    )
    if "objective" in config:
        plugins.check("objectives", config["objective"], steps_per_epoch=None)
    check_optimizer(config["optim"])
    arguments.check("training", _flat(config))
