"""The subject of an audit: a model in one mode, and the examples."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras import strategy as strategies
from ib_keras.attacks import base
from ib_keras.attacks import compiled
from ib_keras.attacks import scale
from ib_keras.audit import audited_model
from ib_keras.audit import examples
from ib_keras.audit import protocol
from ib_keras.audit import settings
from ib_keras.audit.audited_model import behaviour as behaviours
from ib_keras.errors import UserError
from ib_keras.watchdog import Watchdog

# Examples from which the scale of the logits is measured.
_SCALE_EXAMPLES = 256


@dataclasses.dataclass(frozen=True)
class Subject:
    """The subject of an audit: the model in one mode, and the examples.

    Attributes:
        model: The loaded model.
        logits_fn: The audited classifier.
        mode: "mean" or "stochastic".
        num_samples: S; None in mean mode.
        num_judge_samples: Draws per judgement.
        images: float32 `[examples, ...]`.
        labels: int32 `[examples]`.
        dataset: For the summary: name, split, description.
        behaviour: What a few calls of the model have shown.
        logit_scale: Factor of the logits that attacks see; see
            `attacks.scale`.
    """

    model: audited_model.AuditedModel
    logits_fn: Callable
    mode: str
    num_samples: int | None
    num_judge_samples: int
    images: np.ndarray
    labels: np.ndarray
    dataset: dict[str, str]
    behaviour: behaviours.Behaviour
    logit_scale: float


@dataclasses.dataclass(frozen=True)
class Settled:
    """What belongs to a model in one mode, whichever examples are attacked.

    Attributes:
        model: As of `Subject`.
        logits_fn: As of `Subject`.
        mode: As of `Subject`.
        num_samples: As of `Subject`.
        num_judge_samples: As of `Subject`.
        behaviour: As of `Subject`.
        logit_scale: As of `Subject`.
        dataset: As of `Subject`.
    """

    model: audited_model.AuditedModel
    logits_fn: Callable
    mode: str
    num_samples: int | None
    num_judge_samples: int
    behaviour: behaviours.Behaviour
    logit_scale: float
    dataset: dict[str, str]

    def of(self, images: np.ndarray, labels: np.ndarray) -> Subject:
        """The model with examples, which are not looked at.

        Args:
            images: float32 `[examples, ...]`.
            labels: int32 `[examples]`.
        """
        facts = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
        }
        return Subject(images=images, labels=labels, **facts)

    def check_finite(self, images: np.ndarray, batch_size: int) -> None:
        """Refuses a range of examples without a single finite answer.

        Raises:
            UserError: If the logits of all of them are not finite.
        """
        audited_model.check_finite(
            self.logits_fn, images, base.check_count("batch_size", batch_size)
        )


def load(
    config: Mapping[str, Any],
    saved_model: str | audited_model.AuditedModel,
    strategy: tf.distribute.Strategy | None = None,
    allow_ops: Sequence[str] = (),
    probe: bool = False,
    given: examples.Examples | None = None,
    watchdog_minutes: float = 0.0,
) -> Subject:
    """Loads the model and the examples that a config asks for.

    Args:
        config: An audit config.
        saved_model: Folder of the SavedModel, a .keras file, or a model
            that is loaded already.
        strategy: Its devices get the model's variables.
        allow_ops: Operations that the safety check lets pass.
        probe: Whether a child process runs the model first, under limits.
        given: Examples in place of those that the config names.
        watchdog_minutes: As `runner.audit`; from the first call on.

    Returns:
        A `Subject`.

    Raises:
        UserError: If the model, its endpoint or the data cannot be used.
        UnsafeError: If the model holds what could do harm.
    """
    model = load_model(config, saved_model, strategy, allow_ops, probe=probe)
    found = given or examples.load(config, model.about)
    with watchdog(watchdog_minutes):
        settled = settle(config, model, found, strategy)
        settled.check_finite(found.images, config["batch_size"])
    return settled.of(found.images, found.labels)


def load_model(
    config: Mapping[str, Any],
    saved_model: str | audited_model.AuditedModel,
    strategy: tf.distribute.Strategy | None = None,
    allow_ops: Sequence[str] = (),
    probe: bool = False,
) -> audited_model.AuditedModel:
    """Loads the model alone; the arguments and errors are those of `load`.

    Returns:
        The model, which has the mode of the config.
    """
    options = audited_model.Options.from_config(config["model"])
    if isinstance(saved_model, audited_model.AuditedModel):
        model = saved_model.with_options(options)
    else:
        model = audited_model.load(
            saved_model,
            strategy,
            options,
            allow_ops,
            probe,
            config["batch_size"],
        )
    model.caller(config["mode"])  # Refuses a mode that the model has not.
    return model


def watchdog(minutes: float) -> Watchdog:
    """What ends the process when a call of the model does not end."""
    return Watchdog(
        minutes * 60,
        what="call of the model",
        resume="The same command resumes.",
        smaller="batch_size or chunk_steps",
    )


def settle(
    config: Mapping[str, Any],
    model: audited_model.AuditedModel,
    found: examples.Examples,
    strategy: tf.distribute.Strategy | None = None,
) -> Settled:
    """Makes a model ready: these are the first calls of it.

    They are of the probe images and of the first examples of the whole audit,
    so that what is found does not depend on the range that is attacked.

    Args:
        config: An audit config.
        model: From `load_model`.
        found: All examples of the audit.
        strategy: As `load`.

    Returns:
        A `Settled`.

    Raises:
        UserError: If the model does not answer, or has no gradients.
    """
    _check_radius(config["threat_model"], found.images.shape[1:])
    state = model.state_hash()
    mode = config["mode"]
    is_stochastic = mode == "stochastic"
    num_samples = None
    if is_stochastic:
        num_samples = config["num_samples"]
        if num_samples is None:
            num_samples = model.metadata.get("num_samples") or 1
        num_samples = base.check_count("num_samples", num_samples)
    model = model.infer_io(
        found.probe_images, found.probe_labels, mode, num_samples
    )
    logits_fn = model.logits_fn(mode, num_samples)
    audited_model.check_gradients(
        logits_fn,
        found.probe_images,
        model.num_classes,
        protocol.take_gradients(protocol.build_stages(config)),
    )
    behaviour = behaviours.observe(
        model,
        logits_fn,
        found.probe_images,
        found.probe_labels,
        mode,
        state,
    )
    has_noise = is_stochastic or behaviour.is_random
    judge_samples = config["num_judge_samples"]
    if judge_samples is None:
        judge_samples = settings.NUM_DRAWS if has_noise else 1
    judge_samples = settings.check_draws(judge_samples, has_noise)
    return Settled(
        model=model.with_notes(
            *behaviour.notes(), *_notes_on_classes(model, found)
        ),
        logits_fn=compiled.on(
            logits_fn, strategy, strategies.jit_compile(strategy)
        ),
        mode=mode,
        num_samples=num_samples,
        num_judge_samples=judge_samples,
        behaviour=behaviour,
        logit_scale=_find_scale(logits_fn, found, config["batch_size"]),
        dataset=found.dataset,
    )


def _notes_on_classes(model, found):
    few, many = found.num_classes, model.num_classes
    if few is None or few >= many:
        return []
    return [
        f"The data set has {few} classes and the model {many}: its labels are "
        f"taken as the model's first {few}."
    ]


def _find_scale(logits_fn, found, batch_size) -> float:
    """From the first examples, the same ones in every process."""
    images = found.images[:_SCALE_EXAMPLES]
    logits = behaviours.batched(
        logits_fn, images, seeds.from_int(0), batch_size
    )
    return scale.find(logits, found.labels[: len(images)])


def _check_radius(threat_model, image_shape):
    """Refuses an l2 ball that contains the whole box: wrong units."""
    most = float(np.sqrt(np.prod(image_shape)))
    epsilon = threat_model["epsilon"]
    is_number = isinstance(epsilon, int | float)
    if threat_model["norm"] == "l2" and is_number and epsilon > most:
        raise UserError(
            "Epsilon is larger than the whole box of images",
            received=epsilon,
            expected=f"at most {most:.4g} for l2, in pixel units of [0, 1]",
            fix=f"Did you mean {epsilon:g}/255 = {epsilon / 255:.6g}?",
        )
