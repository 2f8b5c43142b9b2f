"""D35: do adversarial images of a substitute network break more?"""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import base as attack_base
from ib_keras.attacks import geometry
from ib_keras.attacks import losses
from ib_keras.attacks.base import check_count
from ib_keras.audit.diagnostics import base
from ib_keras.audit.diagnostics import breaks
from ib_keras.audit.diagnostics import judged
from ib_keras.audit.diagnostics.case import Case
from ib_keras.types import ThreatModel

# Audited images that the substitute is trained on at most, and random points of
# the ball around each robust example.
_MOST_IMAGES, _POINTS = 500, 3
_TRAIN_STEPS, _BATCH, _HIDDEN, _RATE = 80, 128, 128, 5e-3
_ATTACK_STEPS, _MOMENTUM = 20, 0.75


class StandIn:
    """Trains a substitute network on the model's predictions and attacks it.

    Each round trains on all predictions so far, attacks the substitute, and
    has the model classify the resulting images. These images are the test, and
    are added to the training set of the next round.

    Args:
        num_rounds: Rounds.
    """

    cost = "cheap"
    ids = ("D35",)

    def __init__(self, num_rounds):
        self.num_rounds = num_rounds

    def ask(self, case: Case) -> list[base.Finding]:
        """Answers D35."""
        known: dict[str, Any] = dict(
            id="D35",
            question="Do adversarial images of a substitute network, which "
            "was trained on the model's predictions, break nothing more?",
            source="Papernot et al. 2017; Carlini et al. 2019, section 4.3",
        )
        rows = case.robust_rows
        if not len(rows):
            return [breaks.none_is_robust(**known)]
        rng = np.random.default_rng(case.seed)
        images, answers = self._first_answers(case, rows, rng)
        norm = case.threat_model.norm
        network = Network(images.shape[1:], case.num_classes, norm, rng)
        clean, labels = case.subject.images[rows], case.subject.labels[rows]
        broken = np.zeros(len(rows), bool)
        for index in range(self.num_rounds):
            network.fit(images, answers, _TRAIN_STEPS, rng)
            found = network.climb(
                clean,
                labels,
                case.threat_model.epsilon,
                seeds.fold(case.seed_of(35, index), rows.astype(np.int32)),
            )
            said = judged.judge(case, rows, found, 2 + index)
            broken |= said.is_wrong
            images = np.concatenate([images, said.images])
            answers = np.concatenate([answers, said.prediction])
        agreed = network.predict(said.images) == said.prediction
        answer = breaks.finding(
            case,
            rows,
            broken,
            threshold=0.002,
            words=f"Images of a substitute network, {self.num_rounds} rounds, "
            f"{len(answers):,} predictions,",
            advice="The gradients of a network that imitates the model find "
            "more than the model's own, so the model masks its gradients: add "
            "an attack without gradients, or transfer, to the protocol.",
            **known,
        )
        data = {**answer.data, "agreement": float(agreed.mean())}
        return [dataclasses.replace(answer, data=data)]

    def _first_answers(self, case, rows, rng):
        """The training set of the first round: images and predictions."""
        known = case.ledger.clean_prediction >= 0
        some = rng.permutation(np.flatnonzero(known))[:_MOST_IMAGES]
        around = np.tile(rows, _POINTS)
        points = case.subject.images[around]
        width = case.threat_model.epsilon * rng.uniform(-1, 1, points.shape)
        said = judged.judge(
            case, around, np.clip(points + width, 0, 1).astype(np.float32), 2
        )
        images = np.concatenate([case.subject.images[some], said.images])
        answers = [case.ledger.clean_prediction[some], said.prediction]
        return images, np.concatenate(answers)


class Network:
    """A network of one hidden layer, trained by Adam.

    Two functions are compiled, whatever the number of images is.

    Args:
        shape: Of an image.
        num_classes: Classes.
        norm: Of the ball that it is attacked in.
        rng: Of the first weights.
    """

    def __init__(self, shape, num_classes, norm, rng):
        self._shape, self._norm = tuple(shape), norm
        sizes = (math.prod(shape), _HIDDEN, num_classes)
        self._weights = []
        for inputs, outputs in itertools.pairwise(sizes):
            kernel = rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)
            bias = np.zeros(outputs)
            self._weights += [
                tf.constant(w, tf.float32) for w in (kernel, bias)
            ]
        images = tf.TensorSpec([None, *shape])
        labels = tf.TensorSpec([None], tf.int32)
        pairs = tf.TensorSpec([None, 2], tf.int32)
        weights = [tf.TensorSpec(w.shape) for w in self._weights]
        self._fit = tf.function(
            self._fit_traced,
            input_signature=[
                weights,
                images,
                labels,
                tf.TensorSpec([None, None], tf.int32),
            ],
            autograph=False,
        )
        self._climb = tf.function(
            self._climb_traced,
            input_signature=[weights, images, labels, tf.TensorSpec([]), pairs],
            autograph=False,
        )

    @staticmethod
    def _logits(weights, images):
        kernel, bias, last_kernel, last_bias = weights
        flat = tf.reshape(2.0 * images - 1.0, [-1, kernel.shape[0]])
        hidden = tf.nn.relu(flat @ kernel + bias)
        return hidden @ last_kernel + last_bias

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Classes int `[n]` of images `[n, ...]`."""
        return self._logits(self._weights, images).numpy().argmax(axis=1)

    def fit(self, images, answers, num_steps: int, rng) -> None:
        """Continues training by cross-entropy, on random batches.

        Args:
            images: float32 `[n, ...]`.
            answers: int32 `[n]`, classes; what is below 0 is left out.
            num_steps: Steps.
            rng: Of the batches.
        """
        batches = rng.choice(np.flatnonzero(answers >= 0), (num_steps, _BATCH))
        self._weights = self._fit(
            self._weights, images, answers, batches.astype(np.int32)
        )

    def _fit_traced(self, weights, images, answers, batches):
        def step(index, weights, first, second):
            rows = batches[index]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                logits = self._logits(weights, tf.gather(images, rows))
                loss = tf.reduce_mean(
                    losses.cross_entropy(logits, tf.gather(answers, rows))
                )
            count = tf.cast(index + 1, tf.float32)
            parts = zip(
                weights,
                first,
                second,
                tape.gradient(loss, weights),
                strict=True,
            )
            moved = [_adam(*part, count) for part in parts]
            return tuple(map(list, zip(*moved, strict=True)))

        zeros = [tf.zeros_like(w) for w in weights]
        return attack_base.repeat(
            0, tf.shape(batches)[0], step, (weights, zeros, zeros)
        )[0]

    def climb(
        self, images, labels, epsilon: float, example_seeds
    ) -> np.ndarray:
        """PGD with momentum on the margin, from random points of the balls.

        Args:
            images: float32 `[n, ...]`, clean.
            labels: int32 `[n]`.
            epsilon: Radius.
            example_seeds: int32 `[n, 2]`.

        Returns:
            float32 `[n, ...]`, in their balls.
        """
        return self._climb(
            self._weights, images, labels, epsilon, example_seeds
        ).numpy()

    def _climb_traced(self, weights, images, labels, epsilon, example_seeds):
        ball = geometry.ball(images, ThreatModel(self._norm, epsilon))

        def step(index, moved, momentum):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(moved)
                loss = losses.margin(self._logits(weights, moved), labels)
            gradient = tape.gradient(loss, moved)
            size = tf.reduce_mean(
                tf.abs(gradient), axis=[1, 2, 3], keepdims=True
            )
            momentum *= _MOMENTUM
            momentum += tf.math.divide_no_nan(gradient, size)
            left = 1.0 - tf.cast(index, tf.float32) / _ATTACK_STEPS
            length = 0.5 * epsilon * left
            moved = ball.project(moved + length * ball.steepest(momentum))
            return moved, momentum

        start = ball.random_point(example_seeds)
        return attack_base.repeat(
            0, _ATTACK_STEPS, step, (start, tf.zeros_like(start))
        )[0]


def _adam(weight, first, second, gradient, count):
    """A weight and its moments after a step of Adam."""
    first += 0.1 * (gradient - first)
    second += 0.001 * (gradient * gradient - second)
    mean = first / (1.0 - 0.9**count)
    square = second / (1.0 - 0.999**count)
    return weight - _RATE * mean / (tf.sqrt(square) + 1e-8), first, second


def build(num_rounds: int = 3) -> StandIn:
    """Builds the diagnostic."""
    return StandIn(check_count("num_rounds", num_rounds))
