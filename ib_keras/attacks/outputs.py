"""From the outputs of a model to logits.

Attacks and judgements need the order and the ratios of the classes'
probabilities, so log p serves as logits; where p was rounded to 1 in float32
the gradient is lost, which no wrapper can restore, so it is counted and
reported.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras.errors import UserError
from ib_keras.errors import reason
from ib_keras.errors import unknown_name
from ib_keras.types import KINDS

# Croce and Hein's automatic check takes 1e-5; rows of half precision round
# more coarsely.
_TOLERANCE = {"float16": 5e-3, "bfloat16": 4e-2}
_TINY = float(np.finfo(np.float32).tiny)
_CLEAR_NAMES = ("logits", "logit")
# Images from which the kind of outputs is inferred.
_PROBE = 64
# Factors of noise in [0, 1], to test whether outputs are bounded.
_STRENGTHS = np.repeat([1.0, -1.0, 1e2, -1e2, 1e4, -1e4, 1e6, -1e6], 2)


def flatten(answer: Any) -> dict[str, tf.Tensor]:
    """Gives each tensor of an output a name."""
    if isinstance(answer, dict):
        return {str(key): value for key, value in answer.items()}
    if isinstance(answer, list | tuple):
        return {str(i): value for i, value in enumerate(answer)}
    return {"": answer}


def _is_scores(tensor, count) -> bool:
    shape = getattr(tensor, "shape", None)
    if shape is None or not tensor.dtype.is_floating or not shape.rank:
        return False
    between = shape[1:-1].as_list()
    return shape[0] == count and all(extent == 1 for extent in between)


def _rows(scores: tf.Tensor) -> tf.Tensor:
    """Scores `[batch, classes]` of any tensor that `choose` accepts."""
    if scores.shape.rank == 1:
        return scores[:, None]
    if scores.shape.rank == 2:
        return scores
    return tf.reshape(scores, [-1, scores.shape[-1]])


def choose(
    answer: Any, wanted: str | None, count: int, num_classes: int | None
) -> str:
    """Chooses the tensor of an output that holds the classes' scores.

    Args:
        answer: What the model returned for `count` images.
        wanted: Its name; None chooses the only one that fits.
        count: Number of images.
        num_classes: Of the data; None where that is not known.

    Returns:
        The name of the tensor; "" where the answer is a tensor.

    Raises:
        UserError: If none or several fit, or it is not a tensor.
    """
    found = flatten(answer)
    others = [t for t in found.values() if not tf.is_tensor(t)]
    if others:
        raise _not_tensorflow(f"it returns a {type(others[0]).__name__}")
    shapes = {name: tuple(t.shape) for name, t in found.items()}
    described = ", ".join(
        f"{name or 'a tensor'} {shape}"
        for name, shape in sorted(shapes.items())
    )
    if wanted is not None:
        if wanted not in found:
            raise unknown_name(
                "output of the model",
                wanted,
                [name for name in found if name] or ["(one without a name)"],
                "Set output, of a command --config.model.output, to one of "
                "them.",
            )
        fitting = [wanted] if _is_scores(found[wanted], count) else []
    else:
        fitting = [n for n, t in found.items() if _is_scores(t, count)]
    if not fitting:
        raise UserError(
            "The model's output is not one row of scores per image",
            received=f"{described} for {count} images",
            expected=f"floats [{count}, classes]",
            fix="Name the one that classifies: output=..., or of a command "
            "--config.model.output or --config.model.signature.",
        )
    if len(fitting) > 1:
        same = [n for n in fitting if found[n].shape[-1] == num_classes]
        clear = [n for n in same or fitting if n.lower() in _CLEAR_NAMES]
        fitting = sorted(clear or same or fitting)
    if len(fitting) > 1:
        raise UserError(
            "The model has several outputs that could be the classes' scores",
            received=described,
            expected="the name of one of them",
            fix=f"Set output={fitting[0]!r} or another, of a command "
            f"--config.model.output={fitting[0]}.",
        )
    return fitting[0]


def kind_of(values: np.ndarray, dtype: str = "float32") -> str | None:
    """Distinguishes logits, log-probabilities and probabilities.

    Args:
        values: Finite answers, float `[examples, classes]`, of more than a
            few images.
        dtype: Of the model's computation.

    Returns:
        One of `KINDS`; None if it is ambiguous: values within [0, 1]
        whose rows do not sum to 1.
    """
    values = values.astype(np.float64)
    slack = _TOLERANCE.get(dtype, 1e-5)
    if not values.size or (values == values[0, 0]).all():
        return "logits"
    if values.min() > -slack and values.max() < 1 + slack:
        if values.shape[1] == 1:
            return "probabilities"
        is_sum = np.abs(values.sum(axis=1) - 1).max() < slack * 2
        return "probabilities" if is_sum else None
    if values.shape[1] > 1 and values.max() < slack:
        total = np.exp(values).sum(axis=1)
        if np.abs(total - 1).max() < 10 * slack:
            return "log_probabilities"
    return "logits"


def trial(model: Callable[[tf.Tensor], Any], shape) -> tuple[np.ndarray, Any]:
    """Evaluates a model on noise, most of it far from any image.

    Scores of a few images can be in [0, 1] by chance; probabilities are there
    for all images. So this output is the input of `kind_of` if there are no
    images, or one score per image.

    Args:
        model: `(images) -> answer`.
        shape: Of one image.

    Returns:
        The images, the first two of them in [0, 1], and the answer. All of
        them are in [0, 1] if the model refuses others.
    """
    noise = np.random.default_rng(0).random((len(_STRENGTHS), *shape))
    noise[1::2] **= 8  # Few bright pixels: normalised images differ, too.
    noise = noise.astype(np.float32)
    strengths = np.reshape(_STRENGTHS, (-1, *[1] * len(shape)))
    far = (noise * strengths).astype(np.float32)
    try:
        return far, model(tf.constant(far))
    except tf.errors.InvalidArgumentError:
        return noise, model(tf.constant(noise))


def kind_of_trial(scores: tf.Tensor) -> str:
    """The kind of scores `[batch, ...]` from `trial`."""
    values = _rows(tf.cast(scores, tf.float32)).numpy()
    finite = values[np.isfinite(values).all(axis=1)]
    return kind_of(finite, scores.dtype.name) or "logits"


def to_logits(scores: tf.Tensor, kind: str) -> tf.Tensor:
    """Logits of a softmax whose probabilities are the model's.

    Args:
        scores: float `[batch, classes]`, or with axes of one between the two;
            `[batch, 1]` or `[batch]` are of one class against the other.
        kind: One of `KINDS`.

    Returns:
        float32 `[batch, classes]`; two classes for one score.
    """
    scores = _rows(tf.cast(scores, tf.float32))
    is_binary = scores.shape[-1] == 1
    if kind == "probabilities":
        if is_binary:
            scores = tf.concat([1.0 - scores, scores], axis=1)
        return tf.math.log(tf.maximum(scores, _TINY))
    if not is_binary:
        return scores
    if kind == "log_probabilities":
        # 1 - p by expm1, which is accurate where p is near 1.
        other = tf.math.log(tf.maximum(-tf.math.expm1(scores), _TINY))
        return tf.concat([other, scores], axis=1)
    return tf.concat([tf.zeros_like(scores), scores], axis=1)


def saturated_share(logits: np.ndarray) -> float:
    """Share of rows in which float32 rounds a probability to 1 exactly."""
    logits = np.asarray(logits, np.float32)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    largest = 1.0 / shifted.sum(axis=1, dtype=np.float32)
    return float(np.mean(largest == 1.0))


def reader(
    model: Callable[[tf.Tensor], Any],
    images: np.ndarray,
    output: str | None = None,
    kind: str | None = None,
    num_classes: int | None = None,
) -> tuple[Callable[[tf.Tensor], tf.Tensor], int, str]:
    """Makes a function from images to logits of a model in Python.

    Args:
        model: `(images) -> answer`, a tensor, or tensors by name or in turn.
        images: float32 `[examples, ...]`, clean ones.
        output: Name of the tensor among several.
        kind: One of `KINDS`; None infers it from the outputs.
        num_classes: Of the data; None where that is not known.

    Returns:
        The function, the number of classes, and the kind of the scores.

    Raises:
        UserError: If the output is not one row of scores per image, or the
            model cannot be compiled.
    """
    if kind not in (None, *KINDS):
        raise unknown_name("kind of outputs", kind, KINDS, "Set outputs.")
    some = tf.constant(images[:_PROBE])
    answer = model(some)
    name = choose(answer, output, len(some), num_classes)
    scores = flatten(answer)[name]
    if kind is None:
        values = _rows(scores).numpy().astype(np.float64)
        finite = values[np.isfinite(values).all(axis=1)]
        # Values in [0, 1] without a sum of 1 are taken as declared, and so are
        # values of only 0 and 1, which have no gradient in either case.
        kind = "logits"
        if not np.isin(finite, (0.0, 1.0)).all():
            kind = kind_of(finite, scores.dtype.name) or "logits"
        if kind == "probabilities" and finite.shape[1] == 1:
            _, answer = trial(model, images.shape[1:])
            kind = kind_of_trial(flatten(answer)[name])

    def logits_fn(images):
        try:
            answer = model(images)
        except (AttributeError, RuntimeError) as error:
            if tf.executing_eagerly():
                raise
            said = f"{type(error).__name__}: {reason(error)}"
            raise _not_tensorflow(said) from error
        return to_logits(flatten(answer)[name], kind)

    return logits_fn, max(int(_rows(scores).shape[-1]), 2), kind


def _not_tensorflow(received: str) -> UserError:
    return UserError(
        "The model leaves TensorFlow, so it has no gradient",
        received=received,
        expected="a function of TensorFlow operations alone",
        fix="Call the model itself, model(images, training=False), and not "
        "its predict; leave out .numpy() and NumPy functions.",
    )
