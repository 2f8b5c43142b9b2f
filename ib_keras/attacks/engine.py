"""One run of one attack on one batch, compiled, with the books of the runner.

The engine drives an attack's state machine in chunks of steps. Within a chunk
everything stays on the device; between chunks the examples that the attack
claims to have broken are judged, and the batch shrinks to those still
standing. Static batch sizes (halves of the largest) keep the traces few.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras.attacks import base
from ib_keras.attacks import devices
from ib_keras.attacks import geometry
from ib_keras.types import LogitsFn
from ib_keras.types import ThreatModel

# Lengths of the first chunks: many examples fall in the first steps.
_FIRST_CHUNKS = (1, 1, 2, 4, 8)
_SMALLEST_BATCH = 8

# A thorough verdict takes this many times the draws of an ordinary one.
_THOROUGH = 5


class Record(NamedTuple):
    """What the runner remembers of each example during a run.

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
        latest: What was wrong last, where the model has noise, else `()`:
            images as above and their steps. A draw in luck has the largest
            margin of a chunk sooner than what is wrong on every draw.
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


@strategies.fused
def _update(
    record: Record, evaluation: base.Evaluation, step: tf.Tensor
) -> Record:
    # A tie of the two largest logits can be a wrong prediction with margin 0:
    # being wrong counts before the margin does. NaN compares as false.
    first_wrong = evaluation.is_wrong & ~record.is_wrong
    better = (evaluation.margin > record.margin) & (
        evaluation.is_wrong == record.is_wrong
    )
    better = better | first_wrong
    norm = evaluation.gradient_norm
    # An iterate that the attack did not ask about has no NaN.
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


class Judgement(NamedTuple):
    """The verdict on candidates by noise that no attack has seen.

    Attributes:
        images: float32 `[batch, ...]`, the candidates projected once more.
        wrong_share: float32 `[batch]`, share of draws with another prediction
            than the label; a draw with numbers that are not finite counts as
            right.
        prediction: int32 `[batch]`: the label where at most half of the draws
            are wrong, else the most frequent wrong class; -1 where a draw has
            numbers that are not finite.
        margin: float32 `[batch]`, of the mean probabilities of all draws; NaN
            where not finite.
        logits: float32 `[batch, classes]`, of the same.
    """

    images: tf.Tensor
    wrong_share: tf.Tensor
    prediction: tf.Tensor
    margin: tf.Tensor
    logits: tf.Tensor

    @property
    def is_wrong(self):
        """The one rule, for clean and attacked images: most draws are wrong."""
        return self.wrong_share > 0.5


class Judge:
    """Re-projects candidates and decides over fresh draws.

    Args:
        logits_fn: The model.
        norm: "linf" or "l2".
        num_judge_samples: Draws of the scored classifier per verdict. Exactly
            one is needed where the model has no noise.
        strategy: Where to run; None for TensorFlow's default device.
        jit_compile: Whether to compile with XLA.
    """

    def __init__(
        self,
        logits_fn,
        norm,
        num_judge_samples=1,
        strategy=None,
        jit_compile=None,
    ):
        self._logits_fn = logits_fn
        self._norm = norm
        self._num_samples = num_judge_samples
        self._call = devices.BySize(self._judge, strategy, jit_compile)

    def _judge(
        self, clean, candidates, labels, epsilon, seed, num_draws
    ) -> Judgement:
        # Asked before projecting: XLA's clipping turns NaN into a bound.
        candidates = tf.where(tf.math.is_finite(candidates), candidates, clean)
        ball = geometry.ball(clean, ThreatModel(self._norm, epsilon))
        images = ball.project(candidates)
        total = self._logits_fn(images, seeds.fold(seed, 0))
        wrong, votes = _vote(total, labels)
        if self._num_samples > 1:
            total = tf.nn.log_softmax(total)
            for draw in tf.range(1, num_draws):
                logits = self._logits_fn(images, seeds.fold(seed, draw))
                more_wrong, more_votes = _vote(logits, labels)
                wrong += more_wrong
                votes += more_votes
                total = base.log_add_exp(total, tf.nn.log_softmax(logits))
            total -= tf.math.log(tf.cast(num_draws, tf.float32))
            wrong /= tf.cast(num_draws, tf.float32)
        said = base.evaluated(images, total, labels, loss=wrong)
        prediction = tf.where(
            wrong > 0.5,
            tf.argmax(votes, axis=1, output_type=tf.int32),
            labels,
        )
        return Judgement(
            images=images,
            wrong_share=wrong,
            prediction=tf.where(base.is_finite(total), prediction, -1),
            margin=said.margin,
            logits=total,
        )

    def __call__(
        self,
        clean,
        candidates,
        labels,
        epsilon,
        seed,
        sizes,
        is_thorough=False,
    ) -> Judgement:
        """Judges any number of candidates in padded batches.

        Args:
            clean: float32 array `[n, ...]`, the centres of the balls.
            candidates: float32 array `[n, ...]`.
            labels: int32 array `[n]`.
            epsilon: Radius.
            seed: int32 `[2]`, of this verdict.
            sizes: The static batch sizes, ascending.
            is_thorough: Whether to take five times as many draws.

        Returns:
            A `Judgement` of NumPy arrays, in the order given.
        """
        num_draws = self.num_thorough if is_thorough else self._num_samples
        parts = []
        for index, start in enumerate(range(0, len(labels), sizes[-1])):
            rows = np.arange(start, min(start + sizes[-1], len(labels)))
            padded = pad_rows(rows, sizes)
            result = self._call(
                len(padded),
                (
                    tf.constant(clean[padded]),
                    tf.constant(candidates[padded]),
                    tf.constant(labels[padded]),
                ),
                (
                    tf.constant(epsilon, tf.float32),
                    seeds.fold(seed, index),
                    tf.constant(num_draws),
                ),
            )
            parts.append([part.numpy()[: len(rows)] for part in result])
        return Judgement(*(np.concatenate(c) for c in zip(*parts, strict=True)))

    @property
    def num_thorough(self) -> int:
        """Draws of a thorough verdict."""
        return self._num_samples * (_THOROUGH if self.is_random else 1)

    @property
    def is_random(self) -> bool:
        """Whether a verdict takes more than one draw."""
        return self._num_samples > 1


def _vote(logits, labels):
    """Whether each is wrong, float32 `[batch]`, and for which wrong class.

    The second is float32 `[batch, classes]`, zero where it is right.
    """
    wrong = tf.cast(base.is_wrong(logits, labels), tf.float32)
    classes = tf.shape(logits)[1]
    others = tf.where(
        tf.one_hot(labels, classes, on_value=True, off_value=False),
        -float("inf"),
        logits,
    )
    return wrong, wrong[:, None] * tf.one_hot(
        tf.argmax(others, axis=1), classes
    )


def batch_sizes(largest: int, num_replicas: int = 1) -> tuple[int, ...]:
    """The static batch sizes, ascending: `largest` and its halves.

    Each is rounded up to a multiple of `num_replicas`.
    """
    sizes = [-(-int(largest) // num_replicas) * num_replicas]
    while sizes[-1] >= 2 * max(_SMALLEST_BATCH, num_replicas):
        half = (sizes[-1] + 1) // 2
        sizes.append(-(-half // num_replicas) * num_replicas)
    return tuple(reversed(sizes))


def pad_rows(rows: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Repeats the first row until there are as many as a static size.

    Args:
        rows: int `[n]`, n at least 1 and at most the largest size.
        sizes: The static batch sizes, ascending.

    Returns:
        int `[size]`, of the smallest size that they fit in.
    """
    size = next(s for s in sizes if s >= len(rows))
    return np.concatenate([rows, np.full(size - len(rows), rows[0])])


class Result(NamedTuple):
    """What one run did to one batch; NumPy arrays in the batch's order.

    Attributes:
        is_broken: bool `[n]`, by the judge.
        images: float32 `[n, ...]`: of a broken example the judged image, else
            the iterate nearest to being wrong.
        margin: float32 `[n]`, the judge's where broken, else the attack's.
        prediction: int32 `[n]`; -1 where not broken.
        wrong_share: float32 `[n]`; 0 where nothing was judged.
        step: int32 `[n]`, the first iterate at which the attack saw the
            example wrong, where broken; else that of `images`.
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

    Build it once per (model, attack): each has its own compiled functions.

    Args:
        logits_fn: The model.
        attack: A `base.Attack`.
        judge: Decides what is broken.
        norm: "linf" or "l2".
        batch_size: The largest batch.
        chunk_steps: The longest chunk of steps without a look at the books.
            Where the model has noise two claims of each are judged, so that
            shorter ones find more.
        compact: Whether the batch shrinks between chunks. False runs every
            example to the end, as the reference implementations do.
        strategy: Where to run; None for TensorFlow's default device.
        jit_compile: Whether to compile with XLA.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        attack: base.Attack,
        judge: Judge,
        norm: str,
        batch_size: int,
        chunk_steps: int = 16,
        compact: bool = True,
        strategy: tf.distribute.Strategy | None = None,
        jit_compile: bool | None = None,
    ):
        self._logits_fn = logits_fn
        self._attack = attack
        self._judge = judge
        self._norm = norm
        self._chunk_steps = chunk_steps
        self._compact = compact
        replicas = strategy.num_replicas_in_sync if strategy else 1
        self.sizes = batch_sizes(batch_size, replicas)

        def compiled(function: Callable) -> Callable:
            if attack.runs_eagerly:
                return lambda size, batched, shared=(): function(
                    *batched, *shared
                )
            return devices.BySize(function, strategy, jit_compile)

        self._start = compiled(self._start_traced)
        self._advance = compiled(self._advance_traced)
        self._finish = compiled(self._finish_traced)

    def num_traces(self) -> dict[int, int]:
        """Batch size -> traces of the loop; each must stay at 1."""
        if self._attack.runs_eagerly:
            return {}
        return self._advance.num_traces()

    def _start_traced(self, images, labels, example_seeds, targets, epsilon):
        threat_model = ThreatModel(self._norm, epsilon)
        more = {}
        if self._attack.num_targets is not None:
            more["targets"] = targets
        state = self._attack.init(
            self._logits_fn, images, labels, threat_model, example_seeds, **more
        )
        record = _new_record(images, self._judge.is_random)
        if self._attack.evaluates_proposal:
            record = _update(record, state.evaluated, tf.constant(0))
        return state, record

    def _advance_traced(self, state, record, first, last):
        # Iterate 0 is the start: attacks that move first evaluate the next.
        ahead = int(self._attack.evaluates_proposal)
        for iteration in tf.range(first, last):
            state = self._attack.step(self._logits_fn, state, iteration)
            record = _update(record, state.evaluated, iteration + ahead)
        return state, record

    def _finish_traced(
        self, state, record, clean, labels, example_seeds, epsilon
    ):
        # The last iterate has been proposed but, in evaluate-then-move
        # attacks, never been looked at; nor has its place in the ball.
        ball = geometry.ball(clean, ThreatModel(self._norm, epsilon))
        images = ball.project(state.images)
        seed = base.model_seed(example_seeds, self._attack.num_steps)
        logits = self._logits_fn(images, seed)
        evaluation = base.evaluated(
            images, logits, labels, loss=state.evaluated.loss
        )
        num_steps = tf.constant(self._attack.num_steps)
        # No gradient was taken here: what was said of the last one stays.
        return _update(record, evaluation, num_steps)._replace(
            gradient_norm=record.gradient_norm
        )

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

    def run(
        self, images, labels, epsilon, example_seeds, judge_seed, targets=None
    ) -> Result:
        """Runs the attack once on one batch.

        Args:
            images: float32 array `[n, ...]`, n at most the batch size.
            labels: int32 array `[n]`.
            epsilon: Radius of the ball.
            example_seeds: int32 array `[n, 2]`.
            judge_seed: int32 `[2]`, which the attack never sees.
            targets: int32 array `[n]` for targeted attacks.

        Returns:
            A `Result`.
        """
        return _Run(
            self, images, labels, epsilon, example_seeds, judge_seed, targets
        ).result()


class _Run:
    """The host side of one run: who stands, who is judged, who is dropped."""

    def __init__(
        self,
        engine,
        images,
        labels,
        epsilon,
        example_seeds,
        judge_seed,
        targets,
    ):
        self.engine = engine
        self.images = images
        self.labels = labels
        self.epsilon = epsilon
        self.judge_seed = judge_seed
        self.num_verdicts = 0
        size = len(labels)
        zeros = np.zeros(size, np.float32)
        self.books = Result(
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
        padded = pad_rows(self.rows, engine.sizes)
        if targets is None:
            targets = np.zeros(size, np.int32)
        self.device_labels = tf.constant(labels[padded])
        self.device_seeds = tf.constant(example_seeds[padded])
        self.state, self.record = engine._start(
            len(padded),
            (
                tf.constant(images[padded]),
                self.device_labels,
                self.device_seeds,
                tf.constant(targets[padded]),
            ),
            (tf.constant(epsilon, tf.float32),),
        )
        self._count(engine._attack.gradients_at_init)

    def _count(self, per_example):
        self.books.gradient_evaluations[self.rows] += per_example

    def result(self) -> Result:
        attack = self.engine._attack
        for first, last in self.engine._chunks():
            self.state, self.record = self.engine._advance(
                self.device_labels.shape[0],
                (self.state, self.record),
                (tf.constant(first), tf.constant(last)),
            )
            self._count((last - first) * attack.gradients_per_step)
            self._judge_claims()
            if self.engine._compact:
                if self.books.is_broken.all():
                    break
                self._drop_broken()
        if not (attack.evaluates_proposal or self.books.is_broken.all()):
            self.record = self.engine._finish(
                self.device_labels.shape[0],
                (
                    self.state,
                    self.record,
                    tf.constant(
                        self.images[pad_rows(self.rows, self.engine.sizes)]
                    ),
                    self.device_labels,
                    self.device_seeds,
                ),
                (tf.constant(self.epsilon, tf.float32),),
            )
            self._judge_claims()
        self._store(np.ones(len(self.rows), bool))
        return self.books

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
        claims = wrong & ~self.books.is_broken[self.rows]
        if not claims.any():
            return
        places = np.flatnonzero(claims)
        rows = self.rows[places]
        candidates = tf.gather(images, places).numpy()
        verdict = self._verdict(rows, candidates)
        better = verdict.wrong_share >= self.books.wrong_share[rows]
        self.books.wrong_share[rows[better]] = verdict.wrong_share[better]
        broken = verdict.is_wrong
        fallen = rows[broken]
        self.books.is_broken[fallen] = True
        self.books.images[fallen] = verdict.images[broken]
        self.books.margin[fallen] = verdict.margin[broken]
        self.books.prediction[fallen] = verdict.prediction[broken]
        # A claim that the judge turned down dates nothing: then the judged
        # iterate's own step is the first that is known to be wrong.
        first = self.record.first_wrong.numpy()[places]
        first = np.where(self.is_doubted[rows], step.numpy()[places], first)
        self.books.step[fallen] = first[broken]
        self.is_doubted[rows] = True

    def _verdict(self, rows, candidates) -> Judgement:
        """Judges claims; where draws can have luck, those upheld once more.

        An attack makes many claims about an example, and luck in one of a few
        draws would book it. The second verdict has draws of its own, and more.
        """
        verdict = self._judge(rows, candidates)
        upheld = np.flatnonzero(verdict.is_wrong)
        if self.engine._judge.is_random and len(upheld):
            again = self._judge(
                rows[upheld], candidates[upheld], is_thorough=True
            )
            for first, second in zip(verdict, again, strict=True):
                first[upheld] = second
        return verdict

    def _judge(self, rows, candidates, is_thorough=False) -> Judgement:
        self.num_verdicts += 1
        return self.engine._judge(
            self.images[rows],
            candidates,
            self.labels[rows],
            self.epsilon,
            seeds.fold(self.judge_seed, self.num_verdicts - 1),
            self.engine.sizes,
            is_thorough,
        )

    def _forget(self):
        """Takes back the claims that were turned down.

        A draw in luck can be the most wrong of a run: kept, it would hide the
        later iterates that are wrong on every draw.
        """
        wrong = self.record.is_wrong.numpy()[: len(self.rows)]
        places = np.flatnonzero(wrong & ~self.books.is_broken[self.rows])
        if not len(places):
            return
        self._keep_nearest(places)
        forgotten = np.zeros(self.device_labels.shape[0], bool)
        forgotten[places] = True
        self.record = self.record._replace(
            is_wrong=self.record.is_wrong & ~forgotten
        )

    def _keep_nearest(self, places):
        """Copies what is nearer to being wrong than what the books have."""
        margin = self.record.margin.numpy()[places]
        nearer = margin > self.books.margin[self.rows[places]]
        places, rows = places[nearer], self.rows[places[nearer]]
        self.books.images[rows] = tf.gather(self.record.images, places).numpy()
        self.books.margin[rows] = margin[nearer]
        self.books.step[rows] = self.record.step.numpy()[places]

    def _store(self, leaving):
        """Copies the device's record of the places that leave to the books."""
        places = np.flatnonzero(leaving)
        rows = self.rows[places]
        record = self.record
        for name in ("loss", "gradient_norm", "num_zero", "num_nonfinite"):
            values = getattr(record, name).numpy()
            getattr(self.books, name)[rows] = values[places]
        self._keep_nearest(places[~self.books.is_broken[rows]])

    def _drop_broken(self):
        """Shrinks the batch to the examples still standing, if it pays."""
        standing = ~self.books.is_broken[self.rows]
        count = int(standing.sum())
        size = next(s for s in self.engine.sizes if s >= count)
        current = self.device_labels.shape[0]
        if size >= current:
            return
        self._store(~standing)
        keep = np.flatnonzero(standing)
        places = pad_rows(keep, self.engine.sizes)
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
