"""The losses that attacks maximise: per example, unreduced.

References:
    Croce and Hein, "Reliable evaluation of adversarial robustness with an
    ensemble of diverse parameter-free attacks", ICML 2020 (DLR);
    Gowal et al., "An alternative surrogate loss for PGD-based adversarial
    testing", 2019 (margin per target).
"""

from collections.abc import Callable

import tensorflow as tf

from ib_keras.errors import unknown_name

# Below any difference of logits that float32 distinguishes from a tie.
_TINY = 1e-12


def _of(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    return tf.gather(logits, classes, axis=1, batch_dims=1)


def _largest_other(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    logits = tf.convert_to_tensor(logits)
    is_label = tf.one_hot(
        labels, logits.shape[1], on_value=True, off_value=False
    )
    lowest = tf.constant(logits.dtype.min, logits.dtype)
    return tf.reduce_max(tf.where(is_label, lowest, logits), axis=1)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """-log softmax(logits)[label].

    Args:
        logits: float32 `[batch, classes]`.
        labels: int32 `[batch]`.

    Returns:
        float32 `[batch]`, in nats.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


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
    low = tf.reduce_mean(largest[:, 2:], axis=1)
    return difference / (largest[:, 0] - low + _TINY)


LOSSES = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}
TARGETED_LOSSES = {
    "targeted_margin": targeted_margin,
    "targeted_dlr": targeted_dlr,
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
    if name not in LOSSES:
        raise unknown_name("attack loss", name, LOSSES, "Set loss to it.")
    return LOSSES[name]
