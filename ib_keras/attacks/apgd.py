"""AutoPGD: projected gradient ascent that chooses its own step size.

A run halves an example's step size at checkpoints where the loss has stopped
rising, and continues from the best point found. Where the authors' code differs
from the paper, the code is followed: checkpoints by whole-number
arithmetic, condition 1 with "at most".
Two differences, as in the paper's algorithm: the first comparison of a run is
with the loss of the start, not with 0; and after a halving the next one is with
the loss of the best point, where the run continues, not with that of the last
iterate.

For a model with noise the losses that decide on a step size are compared on
common random numbers: the draw changes only at checkpoints and when the batch
shrinks, and the losses carried over are then evaluated again on the new draw.

References:
    Croce and Hein, "Reliable evaluation of adversarial robustness with an
    ensemble of diverse parameter-free attacks", ICML 2020, algorithm 1.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras.attacks import base
from ib_keras.attacks import geometry
from ib_keras.attacks import losses

_MOMENTUM = 0.75  # alpha of the paper
_ENOUGH_INCREASES = 0.75  # its rho


def checkpoints(num_steps: int) -> tuple[int, ...]:
    """Numbers of steps after which step sizes are checked.

    Args:
        num_steps: Steps in a run.

    Returns:
        Ascending; for 100: 22, 41, 57, 70, 80, 87, 93, 99.
    """
    length = max(int(0.22 * num_steps), 1)
    shortest = max(int(0.06 * num_steps), 1)
    less = max(int(0.03 * num_steps), 1)
    found, done = [], 0
    while done + length <= num_steps:
        done += length
        found.append(done)
        length = max(length - less, shortest)
    return tuple(found)


class State(NamedTuple):
    """See `base.Attack`.

    `images` has been evaluated (as `evaluated`), and `gradient` is its
    gradient. `previous` is the start of the last step; `best_*` belong to the
    largest loss so far; `increases` counts the steps of this interval that
    raised the loss; `best_at_checkpoint` is `best_loss` at the last checkpoint,
    where `was_halved` says what happened. `batch_size` is that of the batch
    whose draw the losses are of.
    """

    images: tf.Tensor
    evaluated: base.Evaluation
    ball: geometry.Ball
    labels: tf.Tensor
    targets: tf.Tensor
    seeds: tf.Tensor
    gradient: tf.Tensor
    previous: tf.Tensor
    loss: tf.Tensor
    best_images: tf.Tensor
    best_gradient: tf.Tensor
    best_loss: tf.Tensor
    step_size: tf.Tensor
    increases: tf.Tensor
    best_at_checkpoint: tf.Tensor
    was_halved: tf.Tensor
    has_noise: tf.Tensor
    batch_size: tf.Tensor


class APGD(base.GradientAttack):
    """AutoPGD with any of `losses`.

    Args:
        num_steps: 100 in AutoAttack; a run costs one gradient more.
        loss: "cross_entropy", "margin", "dlr" or "probability_margin"; or
            "targeted_" and one of the latter three.
        num_targets: For targeted losses: the classes of so many highest clean
            logits in turn; 0 for all others.
        num_eot: Fresh draws of model noise each gradient is averaged over.
    """

    evaluates_proposal = True
    varying = ("num_steps", "lengths", "intervals")

    def __init__(self, num_steps, loss, num_targets, num_eot):
        self.num_steps = num_steps
        self.num_eot = num_eot
        self.gradients_at_init = num_eot
        self.gradients_per_step = num_eot
        self.num_targets = num_targets if losses.is_targeted(loss) else None
        self._loss = loss
        ends = checkpoints(num_steps)
        starts = (0, *ends[:-1])
        lengths = [0] * num_steps
        for start, end in zip(starts, ends, strict=True):
            lengths[end - 1] = end - start
        # For each step: the length of the interval that it ends, or 0; and
        # the number of the interval that it is in.
        self.lengths = np.int32(lengths)
        self.intervals = np.int32(
            [sum(e <= i for e in ends) for i in range(num_steps)]
        )

    def _loss_fn(self, labels, targets):
        if self.num_targets is None:
            return lambda logits: losses.LOSSES[self._loss](logits, labels)
        loss = losses.TARGETED_LOSSES[self._loss]
        return lambda logits: loss(logits, labels, targets)

    def _evaluate(self, logits_fn, images, labels, targets, seed):
        return base.evaluate_gradient(
            logits_fn,
            self._loss_fn(labels, targets),
            images,
            labels,
            seed,
            self.num_eot,
        )

    def init(
        self, logits_fn, images, labels, threat_model, seeds, targets=None
    ):
        """Starts at a random point of the surface and evaluates it."""
        ball = geometry.ball(images, threat_model)
        start = ball.random_surface_point(seeds)
        if targets is None:
            targets = labels
        evaluation, gradient = self._evaluate(
            logits_fn, start, labels, targets, base.model_seed(seeds, 0)
        )
        first = logits_fn(start, base.model_seed(seeds, 0))
        other = logits_fn(start, base.model_seed(seeds, 1))
        # As in every step; else the first point would stay the best one,
        # without a direction.
        finite = tf.math.is_finite(evaluation.gradient_norm)
        gradient = base.where(finite, gradient, tf.zeros_like(gradient))
        finite &= tf.math.is_finite(evaluation.loss)
        loss = tf.where(finite, evaluation.loss, -float("inf"))
        no = tf.zeros_like(labels, tf.bool)
        return State(
            images=start,
            evaluated=evaluation,
            ball=ball,
            labels=labels,
            targets=targets,
            seeds=seeds,
            gradient=gradient,
            previous=start,
            loss=loss,
            best_images=start,
            best_gradient=gradient,
            best_loss=loss,
            step_size=2.0 * ball.epsilon,
            increases=tf.zeros_like(labels),
            best_at_checkpoint=loss,
            # So that condition 2 cannot fire at the first checkpoint.
            was_halved=~no,
            has_noise=tf.reduce_any(
                (other != first) & tf.math.is_finite(other - first), axis=1
            ),
            batch_size=tf.fill(tf.shape(labels), tf.shape(labels)[0]),
        )

    def step(self, logits_fn, state, iteration):
        """Moves, evaluates, and at checkpoints adapts the step size."""
        interval = tf.convert_to_tensor(self.intervals)[iteration]
        seed = base.model_seed(state.seeds, interval)
        state = self._pair_losses(logits_fn, state, iteration, seed)
        momentum = tf.where(iteration == 0, 1.0, _MOMENTUM)
        moved = _move(
            state.ball,
            state.images,
            state.previous,
            state.gradient,
            state.step_size,
            momentum,
        )
        evaluation, gradient = self._evaluate(
            logits_fn, moved, state.labels, state.targets, seed
        )
        state = _accept(state, evaluation, gradient)
        length = tf.convert_to_tensor(self.lengths)[iteration]
        return tf.cond(
            length > 0, lambda: _look_at_step_size(state, length), lambda: state
        )

    def _pair_losses(self, logits_fn, state, iteration, seed):
        """Evaluates the losses carried over on the current draw.

        Noise is drawn for a whole batch, so a smaller batch has another draw.
        """
        intervals = tf.convert_to_tensor(self.intervals)
        last = intervals[tf.maximum(iteration - 1, 0)]
        size = tf.shape(state.labels)[0]
        is_new = (intervals[iteration] != last) | (state.batch_size[0] != size)

        def again():
            loss_fn = self._loss_fn(state.labels, state.targets)
            best = self._mean_loss(logits_fn, loss_fn, state.best_images, seed)
            best = _finite_or(best, state.best_loss)
            # A first point without a gradient must not become the best.
            is_none = tf.math.is_inf(state.best_loss)
            best = tf.where(is_none, state.best_loss, best)
            loss = self._mean_loss(logits_fn, loss_fn, state.images, seed)
            # Increases since the last checkpoint are kept.
            won = state.best_loss - state.best_at_checkpoint
            won = _finite_or(won, tf.zeros_like(won))
            return _finite_or(loss, state.loss), best, best - won

        has_noise = tf.reduce_any(state.has_noise)
        loss, best, at_checkpoint = tf.cond(
            is_new & has_noise,
            again,
            lambda: (state.loss, state.best_loss, state.best_at_checkpoint),
        )
        return state._replace(
            loss=loss,
            best_loss=best,
            best_at_checkpoint=at_checkpoint,
            batch_size=tf.where(has_noise, size, state.batch_size),
        )

    def _mean_loss(self, logits_fn, loss_fn, images, seed):
        """The loss as `base.evaluate_gradient` averages it, no gradient."""
        if self.num_eot == 1:
            return loss_fn(logits_fn(images, seed))
        draws = [
            loss_fn(logits_fn(images, base.draw_seed(seed, draw)))
            for draw in range(self.num_eot)
        ]
        return tf.add_n(draws) / self.num_eot


def _finite_or(values, others):
    return tf.where(tf.math.is_finite(values), values, others)


def _move(ball, images, previous, gradient, step_size, momentum):
    step = geometry.per_image(step_size, images) * ball.steepest(gradient)
    target = ball.project(images + step)
    return ball.project(
        images
        + momentum * (target - images)
        + (1.0 - momentum) * (images - previous)
    )


def _accept(state, evaluation, gradient):
    """Updates the iterate and the best point, if the move is finite."""
    finite = tf.math.is_finite(evaluation.loss) & tf.math.is_finite(
        evaluation.gradient_norm
    )
    images, gradient = base.where_finite(
        finite,
        (evaluation.images, gradient),
        (state.images, state.gradient),
    )
    loss = tf.where(finite, evaluation.loss, state.loss)
    rises = finite & (loss > state.loss)
    is_best = finite & (loss > state.best_loss)
    best_images = base.where(is_best, images, state.best_images)
    best_gradient = base.where(is_best, gradient, state.best_gradient)
    return state._replace(
        images=images,
        evaluated=evaluation,
        gradient=gradient,
        previous=state.images,
        loss=loss,
        best_images=best_images,
        best_gradient=best_gradient,
        best_loss=tf.where(is_best, loss, state.best_loss),
        increases=state.increases + tf.cast(rises, tf.int32),
    )


def _look_at_step_size(state, length):
    """Conditions 1 and 2 at a checkpoint that ends `length` steps."""
    enough = _ENOUGH_INCREASES * tf.cast(length, tf.float32)
    oscillates = tf.cast(state.increases, tf.float32) <= enough
    stuck = ~state.was_halved & (state.best_loss <= state.best_at_checkpoint)
    halve = oscillates | stuck
    return state._replace(
        images=base.where(halve, state.best_images, state.images),
        gradient=base.where(halve, state.best_gradient, state.gradient),
        loss=tf.where(halve, state.best_loss, state.loss),
        step_size=tf.where(halve, state.step_size / 2.0, state.step_size),
        increases=tf.zeros_like(state.increases),
        best_at_checkpoint=state.best_loss,
        was_halved=halve,
    )


def build(
    num_steps=100, loss="cross_entropy", num_targets=9, num_eot=1
) -> APGD:
    """Builds an `APGD` attack from a config section.

    Raises:
        UserError: If the loss is unknown or a count is not one.
    """
    return APGD(
        base.check_count("num_steps", num_steps),
        loss,
        base.check_count("num_targets", num_targets, smallest=0),
        base.check_count("num_eot", num_eot),
    )
