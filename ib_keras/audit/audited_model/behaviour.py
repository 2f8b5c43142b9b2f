"""Observations from a few calls of a model, which diagnostics read.

A few forward passes and one gradient on clean examples show whether answers
depend on randomness, on the batch or on earlier calls, and whether there is a
gradient. Only the diagnostics judge them.
"""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import outputs
from ib_keras.audit.audited_model import selection
from ib_keras.errors import reason
from ib_keras.types import LogitsFn

_REPEATS = 5
_MOST = 64
_MOST_SINGLE = 8
_GRADIENT_IMAGES = 16


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """Observations from a few calls.

    Attributes:
        num_images: Number of clean images.
        num_correct: Correct answers in each of five equal calls.
        max_distance: Largest L2 distance between the first call's logits and
            another's, each row divided by its norm; NaN rows left out.
        is_random: Whether equal calls, seed included, differ.
        batch_difference: Largest difference of a logit between batches of
            64, 7, 1 and another order, over the largest |logit| (at least
            1); None where equal calls differ already.
        batch_size_differing: The batch that differed most; "" for none.
        changed_variables: Names of variables that calls changed.
        state: `AuditedModel.state_hash` after loading, before the first call.
        augmentation: Layers of augmentation in the graph.
        random_ops: Random operations in the graph.
        assign_ops: Operations in the graph that write variables.
        gradient: "present", "zero" (all exactly 0), "none" or "raises".
        gradient_problem: The error that was raised, or "".
        zero_gradient_share: Share of images whose whole gradient is 0.
        nonfinite_share: Share of images with a logit that is not finite.
        nonfinite_gradient_share: The same of gradients.
        saturated_share: Share of images where a probability is 1 in float32.
        outputs: Kind of the model's outputs.
        num_classes: How many logits there are.
        accuracy: On the images.
        order_accuracy: The same under the best other order of the classes;
            None where the order is right.
        order: For each of the model's classes the label that it seems to
            mean; None where the order is right.
    """

    num_images: int
    num_correct: tuple[int, ...]
    max_distance: float
    is_random: bool
    batch_difference: float | None
    batch_size_differing: str
    changed_variables: tuple[str, ...]
    state: dict[str, str]
    augmentation: tuple[str, ...]
    random_ops: tuple[str, ...]
    assign_ops: tuple[str, ...]
    gradient: str
    gradient_problem: str
    zero_gradient_share: float
    nonfinite_share: float
    nonfinite_gradient_share: float
    saturated_share: float
    outputs: str
    num_classes: int
    accuracy: float
    order_accuracy: float | None
    order: tuple[int, ...] | None

    def notes(self) -> list[str]:
        """Sentences for the summary of the model."""
        notes = []
        if self.augmentation and self.is_random:
            notes.append(
                "The model is random because layers of augmentation "
                f"({', '.join(self.augmentation)}) are active: re-export it "
                "with training=False."
            )
        elif self.is_random:
            notes.append(
                "Equal calls of the model give different answers; no seed "
                "repeats them, so judgements take several calls."
            )
        if self.changed_variables:
            notes.append(
                "The model changes its own variables when it is called: "
                f"{', '.join(self.changed_variables[:5])}."
            )
        if self.order is not None:
            notes.append(
                f"The accuracy is {self.accuracy:.3f}, but "
                f"{self.order_accuracy:.3f} if the classes had another order: "
                "the labels of the data are not those of the model."
            )
        return notes


def observe(
    model: Any,
    logits_fn: LogitsFn,
    images: np.ndarray,
    labels: np.ndarray,
    mode: str = "mean",
    state: dict[str, str] | None = None,
) -> Behaviour:
    """Calls a model a few times.

    Args:
        model: An `AuditedModel` with an `io_spec`.
        logits_fn: Its function of the mode that is audited.
        images: float32 `[examples, ...]`, clean; the first 64 are used, and
            up to 500 for the order of the classes.
        labels: int `[examples]`.
        mode: "mean" or "stochastic".
        state: `model.state_hash()` before the first call; None takes it now.

    Returns:
        A `Behaviour`.
    """
    state = model.state_hash() if state is None else state
    few, few_labels = images[:_MOST], labels[:_MOST]
    seed = seeds.from_int(0)
    calls = [_call(logits_fn, few, seed) for _ in range(_REPEATS)]
    correct = tuple(int((c.argmax(axis=1) == few_labels).sum()) for c in calls)
    distance = max(_distance(calls[0], other) for other in calls[1:])
    is_random = len(set(correct)) > 1 or distance > 1e-4
    difference, where = None, ""
    if not is_random:
        # Noise by a seed is drawn for a whole batch, so the mode without noise
        # is tested.
        quiet = logits_fn if mode == "mean" else model.logits_fn("mean")
        difference, where = _batch_difference(quiet, few, seed)
    gradient = _gradient(logits_fn, images[:_GRADIENT_IMAGES], seed)
    trial = selection.Trial(
        model.io_spec,
        selection.log_softmax(batched(logits_fn, images[:500], seed)),
        np.asarray(labels[:500]),
    )
    found = selection.permutation(trial)
    after = model.state_hash()
    randomness = model.endpoint.randomness()
    finite = np.isfinite(calls[0]).all(axis=1)
    return Behaviour(
        num_images=len(few),
        num_correct=correct,
        max_distance=distance,
        is_random=is_random,
        batch_difference=difference,
        batch_size_differing=where,
        changed_variables=changed(state, after),
        state=state,
        augmentation=tuple(randomness["augmentation"]),
        random_ops=tuple(randomness["random_ops"]),
        assign_ops=tuple(randomness["assign_ops"]),
        **gradient,
        nonfinite_share=float(np.mean(~finite)),
        saturated_share=outputs.saturated_share(calls[0][finite])
        if finite.any()
        else 0.0,
        outputs=model.io_spec.outputs,
        num_classes=model.io_spec.num_classes,
        accuracy=trial.accuracy,
        order_accuracy=found and found[0],
        order=found and tuple(found[1]),
    )


def changed(before: dict[str, str], after: dict[str, str]) -> tuple[str, ...]:
    """Names of the variables whose hashes differ."""
    return tuple(
        name.split(":", 1)[1]
        for name, value in after.items()
        if before.get(name) != value
    )


def _call(logits_fn, images, seed):
    return logits_fn(tf.constant(images), seed).numpy()


def batched(logits_fn, images, seed, size=_MOST) -> np.ndarray:
    """Logits `[examples, classes]`, in batches of `size`."""
    return np.concatenate(
        [
            _call(logits_fn, images[first : first + size], seed)
            for first in range(0, len(images), size)
        ]
    )


def _distance(first, second):
    """The largest distance of two answers, without rows that are not finite."""
    both = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
    # An answer that is finite in one call only is a difference.
    if (np.isfinite(first).all(1) != np.isfinite(second).all(1)).any():
        return 2.0  # The largest distance of two vectors of length 1.
    first, second = (
        x[both] / np.maximum(np.linalg.norm(x[both], axis=1), 1e-12)[:, None]
        for x in (first.astype(np.float64), second.astype(np.float64))
    )
    if not len(first):
        return 0.0
    return float(np.linalg.norm(first - second, axis=1).max())


def _batch_difference(logits_fn, images, seed):
    whole = _call(logits_fn, images, seed)
    order = np.random.default_rng(0).permutation(len(images))
    permuted = np.empty_like(whole)
    permuted[order] = _call(logits_fn, images[order], seed)
    answers = {"another order": permuted}
    for size in (7, 1):
        rows = images[:_MOST_SINGLE] if size == 1 else images
        answers[f"batches of {size}"] = batched(logits_fn, rows, seed, size)
    finite = np.isfinite(whole).all(axis=1)
    scale = max(1.0, float(np.abs(whole[finite]).max(initial=0.0)))
    largest, where = 0.0, ""
    for name, answer in answers.items():
        rows = finite[: len(answer)]
        gap = np.abs(answer - whole[: len(answer)])[rows]
        # An answer that is finite in one batch only is a difference too.
        gap = float(np.nan_to_num(gap, nan=scale).max(initial=0.0)) / scale
        if gap > largest:
            largest, where = gap, name
    return largest, where


def _gradient(logits_fn, images, seed):
    """Whether the largest logit has a gradient."""
    images = tf.constant(images)
    found = {
        "gradient": "present",
        "gradient_problem": "",
        "zero_gradient_share": 0.0,
        "nonfinite_gradient_share": 0.0,
    }
    try:
        with tf.GradientTape() as tape:
            tape.watch(images)
            # Differences, since sums of log-probabilities cancel.
            top = tf.math.top_k(logits_fn(images, seed), 2).values
            gap = top[:, 0] - top[:, 1]
        gradient = tape.gradient(gap, images)
    except Exception as error:  # A foreign graph can raise any error.
        problem = f"{type(error).__name__}: {reason(error)}"
        return found | {"gradient": "raises", "gradient_problem": problem}
    if gradient is None:
        return found | {"gradient": "none"}
    flat = gradient.numpy().reshape(len(images), -1)
    zero = (flat == 0).all(axis=1)
    found["zero_gradient_share"] = float(zero.mean())
    found["nonfinite_gradient_share"] = float(
        (~np.isfinite(flat)).any(axis=1).mean()
    )
    return found | {"gradient": "zero" if zero.all() else "present"}
