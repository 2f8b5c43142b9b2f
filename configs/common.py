"""What all configs share: the presets, `:smoke`, and the fields of an audit.

A config holds JSON scalars, tuples and nested sections, nothing else. A part's
section is its module's name and the arguments of its `build`. Fields are
overridden on the command line: `--config.bottleneck.beta=0.1`.

Nothing here depends on the names of parts: all fields of a training are in its
own file.
"""

import dataclasses

import ml_collections
from ml_collections.config_dict import placeholder

from ib_keras import schemas
from ib_keras.audit.config import AuditConfig
from ib_keras.audit.config import ThreatModel

# The paper's setting, one for two CPU cores, and a trial of seconds.
PRESETS = ("", "cpu", "smoke")


def check_preset(preset: str, *others: str) -> None:
    """Refuses what follows the colon of --config if it is unknown.

    Args:
        preset: What follows it.
        *others: What could follow it, too, for the message.
    """
    if preset not in PRESETS:
        valid = [*(p or "(none)" for p in PRESETS), *others]
        raise ValueError(
            f'Received preset "{preset}". Expected one of {", ".join(valid)}. '
            "Correct what follows the colon of --config."
        )


def smoke(config: ml_collections.ConfigDict, image_shape: tuple) -> None:
    """Reduces a training to seconds of the same code, on random images.

    Args:
        config: Of a training whose encoder has `hidden_units`; changed in
            place.
        image_shape: `(height, width, channels)` of the data set replaced.
    """
    config.data = dict(
        name="random_images",
        image_shape=image_shape,
        num_classes=10,
        num_train=64,
        num_test=32,
    )
    config.num_epochs = 2
    config.num_samples = 2
    config.encoder.hidden_units = (32, 32)
    config.bottleneck.latent_dim = 8
    config.train.batch_size = 16
    config.train.log_every_steps = 4
    config.eval.batch_size = 16
    config.checkpoint.every_steps = 4
    config.train.split = "train"
    if "monitor" in config:
        config.monitor.split = "test"


def audit(
    protocol: str, version: int, norm: str, epsilon: float, stages: dict
) -> ml_collections.ConfigDict:
    """The fields that every audit has, as `ib_keras.audit.config` says them.

    Args:
        protocol: Name, for reports.
        version: Raised whenever the numbers of the protocol may change.
        norm: "linf" or "l2".
        epsilon: Radius in pixel units of [0, 1].
        stages: Name -> section with `num_restarts` and `attack`; they run in
            this order.

    Returns:
        The config. What is left at None comes from the SavedModel's metadata.
    """
    return _overridable(
        AuditConfig(
            protocol=protocol,
            protocol_version=version,
            threat_model=ThreatModel(norm, epsilon),
            stages=stages,
        )
    )


def study(
    models: tuple, protocols: dict, examples_per_part: int | None = None
) -> ml_collections.ConfigDict:
    """The fields of a study: models by protocols, in parts.

    Args:
        models: Paths of SavedModels and .keras files, with wildcards.
        protocols: Name -> fields that differ from the protocol of
            `configs/audits/`; its name, or that in `protocol`.
        examples_per_part: Of an audit; None for all.

    Returns:
        The config.
    """
    config = ml_collections.ConfigDict()
    config.models = tuple(models)
    config.protocols = ml_collections.ConfigDict(protocols)
    config.examples_per_part = placeholder(int)
    config.examples_per_part = examples_per_part
    return config


def _overridable(section) -> ml_collections.ConfigDict:
    """A schema's instance as a config whose fields know their types."""
    config = ml_collections.ConfigDict()
    for name, kind in schemas.plain_types(type(section)).items():
        value = getattr(section, name)
        if value is None:
            value = placeholder(kind)
        elif dataclasses.is_dataclass(value):
            value = _overridable(value)
        config[name] = value
    return config
