"""What the config of an audit says: its fields, its stages, its runner."""

import functools
import numbers
import operator
from collections.abc import Mapping
from typing import Any

from ib_keras import strategy as strategies
from ib_keras import workdirs
from ib_keras.attacks import base
from ib_keras.attacks import runner
from ib_keras.errors import UserError
from ib_keras.types import ThreatModel
from ib_keras.types import is_number

# Fields that change no result: an audit may be continued with others.
MAY_DIFFER = (
    "dataset.data_dir",
    "dataset.download",
    "diagnostics.set",
    "diagnostics.num_examples",
    "diagnostics.twin",
)

# The fields of a config; what is open here is checked by the parts.
FIELDS = {
    "protocol": None,
    "protocol_version": None,
    "seed": None,
    "mode": None,
    "num_samples": None,
    "num_judge_samples": None,
    "num_examples": None,
    "batch_size": None,
    "chunk_steps": None,
    "compact": None,
    "model": {
        "signature": None,
        "output": None,
        "outputs": None,
        "input_range": None,
        "layout": None,
    },
    "dataset": ...,
    "threat_model": {"norm": None, "epsilon": None},
    "epsilon_curve": None,
    "stages": ...,
    "diagnostics": {"set": None, "num_examples": None, "twin": None},
}


def check(config: Mapping[str, Any]) -> None:
    """Refuses a config with unknown fields, or values of other kinds.

    Counts, names and radii are checked where they are used.

    Raises:
        UserError: If there is one.
    """
    workdirs.check_fields(config, FIELDS)
    for name, (is_right, expected) in _KINDS.items():
        value = functools.reduce(operator.getitem, name.split("."), config)
        if not is_right(value):
            raise UserError(
                f"{name} is not of its kind",
                received=repr(value),
                expected=expected,
                fix=f"Set {name} in the config, as --config.{name}=... does.",
            )


def _is_seed(value) -> bool:
    is_whole = isinstance(value, numbers.Integral)
    return is_whole and not isinstance(value, bool) and value >= 0


def _are_numbers(values) -> bool:
    return isinstance(values, list | tuple) and all(map(is_number, values))


# What a field must be and how to say it; `check` says where others are checked.
_KINDS = {
    "seed": (_is_seed, "a whole number, 0 or more"),
    "compact": (lambda v: isinstance(v, bool), "True or False"),
    "protocol": (lambda v: isinstance(v, str), "a name"),
    "threat_model.epsilon": (is_number, "a finite number, 0 or more"),
    "epsilon_curve": (_are_numbers, "numbers, such as (0.1, 0.2)"),
    "diagnostics.twin": (
        lambda v: v is None or isinstance(v, str),
        "the path of a SavedModel",
    ),
}


def build_stages(config: Mapping[str, Any]) -> list[runner.Stage]:
    """Builds the stages of a protocol, in its order.

    Raises:
        UserError: If there are none, or a part or argument is unknown.
    """
    stage = {"num_restarts": None, "attack": ...}
    fields = {name: stage for name in config["stages"]}
    workdirs.check_fields(config["stages"], fields, "stages.")
    stages = [
        runner.Stage.build({"name": name, **section})
        for name, section in config["stages"].items()
    ]
    if not stages:
        raise UserError(
            "The protocol has no stages",
            received="stages={}",
            expected="at least one stage",
            fix="Name one in the config's `stages`.",
        )
    return stages


def take_gradients(stages: list[runner.Stage]) -> bool:
    """Whether any attack of the stages needs gradients."""
    attacks = [stage.attack for stage in stages]
    return any(a.gradients_at_init or a.gradients_per_step for a in attacks)


def _check_targets(stages, num_classes):
    """The runner refuses it too, but only once something is written."""
    for stage in stages:
        count = stage.attack.num_targets
        if count is not None and count >= num_classes:
            raise UserError(
                f"Stage {stage.name} has more targets than other classes",
                received=f"num_targets={count}",
                expected=f"at most {num_classes - 1}, or 0 for all",
                fix="Lower num_targets in the attack's section.",
            )


def build_runner(
    config, subject, stages, strategy=None, first=0
) -> runner.Runner:
    """Builds the runner of a protocol at the config's own radius."""
    _check_targets(stages, subject.target.num_classes)
    threat_model = config["threat_model"]
    batch_size = base.check_count("batch_size", config["batch_size"])
    return runner.Runner(
        subject.logits_fn,
        stages,
        ThreatModel(threat_model["norm"], threat_model["epsilon"]),
        batch_size=min(batch_size, len(subject.labels)),
        seed=config["seed"],
        num_judge_samples=subject.num_judge_samples,
        chunk_steps=config["chunk_steps"],
        compact=config["compact"],
        strategy=strategy,
        jit_compile=strategies.jit_compile(strategy),
        first=first,
    )
