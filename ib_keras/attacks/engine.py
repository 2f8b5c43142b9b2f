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
from ib_keras.types import LogitsFn
from ib_keras.types import ThreatModel

# Lengths of the first chunks: many examples are broken in the first steps.
_FIRST_CHUNKS = (1, 1, 2, 4, 8)


class Record(NamedTuple):
    """The record of each example during a run, on the device.

    Attributes:
        images: float32 `[batch, ...]`, the iterate of smallest margin for the
            classifier (the most wrong one).
        margin: float32 `[batch]`, the largest attack margin so far.
        is_wrong: bool `[batch]`, whether an iterate was misclassified.
        step: int32 `[batch]`, index of the iterate in `images`.
        first_wrong: int32 `[batch]`, index of the first misclassified
            iterate; -1 before there is one.
        loss: float32 `[batch]`, the largest loss so far.
        gradient_norm: float32 `[batch]`, of the last gradient taken.
        num_zero: int32 `[batch]`, gradients that were exactly zero.
        num_nonfinite: int32 `[batch]`, evaluations with a number that was not
            finite.
        latest: The last misclassified iterate, if the model has noise, else
            `()`: images as above and their steps. A lucky noise sample has a
            larger margin than an image that is wrong on every sample.
    """

    images: tf.Tensor
    margin: tf.Tensor
    is_wrong: tf.Tensor
    step: tf.Tensor
    first_wrong: tf.Tensor
    loss: tf.Tensor
    gradient_norm: tf.Tensor
    num_zero: tf.Tensor
    num_nonfinite: tf.Tensor
    latest: tuple[()] | tuple[tf.Tensor, tf.Tensor]


def _new_record(images: tf.Tensor, is_random: bool) -> Record:
    lowest = tf.fill([tf.shape(images)[0]], -float("inf"))
    zero = tf.zeros_like(lowest, tf.int32)
    return Record(
        images=images,
        margin=lowest,
        is_wrong=tf.zeros_like(lowest, tf.bool),
        step=zero - 1,
        first_wrong=zero - 1,
        loss=lowest,
        gradient_norm=-tf.ones_like(lowest),
        num_zero=zero,
        num_nonfinite=zero,
        latest=(images, zero - 1) if is_random else (),
    )


def _update(
    record: Record, evaluation: base.Evaluation, step: tf.Tensor
) -> Record:
    # A tie of the two largest logits can be a wrong prediction with margin 0:
    # so misclassification is compared first. NaN compares as false.
    first_wrong = evaluation.is_wrong & ~record.is_wrong
    better = (evaluation.margin > record.margin) & (
        evaluation.is_wrong == record.is_wrong
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
        images=base.where(better, evaluation.images, record.images),
        margin=tf.where(better, evaluation.margin, record.margin),
        is_wrong=record.is_wrong | evaluation.is_wrong,
        step=tf.where(better, step, record.step),
        first_wrong=tf.where(first_wrong, step, record.first_wrong),
        loss=tf.where(
            evaluation.loss > record.loss, evaluation.loss, record.loss
        ),
        gradient_norm=norm,
        num_zero=record.num_zero + tf.cast(norm == 0.0, tf.int32),
        num_nonfinite=record.num_nonfinite + tf.cast(~finite, tf.int32),
        latest=latest,
    )


class Result(NamedTuple):
    """The result of one run on one batch; NumPy arrays in its order.

    Attributes:
        is_broken: bool `[n]`, by the judge.
        images: float32 `[n, ...]`: of a broken example the judged image, else
            the nearest miss.
        margin: float32 `[n]`, the judge's where broken, else the attack's.
        prediction: int32 `[n]`; -1 where not broken.
        wrong_share: float32 `[n]`; 0 where nothing was judged.
        step: int32 `[n]`, the first iterate that the attack found wrong, where
            broken; else that of `images`.
        loss: float32 `[n]`.
        gradient_norm: float32 `[n]`.
        num_zero: int32 `[n]`.
        num_nonfinite: int32 `[n]`.
        gradient_evaluations: int64 `[n]`.
    """

    is_broken: np.ndarray
    images: np.ndarray
    margin: np.ndarray
    prediction: np.ndarray
    wrong_share: np.ndarray
    step: np.ndarray
    loss: np.ndarray
    gradient_norm: np.ndarray
    num_zero: np.ndarray
    num_nonfinite: np.ndarray
    gradient_evaluations: np.ndarray


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
        self._attack = attack
        self._judge = judge
        self._norm = norm
        self._batch_size = batch_size
        self._chunk_steps = chunk_steps
        self._compact = compact
        self._numbers = base.numbers(attack)

    def set_scale(self, scale: float) -> None:
        """Sets the factor of the logits that the attack sees."""
        self.scale = scale
        self._logits = self._unscaled.times(scale)

    def num_traces(self) -> dict[int | None, int]:
        """Batch size (None: every one) -> traces of the loop; each is 1."""
        if self._attack.runs_eagerly:
            return {}
        return self._compiled("advance").num_traces()

    def _compiled(self, name):
        """The compiled `start` or `advance` of this kind of attack."""
        kind = base.kind(self._attack)
        key = (name, kind, self._norm, self._judge.is_random)
        function = getattr(self, f"_{name}_traced")
        return self._logits.compiled(key, lambda: function, self._attack)

    def resolve(self, images) -> None:
        """See `compiled.CompiledLogits.resolve`; before the first start."""
        self._logits.resolve(tf.TensorShape(images.shape))

    def start(self, images, labels, example_seeds, targets, epsilon):
        """The state and the record of a batch before the first step."""
        batched = (images, labels, example_seeds, targets)
        if self._attack.runs_eagerly:
            return self._start_traced(*batched, epsilon, self._numbers)
        return self._compiled("start")(
            int(labels.shape[0]), batched, (epsilon, self._numbers)
        )

    def advance(self, state, record, first, last):
        """The state and the record after the steps from `first` to `last`."""
        span = tf.constant(first), tf.constant(last)
        if self._attack.runs_eagerly:
            return self._advance_traced(state, record, *span, self._numbers)
        return self._compiled("advance")(
            int(record.margin.shape[0]), (state, record), (*span, self._numbers)
        )

    def finish(self, state, record, clean, labels, example_seeds, epsilon):
        """The record with the last iterate, which has not been evaluated."""
        images, loss = state.images, state.evaluated.loss
        batched = (images, loss, record, clean, labels, example_seeds)
        shared = (epsilon, tf.constant(self._attack.num_steps))
        if self._attack.runs_eagerly:
            return self._finish_traced(*batched, *shared)
        return self._logits.compiled(
            ("finish", self._norm, self._judge.is_random),
            lambda: self._finish_traced,
        )(int(labels.shape[0]), batched, shared)

    def _start_traced(
        self, images, labels, example_seeds, targets, epsilon, numbers
    ):
        attack = base.with_numbers(self._attack, numbers)
        threat_model = ThreatModel(self._norm, epsilon)
        more = {}
        if attack.num_targets is not None:
            more["targets"] = targets
        state = attack.init(
            self._logits, images, labels, threat_model, example_seeds, **more
        )
        record = _new_record(images, self._judge.is_random)
        if attack.evaluates_proposal:
            record = _update(record, state.evaluated, tf.constant(0))
        return state, record

    def _advance_traced(self, state, record, first, last, numbers):
        attack = base.with_numbers(self._attack, numbers)
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
        return _update(record, evaluation, num_steps)._replace(
            gradient_norm=record.gradient_norm
        )

    def pad(self, rows: np.ndarray) -> np.ndarray:
        """Pads a batch to a size that needs no new trace."""
        return self._logits.pad(rows, self._batch_size)

    def _chunks(self):
        if not (self._compact or self._judge.is_random):
            yield 0, self._attack.num_steps
            return
        done = 0
        lengths = list(_FIRST_CHUNKS)
        while done < self._attack.num_steps:
            length = lengths.pop(0) if lengths else self._chunk_steps
            length = min(
                length, self._chunk_steps, self._attack.num_steps - done
            )
            yield done, done + length
            done += length

    @property
    def takes_passes(self) -> bool:
        """Whether rows of a batch can be several passes over its examples.

        Rows that are no longer needed must be removable, and code of other
        libraries draws once for a whole batch.
        """
        return self._compact and not self._attack.runs_eagerly

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


class _Run:
    """The host side of one run: judges claims and drops broken examples."""

    def __init__(
        self,
        engine,
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
        size = len(labels)
        zeros = np.zeros(size, np.float32)
        self.result = Result(
            is_broken=np.zeros(size, bool),
            images=images.copy(),
            margin=zeros - np.inf,
            prediction=np.full(size, -1, np.int32),
            wrong_share=zeros.copy(),
            step=np.full(size, -1, np.int32),
            loss=zeros - np.inf,
            gradient_norm=zeros - 1,
            num_zero=np.zeros(size, np.int32),
            num_nonfinite=np.zeros(size, np.int32),
            gradient_evaluations=np.zeros(size, np.int64),
        )
        self.is_doubted = np.zeros(size, bool)
        # Position in the device's batch -> row of this batch.
        self.rows = np.arange(size)
        engine.resolve(images)
        padded = engine.pad(self.rows)
        if targets is None:
            targets = np.zeros(size, np.int32)
        self.device_labels = tf.constant(labels[padded])
        self.device_seeds = tf.constant(example_seeds[padded])
        self.state, self.record = engine.start(
            tf.constant(images[padded]),
            self.device_labels,
            self.device_seeds,
            tf.constant(targets[padded]),
            tf.constant(epsilon, tf.float32),
        )
        self._count(engine._attack.gradients_at_init)

    def _count(self, per_example):
        self.result.gradient_evaluations[self.rows] += per_example

    def run(self) -> Result:
        attack = self.engine._attack
        for first, last in self.engine._chunks():
            self.state, self.record = self.engine.advance(
                self.state, self.record, first, last
            )
            self._count((last - first) * attack.gradients_per_step)
            self._judge_claims()
            if self.engine._compact:
                if self._is_done().all():
                    break
                self._drop_done()
        if not (attack.evaluates_proposal or self._is_done().all()):
            self.record = self.engine.finish(
                self.state,
                self.record,
                tf.constant(self.images[self.engine.pad(self.rows)]),
                self.device_labels,
                self.device_seeds,
                tf.constant(self.epsilon, tf.float32),
            )
            self._judge_claims()
        self._store(np.ones(len(self.rows), bool))
        return self.result

    def _is_done(self):
        """Which rows are broken, or of an example broken by an earlier pass."""
        broken = self.result.is_broken.reshape(self.num_passes, -1)
        return np.logical_or.accumulate(broken).ravel()

    def _judge_claims(self):
        record = self.record
        self._judge_claim(record.images, record.step)
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
        wrong = (self.record.is_wrong.numpy() & is_asked)[:size]
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
        self.result.images[newly_broken] = judgement.images[broken]
        self.result.margin[newly_broken] = judgement.margin[broken]
        self.result.prediction[newly_broken] = judgement.prediction[broken]
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
        if self.engine._judge.is_random and len(upheld):
            again = self._judge(
                rows[upheld], candidates[upheld], is_thorough=True
            )
            for first, second in zip(judgement, again, strict=True):
                first[upheld] = second
        return judgement

    def _judge(self, rows, candidates, is_thorough=False):
        self.num_judgements += 1
        return self.engine._judge(
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
        wrong = self.record.is_wrong.numpy()[: len(self.rows)]
        places = np.flatnonzero(wrong & ~self.result.is_broken[self.rows])
        if not len(places):
            return
        self._keep_nearest(places)
        forgotten = np.zeros(self.device_labels.shape[0], bool)
        forgotten[places] = True
        self.record = self.record._replace(
            is_wrong=self.record.is_wrong & ~forgotten
        )

    def _keep_nearest(self, places):
        """Copies iterates of larger margin than the result has."""
        margin = self.record.margin.numpy()[places] / self.engine.scale
        nearer = margin > self.result.margin[self.rows[places]]
        places, rows = places[nearer], self.rows[places[nearer]]
        self.result.images[rows] = tf.gather(self.record.images, places).numpy()
        self.result.margin[rows] = margin[nearer]
        self.result.step[rows] = self.record.step.numpy()[places]

    def _store(self, leaving):
        """Copies the device's record of the leaving places to the result."""
        places = np.flatnonzero(leaving)
        rows = self.rows[places]
        record = self.record
        for name in ("loss", "gradient_norm", "num_zero", "num_nonfinite"):
            values = getattr(record, name).numpy()
            getattr(self.result, name)[rows] = values[places]
        self._keep_nearest(places[~self.result.is_broken[rows]])

    def _drop_done(self):
        """Shrinks the batch to the rows that are still needed, if it pays."""
        still_robust = ~self._is_done()[self.rows]
        keep = np.flatnonzero(still_robust)
        places = self.engine.pad(keep)
        if len(places) >= self.device_labels.shape[0]:
            return
        self._store(~still_robust)
        self.rows = self.rows[keep]
        taken = (
            self.state,
            self.record,
            self.device_labels,
            self.device_seeds,
        )
        self.state, self.record, self.device_labels, self.device_seeds = (
            tf.nest.map_structure(lambda t: tf.gather(t, places), taken)
        )
