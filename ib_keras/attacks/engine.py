"""One run of one attack on one batch, compiled.

The engine drives an attack's state machine in chunks of steps. Within a chunk
everything stays on the device; between chunks the examples that the attack
claims to have broken are judged, and the batch shrinks to those that are still
robust. Attacks that differ in numbers alone share their compiled functions.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import base
from ib_keras.attacks import compiled
from ib_keras.attacks import geometry
from ib_keras.attacks import judging
from ib_keras.attacks.ledger import Result
from ib_keras.types import LogitsFn
from ib_keras.types import ThreatModel

# Lengths of the first chunks: many examples are broken in the first steps.
_FIRST_CHUNKS = (1, 1, 2, 4, 8)


class Record(NamedTuple):
    """The record of each example during a run, on the device.

    Attributes:
        best: The iterate of smallest margin for the classifier (the most
            wrong one) and its margin; whether any iterate was misclassified;
            the largest loss; of the last gradient taken the norm.
        step: int32 `[batch]`, index of the iterate in `best`.
        first_wrong: int32 `[batch]`, index of the first misclassified
            iterate; -1 before there is one.
        num_zero_gradients: int32 `[batch]`, gradients that were exactly zero.
        num_nonfinite: int32 `[batch]`, evaluations with a number that was not
            finite.
        latest: What was wrong last, where the model has noise, else `()`:
            images as above and their steps. A lucky noise sample has the
            largest margin of a chunk sooner than what is wrong on every draw.
    """

    best: base.Evaluation
    step: tf.Tensor
    first_wrong: tf.Tensor
    num_zero_gradients: tf.Tensor
    num_nonfinite: tf.Tensor
    latest: tuple[()] | tuple[tf.Tensor, tf.Tensor]


def _new_record(images: tf.Tensor, is_random: bool) -> Record:
    zero = tf.zeros([tf.shape(images)[0]], tf.int32)
    return Record(
        best=base.not_evaluated(images),
        step=zero - 1,
        first_wrong=zero - 1,
        num_zero_gradients=zero,
        num_nonfinite=zero,
        latest=(images, zero - 1) if is_random else (),
    )


def _update(
    record: Record, evaluation: base.Evaluation, step: tf.Tensor
) -> Record:
    # A tie of the two largest logits can be a wrong prediction with margin 0:
    # so misclassification is compared first. NaN compares as false.
    best = record.best
    first_wrong = evaluation.is_wrong & ~best.is_wrong
    better = (evaluation.margin > best.margin) & (
        evaluation.is_wrong == best.is_wrong
    )
    better = better | first_wrong
    norm = evaluation.gradient_norm
    # An iterate that was not evaluated has no NaN.
    finite = tf.math.is_finite(norm) & ~tf.math.is_nan(evaluation.margin)
    latest = record.latest
    if latest:
        wrong = evaluation.is_wrong
        latest = (
            base.where(wrong, evaluation.images, latest[0]),
            tf.where(wrong, step, latest[1]),
        )
    return Record(
        best=base.Evaluation(
            images=base.where(better, evaluation.images, best.images),
            margin=tf.where(better, evaluation.margin, best.margin),
            is_wrong=best.is_wrong | evaluation.is_wrong,
            loss=tf.where(
                evaluation.loss > best.loss, evaluation.loss, best.loss
            ),
            gradient_norm=norm,
        ),
        step=tf.where(better, step, record.step),
        first_wrong=tf.where(first_wrong, step, record.first_wrong),
        num_zero_gradients=record.num_zero_gradients
        + tf.cast(norm == 0.0, tf.int32),
        num_nonfinite=record.num_nonfinite + tf.cast(~finite, tf.int32),
        latest=latest,
    )


class Engine:
    """Runs one attack against one model, batch by batch.

    Args:
        logits_fn: The model; `compiled.CompiledLogits` of it are shared.
        attack: A `base.Attack`.
        judge: Decides what is broken.
        norm: "linf" or "l2".
        batch_size: The largest batch.
        chunk_steps: The longest chunk of steps between two checks of claims.
            For a model with noise two claims of each are judged, so that
            shorter ones find more.
        compact: Whether the batch shrinks between chunks. False runs every
            example to the end, as the reference implementations do.
        scale: The factor of the logits that the attack sees; see `scale`.
            Recorded margins are of the logits without it, losses and
            gradients with it.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        attack: base.Attack,
        judge: judging.Judge,
        norm: str,
        batch_size: int,
        chunk_steps: int = 16,
        compact: bool = True,
        scale: float = 1.0,
    ):
        self._unscaled = compiled.of(logits_fn)
        self.set_scale(scale)
        self.attack = attack
        self.judge = judge
        self._norm = norm
        self._batch_size = batch_size
        self._chunk_steps = chunk_steps
        self.compact = compact
        self._numbers = base.numbers(attack)

    def set_scale(self, scale: float) -> None:
        """Sets the factor of the logits that the attack sees."""
        self.scale = scale
        self._logits = self._unscaled.times(scale)

    def num_traces(self) -> dict[int | None, int]:
        """Batch size (None: every one) -> traces of the loop; each is 1."""
        if self.attack.runs_eagerly:
            return {}
        return self._compiled("advance").num_traces()

    def _compiled(self, name):
        """The compiled `start` or `advance` of this kind of attack."""
        kind = base.kind(self.attack)
        key = (name, kind, self._norm, self.judge.is_random)
        function = getattr(self, f"_{name}_traced")
        return self._logits.compiled(key, lambda: function, self.attack)

    def resolve(self, images) -> None:
        """See `compiled.CompiledLogits.resolve`; before the first start."""
        self._logits.resolve(tf.TensorShape(images.shape))

    def start(self, images, labels, example_seeds, targets, epsilon):
        """The state and the record of a batch before the first step."""
        batched = (images, labels, example_seeds, targets)
        if self.attack.runs_eagerly:
            return self._start_traced(*batched, epsilon, self._numbers)
        return self._compiled("start")(
            int(labels.shape[0]), batched, (epsilon, self._numbers)
        )

    def advance(self, state, record, first, last):
        """The state and the record after the steps from `first` to `last`."""
        span = tf.constant(first), tf.constant(last)
        if self.attack.runs_eagerly:
            return self._advance_traced(state, record, *span, self._numbers)
        return self._compiled("advance")(
            int(record.step.shape[0]), (state, record), (*span, self._numbers)
        )

    def finish(self, state, record, clean, labels, example_seeds, epsilon):
        """The record with the last iterate, which has not been evaluated."""
        images, loss = state.images, state.evaluated.loss
        batched = (images, loss, record, clean, labels, example_seeds)
        shared = (epsilon, tf.constant(self.attack.num_steps))
        if self.attack.runs_eagerly:
            return self._finish_traced(*batched, *shared)
        return self._logits.compiled(
            ("finish", self._norm, self.judge.is_random),
            lambda: self._finish_traced,
        )(int(labels.shape[0]), batched, shared)

    def _start_traced(
        self, images, labels, example_seeds, targets, epsilon, numbers
    ):
        attack = base.with_numbers(self.attack, numbers)
        threat_model = ThreatModel(self._norm, epsilon)
        more = {}
        if attack.num_targets is not None:
            more["targets"] = targets
        state = attack.init(
            self._logits, images, labels, threat_model, example_seeds, **more
        )
        record = _new_record(images, self.judge.is_random)
        if attack.evaluates_proposal:
            record = _update(record, state.evaluated, tf.constant(0))
        return state, record

    def _advance_traced(self, state, record, first, last, numbers):
        attack = base.with_numbers(self.attack, numbers)
        # Iterate 0 is the start: attacks that move first evaluate the next.
        ahead = int(attack.evaluates_proposal)

        def advance(iteration, state, record):
            state = attack.step(self._logits, state, iteration)
            return state, _update(record, state.evaluated, iteration + ahead)

        return base.repeat(first, last, advance, (state, record))

    def _finish_traced(
        self,
        images,
        loss,
        record,
        clean,
        labels,
        example_seeds,
        epsilon,
        num_steps,
    ):
        # Nor has it been projected.
        ball = geometry.ball(clean, ThreatModel(self._norm, epsilon))
        images = ball.project(images)
        seed = base.model_seed(example_seeds, num_steps)
        logits = self._logits(images, seed)
        evaluation = base.evaluated(images, logits, labels, loss)
        # No gradient was taken here: the record of the last one is kept.
        updated = _update(record, evaluation, num_steps)
        norm = record.best.gradient_norm
        return updated._replace(best=updated.best._replace(gradient_norm=norm))

    def pad(self, rows: np.ndarray) -> np.ndarray:
        """Pads a batch to a size that needs no new trace."""
        return self._logits.pad(rows, self._batch_size)

    def chunks(self):
        """First and last step of each chunk."""
        if not (self.compact or self.judge.is_random):
            yield 0, self.attack.num_steps
            return
        done = 0
        lengths = list(_FIRST_CHUNKS)
        while done < self.attack.num_steps:
            length = lengths.pop(0) if lengths else self._chunk_steps
            length = min(
                length, self._chunk_steps, self.attack.num_steps - done
            )
            yield done, done + length
            done += length

    @property
    def takes_passes(self) -> bool:
        """Whether rows of a batch can be several passes over its examples.

        Rows that are no longer needed must be removable, and code of other
        libraries draws once for a whole batch.
        """
        return self.compact and not self.attack.runs_eagerly

    def run(
        self,
        images,
        labels,
        epsilon,
        example_seeds,
        judge_seed,
        targets=None,
        num_passes=1,
    ) -> Result:
        """Runs the attack once on one batch.

        Args:
            images: float32 array `[n, ...]`, n at most the batch size.
            labels: int32 array `[n]`.
            epsilon: Radius of the ball.
            example_seeds: int32 array `[n, 2]`.
            judge_seed: int32 `[2]`, which the attack never uses.
            targets: int32 array `[n]` for targeted attacks.
            num_passes: The rows are that many passes over the same examples,
                one after another. Once a pass has broken an example, its rows
                of later passes are not continued.

        Returns:
            A `Result`.
        """
        return _Run(
            self,
            images,
            labels,
            epsilon,
            example_seeds,
            judge_seed,
            targets,
            num_passes,
        ).run()


class _Batch(NamedTuple):
    """What is on the device; all of it begins with the batch axis."""

    state: NamedTuple
    record: Record
    labels: tf.Tensor
    seeds: tf.Tensor


class _Run:
    """The host side of one run: judges claims and drops broken examples."""

    def __init__(
        self,
        engine: Engine,
        images,
        labels,
        epsilon,
        example_seeds,
        judge_seed,
        targets,
        num_passes,
    ):
        self.engine = engine
        self.images = images
        self.labels = labels
        self.epsilon = epsilon
        self.judge_seed = judge_seed
        self.num_passes = num_passes
        self.num_judgements = 0
        self.result = Result.blank(images)
        self.is_doubted = np.zeros(len(labels), bool)
        # Position in the device's batch -> row of this batch.
        self.rows = np.arange(len(labels))
        engine.resolve(images)
        padded = engine.pad(self.rows)
        if targets is None:
            targets = np.zeros(len(labels), np.int32)
        on_device = (
            tf.constant(labels[padded]),
            tf.constant(example_seeds[padded]),
        )
        state, record = engine.start(
            tf.constant(images[padded]),
            *on_device,
            tf.constant(targets[padded]),
            tf.constant(epsilon, tf.float32),
        )
        self.batch = _Batch(state, record, *on_device)
        self._count(engine.attack.gradients_at_init)

    @property
    def record(self) -> Record:
        return self.batch.record

    def _count(self, per_example):
        self.result.gradient_evaluations[self.rows] += per_example

    def run(self) -> Result:
        engine, attack = self.engine, self.engine.attack
        for first, last in engine.chunks():
            state, record = engine.advance(
                self.batch.state, self.record, first, last
            )
            self.batch = self.batch._replace(state=state, record=record)
            self._count((last - first) * attack.gradients_per_step)
            self._judge_claims()
            if engine.compact:
                if self._is_done().all():
                    break
                self._drop_done()
        if not (attack.evaluates_proposal or self._is_done().all()):
            record = engine.finish(
                self.batch.state,
                self.record,
                tf.constant(self.images[engine.pad(self.rows)]),
                self.batch.labels,
                self.batch.seeds,
                tf.constant(self.epsilon, tf.float32),
            )
            self.batch = self.batch._replace(record=record)
            self._judge_claims()
        self._store(np.ones(len(self.rows), bool))
        return self.result

    def _is_done(self):
        """Which rows are broken, or of an example broken by an earlier pass."""
        broken = self.result.is_broken.reshape(self.num_passes, -1)
        return np.logical_or.accumulate(broken).ravel()

    def _judge_claims(self):
        record = self.record
        self._judge_claim(record.best.images, record.step)
        if record.latest:
            images, step = record.latest
            other = step.numpy() != record.step.numpy()
            self._judge_claim(images, step, other)
        self._forget()

    def _judge_claim(self, images, step, is_asked=True):
        """Judges one iterate of each example that claims to be broken.

        Args:
            images: Of the device's batch.
            step: Their iterates.
            is_asked: bool `[device's batch]`, whose claims are judged.
        """
        size = len(self.rows)
        wrong = (self.record.best.is_wrong.numpy() & is_asked)[:size]
        claims = wrong & ~self.result.is_broken[self.rows]
        if not claims.any():
            return
        places = np.flatnonzero(claims)
        rows = self.rows[places]
        candidates = tf.gather(images, places).numpy()
        judgement = self._confirmed(rows, candidates)
        better = judgement.wrong_share >= self.result.wrong_share[rows]
        self.result.wrong_share[rows[better]] = judgement.wrong_share[better]
        broken = judgement.is_wrong
        newly_broken = rows[broken]
        self.result.is_broken[newly_broken] = True
        found = judgement.images, judgement.margin, judgement.prediction
        images, margin, prediction = (array[broken] for array in found)
        self.result.adversarial_images[newly_broken] = images
        self.result.margin[newly_broken] = margin
        self.result.adversarial_prediction[newly_broken] = prediction
        # After a rejected claim the first wrong step is not known: then the
        # judged iterate's own step is the first that is known to be wrong.
        first = self.record.first_wrong.numpy()[places]
        first = np.where(self.is_doubted[rows], step.numpy()[places], first)
        self.result.step[newly_broken] = first[broken]
        self.is_doubted[rows] = True

    def _confirmed(self, rows, candidates) -> judging.Judgement:
        """Judges claims; for a model with noise confirmed ones a second time.

        An attack makes many claims about an example, and one of them could be
        confirmed by lucky noise samples. The second judgement takes more, and
        fresh ones.
        """
        judgement = self._judge(rows, candidates)
        upheld = np.flatnonzero(judgement.is_wrong)
        if self.engine.judge.is_random and len(upheld):
            again = self._judge(
                rows[upheld], candidates[upheld], is_thorough=True
            )
            for first, second in zip(judgement, again, strict=True):
                first[upheld] = second
        return judgement

    def _judge(self, rows, candidates, is_thorough=False):
        self.num_judgements += 1
        return self.engine.judge(
            self.images[rows],
            candidates,
            self.labels[rows],
            self.epsilon,
            seeds.fold(self.judge_seed, self.num_judgements - 1),
            is_thorough,
        )

    def _forget(self):
        """Removes rejected claims from the record.

        A lucky noise sample can have the largest margin of a run: kept, it
        would hide later iterates that are wrong on every sample.
        """
        best = self.record.best
        wrong = best.is_wrong.numpy()[: len(self.rows)]
        places = np.flatnonzero(wrong & ~self.result.is_broken[self.rows])
        if not len(places):
            return
        self._keep_nearest(places)
        forgotten = np.zeros(self.batch.labels.shape[0], bool)
        forgotten[places] = True
        best = best._replace(is_wrong=best.is_wrong & ~forgotten)
        self.batch = self.batch._replace(record=self.record._replace(best=best))

    def _keep_nearest(self, places):
        """Copies iterates of larger margin than the result has."""
        best = self.record.best
        margin = best.margin.numpy()[places] / self.engine.scale
        nearer = margin > self.result.margin[self.rows[places]]
        places, rows = places[nearer], self.rows[places[nearer]]
        images = tf.gather(best.images, places).numpy()
        self.result.adversarial_images[rows] = images
        self.result.margin[rows] = margin[nearer]
        self.result.step[rows] = self.record.step.numpy()[places]

    def _store(self, leaving):
        """Copies the device's record of the leaving places to the result."""
        places = np.flatnonzero(leaving)
        rows = self.rows[places]
        record, best, result = self.record, self.record.best, self.result
        for known, values in (
            (result.loss, best.loss),
            (result.gradient_norm, best.gradient_norm),
            (result.num_zero_gradients, record.num_zero_gradients),
            (result.num_nonfinite, record.num_nonfinite),
        ):
            known[rows] = values.numpy()[places]
        self._keep_nearest(places[~self.result.is_broken[rows]])

    def _drop_done(self):
        """Shrinks the batch to the rows that are still needed, if it pays."""
        still_robust = ~self._is_done()[self.rows]
        keep = np.flatnonzero(still_robust)
        places = self.engine.pad(keep)
        if len(places) >= self.batch.labels.shape[0]:
            return
        self._store(~still_robust)
        self.rows = self.rows[keep]
        self.batch = tf.nest.map_structure(
            lambda t: tf.gather(t, places), self.batch
        )
