"""The interface of an attack, and functions of all gradient attacks.

An attack is a state machine over a batch. It proposes images and never decides:
the runner has the loop, restarts, targets, the ball, judgements and the ledger.
"""

import copy
import math
from collections.abc import Callable
from collections.abc import Hashable
from typing import Any
from typing import NamedTuple
from typing import Protocol
from typing import runtime_checkable

import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import losses
from ib_keras.errors import UserError
from ib_keras.types import LogitsFn
from ib_keras.types import ThreatModel
from ib_keras.types import check_count as check_count  # For attacks.


class Evaluation(NamedTuple):
    """The evaluation of one iterate; every field begins with the batch.

    Attributes:
        images: float32 `[batch, height, width, channels]`, the iterate.
        margin: float32 `[batch]`, largest other logit - logit of the label,
            by the attack's own draw of noise. NaN where a logit is not finite;
            -infinity where the model was not evaluated.
        is_wrong: bool `[batch]`, whether the prediction was not the label.
            Never true where a logit is not finite.
        loss: float32 `[batch]`, what the attack maximises.
        gradient_norm: float32 `[batch]`, largest |gradient| over pixels: it
            is 0 only where the gradient is, while a sum of squares
            underflows. Not finite where the gradient is not; -1 where none
            was taken.
    """

    images: tf.Tensor
    margin: tf.Tensor
    is_wrong: tf.Tensor
    loss: tf.Tensor
    gradient_norm: tf.Tensor


@runtime_checkable
class Attack(Protocol):
    """One attack, without restarts.

    The state is a NamedTuple whose tensors all begin with the batch axis, so
    that the runner can drop examples from it at any time. It has at least
    `images`, the next iterate, and `evaluated`, an `Evaluation` of the last
    iterate that was evaluated. `step` must be traceable unless
    `runs_eagerly` is set.

    Attributes:
        num_steps: Steps in one run.
        gradients_at_init: Gradient evaluations per example in `init`.
        gradients_per_step: Gradient evaluations per example in `step`.
        evaluates_proposal: True if `evaluated` is always of `images`, so
            `init` evaluates too; False for evaluate-then-move attacks,
            whose last iterate the runner evaluates.
        runs_eagerly: True for code of other libraries that cannot be traced.
        num_targets: None for an untargeted attack. Else `init` takes
            `targets`, int32 `[batch]`, and the runner makes a run for each of
            so many classes, by falling clean logit; 0 means all others.
        varying: Names of attributes that are numbers or arrays of numbers,
            which `init` and `step` take as tensors. Attacks that differ in
            them alone share compiled functions; without the attribute none
            do.
    """

    num_steps: int
    gradients_at_init: int
    gradients_per_step: int
    evaluates_proposal: bool
    runs_eagerly: bool
    num_targets: int | None

    def init(
        self,
        logits_fn: LogitsFn,
        images: tf.Tensor,
        labels: tf.Tensor,
        threat_model: ThreatModel,
        seeds: tf.Tensor,
    ) -> NamedTuple:
        """Makes the state from clean images and one seed per example."""

    def step(
        self, logits_fn: LogitsFn, state: NamedTuple, iteration: tf.Tensor
    ) -> NamedTuple:
        """Makes one step; `iteration` counts from 0."""


class GradientAttack:
    """Defaults for attacks that take one gradient per step."""

    gradients_at_init = 0
    gradients_per_step = 1
    evaluates_proposal = False
    runs_eagerly = False
    num_targets = None
    varying: tuple[str, ...] = ()


def num_targets(attack: Attack, num_classes: int) -> int:
    """Runs that one restart of an attack takes: one, or one for each target.

    There are no more targets than classes besides the label's, and 0 means
    all of these.
    """
    if attack.num_targets is None:
        return 1
    others = num_classes - 1
    return min(attack.num_targets or others, others)


def kind(attack: Attack) -> Hashable:
    """Base class of attacks that share compiled functions."""
    varying = getattr(attack, "varying", None)
    if varying is None:
        return id(attack)
    rest = {k: v for k, v in vars(attack).items() if k not in varying}
    # Compiled code depends on whether there are targets, not on how many.
    if rest.get("num_targets") is not None:
        rest["num_targets"] = True
    found = (type(attack), tuple(sorted(rest.items())))
    try:
        hash(found)
    except TypeError:
        return id(attack)
    return found


def numbers(attack: Attack) -> dict[str, Any]:
    """The attributes that compiled functions take as tensors, by name."""
    varying = getattr(attack, "varying", ())
    return {name: tf.constant(getattr(attack, name)) for name in varying}


def with_numbers(attack: Attack, tensors: dict[str, tf.Tensor]) -> Attack:
    """The attack with tensors in place of its numbers."""
    other = copy.copy(attack)
    for name, tensor in tensors.items():
        setattr(other, name, tensor)
    return other


def repeat(first, last, body: Callable, values: tuple) -> tuple:
    """Runs `values = body(index, *values)` for each index, as a graph's loop.

    Args:
        first: int32 scalar, the first index.
        last: int32 scalar, after the last one.
        body: Takes an int32 scalar and the values; returns new ones, of the
            same shapes and dtypes.
        values: Structures of tensors.

    Returns:
        The values after the last.
    """

    def once(index, *values):
        found = body(index, *values)
        if not tf.executing_eagerly():
            # Foreign code may have lost a shape.
            tf.nest.map_structure(
                lambda new, old: new.set_shape(old.shape), found, values
            )
        return index + 1, *found

    return tf.while_loop(
        lambda index, *values: index < last,
        once,
        (tf.convert_to_tensor(first), *values),
    )[1:]


def is_finite(logits: tf.Tensor) -> tf.Tensor:
    """Which rows of logits `[batch, classes]` are finite, bool `[batch]`."""
    return tf.reduce_all(tf.math.is_finite(logits), axis=1)


def is_wrong(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Where the prediction is not the label.

    Args:
        logits: `[batch, classes]`.
        labels: int32 `[batch]`.

    Returns:
        bool `[batch]`; false where a logit is not finite.
    """
    predictions = tf.argmax(logits, axis=1, output_type=tf.int32)
    return (predictions != labels) & is_finite(logits)


def not_evaluated(images: tf.Tensor) -> Evaluation:
    """The evaluation before the first one, which is never recorded."""
    lowest = tf.fill([tf.shape(images)[0]], -float("inf"))
    return Evaluation(
        images=images,
        margin=lowest,
        is_wrong=tf.zeros_like(lowest, tf.bool),
        loss=lowest,
        gradient_norm=-tf.ones_like(lowest),
    )


def evaluated(
    images: tf.Tensor,
    logits: tf.Tensor,
    labels: tf.Tensor,
    loss: tf.Tensor,
    gradient: tf.Tensor | None = None,
) -> Evaluation:
    """Makes an `Evaluation` of the outputs of a model for `images`.

    Args:
        images: float32 `[batch, height, width, channels]`.
        logits: float32 `[batch, classes]`.
        labels: int32 `[batch]`.
        loss: float32 `[batch]`, larger for a better attack.
        gradient: In the shape of images; None where none was taken.

    Returns:
        An `Evaluation`.
    """
    margin = losses.margin(logits, labels)
    nan = tf.constant(float("nan"), margin.dtype)
    norm = -tf.ones_like(margin)
    if gradient is not None:
        flat = tf.reshape(gradient, [-1, math.prod(gradient.shape[1:])])
        norm = tf.reduce_max(tf.abs(flat), axis=1)
        # XLA's maximum may ignore NaN. Times zero all but infinity and NaN is
        # zero, and this product is one pass over memory.
        zero = tf.linalg.matvec(flat, tf.zeros([flat.shape[1]]))
        norm = tf.where(zero == 0.0, norm, nan)
    return Evaluation(
        images=images,
        margin=tf.where(is_finite(logits), margin, nan),
        is_wrong=is_wrong(logits, labels),
        loss=loss,
        gradient_norm=norm,
    )


def evaluate_gradient(
    logits_fn: LogitsFn,
    loss_fn: Callable[[tf.Tensor], tf.Tensor],
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
    num_eot: int = 1,
) -> tuple[Evaluation, tf.Tensor]:
    """Evaluates the loss at `images` and its gradient.

    With `num_eot` above 1 loss and gradient are averages over that many fresh
    draws of the model's noise, and the judgement is that of the mean of their
    probabilities: the same classifier with more samples.

    Args:
        logits_fn: The model.
        loss_fn: logits `[batch, classes]` -> loss `[batch]`.
        images: float32 `[batch, height, width, channels]`.
        labels: int32 `[batch]`.
        seed: int32 `[2]`, of the model's noise.
        num_eot: Draws to take the expectation over.

    Returns:
        The `Evaluation`, and the gradient in the shape of `images`.

    Raises:
        UserError: If the model has no gradient with respect to images.
    """

    def once(seed):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            logits = logits_fn(images, seed)
            loss = loss_fn(logits)
        # The gradient of the sum is each example's own, in any batch.
        gradient = tape.gradient(loss, images)
        if gradient is None:
            raise UserError(
                "The model has no gradient with respect to images",
                received="None",
                expected="a differentiable function from images to logits",
                fix="Remove rounding, integer casts and NumPy from it, or "
                "take an attack that needs no gradient.",
            )
        # A SavedModel's functions lose the static batch size.
        return logits, loss, tf.ensure_shape(gradient, images.shape)

    if num_eot == 1:
        logits, loss, gradient = once(seed)
    else:
        logits, loss, gradient = mean_over_draws(once, seed, num_eot)
    return evaluated(images, logits, labels, loss, gradient), gradient


def mean_over_draws(
    ask: Callable[[tf.Tensor], tuple[tf.Tensor, ...]],
    seed: tf.Tensor,
    num_draws: int | tf.Tensor,
) -> tuple[tf.Tensor, ...]:
    """Averages over draws of a model's noise, which a graph's loop makes.

    Args:
        ask: Seed of a draw -> logits `[batch, classes]`, and what else is
            averaged.
        seed: int32 `[2]`, which those of the draws follow from.
        num_draws: How many, 2 or more: a number or an int32 scalar.

    Returns:
        The logarithm of the mean of the probabilities; the mean of the rest.
    """
    logits, *others = ask(draw_seed(seed, 0))

    def another(draw, logits, *others):
        more_logits, *more = ask(draw_seed(seed, draw))
        logits = log_add_exp(logits, tf.nn.log_softmax(more_logits))
        return logits, *(a + b for a, b in zip(others, more, strict=True))

    logits, *others = repeat(
        1, num_draws, another, (tf.nn.log_softmax(logits), *others)
    )
    count = tf.cast(num_draws, tf.float32)
    return logits - tf.math.log(count), *(other / count for other in others)


def log_add_exp(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """log(exp(a) + exp(b)), elementwise on tensors of one shape."""
    return tf.reduce_logsumexp(tf.stack([a, b]), axis=0)


def where(rows: tf.Tensor, images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Selects images where `rows`, bool `[batch]`, is true, else the others.

    Both are `[batch, height, width, channels]`.
    """
    # This kernel copies rows; that of `tf.where` broadcasts every pixel.
    return tf.raw_ops.Select(condition=rows, x=images, y=others)


def evaluate_and_move(
    logits_fn: LogitsFn,
    loss_fn: Callable[[tf.Tensor], tf.Tensor],
    move: Callable[[tf.Tensor], tf.Tensor],
    state: Any,
    iteration: tf.Tensor,
    num_eot: int = 1,
) -> Any:
    """A step of an attack that follows the gradient at its iterate.

    Args:
        logits_fn: The model.
        loss_fn: logits `[batch, classes]` -> loss `[batch]`.
        move: The gradient, of the images' shape -> the next iterate, in the
            ball and the box.
        state: With `images`, `labels`, `seeds` and `evaluated`.
        iteration: int32 scalar.
        num_eot: Draws to take the expectation over.

    Returns:
        The state with the evaluation of its iterate and the next one. Where
        the gradient is not finite the iterate stays.
    """
    evaluation, gradient = evaluate_gradient(
        logits_fn,
        loss_fn,
        state.images,
        state.labels,
        model_seed(state.seeds, iteration),
        num_eot,
    )
    finite = tf.math.is_finite(evaluation.gradient_norm)
    moved = (move(gradient),)
    (images,) = where_finite(finite, moved, (state.images,))
    return state._replace(images=images, evaluated=evaluation)


def where_finite(
    finite: tf.Tensor, new: tuple[tf.Tensor, ...], old: tuple[tf.Tensor, ...]
) -> tuple[tf.Tensor, ...]:
    """Selects the new images where `finite`, bool `[batch]`, else the old ones.

    Where all are finite, which is the usual case, nothing is copied.
    """
    return tf.cond(
        tf.reduce_all(finite),
        lambda: new,
        lambda: tuple(
            where(finite, *both) for both in zip(new, old, strict=True)
        ),
    )


def model_seed(example_seeds: tf.Tensor, *purpose) -> tf.Tensor:
    """The seed int32 [2] of the model's noise for one step of a batch.

    The model draws for a whole batch at once, so its noise cannot depend on
    each example's seed; it is that of the first one.
    """
    return seeds.fold(example_seeds[0], *purpose)


def draw_seed(seed: tf.Tensor, draw) -> tf.Tensor:
    """The seed of one of the draws that an expectation is taken over."""
    return seeds.fold(seed, draw)
