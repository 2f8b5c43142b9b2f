"""FAB-T: the nearest adversarial image, by projections on boundaries.

Each step linearises the decision boundary between label and target at the
iterate, projects iterate and clean image on it inside the box, and goes to a
point between the two projections. After a success it steps back towards the
clean image. It minimises perturbations instead of maximising a loss, so it
finds adversarial images that loss-based attacks of a fixed radius may miss;
they count if they are inside of the ball.

References:
    Croce and Hein, "Minimally distorted adversarial examples with a fast
    adaptive boundary attack", ICML 2020.
"""

from typing import NamedTuple

import tensorflow as tf

from ib_keras.attacks import base
from ib_keras.attacks import geometry
from ib_keras.attacks import losses

_ALPHA_MAX = 0.1
_ETA = 1.05
_BETA = 0.9
_BISECTIONS = 24  # 24 bits of a float32 radius.


class State(NamedTuple):
    """See `base.Attack`.

    `iterate` may leave the ball; `images` is its projection on the ball.
    `best_distance` is that of the nearest adversarial iterate so far.
    """

    images: tf.Tensor
    iterate: tf.Tensor
    evaluated: base.Evaluation
    ball: geometry.Ball
    labels: tf.Tensor
    targets: tf.Tensor
    seeds: tf.Tensor
    best_distance: tf.Tensor


class FAB(base.GradientAttack):
    """Targeted FAB: one target per run, by falling clean logit.

    Args:
        num_steps: 100 in AutoAttack.
        num_targets: Targets in turn; 9 in AutoAttack, 0 for all others.
        random_start: Whether a run starts at a random point of the ball of
            half the radius; AutoAttack's first restart starts at the image.
    """

    varying = ("num_steps",)

    def __init__(self, num_steps, num_targets, random_start):
        self.num_steps = num_steps
        self.num_targets = num_targets
        self._random_start = random_start

    def init(self, logits_fn, images, labels, threat_model, seeds, targets):
        """Starts at the image or near it."""
        del logits_fn
        ball = geometry.ball(images, threat_model)
        start = images
        if self._random_start:
            start = images + 0.5 * (ball.random_point(seeds) - images)
        far = tf.fill([tf.shape(images)[0]], float("inf"))
        return State(
            images=start,
            iterate=start,
            evaluated=base.not_evaluated(start),
            ball=ball,
            labels=labels,
            targets=targets,
            seeds=seeds,
            best_distance=far,
        )

    def step(self, logits_fn, state, iteration):
        """Evaluates the iterate, then moves towards the boundary."""
        evaluation, gradient = base.evaluate_gradient(
            logits_fn,
            lambda logits: losses.targeted_margin(
                logits, state.labels, state.targets
            ),
            state.iterate,
            state.labels,
            base.model_seed(state.seeds, iteration),
        )
        iterate, distance = _advance(
            state.ball,
            state.iterate,
            gradient,
            evaluation.loss,
            evaluation.is_wrong,
            state.best_distance,
            tf.math.is_finite(evaluation.gradient_norm)
            & tf.math.is_finite(evaluation.loss),
        )
        # An iterate outside of the ball is not proposed.
        here = state.ball.distance(state.iterate)
        is_inside = here <= state.ball.epsilon * (1.0 + 1e-6)
        evaluation = evaluation._replace(
            margin=tf.where(
                is_inside | tf.math.is_nan(evaluation.margin),
                evaluation.margin,
                -float("inf"),
            ),
            is_wrong=evaluation.is_wrong & is_inside,
        )
        return state._replace(
            images=state.ball.project(iterate),
            iterate=iterate,
            evaluated=evaluation,
            best_distance=distance,
        )


def _advance(ball, images, gradient, loss, is_wrong, best, finite):
    """The next iterate, and the smallest adversarial distance so far."""
    clean = ball.clean
    distance = ball.distance(images)
    found = is_wrong & (distance < best)
    best = tf.where(found, distance, best)
    # A success is followed by a step back, to approach the boundary again.
    back = clean + _BETA * (images - clean)
    # The plane: sum(gradient * (x - images)) + loss = 0.
    axes = list(range(1, images.shape.rank))
    offset = tf.reduce_sum(gradient * images, axis=axes) - loss
    start = base.where(is_wrong, back, images)
    here = _project(ball, start, gradient, offset)
    there = _project(ball, clean, gradient, offset)
    near, far = _norm(ball, here - start), _norm(ball, there - clean)
    alpha = tf.minimum(tf.math.divide_no_nan(near, near + far), _ALPHA_MAX)
    alpha = geometry.per_image(alpha, images)
    moved = (1.0 - alpha) * (start + _ETA * (here - start)) + alpha * (
        clean + _ETA * (there - clean)
    )
    moved = tf.clip_by_value(moved, 0.0, 1.0)
    return base.where(finite, moved, images), best


def _norm(ball, difference):
    if isinstance(ball, geometry.L2Ball):
        return geometry.l2_norm(difference)
    axes = list(range(1, difference.shape.rank))
    return tf.reduce_max(tf.abs(difference), axis=axes)


def _project(ball, x, gradient, offset):
    """The nearest point of the plane in the box, by the ball's norm.

    For a step length t each pixel moves towards the plane, at most to the bound
    of the box; the gain grows with t, so t is found by bisection. If the plane
    does not intersect the box, every pixel moves as far as it can.
    """
    axes = list(range(1, x.shape.rank))
    missing = offset - tf.reduce_sum(gradient * x, axis=axes)
    side = geometry.per_image(tf.sign(missing), x)
    slope = gradient * side
    room = tf.where(slope > 0.0, 1.0 - x, x)
    if isinstance(ball, geometry.L2Ball):
        speed = tf.abs(slope)
    else:
        speed = tf.cast(slope != 0.0, tf.float32)
    # At this length every moving pixel is at a bound of the box.
    slowest = tf.reduce_min(
        tf.where(speed > 0.0, speed, float("inf")), axis=axes
    )
    low = tf.zeros_like(missing)
    high = tf.minimum(1.0 / slowest, 1e30)

    def gain(length):
        step = tf.minimum(geometry.per_image(length, x) * speed, room)
        return tf.reduce_sum(tf.abs(slope) * step, axis=axes)

    needed = tf.abs(missing)
    if isinstance(ball, geometry.L2Ball):
        # Lengths span decades: bisect near the length without a box.
        free = tf.reduce_sum(slope * slope, axis=axes)
        low_guess = tf.math.divide_no_nan(needed, free)
        high = tf.minimum(high, low_guess * 1e6)
        low = tf.minimum(low_guess, high)
        for _ in range(2 * _BISECTIONS):
            middle = tf.sqrt(tf.maximum(low, 1e-30) * tf.maximum(high, 1e-30))
            enough = gain(middle) >= needed
            low = tf.where(enough, low, middle)
            high = tf.where(enough, middle, high)
    else:
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            enough = gain(middle) >= needed
            low = tf.where(enough, low, middle)
            high = tf.where(enough, middle, high)
    step = tf.minimum(geometry.per_image(high, x) * speed, room)
    return x + tf.sign(slope) * step


def build(num_steps=100, num_targets=9, random_start=True) -> FAB:
    """Builds a `FAB` attack from a config section."""
    return FAB(
        base.check_count("num_steps", num_steps),
        base.check_count("num_targets", num_targets, smallest=0),
        bool(random_start),
    )
