"""The losses that attacks maximise: per example, unreduced.

No loss depends on a number that is added to all logits of an example, nor,
beyond float32's own resolution of the logits, does its rounding: differences
are taken before anything else is.

References:
    Croce and Hein, "Reliable evaluation of adversarial robustness with an
    ensemble of diverse parameter-free attacks", ICML 2020 (DLR);
    Gowal et al., "An alternative surrogate loss for PGD-based adversarial
    testing", 2019 (margin per target);
    Xie et al., "Towards million-scale adversarial robustness evaluation with
    stronger individual attacks", arXiv 2411.15210, 2024 (probability margin).
"""

from collections.abc import Callable

import tensorflow as tf

from ib_keras.errors import unknown_name

# Below any difference of logits that float32 distinguishes from a tie.
_TINY = 1e-12


def _of(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    return tf.gather(logits, classes, axis=1, batch_dims=1)


def _others(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The logits with the label's below all others."""
    logits = tf.convert_to_tensor(logits)
    is_label = tf.one_hot(
        labels, logits.shape[1], on_value=True, off_value=False
    )
    lowest = tf.constant(logits.dtype.min, logits.dtype)
    return tf.where(is_label, lowest, logits)


def _largest_other(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.reduce_max(_others(logits, labels), axis=1)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """-log softmax(logits)[label].

    Args:
        logits: float32 `[batch, classes]`.
        labels: int32 `[batch]`.

    Returns:
        float32 `[batch]`, in nats.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def log_largest_other(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """max_{j != y} log softmax(logits)[j], a term of the margin.

    Args:
        logits: float32 `[batch, classes]`.
        labels: int32 `[batch]`.

    Returns:
        float32 `[batch]`, in nats.
    """
    return _largest_other(tf.nn.log_softmax(logits), labels)


def margin(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """max_{j != y} z_j - z_y, not clipped: above 0 the example is broken.

    Args:
        logits: float32 `[batch, classes]`.
        labels: int32 `[batch]`.

    Returns:
        float32 `[batch]`.
    """
    return _largest_other(logits, labels) - _of(logits, labels)


def targeted_margin(
    logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor
) -> tf.Tensor:
    """z_t - z_y, not clipped.

    Args:
        logits: float32 `[batch, classes]`.
        labels: int32 `[batch]`.
        targets: int32 `[batch]`, other classes.

    Returns:
        float32 `[batch]`.
    """
    return _of(logits, targets) - _of(logits, labels)


def _sorted(logits: tf.Tensor) -> tf.Tensor:
    """The largest four logits, or as many as there are, falling."""
    return tf.math.top_k(logits, min(4, logits.shape[1])).values


def dlr(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Difference of logits ratio: (max_{j != y} z_j - z_y) / (z_(1) - z_(3)).

    z_(i) is the i-th largest logit. Invariant to shifts and positive scales of
    the logits, so it does not saturate; in [-1, 0] where the prediction is
    correct. With two classes there is no z_(3), and the loss is
    the margin.

    Args:
        logits: float32 `[batch, classes]`.
        labels: int32 `[batch]`.

    Returns:
        float32 `[batch]`.
    """
    if logits.shape[1] < 3:
        return margin(logits, labels)
    largest = _sorted(logits)
    scale = largest[:, 0] - largest[:, 2] + _TINY
    return margin(logits, labels) / scale


def targeted_dlr(
    logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor
) -> tf.Tensor:
    """(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2).

    With three classes the denominator has z_(3) alone; with two the loss
    is the targeted margin.

    Args:
        logits: float32 `[batch, classes]`.
        labels: int32 `[batch]`.
        targets: int32 `[batch]`, other classes.

    Returns:
        float32 `[batch]`.
    """
    difference = targeted_margin(logits, labels, targets)
    if logits.shape[1] < 3:
        return difference
    largest = _sorted(logits)
    scale = tf.reduce_mean(largest[:, :1] - largest[:, 2:], axis=1)
    return difference / (scale + _TINY)


def probability_margin(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """log(1 + max_{j != y} p_j - p_y), with p the softmax of the logits.

    The logarithm orders iterates as the probability margin itself does, and
    its gradient has the same direction; but where p_y is next to 1, and the
    margin flat at -1, it goes on as a straight line. With m the best wrong
    class, L the log-sum-exp of all wrong classes' logits and q = exp(z_m - L)
    the share of m among them, p_m = q (1 - p_y), so that

        1 + p_m - p_y = (1 + q) (1 - p_y) = (1 + q) sigmoid(L - z_y),

    whose logarithm float32 has at any p_y; its gradient is that of p_m - p_y
    divided by 1 + p_m - p_y:

        q / (1 + q) grad(z_m - L) + p_y grad(L - z_y).

    Args:
        logits: float32 `[batch, classes]`.
        labels: int32 `[batch]`.

    Returns:
        float32 `[batch]`, above 0 where the example is broken; at most log 2.
    """
    return _log_margin(logits, labels, _largest_other(logits, labels))


def targeted_probability_margin(
    logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor
) -> tf.Tensor:
    """log(1 + p_t - p_y), see `probability_margin`.

    Args:
        logits: float32 `[batch, classes]`.
        labels: int32 `[batch]`.
        targets: int32 `[batch]`, other classes.

    Returns:
        float32 `[batch]`.
    """
    return _log_margin(logits, labels, _of(logits, targets))


def _log_margin(logits, labels, aimed_at):
    others = _others(logits, labels)
    # Everything is relative to the best wrong class: a log-sum-exp next to
    # 1,000 would lose digits. No difference depends on what is subtracted.
    best = tf.stop_gradient(tf.reduce_max(others, axis=1))
    wrong = tf.math.log(tf.reduce_sum(tf.exp(others - best[:, None]), axis=1))
    share = tf.exp(aimed_at - best - wrong)
    below = tf.math.log_sigmoid(wrong - (_of(logits, labels) - best))
    return tf.math.log1p(share) + below


LOSSES = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "probability_margin": probability_margin,
}
TARGETED_LOSSES = {
    "targeted_margin": targeted_margin,
    "targeted_dlr": targeted_dlr,
    "targeted_probability_margin": targeted_probability_margin,
}


def is_targeted(name: str) -> bool:
    """Whether the loss of this name takes targets.

    Raises:
        UserError: If there is no loss of this name.
    """
    if name not in LOSSES and name not in TARGETED_LOSSES:
        valid = [*LOSSES, *TARGETED_LOSSES]
        raise unknown_name("attack loss", name, valid, "Set loss to it.")
    return name in TARGETED_LOSSES


def get(name: str) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Finds an untargeted loss by name.

    Raises:
        UserError: If there is none of this name.
    """
    return _find(name, LOSSES)


def get_targeted(
    name: str,
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """Finds a targeted loss by name.

    Raises:
        UserError: If there is none of this name.
    """
    return _find(name, TARGETED_LOSSES)


def _find(name, known):
    if name not in known:
        raise unknown_name("attack loss", name, known, "Set loss to it.")
    return known[name]
