"""`summary.json`: what an audit measured, of which model, with which budget.

Fields that newer versions add are ignored. What older versions lack has a
default; what no reader can do without has none.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated
from typing import Any

from ib_keras import files
from ib_keras.audit import folder as folders
from ib_keras.errors import UserError
from ib_keras.schemas import Count
from ib_keras.schemas import Figure
from ib_keras.schemas import Interval
from ib_keras.schemas import Number
from ib_keras.schemas import Share
from ib_keras.schemas import field
from ib_keras.schemas import one_of
from ib_keras.types import ThreatModel

ACCEPTED = "accepted"
ACCEPTED_WITH_EXCEPTIONS = "accepted with exceptions"


@dataclasses.dataclass(frozen=True)
class Model:
    """What the audit found the model to be; None where it does not say.

    `metadata` is what the model says of itself: foreign, and not checked.
    """

    path: str | None = None
    sha256: str | None = None
    kind: str | None = None
    signature: str | None = None
    outputs: str | None = None
    input_range: tuple[Figure, Figure] | None = None
    layout: str | None = None
    image_shape: tuple[Count, ...] | None = None
    num_classes: Count | None = None
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recorded_accuracy(self) -> float | None:
        """The clean accuracy at export, if it is one."""
        return self._recorded("clean_accuracy", Share)

    @property
    def recorded_step(self) -> int | None:
        """The training steps that the export recorded."""
        return self._recorded("step", Count)

    def _recorded(self, name, kind):
        try:
            found = self.metadata.get(name)
            return folders.source("").read(kind | None, found, name)
        except UserError:
            return None


@dataclasses.dataclass(frozen=True)
class Safety:
    """The scan of the model's files before they were loaded.

    `ops` maps a family of operations to those met; `files` a relative name to
    its SHA-256. `exceptions` are what was let pass only because it was asked
    for; `probe` is not None where first calls were made in a process apart.
    """

    status: Annotated[str, one_of(ACCEPTED, ACCEPTED_WITH_EXCEPTIONS)]
    rules_version: Count | None = None
    allow_ops: tuple[str, ...] = ()
    exceptions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    probe: Any = None
    ops: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_exceptions(self) -> bool:
        """Whether anything was let pass that the rules refuse."""
        return self.status != ACCEPTED or bool(self.exceptions)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One attack of the protocol, with its budget and what it left robust.

    `robust_accuracy` and `restart_curve` (one value per restart) are over all
    audited examples, worst case over this stage and all before it;
    `gradient_curve` is what the stage had spent after each restart.
    """

    name: str
    robust_accuracy: Share
    attack: Mapping[str, Any] = field(default_factory=dict)
    num_restarts: Count | None = None
    num_attacked: Count | None = None
    num_broken: Count | None = None
    gradient_evaluations: Count | None = None
    seconds: Number | None = None
    restart_curve: tuple[Share, ...] = ()
    gradient_curve: tuple[Count, ...] = ()
    num_nonfinite: Count = 0


@dataclasses.dataclass(frozen=True)
class EpsilonPoint:
    """An independent audit of the same examples at another radius."""

    epsilon: Number
    robust_accuracy: Share
    interval: Interval | None = field(key="robust_accuracy_ci95", default=None)
    restart_curve: tuple[Share, ...] = ()
    certified_accuracy: Share | None = None


@dataclasses.dataclass(frozen=True)
class Certification:
    """How the lower bound was proved, or why there is none (`reason`).

    `num_draws` and `confidence`, of each example's statement, are of noise that
    is drawn anew; None where there is no noise.
    """

    method: str
    statement: str | None = None
    reason: str | None = None
    num_certified: Count = 0
    num_by_method: Mapping[str, Count] = field(default_factory=dict)
    num_draws: Count | None = None
    confidence: Share | None = None
    num_withdrawn: Count = 0
    attack_certified: bool = False
    seconds: Number | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """The whole file. Accuracies are shares of `num_examples`.

    Texts are as written: foreign, not yet escaped.
    """

    protocol: str
    protocol_version: Any = None
    threat_model: ThreatModel
    mode: str
    num_samples: Count | None = None
    num_judge_samples: Count | None = None
    logit_scale: Number = 1.0
    num_examples: Count
    clean_accuracy: Share
    robust_accuracy: Share
    robust_interval: Interval = field(key="robust_accuracy_ci95")
    expected_accuracy: Share | None = None
    certified_accuracy: Share | None = None
    certification: Certification | None = None
    stages: tuple[Stage, ...]
    epsilon_curve: tuple[EpsilonPoint, ...] = ()
    gradient_evaluations: Count | None = None
    num_nonfinite_examples: Count = 0
    num_zero_gradient_examples: Count = 0
    seconds: Number | None = None
    seed: Any = None
    command: str | None = None
    model: Model = Model()
    safety: Safety | None = None
    dataset: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_random(self) -> bool:
        """Whether judgements rest on more than one draw of noise."""
        draws = self.num_judge_samples
        return draws != 1 if self.mode == "stochastic" else (draws or 1) > 1


def read(folder: str) -> Summary:
    """Reads the summary of a finished audit.

    Args:
        folder: Of the audit.

    Returns:
        The `Summary`.

    Raises:
        UserError: If there is none, or a field is missing or of another kind.
    """
    path = files.join(folder, folders.SUMMARY)
    return folders.source(path).read(Summary, folders.summary(folder))
