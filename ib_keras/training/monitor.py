"""Robust accuracy while a model trains, and the alarm of a collapse.

Adversarial training by a single step can collapse within an epoch
("catastrophic overfitting"): accuracy against that step stays high, and against
more steps falls to zero. Both are measured at each evaluation, on images that
nothing else uses. The alarm is a large difference while accuracy against PGD
is no better than before: a training whose radius still grows has the first
without the second.

References:
    Wong et al., "Fast is better than free", ICLR 2020, section 5.4.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras.attacks import base
from ib_keras.attacks import fgs
from ib_keras.attacks import pgd
from ib_keras.data import batches
from ib_keras.data import source as sources
from ib_keras.errors import DivergedError
from ib_keras.objectives import crafting

_VALUES = ("accuracy_fgs", "accuracy_pgd")
# What accuracy against PGD gains, from one evaluation on, where it improves.
_LEAST_GAIN = 0.01


class Monitor:
    """Measures FGS and PGD on images that are held out, in mean mode.

    Args:
        section: The config's `monitor`: `epsilon`, `step_size` and `num_steps`
            of PGD, and `gap` and `action` of the alarm.
        model: A built classifier, made in the strategy's scope.
        strategy: Where to run.
        seed: int32 `[2]`, of PGD's starting points, the same each time.
        data: Images and labels.
        batch_size: Global batch size.
    """

    def __init__(
        self,
        section: Mapping[str, Any],
        model,
        strategy,
        seed,
        data,
        batch_size,
    ):
        self._section = section
        self._model = model
        self._strategy = strategy
        self._seed = seed
        self._data = data
        self._batch_size = batch_size
        steps, size = section["num_steps"], section["step_size"]
        self._attacks = (
            fgs.build(),
            pgd.build(num_steps=steps, step_size=size),
        )
        self._replica = tf.function(
            self._sums, jit_compile=strategies.jit_compile(strategy)
        )
        self._batch = tf.function(self._sum_over_replicas)

    def _sums(self, images, labels, mask, index):
        images = sources.to_float(images)
        logits_fn = crafting.logits_fn(self._model, "mean")
        seed = seeds.fold(self._seed, index)
        sums = []
        for attack in self._attacks:
            found = crafting.craft(
                attack,
                logits_fn,
                images,
                labels,
                self._section["epsilon"],
                seed,
            )
            is_right = ~base.is_wrong(logits_fn(found, seed), labels)
            sums.append(tf.reduce_sum(tf.cast(is_right & mask, tf.float32)))
        return tf.stack([*sums, tf.reduce_sum(tf.cast(mask, tf.float32))])

    def _sum_over_replicas(self, *batch):
        sums = self._strategy.run(self._replica, args=batch)
        return self._strategy.reduce("SUM", sums, axis=None)

    def measure(self) -> dict[str, float]:
        """Accuracy on the images of FGS and on those of PGD, by name."""
        images, labels = self._data
        *sums, count = batches.sum_over_eval_batches(
            self._strategy, self._batch, images, labels, self._batch_size
        )
        return {
            name: float(value / count)
            for name, value in zip(_VALUES, sums, strict=True)
        }

    def alarm(
        self,
        step: int,
        values: Mapping[str, float],
        rows: Iterable[Mapping[str, Any]],
    ) -> str | None:
        """Says that the training has collapsed, if so.

        Args:
            step: Optimiser steps made.
            values: What `measure` returned.
            rows: Of `metrics.jsonl`; those of earlier steps count.

        Returns:
            A line for the console; None where nothing is wrong.

        Raises:
            DivergedError: In place of a line, where `action` is "stop".
        """
        one, many = (values[name] for name in _VALUES)
        before = [r[_VALUES[1]] for r in _measured(rows) if r["step"] < step]
        is_better = many > max(before, default=0.0) + _LEAST_GAIN
        if one - many <= self._section["gap"] or is_better:
            return None
        error = DivergedError(
            "The adversarial training has collapsed (catastrophic overfitting)",
            received=f"{one:.1%} against FGS, {many:.1%} against PGD of "
            f"{self._section['num_steps']} steps, at step {step}",
            expected=f"a difference of at most {self._section['gap']:.0%}, or "
            "an accuracy against PGD that grows",
            fix='Train with objective.name="n_fgsm" or "pgd_at" of more steps. '
            "The best checkpoint by PGD is kept.",
        )
        if self._section["action"] == "stop":
            raise error
        return f"Warning: {error}"


def best_step(rows: Iterable[Mapping[str, Any]]) -> int | None:
    """The step whose accuracy against PGD was the highest, the first of them.

    Args:
        rows: Of `metrics.jsonl`.

    Returns:
        None where nothing was measured.
    """
    measured = _measured(rows)
    if not measured:
        return None
    return max(measured, key=lambda row: row[_VALUES[1]])["step"]


def _measured(rows):
    """The rows of evaluations."""
    return [row for row in rows if _VALUES[1] in row]
