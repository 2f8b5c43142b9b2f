"""Builds the stages and the runner of an audit from its config."""

from collections.abc import Mapping
from typing import Any

from ib_keras import strategy as strategies
from ib_keras.attacks import base
from ib_keras.attacks import runner
from ib_keras.audit import settings
from ib_keras.types import ThreatModel


def build_stages(config: Mapping[str, Any]) -> list[runner.Stage]:
    """Builds the stages of a protocol, in its order.

    Raises:
        UserError: If there are none, or a part or argument is unknown.
    """
    settings.check_stages(config["stages"])
    return [
        runner.Stage.build({"name": name, **section})
        for name, section in config["stages"].items()
    ]


def take_gradients(stages: list[runner.Stage]) -> bool:
    """Whether any attack of the stages needs gradients."""
    attacks = [stage.attack for stage in stages]
    return any(a.gradients_at_init or a.gradients_per_step for a in attacks)


def build_runner(
    config, subject, stages, strategy=None, first=0
) -> runner.Runner:
    """Builds the runner of a protocol at the config's own radius."""
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
        logit_scale=subject.logit_scale,
    )
