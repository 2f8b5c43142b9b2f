"""Square: random search by square-shaped changes, without gradients.

For l_inf a change sets one window of the image to clean +- epsilon, one sign a
channel; for l2 it moves the perturbation's mass from one window to another, in
the shape of a bump. A change is kept if the margin grows. Windows shrink by the
authors' schedule, which is stated for 10,000 queries and rescaled. Here each
example draws its own windows, and the l2 start is a grid of random signs.

References:
    Andriushchenko et al., "Square attack: a query-efficient black-box
    adversarial attack via random search", ECCV 2020.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ib_keras import seeds as seeds_lib
from ib_keras.attacks import base
from ib_keras.attacks import geometry
from ib_keras.attacks import losses
from ib_keras.errors import UserError

# After so many queries out of 10,000 the share of changed pixels is halved.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_GRID = 5
_TINY = 1e-12

# Constants that an example's seed is folded with, one per purpose.
_START, _ROW, _SIGN = 1, 2, 3


def level(query: int, num_queries: int) -> int:
    """How often the share of pixels in a window has been halved at a query.

    Args:
        query: From 0.
        num_queries: The budget.

    Returns:
        0 to 9.
    """
    scaled = int(query / num_queries * 10000)
    return sum(scaled > limit for limit in _HALVINGS)


class State(NamedTuple):
    """See `base.Attack`; `best` is the best point, `margin` its margin."""

    images: tf.Tensor
    evaluated: base.Evaluation
    ball: geometry.Ball
    labels: tf.Tensor
    seeds: tf.Tensor
    best: tf.Tensor
    margin: tf.Tensor


class Square(base.GradientAttack):
    """Random search over windows.

    Args:
        num_steps: Queries; 5000 in AutoAttack. One more evaluates the last
            proposal.
        initial_share: Share of pixels in the first windows.
    """

    gradients_per_step = 0
    evaluates_proposal = False
    varying = ("num_steps", "levels")

    def __init__(self, num_steps, initial_share):
        self.num_steps = num_steps
        self.levels = np.int32([level(i, num_steps) for i in range(num_steps)])
        self._initial_share = initial_share

    def init(self, logits_fn, images, labels, threat_model, seeds):
        """Starts from vertical stripes (l_inf) or a grid of signs (l2)."""
        del logits_fn
        ball = geometry.ball(images, threat_model)
        shape = images.shape[1:]
        start_seeds = seeds_lib.fold(seeds, _START)
        if isinstance(ball, geometry.L2Ball):
            signs = _signs(start_seeds, (_GRID, _GRID, shape[2]))
            rows = np.arange(shape[0]) * _GRID // shape[0]
            columns = np.arange(shape[1]) * _GRID // shape[1]
            signs = tf.gather(tf.gather(signs, rows, axis=1), columns, axis=2)
        else:
            signs = _signs(start_seeds, (1, shape[1], shape[2]))
            signs = tf.tile(signs, [1, shape[0], 1, 1])
        start = ball.full_step(signs)
        lowest = tf.fill([tf.shape(images)[0]], -float("inf"))
        return State(
            images=start,
            evaluated=base.not_evaluated(start),
            ball=ball,
            labels=labels,
            seeds=seeds,
            best=images,
            margin=lowest,
        )

    def step(self, logits_fn, state, iteration):
        """Evaluates the proposal, keeps the better, and proposes."""
        logits = logits_fn(
            state.images, base.model_seed(state.seeds, iteration)
        )
        loss = losses.margin(logits, state.labels)
        evaluated = base.evaluated(state.images, logits, state.labels, loss)
        # NaN where a logit is not finite, and NaN compares as false: such a
        # point is never kept.
        better = evaluated.margin > state.margin
        best = base.where(better, state.images, state.best)
        propose = (
            self._propose_l2
            if isinstance(state.ball, geometry.L2Ball)
            else self._propose_linf
        )
        example_seeds = seeds_lib.fold(state.seeds, _ROW, iteration)
        return state._replace(
            images=propose(state.ball, best, example_seeds, iteration),
            evaluated=evaluated,
            best=best,
            margin=tf.where(better, evaluated.margin, state.margin),
        )

    def _sizes(self, shape, smallest, odd):
        """Window sizes by level, as static numbers."""
        sizes = []
        for halvings in range(len(_HALVINGS) + 1):
            share = self._initial_share / 2**halvings
            size = max(round(math.sqrt(share * shape[0] * shape[1])), smallest)
            size += odd and size % 2 == 0
            sizes.append(min(size, shape[0], shape[1]))
        return sizes

    def _level(self, iteration):
        return tf.convert_to_tensor(self.levels)[iteration]

    def _propose_linf(self, ball, best, example_seeds, iteration):
        shape = best.shape[1:]
        sizes = tf.constant(self._sizes(shape, 1, odd=False))
        size = sizes[self._level(iteration)]
        inside = _inside(
            *_corners(example_seeds, shape, size, 1)[0], size, shape
        )
        signs = _signs(seeds_lib.fold(example_seeds, _SIGN), (1, 1, shape[2]))
        # 2 epsilon from any point of the ball, projected, is on its face.
        moved = ball.project(
            best + 2.0 * geometry.per_image(ball.epsilon, best) * signs
        )
        return tf.where(inside, moved, best)

    def _propose_l2(self, ball, best, example_seeds, iteration):
        shape = best.shape[1:]
        sizes = self._sizes(shape, 3, odd=True)
        bumps = tf.constant(
            np.stack([_bump(size, shape) for size in sizes]), tf.float32
        )
        bump = bumps[self._level(iteration)]
        size = tf.constant(sizes)[self._level(iteration)]
        corners = _corners(example_seeds, shape, size, 2)
        first = _inside(*corners[0], size, shape)
        second = _inside(*corners[1], size, shape)
        sign_seeds = seeds_lib.fold(example_seeds, _SIGN)
        signs = _signs(sign_seeds, (1, 1, shape[2]))
        flips = seeds_lib.uniform(seeds_lib.fold(sign_seeds, 1), (1,))[:, 0]
        placed = _place(bump, *corners[0], shape, flips > 0.5)[..., None]
        delta = best - ball.clean

        axes = [1, 2]  # One norm per channel, as in the authors' code.

        def norm(x):
            return tf.sqrt(tf.reduce_sum(x * x, axis=axes, keepdims=True))

        zero = tf.zeros_like(delta)
        old = tf.where(first, delta, zero)
        either = norm(tf.where(first | second, delta, zero))
        new = placed * signs + old / (norm(old) + _TINY)
        new = tf.where(first, new, zero)
        epsilon = geometry.per_image(ball.epsilon, best)
        used = geometry.per_image(geometry.l2_norm(delta), best)
        free = tf.maximum(epsilon**2 - used**2, 0.0) / shape[2]
        new = new / (norm(new) + _TINY) * tf.sqrt(free + either**2)
        delta = tf.where(first, new, tf.where(second, zero, delta))
        return ball.full_step(delta)


def _signs(example_seeds, shape):
    unit = seeds_lib.uniform(example_seeds, shape, -1.0, 1.0)
    return tf.where(unit < 0.0, -1.0, 1.0)


def _corners(example_seeds, shape, size, count):
    """Upper left corners of `count` windows, int32 `[batch]` each."""
    unit = seeds_lib.uniform(example_seeds, (count, 2))
    room = tf.stack([shape[0] - size + 1, shape[1] - size + 1])
    places = tf.cast(unit * tf.cast(room, tf.float32), tf.int32)
    places = tf.minimum(places, room - 1)
    return [(places[:, i, 0], places[:, i, 1]) for i in range(count)]


def _inside(row, column, size, shape):
    """Which pixels are in the window, bool `[batch, height, width, 1]`."""
    rows = tf.range(shape[0])[None] - row[:, None]
    columns = tf.range(shape[1])[None] - column[:, None]
    rows = (rows >= 0) & (rows < size)
    columns = (columns >= 0) & (columns < size)
    return rows[:, :, None, None] & columns[:, None, :, None]


def _half_bump(height, width):
    """A pyramid of growing rectangles, of unit norm."""
    bump = np.zeros([height, width])
    rows, columns = height // 2 + 1, width // 2 + 1
    top, left = rows - 1, columns - 1
    for level in range(max(rows, columns)):
        length = 2 * level + 1
        bump[
            max(top, 0) : min(top + length, height),
            max(left, 0) : min(left + length, width),
        ] += 1.0 / (level + 1) ** 2
        top, left = top - 1, left - 1
    return bump / np.linalg.norm(bump)


def _bump(size, shape):
    """The change in a window: one half up, one half down, padded."""
    upper = _half_bump(size // 2, size) if size > 1 else np.zeros([0, size])
    bump = np.concatenate([upper, -_half_bump(size - size // 2, size)])
    bump /= np.linalg.norm(bump)
    side = max(shape[0], shape[1])
    return np.pad(bump, ((0, side - size), (0, side - size)))


def _place(bump, row, column, shape, is_flipped):
    """Moves the bump to each example's window, `[batch, height, width]`."""
    side = bump.shape[0]
    rows = (tf.range(shape[0])[None] - row[:, None]) % side
    columns = (tf.range(shape[1])[None] - column[:, None]) % side

    def take(array, first, second):
        lines = tf.gather(array, first)
        return tf.gather(lines, second, axis=2, batch_dims=1)

    upright = take(bump, rows, columns)
    sideways = take(tf.transpose(bump), rows, columns)
    return tf.where(is_flipped[:, None, None], sideways, upright)


def build(num_steps=5000, initial_share=0.8) -> Square:
    """Builds a `Square` attack from a config section.

    Raises:
        UserError: If the count is not one or the share not in (0, 1].
    """
    if not 0 < initial_share <= 1:
        raise UserError(
            "initial_share is not a share of the pixels",
            received=initial_share,
            expected="above 0, at most 1",
            fix="AutoAttack uses 0.8.",
        )
    return Square(base.check_count("num_steps", num_steps), initial_share)
