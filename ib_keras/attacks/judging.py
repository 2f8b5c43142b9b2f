"""The judge: decides what is broken, on noise that no attack has used."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import base
from ib_keras.attacks import compiled
from ib_keras.attacks import geometry
from ib_keras.types import LogitsFn
from ib_keras.types import ThreatModel

# A thorough judgement takes this many times the draws of an ordinary one.
_THOROUGH = 5


class Judgement(NamedTuple):
    """The judgement on candidates by noise that no attack has used.

    Attributes:
        images: float32 `[batch, ...]`, the candidates projected once more.
        wrong_share: float32 `[batch]`, share of draws with another prediction
            than the label; a draw with numbers that are not finite counts as
            correct.
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
        logits_fn: The model; `compiled.CompiledLogits` of it are shared.
        norm: "linf" or "l2".
        num_judge_samples: Draws of the scored classifier per judgement.
            Exactly one is needed where the model has no noise.
        batch_size: The largest batch.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        norm: str,
        num_judge_samples: int = 1,
        batch_size: int = 256,
    ):
        self._logits = compiled.of(logits_fn)
        self._norm = norm
        self._num_samples = num_judge_samples
        self._batch_size = batch_size

    def _judge(
        self, clean, candidates, labels, epsilon, seed, num_draws
    ) -> Judgement:
        # Checked before projecting: XLA's clipping turns NaN into a bound.
        candidates = tf.where(tf.math.is_finite(candidates), candidates, clean)
        ball = geometry.ball(clean, ThreatModel(self._norm, epsilon))
        images = ball.project(candidates)

        def ask(seed):
            logits = self._logits(images, seed)
            return logits, *_vote(logits, labels)

        if self.is_random:
            total, wrong, votes = base.mean_over_draws(ask, seed, num_draws)
        else:
            total, wrong, votes = ask(base.draw_seed(seed, 0))
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
        is_thorough=False,
    ) -> Judgement:
        """Judges any number of candidates, batch by batch.

        Args:
            clean: float32 array `[n, ...]`, the centres of the balls.
            candidates: float32 array `[n, ...]`.
            labels: int32 array `[n]`.
            epsilon: Radius.
            seed: int32 `[2]`, of this judgement.
            is_thorough: Whether to take five times as many draws.

        Returns:
            A `Judgement` of NumPy arrays, in the order given.
        """
        num_draws = self.num_thorough if is_thorough else self._num_samples
        self._logits.resolve(clean.shape)
        call = self._logits.compiled(
            ("judge", self._norm, self.is_random), lambda: self._judge
        )
        parts = []
        for index, start in enumerate(range(0, len(labels), self._batch_size)):
            rows = np.arange(start, min(start + self._batch_size, len(labels)))
            padded = self._logits.pad(rows, self._batch_size)
            result = call(
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
        """Draws of a thorough judgement."""
        return self._num_samples * (_THOROUGH if self.is_random else 1)

    @property
    def is_random(self) -> bool:
        """Whether a judgement takes more than one draw."""
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
