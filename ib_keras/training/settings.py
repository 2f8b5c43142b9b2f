"""The config of a training, and what can be refused without TensorFlow.

`check` is of fields and numbers alone; `check_start` is all that can be said
before anything is built, in milliseconds.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ib_keras import arguments
from ib_keras import files
from ib_keras import plugins
from ib_keras import workdirs
from ib_keras.errors import unknown_name
from ib_keras.schemas import CONFIG
from ib_keras.schemas import Length
from ib_keras.schemas import Positive
from ib_keras.schemas import field

RESULT_FILE = "result.json"
SAVED_MODEL = "saved_model"
CHECKPOINTS = "checkpoints"
# Of the step with the highest accuracy against PGD, where that is measured.
BEST_CHECKPOINT = "best_checkpoint"
BEST_SAVED_MODEL = "saved_model_best"

# Fields that change no result: a run may be continued with others.
MAY_DIFFER = (
    "data.data_dir",
    "data.download",
    "checkpoint.every_steps",
    "checkpoint.keep",
    "steps_per_call",
)

OPTIMIZERS = ("adam", "sgd")


@dataclasses.dataclass(frozen=True)
class _Input:
    normalisation: Any


@dataclasses.dataclass(frozen=True)
class _Decoder:
    initializer: Any


@dataclasses.dataclass(frozen=True)
class _Averaging:
    decay: Any


@dataclasses.dataclass(frozen=True)
class _Train:
    split: Any
    batch_size: Positive
    augment: Any
    log_every_steps: Positive


@dataclasses.dataclass(frozen=True)
class _Eval:
    split: Any
    other_splits: tuple[str, ...]
    batch_size: Positive
    every_epochs: Length


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
    every_steps: Positive
    keep: Positive


@dataclasses.dataclass(frozen=True)
class _Monitor:
    split: Any
    epsilon: Any
    step_size: Any
    num_steps: Any
    gap: Any
    action: Any


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The fields of a config; the sections of parts are checked by them.

    `arguments` has what the other fields may be.
    """

    seed: Any
    num_epochs: Length
    num_samples: Positive
    steps_per_call: Positive
    precision: Any
    data: Mapping[str, Any]
    input: _Input
    encoder: Mapping[str, Any]
    bottleneck: Mapping[str, Any]
    decoder: _Decoder
    optim: Mapping[str, Any]
    averaging: _Averaging
    train: _Train
    eval: _Eval
    checkpoint: _Checkpoint
    objective: Mapping[str, Any] = field(is_new=True, default_factory=dict)
    monitor: _Monitor | None = field(is_new=True, default=None)


def check(config: Mapping[str, Any]) -> None:
    """Refuses fields that do not exist, and numbers that cannot be used.

    Raises:
        UserError: If there is one.
    """
    CONFIG.read(TrainConfig, config)


def check_optimizer(section: Mapping[str, Any]) -> None:
    """Refuses an optimiser that does not exist.

    Raises:
        UserError: If the section `optim` names none that there is.
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
    # What is done needs its data no more.
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
