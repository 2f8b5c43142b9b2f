"""The audit under examination: what a diagnostic may read and spend.

A diagnostic sees a finished audit (its ledger and summary) and the model. It
may attack again, on few examples, by the runner of the audit; its cost is
counted.
"""

import copy
import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras.attacks import compiled
from ib_keras.attacks import ledger as ledgers
from ib_keras.attacks import runner
from ib_keras.attacks.base import num_targets
from ib_keras.types import LogitsFn
from ib_keras.types import ThreatModel

# Seeds of diagnostics are folded with this, to differ from the audit's.
_PURPOSE = 5
_APART = 2**40

# Calls of the model per example that a short stage makes at most.
_FEW_CALLS = 300


@dataclasses.dataclass
class Case:
    """One audit and its model.

    An audit may have several radii. Diagnostics attack again at the audit's
    own, or if no example is robust there, at the largest with a robust one.

    Attributes:
        subject: `audit.subject.Subject`: the model in the audited mode, and the
            clean examples.
        ledger: What the audit found of each example at this radius.
        summary: What summary.json holds.
        threat_model: The ball of this radius.
        stages: The protocol's own, in order.
        rows: Positions of examples to attack again: drawn from all.
        robust_rows: Positions of robust examples to attack again, as many.
            None of them is certified: what is proved need not be attacked.
        seed: A whole number.
        radii: Radius -> (ledger, summary) for each of the audit's radii.
        twin: The subject of the deterministic twin; None where none is named.
        strategy: Where to run; None for TensorFlow's default device.
        is_certified: bool `[examples]`, which are proved robust at this
            radius; None for none.
        write: Writes arrays to the audit folder, as `name`.npz:
            `write(name, arrays)`.
        batch_size: The largest batch of `attack`, as of the audit; None takes
            all rows at once.
        gradient_evaluations: Spent so far. As in the audit's own count, runs
            that are made side by side count as one after another would.
    """

    subject: Any
    ledger: ledgers.Ledger
    summary: Mapping[str, Any]
    threat_model: ThreatModel
    stages: Sequence[runner.Stage]
    rows: np.ndarray
    robust_rows: np.ndarray
    seed: int = 0
    radii: Mapping[float, tuple[ledgers.Ledger, Mapping[str, Any]]] = (
        dataclasses.field(default_factory=dict)
    )
    twin: Any = None
    strategy: tf.distribute.Strategy | None = None
    is_certified: np.ndarray | None = None
    write: Callable[[str, Mapping[str, np.ndarray]], None] | None = None
    batch_size: int | None = None
    gradient_evaluations: int = 0

    @property
    def num_classes(self) -> int:
        """Number of classes of the model."""
        return self.subject.model.num_classes

    @property
    def num_examples(self) -> int:
        """Of the audit."""
        return len(self.ledger.label)

    @property
    def is_random(self) -> bool:
        """Whether the audited classifier has noise."""
        return self.subject.num_judge_samples > 1

    @property
    def num_draws(self) -> int:
        """Draws per judgement when attacking again."""
        return max(self.subject.num_judge_samples, 5) if self.is_random else 1

    @property
    def is_any_robust(self) -> bool:
        """Whether an example is robust at any radius of the audit."""
        ledgers = [ledger for ledger, _ in self.radii.values()]
        return any(ledger.is_robust.any() for ledger in ledgers)

    @property
    def summary_here(self) -> Mapping[str, Any]:
        """The summary of the radius in question."""
        return self.radii[float(self.threat_model.epsilon)][1]

    @property
    def robust_accuracy(self) -> float:
        """The robust accuracy of the audit at this radius."""
        return self.ledger.robust_accuracy

    @property
    def is_open(self) -> np.ndarray:
        """Bool `[examples]`: robust here, and not proved to be."""
        if self.is_certified is None:
            return self.ledger.is_robust
        return self.ledger.is_robust & ~self.is_certified

    @property
    def open_accuracy(self) -> float:
        """Share of all examples that are: what further attacks can break."""
        return float(self.is_open.mean())

    @property
    def attacked(self) -> compiled.CompiledLogits:
        """The audited classifier as attacks see it: its logits scaled."""
        logits = compiled.on(
            self.subject.logits_fn,
            self.strategy,
            strategies.jit_compile(self.strategy),
        )
        return logits.times(self.subject.logit_scale)

    def seed_of(self, *purpose: int) -> tf.Tensor:
        """A seed int32 [2] that neither the audit nor another check uses."""
        return seeds.fold(seeds.from_int(self.seed), _PURPOSE, *purpose)

    def attack(
        self,
        stages: Sequence[runner.Stage],
        rows: np.ndarray,
        *,
        epsilon: float | None = None,
        logits_fn: LogitsFn | None = None,
        is_random: bool | None = None,
        logit_scale: float | None = None,
    ) -> ledgers.Ledger:
        """Attacks some of the examples.

        Args:
            stages: What to run, in order.
            rows: Positions of examples.
            epsilon: Radius; None takes the audited one.
            logits_fn: Another classifier than the audited one.
            is_random: Whether that one has noise; None takes the audit's.
            logit_scale: The factor of the logits that attacks see; None takes
                the audit's for the audited classifier, else measures it.

        Returns:
            A ledger of these rows, in their order. Compiled functions are
            shared with the audit.
        """
        draws = self.num_draws
        if is_random is not None:
            draws = max(draws, 5) if is_random else 1
        epsilon = self.threat_model.epsilon if epsilon is None else epsilon
        if logits_fn is None and logit_scale is None:
            logit_scale = self.subject.logit_scale
        attacker = runner.Runner(
            logits_fn or self.subject.logits_fn,
            list(stages),
            ThreatModel(self.threat_model.norm, float(epsilon)),
            batch_size=self.batch_size or len(rows),
            seed=self.seed + _APART,
            num_judge_samples=draws,
            strategy=self.strategy,
            jit_compile=strategies.jit_compile(self.strategy),
            logit_scale=logit_scale,
        )
        images = self.subject.images[rows]
        found = attacker.run(
            images, attacker.start(images, self.subject.labels[rows])
        )
        self.gradient_evaluations += int(found.gradient_evaluations.sum())
        return found

    def own_stages(self, num_restarts: int = 1) -> list[runner.Stage]:
        """The protocol's stages with at most so many restarts each."""
        return [
            dataclasses.replace(
                stage, num_restarts=min(stage.num_restarts, num_restarts)
            )
            for stage in self.stages
        ]

    @property
    def lead(self) -> runner.Stage:
        """The first stage that follows gradients; else the first."""
        for stage in self.stages:
            if stage.attack.gradients_per_step:
                return stage
        return self.stages[0]

    def lead_once(self) -> list[runner.Stage]:
        """The lead stage with one restart."""
        return [dataclasses.replace(self.lead, num_restarts=1)]

    def short_stages(self) -> list[runner.Stage]:
        """The protocol's stages that are fast with one restart; or the lead.

        The shorter attacks of an ensemble, at a small part of its cost:
        targeted stages and long searches are left out.
        """
        quick = [
            s for s in self.own_stages() if self._num_calls(s) <= _FEW_CALLS
        ]
        return quick or self.lead_once()

    def _num_calls(self, stage):
        attack = stage.attack
        # Attacks of other libraries make all their steps in one of ours.
        calls = attack.num_steps * max(attack.gradients_per_step, 1)
        return calls * num_targets(stage.attack, self.num_classes)

    def with_subject(self, subject) -> "Case":
        """The same case with another model; its ledger is not of that model."""
        other = copy.copy(self)
        other.subject = subject
        return other


def stage(name: str, num_restarts: int = 1, **arguments) -> runner.Stage:
    """A stage of one attack, as from a section of a config."""
    return runner.Stage.build(
        {
            "name": name,
            "num_restarts": num_restarts,
            "attack": {"name": name, **arguments},
        }
    )
