"""The pool: stages, restarts and targets over all examples, and the ledger.

Every correctly classified example enters the pool. Stages run in order, each by
restarts, each restart by targets; an example leaves the pool when the judge
finds it broken. So robust accuracy is the per-example worst case over all
attacks that were run, over all examples.

A pass is one restart and target. Where few examples are left, several passes
share a batch, since a step on 20 examples takes half the time of one on 80; the
ledger is that of one pass after another, up to other draws of the model's
noise.
"""

import copy
import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import plugins
from ib_keras import seeds
from ib_keras.attacks import base
from ib_keras.attacks import compiled
from ib_keras.attacks import engine
from ib_keras.attacks import judging
from ib_keras.attacks import outputs as outputs_lib
from ib_keras.attacks import scale
from ib_keras.attacks.ledger import Ledger
from ib_keras.attacks.ledger import Position
from ib_keras.attacks.ledger import Progress
from ib_keras.attacks.ledger import StageStatistics
from ib_keras.errors import UserError
from ib_keras.types import LogitsFn
from ib_keras.types import ThreatModel
from ib_keras.types import check_images
from ib_keras.types import check_labels

# Constants that seeds are folded with, one per purpose.
_ATTACK, _JUDGE, _CLEAN, _FINAL, _SHARE = 1, 2, 3, 4, 5


@dataclasses.dataclass(frozen=True)
class Stage:
    """One attack of a protocol and how often it is run.

    Args:
        name: In reports.
        attack: A `base.Attack`.
        num_restarts: Independent runs on examples that are still robust.
        config: The section it was built from, for the records.
    """

    name: str
    attack: base.Attack
    num_restarts: int = 1
    config: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def build(cls, config) -> "Stage":
        """Builds a stage from its section of an audit config.

        Args:
            config: `{"name", "num_restarts", "attack": {"name", ...}}`.

        Raises:
            UserError: If the attack, an argument or the count is unknown.
        """
        attack = plugins.build("attacks", config["attack"])
        num_restarts = base.check_count(
            "num_restarts", config.get("num_restarts", 1)
        )
        return cls(
            name=config.get("name") or config["attack"]["name"],
            attack=attack,
            num_restarts=num_restarts,
            config=dict(config["attack"]),
        )


class Runner:
    """Runs stages over a pool of examples.

    Args:
        logits_fn: The model, `(images, seed) -> logits`; runners that get the
            same `compiled.CompiledLogits` share compiled functions.
        stages: In the order they are run.
        threat_model: The ball, the same for all stages.
        batch_size: Largest batch on the device.
        seed: A whole number; every draw follows from it.
        num_judge_samples: Draws per judgement; 1 where the model has no noise.
        chunk_steps: Longest chunk of steps between two looks at the device.
        compact: Whether a batch shrinks to the robust examples within a run,
            and several passes run side by side if they fit. False runs every
            example to the end, one pass after another.
        strategy: Where to run; None for TensorFlow's default device.
        jit_compile: Whether to compile with XLA; None leaves it to
            TensorFlow.
        first: Position of the first example among those of the audit. Attacks
            draw by an example's position among all, so that the results of a
            share are those of one runner for all.
        logit_scale: The factor of the logits that attacks see; None measures
            it in each run from the clean logits, see `scale.find`.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        stages: list[Stage],
        threat_model: ThreatModel,
        *,
        batch_size: int = 256,
        seed: int = 0,
        num_judge_samples: int = 1,
        chunk_steps: int = 16,
        compact: bool = True,
        strategy: tf.distribute.Strategy | None = None,
        jit_compile: bool | None = None,
        first: int = 0,
        logit_scale: float | None = None,
    ):
        self.stages = list(stages)
        self.threat_model = threat_model
        self.batch_size = base.check_count("batch_size", batch_size)
        self._seed = seeds.from_int(seed)
        self._set_first(first)
        logits = compiled.on(logits_fn, strategy, jit_compile)
        self._judge = judging.Judge(
            logits,
            threat_model.norm,
            base.check_count("num_judge_samples", num_judge_samples),
            self.batch_size,
        )
        self._logit_scale = logit_scale
        self._engines = [
            engine.Engine(
                logits,
                stage.attack,
                self._judge,
                threat_model.norm,
                self.batch_size,
                base.check_count("chunk_steps", chunk_steps),
                compact,
                logit_scale or 1.0,
            )
            for stage in self.stages
        ]

    @property
    def num_final_draws(self) -> int:
        """Draws of the judgements on clean images and on the final ones."""
        return self._judge.num_thorough

    def with_epsilon(self, epsilon: float) -> "Runner":
        """The same runner at another radius, sharing compiled functions."""
        other = copy.copy(self)
        other.threat_model = ThreatModel(self.threat_model.norm, epsilon)
        return other

    def at(self, first: int) -> "Runner":
        """The same runner for another share, sharing compiled functions.

        Args:
            first: Position of the share's first example among those of the
                audit.
        """
        other = copy.copy(self)
        other._set_first(first)
        return other

    def _set_first(self, first):
        self._first = int(first)
        # Judgements draw per batch; those of two shares must differ.
        self._judge_seed = self._seed
        if self._first:
            self._judge_seed = seeds.fold(self._seed, _SHARE, self._first)
        # The error of the model when it last refused an image.
        self._refusal: str | None = None

    @staticmethod
    def most_gradients(stage: Stage, num_classes: int) -> int:
        """Most gradient evaluations that a stage can spend on one example."""
        once = _gradients_once(stage.attack)
        return _passes(stage, num_classes) * once

    @staticmethod
    def most_queries(stage: Stage, num_classes: int) -> int:
        """Most calls of a stage without gradients on one example; else 0."""
        if _gradients_once(stage.attack):
            return 0
        once = stage.attack.num_steps
        return _passes(stage, num_classes) * once

    def work(self, progress: Progress, num_classes: int) -> tuple[int, int]:
        """The work of a run, in gradients, or queries if there are none.

        Args:
            progress: Its state.
            num_classes: Of the model.

        Returns:
            The spent work, and the most that can be left, if every robust
            example that is attacked stays robust.
        """
        position, ledger = progress.position, progress.ledger
        spent = int(ledger.gradient_evaluations.sum())
        num_robust, left = int(progress.is_open.sum()), 0
        spared = int(ledger.is_robust.sum()) - num_robust
        done = position.batch * self.batch_size
        for index, (stage, statistics) in enumerate(
            zip(self.stages, progress.stages, strict=True)
        ):
            once = _gradients_once(stage.attack)
            each = once or stage.attack.num_steps
            per_restart = base.num_targets(stage.attack, num_classes)
            passes = stage.num_restarts * per_restart
            if not once:
                attacked = [
                    statistics.num_attacked,
                    *(row[2] - spared for row in statistics.curve),
                ]
                spent += each * sum(attacked[: len(statistics.curve)])
            if index == position.stage:
                passes -= position.restart * per_restart + position.target
                # Those of this pass that were attacked and are robust.
                num_broken = int(self._broken_in(position, ledger).sum())
                left -= each * max(
                    min(done, num_robust + num_broken) - num_broken, 0
                )
                spent += 0 if once else each * done
            if index >= position.stage:
                left += each * passes * num_robust
        return spent, left

    def start(self, images: np.ndarray, labels: np.ndarray) -> Progress:
        """The state before the first stage, of checked images and labels.

        Raises:
            UserError: If there are none.
        """
        if not len(labels):
            raise UserError(
                "There are no examples to attack",
                received="0 images",
                expected="1 image or more",
                fix="Give the images that the model is to be judged by.",
            )
        statistics = [StageStatistics() for _ in self.stages]
        return Progress(Ledger.new(images, labels), Position(), statistics)

    def run(
        self,
        images: np.ndarray,
        progress: Progress,
        on_batch: Callable[[Progress], None] = lambda progress: None,
    ) -> Ledger:
        """Runs from the position in `progress` to the end of the protocol.

        Args:
            images: float32 `[examples, ...]`, the clean images.
            progress: From `start`, or restored; changed in place.
            on_batch: Called after every batch, when `progress` is consistent:
                to save it, to report it, or to raise in order to stop.

        Returns:
            The ledger.

        Raises:
            UserError: If the model returns no finite logits at all.
        """
        clean = None
        if not progress.position.clean_done:
            clean = self.predict_clean(images, progress)
            on_batch(progress)
        if self._logit_scale is None:
            self._find_scale(images, progress.ledger.label, clean)
        targets = self._rank_targets(images, progress)
        while progress.position.stage < len(self.stages):
            self._run_pass(images, targets, progress, on_batch)
        self._rescore(images, progress.ledger)
        return progress.ledger

    def predict_clean(self, images: np.ndarray, progress: Progress):
        """Judges the clean images, which a run begins with.

        Args:
            images: As `run`.
            progress: Likewise.

        Returns:
            The judgement.

        Raises:
            UserError: If the model returns no finite logits at all.
        """
        ledger = progress.ledger
        judgement = self._judge_clean(images, ledger.label)
        if (judgement.prediction < 0).all():
            raise UserError(
                "The model's logits are not finite on any clean image",
                received="NaN or infinity for every example",
                expected="finite logits",
                fix="Check the model's weights, and that images in [0, 1] "
                "are what it takes.",
            )
        ledger.clean_prediction = judgement.prediction
        ledger.adversarial_prediction = judgement.prediction.copy()
        ledger.margin = judgement.margin
        ledger.wrong_share = judgement.wrong_share
        ledger.num_nonfinite += judgement.prediction < 0
        ledger.is_robust = judgement.prediction == ledger.label
        progress.position.clean_done = True
        return judgement

    def _find_scale(self, images, labels, clean):
        """Measures the scale of the logits from the clean judgements."""
        clean = clean or self._judge_clean(images, labels)
        found = scale.find(clean.logits, labels)
        for each in self._engines:
            each.set_scale(found)

    def _rescore(self, images, ledger):
        """Judges every final image once more, on fresh noise.

        The noise samples that confirmed a claim are the lucky ones of many, so
        their share of wrong ones is biased upwards; this one is not.
        """
        judgement = self._judge(
            images,
            ledger.adversarial_images,
            ledger.label,
            self.threat_model.epsilon,
            seeds.fold(self._judge_seed, _FINAL),
            is_thorough=True,
        )
        ledger.wrong_share = np.where(
            ledger.clean_prediction < 0, 1.0, judgement.wrong_share
        ).astype(np.float32)

    def _judge_clean(self, images, labels):
        return self._judge(
            images,
            images,
            labels,
            self.threat_model.epsilon,
            seeds.fold(self._judge_seed, _CLEAN),
            is_thorough=True,
        )

    def _rank_targets(self, images, progress):
        """Other classes by falling clean logit, int32 [examples, classes-1].

        None if no remaining stage is targeted.
        """
        left = self.stages[progress.position.stage :]
        if all(stage.attack.num_targets is None for stage in left):
            return None
        labels = progress.ledger.label
        logits = self._judge_clean(images, labels).logits
        others = logits.shape[1] - 1
        logits[np.arange(len(labels)), labels] = -np.inf
        order = np.argsort(-logits, axis=1, kind="stable")
        return order[:, :others].astype(np.int32)

    def _run_pass(self, images, targets, progress, on_batch):
        """Runs the current restart and target on the robust examples."""
        position, ledger = progress.position, progress.ledger
        statistics = progress.stages[position.stage]
        pool = np.flatnonzero(
            progress.is_open | self._broken_in(position, ledger)
        )
        is_first = position.restart == position.target == 0
        if is_first and position.batch == 0:
            statistics.num_attacked = len(pool)
        if self._run_side_by_side(images, targets, pool, progress):
            on_batch(progress)
            return
        num_batches = -(-len(pool) // self.batch_size)
        while position.batch < num_batches:
            first = position.batch * self.batch_size
            rows = pool[first : first + self.batch_size]
            began = time.monotonic()
            before = int(ledger.gradient_evaluations[rows].sum())
            self._try_batch(images, targets, rows, position, ledger)
            after = int(ledger.gradient_evaluations[rows].sum())
            statistics.gradient_evaluations += after - before
            statistics.seconds += time.monotonic() - began
            position.batch += 1
            if position.batch < num_batches:
                on_batch(progress)
        if is_first and position.stage == 0:
            self._check_some_attacked(ledger, pool)
        _end_pass(position, ledger, statistics)
        self._next_pass(position, targets)
        on_batch(progress)

    def _run_side_by_side(self, images, targets, pool, progress) -> bool:
        """Runs as many passes at once as fit a batch, if several do.

        A pass attacks only what earlier ones left robust, so if a pass breaks
        an example its later passes are not counted: the ledger is that of one
        pass after another.
        """
        position, ledger = progress.position, progress.ledger
        statistics = progress.stages[position.stage]
        passes = self._passes_at_once(position, targets, len(pool))
        if len(passes) < 2:
            return False
        began = time.monotonic()
        try:
            results = self._attack(images, targets, pool, passes, ledger)
        except tf.errors.InvalidArgumentError as error:
            self._refuse(error)
            return False
        for one, result in zip(passes, results, strict=True):
            asked = ledger.is_robust[pool]
            result = result[asked]
            self._update_ledger(ledger, pool[asked], result, one)
            statistics.gradient_evaluations += int(
                result.gradient_evaluations.sum()
            )
            _end_pass(one, ledger, statistics)
            self._next_pass(position, targets)
        statistics.seconds += time.monotonic() - began
        return True

    def _passes_at_once(self, position, targets, size) -> list[Position]:
        """The next passes of the stage that fit a batch together."""
        takes_passes = self._engines[position.stage].takes_passes
        if self._refusal or not (size and takes_passes):
            return []
        here = dataclasses.replace(position)
        passes: list[Position] = []
        room = self.batch_size // size
        while len(passes) < room and here.stage == position.stage:
            passes.append(dataclasses.replace(here))
            self._next_pass(here, targets)
        return passes

    @staticmethod
    def _broken_in(position, ledger):
        """Which examples were broken in the pass that `position` is in."""
        return (
            (ledger.broken_by_stage == position.stage)
            & (ledger.broken_by_restart == position.restart)
            & (np.maximum(ledger.broken_by_target, 0) == position.target)
        )

    def _next_pass(self, position, targets):
        stage = self.stages[position.stage]
        others = 0 if targets is None else targets.shape[1]
        position.batch = 0
        position.target += 1
        if position.target >= base.num_targets(stage.attack, others + 1):
            position.target = 0
            position.restart += 1
        if position.restart >= stage.num_restarts:
            position.restart = 0
            position.stage += 1

    def _try_batch(self, images, targets, rows, position, ledger):
        """Attacks a batch; one that the model refuses is split in two.

        Models may hold assertions, which refuse a whole batch because of one
        image. An image that is refused alone is recorded as not finite, which
        diagnostics read, and never as broken.
        """
        try:
            self._run_batch(images, targets, rows, position, ledger)
        except tf.errors.InvalidArgumentError as error:
            if len(rows) == 1:
                ledger.num_nonfinite[rows] += 1
                self._refuse(error)
                return
            for half in np.array_split(rows, 2):
                self._try_batch(images, targets, half, position, ledger)

    def _refuse(self, error):
        self._refusal = " ".join(error.message.split())[:300]

    def _check_some_attacked(self, ledger, pool):
        """Stops if the model refused all images that were attacked.

        They would count as robust without an attack. A refused image among
        others is recorded instead.
        """
        # A refusal counts as one evaluation that was not finite, and adds
        # nothing else.
        is_refused = (
            (ledger.num_nonfinite[pool] == 1)
            & (ledger.gradient_evaluations[pool] == 0)
            & np.isneginf(ledger.loss[pool])
        )
        if self._refusal and is_refused.all():
            raise UserError(
                "The model refused every image that was attacked",
                received=self._refusal,
                expected="a model that answers, with gradients, in the ball",
                fix="Take the assertion, or the operation that has no "
                "gradient, out of the model.",
            )

    def _run_batch(self, images, targets, rows, position, ledger):
        (result,) = self._attack(images, targets, rows, [position], ledger)
        self._update_ledger(ledger, rows, result, position)

    def _attack(self, images, targets, rows, passes, ledger):
        """The result of each pass over these examples, in one batch."""
        first = passes[0]
        every = np.tile(rows, len(passes))
        restarts = np.array([one.restart for one in passes], np.int32)
        restarts = np.repeat(restarts, len(rows))
        aimed = np.array([one.target for one in passes], np.int32)
        aimed = np.repeat(aimed, len(rows))
        example_seeds = seeds.fold(
            self._seed,
            _ATTACK,
            first.stage,
            restarts,
            aimed,
            (every + self._first).astype(np.int32),
        )
        place = (first.stage, first.restart, first.target, first.batch)
        is_targeted = self._is_targeted(first.stage)
        result = self._engines[first.stage].run(
            images[every],
            ledger.label[every],
            self.threat_model.epsilon,
            example_seeds.numpy(),
            seeds.fold(self._judge_seed, _JUDGE, *place),
            targets[every, aimed] if is_targeted else None,
            num_passes=len(passes),
        )
        parts = np.split(np.arange(len(every)), len(passes))
        return [result[part] for part in parts]

    def _is_targeted(self, stage: int) -> bool:
        return self.stages[stage].attack.num_targets is not None

    def _update_ledger(self, ledger, rows, result, position):
        target = position.target if self._is_targeted(position.stage) else -1
        ledger.update(rows, result, position, target)


def _passes(stage, num_classes):
    return stage.num_restarts * base.num_targets(stage.attack, num_classes)


def _gradients_once(attack):
    return (
        attack.gradients_at_init + attack.num_steps * attack.gradients_per_step
    )


def _end_pass(position, ledger, statistics):
    """Adds the robust examples after a pass, and the gradients so far."""
    statistics.curve.append(
        [
            position.restart,
            position.target,
            int(ledger.is_robust.sum()),
            statistics.gradient_evaluations,
        ]
    )


def run(
    model: Callable,
    images,
    labels,
    attack: str = "pgd",
    *,
    norm: str = "linf",
    epsilon: float,
    num_restarts: int = 1,
    batch_size: int = 256,
    seed: int = 0,
    output: str | None = None,
    outputs: str | None = None,
    **arguments,
) -> Ledger:
    """Attacks any Keras model or function from images to logits.

    Logits of an unusual scale are attacked by a power of two of them, which
    changes no prediction (see `scale`).

    Args:
        model: `(images) -> scores [batch, classes]`, differentiable; one
            score `[batch, 1]` or `[batch]` is of the second of two classes.
            It may return several tensors, by name or in turn.
        images: `[examples, height, width, channels]` in [0, 1].
        labels: int `[examples]`.
        attack: Name of a part of `ib_keras.attacks`.
        norm: "linf" or "l2".
        epsilon: Radius in pixel units of [0, 1].
        num_restarts: Independent runs, each on examples still robust.
        batch_size: Largest batch.
        seed: A whole number; the same one gives the same result.
        output: Name of the tensor among several; the place of it in a tuple,
            as "1".
        outputs: "logits", "log_probabilities" or "probabilities"; None
            infers it, with a warning for probabilities.
        **arguments: Those of the attack's `build`.

    Returns:
        A `Ledger`: `robust_accuracy`, `is_robust`, `adversarial_images`, ...

    Raises:
        UserError: If images, labels, the attack or an argument cannot be
            used.

    Example:
        >>> from ib_keras import attacks
        >>> model = lambda x: tf.reshape(x, [-1, 2]) * [[-1.0, 1.0]]
        >>> x, y = np.full([1, 1, 2, 1], 0.5), [1]
        >>> attacks.run(model, x, y, "fgs", epsilon=0.1).is_robust
        array([ True])
    """
    images = check_images(images)
    batch_size = base.check_count("batch_size", batch_size)
    logits_fn, num_classes, kind = outputs_lib.reader(
        model, images, output, outputs
    )
    if kind == "probabilities" and outputs is None:
        warnings.warn(
            "The model returns probabilities; attacks work on their "
            "logarithm, which has no gradient where float32 rounds one to 1. "
            'Give a model that returns logits, or set outputs="probabilities".',
            stacklevel=2,
        )
    labels = check_labels(labels, len(images), num_classes)
    config = {"attack": {"name": attack, **arguments}}
    runner = Runner(
        lambda x, noise_seed: logits_fn(x),
        [Stage.build({**config, "num_restarts": num_restarts})],
        ThreatModel(norm, epsilon),
        batch_size=min(batch_size, max(len(images), 1)),
        seed=seed,
    )
    return runner.run(images, runner.start(images, labels))
