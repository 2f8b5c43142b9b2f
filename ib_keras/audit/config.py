"""The config of an audit: its fields, what they may be, and their defaults.

`configs.common.audit` makes it what a command line can override; `to_dict`
gives the nested values that everything else here takes. A part's section is
checked by the part.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated
from typing import Any

from ib_keras.schemas import SECTION
from ib_keras.schemas import Number
from ib_keras.schemas import Positive
from ib_keras.schemas import Seed
from ib_keras.schemas import field


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What is done to images in [0, 1] before the model sees them.

    A recipe, scale * x + offset, or (x - mean) / std, by channel.
    """

    recipe: str | None = None  # "imagenet", "mnist", "signed", ...
    scale: tuple[Any, ...] | None = None
    offset: tuple[Any, ...] | None = None
    mean: tuple[Any, ...] | None = None
    std: tuple[Any, ...] | None = None
    channel_order: str | None = None  # "rgb" or "bgr".


@dataclasses.dataclass(frozen=True)
class Model:
    """What a model of other code is; None leaves it to be found."""

    signature: str | None = None
    output: str | None = None  # Name of one among several.
    outputs: str | None = None  # "logits", "probabilities", ...
    # Lowest and highest value.
    input_range: tuple[Any, ...] | None = None
    layout: str | None = None  # "channels_last" or "channels_first".
    preprocessing: Annotated[Preprocessing, SECTION] | None = field(
        is_new=True, default=Preprocessing()
    )


@dataclasses.dataclass(frozen=True)
class Dataset:
    """None: that of the model. A data set may have further arguments."""

    name: str | None = None
    split: str = "test"
    data_dir: str | None = None  # Of TFDS; None: TFDS decides.
    download: bool = True  # If the data are not there.


@dataclasses.dataclass(frozen=True)
class ThreatModel:
    """The ball; epsilon is in pixel units of [0, 1]."""

    norm: str  # "linf" or "l2".
    epsilon: Number


@dataclasses.dataclass(frozen=True)
class Stage:
    """One attack and how often it is run."""

    num_restarts: Positive
    attack: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    """The checks that the verdict is made of."""

    set: str = "quick"  # Or "none" or "full".
    num_examples: Positive = 100
    twin: str | None = None  # SavedModel of the deterministic baseline.


@dataclasses.dataclass(frozen=True)
class Certify:
    """What is proved beside what is attacked, at l_inf.

    `num_draws` and `confidence` are of models with noise.
    """

    # "none", "ibp", "crown" or "alpha_crown".
    method: str = field(is_new=True, default="none")
    # Whether the largest proved radius of each example is sought.
    radius: bool = field(is_new=True, default=False)
    # Whether examples that are proved robust are attacked nevertheless.
    attack_certified: bool = field(is_new=True, default=False)
    num_draws: Positive = field(is_new=True, default=16)
    confidence: Number = field(is_new=True, default=0.999)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Certify":
        """The section of a config, which older ones lack."""
        return cls(**(config.get("certify") or {}))

    @property
    def is_on(self) -> bool:
        """Whether anything is to be proved."""
        return self.method != "none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What is left at None comes from the SavedModel's metadata."""

    protocol: str  # For reports.
    protocol_version: Any = 1  # Raised whenever its numbers may change.
    seed: Seed = 0  # Of starting points, model noise and choices.
    mode: str = "mean"  # Or "stochastic".
    # S, draws of z in stochastic mode.
    num_samples: Positive | None = None
    # Of z where an outcome is judged.
    num_judge_samples: Positive | None = None
    num_examples: Positive = 1000  # The first ones of the split.
    batch_size: Positive = 500
    # Most attack steps between two looks at results.
    chunk_steps: Positive = 16
    # Whether broken examples leave the batch then.
    compact: bool = True
    model: Model = Model()
    dataset: Annotated[Dataset, SECTION] = Dataset()
    threat_model: ThreatModel
    # Further radii, each audited by itself for the curve of the report.
    epsilon_curve: tuple[Number, ...] = ()
    stages: Mapping[str, Stage]  # They run in this order.
    certify: Certify = field(is_new=True, default=Certify())
    diagnostics: Diagnostics = Diagnostics()

    def to_dict(self) -> dict[str, Any]:
        """The config as nested values, as a file's `get_config` makes it."""
        return dataclasses.asdict(self)
