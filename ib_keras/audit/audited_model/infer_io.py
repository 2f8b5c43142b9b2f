"""Infers the inputs and outputs of a model by a few calls on clean examples."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import outputs
from ib_keras.audit import examples
from ib_keras.audit.audited_model import io_spec as io_specs
from ib_keras.audit.audited_model import preprocessing as preprocessings
from ib_keras.audit.audited_model import selection
from ib_keras.audit.audited_model.io_spec import IOSpec
from ib_keras.audit.audited_model.preprocessing import Preprocessing
from ib_keras.errors import UserError
from ib_keras.errors import reason
from ib_keras.types import KINDS

# Images per call, and images of a choice between specifications.
_BATCH = 64
_FIT_BATCH = 125
_MOST = 500


@dataclasses.dataclass(frozen=True)
class _Answers:
    """Raw scores `[examples, classes]` of one specification, their dtype."""

    io_spec: IOSpec
    scores: np.ndarray
    dtype: str
    others: tuple[str, ...]


def infer_io(model, images, labels, mode="mean", num_samples=None) -> Any:
    """As `model.AuditedModel.infer_io`."""
    images = np.asarray(images, np.float32)
    labels = np.asarray(labels)
    candidates = _candidates(model, images.shape[1:])
    few = _BATCH if len(candidates) == 1 else _MOST
    call = model.caller(mode, num_samples)
    try:
        found = _choose(model, call, candidates, images[:few], labels[:few])
    except selection.Undecided:
        found = _choose_by_more(model, call, candidates, images, labels)
    answers, chosen, trials, is_clear = found
    io_spec = chosen.io_spec
    if io_spec.outputs not in KINDS:
        raise UserError(
            "The outputs cannot be recognised as logits",
            received=f"values from {answers.scores.min():.4g} to "
            f"{answers.scores.max():.4g} whose rows do not sum to 1",
            expected="logits, or probabilities that sum to 1",
            fix="Set --config.model.outputs=logits or =probabilities.",
        )
    if len({trial.io_spec.preprocessing for trial in trials}) > 1:
        _check_fit(model, call, chosen, images[:_MOST], labels[:_MOST])
    notes = [
        *_notes_on_input(model, io_spec, trials, is_clear),
        *_notes_on_output(model, answers, chosen),
    ]
    inferred = dataclasses.replace(model, io_spec=io_spec)
    return inferred.with_notes(*notes)


def _choose_by_more(model, call, candidates, images, labels):
    """As `_choose` on all images, if the first few did not decide."""
    try:
        return _choose(model, call, candidates, images, labels)
    except selection.Undecided as error:
        # None of the close candidates need be right.
        if len({c.preprocessing for c in candidates}) > 1:
            few = images[:_MOST], labels[:_MOST]
            _check_fit(model, call, error.best, *few)
        raise


def _choose(model, call, candidates, images, labels):
    """Calls the model by each candidate; returns the best and all trials."""
    known, problems = [], []
    for candidate in candidates:
        try:
            known.append(_ask(model, call, candidate, images, labels))
        except UserError:
            raise
        except Exception as error:  # A foreign graph can raise any error.
            problems.append(f"{type(error).__name__}: {reason(error)}")
    if not known:
        raise UserError(
            "The model fails on the images of the data set",
            received=f"{problems[0]} for images of shape {images.shape[1:]}",
            expected="a row of scores for each image",
            fix="Check the data set, --config.model.signature and "
            "--config.model.layout.",
        )
    trials = [_trial(answers, model.options, labels) for answers in known]
    chosen, is_clear = selection.choose(trials)
    answers = known[[t is chosen for t in trials].index(True)]
    return answers, chosen, trials, is_clear


def _check_fit(model, call, chosen, images, labels):
    """Refuses a preprocessing that a fitted one beats by more than noise."""
    io_spec, endpoint = chosen.io_spec, model.endpoint
    if not chosen.is_distribution or endpoint.batch_size is not None:
        return
    order = selection.permutation(chosen)
    if order is not None:
        chosen = chosen.with_labels(order[1])
        labels = np.argsort(order[1])[labels]
    if not selection.above_chance(chosen):
        return  # There is nothing to fit.
    start = io_spec.preprocessing
    if start.channel_order == "bgr":
        images = images[..., ::-1]
    seed = seeds.from_int(0)

    @tf.function(autograph=False, reduce_retracing=True)
    def logits_of(scale, offset, some):
        given = offset + some * scale
        answer = call(io_specs.arrange(given, endpoint, io_spec), seed)
        return io_specs.logits_of(answer, io_spec)

    @tf.function(autograph=False, reduce_retracing=True)
    def sums_of(scale, offset, factor, some, truth):
        with tf.GradientTape() as tape:
            tape.watch((scale, offset, factor))
            logits = factor * logits_of(scale, offset, some)
            nats = tf.reduce_sum(
                tf.nn.sparse_softmax_cross_entropy_with_logits(truth, logits)
            )
        return nats, *tape.gradient(nats, (scale, offset, factor))

    def batches(which):
        count = len(images[which])
        for first in range(0, count, _FIT_BATCH):
            some = slice(first, first + _FIT_BATCH)
            yield (
                tf.constant(images[which][some]),
                tf.constant(labels[which][some], tf.int32),
            )

    def floats(*values):
        return [tf.constant(value, tf.float32) for value in values]

    def evaluate(scale, offset, which):
        at = floats(scale, offset)
        logits = [logits_of(*at, some) for some, _ in batches(which)]
        return np.concatenate(logits).astype(np.float64)

    def gradient(scale, offset, factor, which):
        at = floats(scale, offset, factor)
        sums = [sums_of(*at, *batch) for batch in batches(which)]
        count = len(labels[which])
        return tuple(
            sum(np.asarray(part, np.float64) for part in parts) / count
            for parts in zip(*sums, strict=True)
        )

    if not _has_gradient(gradient, start, images.shape[-1]):
        gradient = None
    fit = selection.fit_affine(
        start, images.shape[-1], evaluate, gradient, labels
    )
    if fit.is_better:
        raise UserError(
            "The model seems to take images of other values",
            received=f"{start.describe()} is the best of the known ways "
            f"(accuracy {chosen.accuracy:.3f} on {len(labels)} clean images), "
            f"but {fit.preprocessing.describe()}, fitted to half of the "
            f"images, does better on the other half (accuracy "
            f"{fit.accuracy:.3f}, {fit.gain:.3f} nats, {fit.errors:.1f} "
            "standard errors)",
            expected="the preprocessing that the model was trained with",
            fix="Specify it: --config.model.preprocessing.mean and .std (in "
            "units of [0, 1]), or .scale and .offset, or "
            f"--config.model.input_range. {start.flags()} uses the known way.",
        )


def _has_gradient(gradient, start, channels) -> bool:
    """Whether the answer has a gradient with respect to the scale."""
    at = np.resize(start.scale, channels), np.resize(start.offset, channels)
    try:
        _, to_scale, _, _ = gradient(*at, 1.0, slice(0, 2))
    except Exception:  # A foreign graph can raise any error.
        return False
    return bool(np.any(to_scale != 0))


def _candidates(model, image_shape):
    """The specifications that graph, metadata and user leave open."""
    options, endpoint = model.options, model.endpoint
    fitting = io_specs.layouts(endpoint.shape, image_shape)
    if options.layout is not None:
        fitting = [name for name in fitting if name == options.layout]
    if not fitting:
        raise examples.misfit(
            image_shape, endpoint.shape, layout=options.layout
        )
    said = model.said_preprocessing
    # For other Keras models `export.save` writes that it is unknown.
    is_unknown = model.metadata.get("input_range", ()) is None
    is_declared = model.kind in ("ib_keras", "function") and not is_unknown
    if said is not None:
        _check_channels(said, image_shape)
        ways = [said]
    elif is_declared:
        ways = [Preprocessing()]
    elif endpoint.spec is not None and endpoint.spec.dtype.is_integer:
        ways = [preprocessings.RECIPES["bytes"]]
    else:
        ways = preprocessings.candidates(image_shape[-1])
    if is_declared:
        fitting = fitting[:1]
    return [
        IOSpec(tuple(image_shape), layout, way)
        for layout in fitting
        for way in ways
    ]


def _check_channels(said, image_shape):
    if said.channels not in (None, image_shape[-1]):
        raise UserError(
            "The preprocessing is for another number of channels",
            received=f"{said.describe()} for images of shape "
            f"{tuple(image_shape)}",
            expected=f"one value, or {image_shape[-1]}",
            fix="Correct --config.model.preprocessing.",
        )


def _ask(model, call, io_spec, images, labels):
    """Calls the model on all images by one specification."""
    endpoint, options = model.endpoint, model.options
    size = endpoint.batch_size or _BATCH
    seed = seeds.from_int(0)
    rows, name, dtype, others = [], None, "float32", ()
    for first in range(0, len(images), size):
        batch = images[first : first + size]
        count = len(batch)
        if endpoint.batch_size is not None:
            batch = batch[np.arange(size) % count]
        answer = call(
            io_specs.prepare(tf.constant(batch), endpoint, io_spec), seed
        )
        if name is None:
            name = outputs.choose(
                answer, options.output, len(batch), _classes(model, labels)
            )
            others = tuple(n for n in outputs.flatten(answer) if n != name)
        scores = outputs.flatten(answer)[name]
        dtype = scores.dtype.name
        values = tf.cast(scores, tf.float32).numpy()[:count]
        rows.append(values.reshape(count, -1))
    found = dataclasses.replace(io_spec, output=name)
    return _Answers(found, np.concatenate(rows), dtype, others)


def _classes(model, labels):
    return model.metadata.get("num_classes") or int(labels.max()) + 1


def _trial(answers, options, labels):
    scores = answers.scores
    finite = np.isfinite(scores).all(axis=1)
    seen = outputs.kind_of(scores[finite], answers.dtype)
    kind = options.outputs or seen
    logits = outputs.to_logits(tf.constant(scores), kind or "logits").numpy()
    if labels.max() >= logits.shape[1]:
        raise UserError(
            "The data set does not fit the model",
            received=f"labels up to {labels.max()}",
            expected=f"classes from 0 to {logits.shape[1] - 1}, as the "
            "model has",
            fix="Set dataset.name to the data set of the model.",
        )
    io_spec = dataclasses.replace(
        answers.io_spec,
        outputs=kind or "unknown",
        num_classes=logits.shape[1],
    )
    log_p = selection.log_softmax(logits)
    return selection.Trial(io_spec, log_p, labels, seen is not None)


def _notes_on_input(model, io_spec, trials, is_clear):
    endpoint, notes = model.endpoint, []
    said = model.metadata.get("input_shape")
    if said is not None and tuple(said) != io_spec.image_shape:
        notes.append(
            f"The metadata say images of shape {tuple(said)}, the graph takes "
            f"{endpoint.shape}: the graph is used."
        )
    if io_spec.layout == "channels_first":
        notes.append(
            "The model takes channels first; images are transposed inside of "
            "the audited function."
        )
    if endpoint.shape is not None and len(endpoint.shape) < 3:
        notes.append(
            f"The model takes images of shape {endpoint.shape}; they are "
            "reshaped inside of the audited function."
        )
    way = io_spec.preprocessing
    if len({trial.io_spec.preprocessing for trial in trials}) > 1:
        tried = ", ".join(
            f"{t.accuracy:.3f} in {t.io_spec.preprocessing.describe()}"
            for t in trials
            if t.io_spec.layout == io_spec.layout
        )
        how = (
            "inferred from accuracy and likelihood"
            if is_clear
            else "assumed, since no other range does better; if that is wrong "
            "set --config.model.input_range"
        )
        notes.append(
            f"The model takes images in {way.describe()}, {how}. Accuracy "
            f"on {len(trials[0].labels)} clean images: {tried}."
        )
    if not way.is_identity:
        notes.append(
            f"Images are taken from [0, 1] to {way.describe()} inside of "
            "the audited function; epsilons stay in units of [0, 1]."
        )
    if endpoint.batch_size is not None:
        notes.append(
            f"The model takes {endpoint.batch_size} images at a time; the "
            "last batch is filled up with copies."
        )
    return notes


def _notes_on_output(model, answers, chosen):
    io_spec, notes = chosen.io_spec, []
    said = model.metadata.get("num_classes")
    if said is not None and said != io_spec.num_classes:
        notes.append(
            f"The metadata say {said} classes, the graph gives "
            f"{io_spec.num_classes}: the graph is used."
        )
    if answers.others:
        others = ", ".join(sorted(answers.others))
        notes.append(f"Audited is the output {io_spec.output}, not {others}.")
    if answers.scores.shape[1] == 1:
        notes.append(
            "The model gives one score per image, taken as that of the second "
            "of two classes."
        )
    if answers.dtype != "float32":
        notes.append(
            f"The outputs are {answers.dtype}, cast to float32: the lost "
            "digits are missing in judgements and gradients."
        )
    if io_spec.outputs == "probabilities":
        share = outputs.saturated_share(chosen.log_p)
        notes.append(
            "The model returns probabilities; the audit works on their "
            f"logarithm. On {share:.1%} of {len(chosen.labels)} clean images "
            "float32 rounds one of them to exactly 1, where the gradient is "
            "lost: export the logits if you can."
        )
    return notes
