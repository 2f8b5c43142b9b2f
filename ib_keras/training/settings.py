"""The config of a training, and its checks that do not need TensorFlow.

`check` checks fields and numbers; `check_start` checks all that can be checked
before anything is built, in milliseconds.
"""

from collections.abc import Mapping
from typing import Any

from ib_keras import arguments
from ib_keras import files
from ib_keras import plugins
from ib_keras import workdirs
from ib_keras.data import splits
from ib_keras.errors import unknown_name
from ib_keras.schemas import CONFIG
from ib_keras.schemas import Length
from ib_keras.schemas import Positive

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

# The fields of a config. Parts check their sections, and `arguments` what is
# anything here.
_PART = Mapping[str, Any]
FIELDS = {
    "seed": Any,
    "num_epochs": Length,
    "num_samples": Positive,
    "steps_per_call": Positive,
    "precision": Any,
    "data": _PART,
    "input": {"normalisation": Any},
    "encoder": _PART,
    "bottleneck": _PART,
    "decoder": {"initializer": Any},
    "optim": _PART,
    "averaging": {"decay": Any},
    "train": {
        "split": Any,
        "batch_size": Positive,
        "augment": Any,
        "log_every_steps": Positive,
    },
    "eval": {
        "split": Any,
        "other_splits": tuple[str, ...],
        "batch_size": Positive,
        "every_epochs": Length,
    },
    "checkpoint": {"every_steps": Positive, "keep": Positive},
}
# Sections that may be missing; without `objective` it is the paper's.
OPTIONAL = {
    "objective": _PART,
    "monitor": {
        "split": Any,
        "epsilon": Any,
        "step_size": Any,
        "num_steps": Any,
        "gap": Any,
        "action": Any,
    },
}
OPTIMIZERS = ("adam", "sgd")


def check(config: Mapping[str, Any]) -> None:
    """Refuses fields that do not exist, and numbers that cannot be used.

    Raises:
        UserError: If there is one.
    """
    optional = {k: v for k, v in OPTIONAL.items() if k in config}
    CONFIG.read(FIELDS | optional, config)


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
    flat = _flat(config)
    arguments.check("training", flat)
    for field in ("train.split", "eval.split", "monitor.split"):
        if field in flat:
            splits.check_name(config["data"], field, flat[field])
    for split in flat["eval.other_splits"]:
        splits.check_name(config["data"], "eval.other_splits", split)
