"""An audit as a function call, of a model in Python or in a file."""

import copy
import functools
import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from typing import Any

import ml_collections
import tensorflow as tf

from ib_keras import files
from ib_keras import shipped
from ib_keras.attacks import outputs as outputs_lib
from ib_keras.audit import audited_model
from ib_keras.audit import folder as folders
from ib_keras.audit import hub
from ib_keras.audit import result as results
from ib_keras.audit import runner
from ib_keras.audit import settings
from ib_keras.audit import subject as subjects
from ib_keras.audit.examples import Examples
from ib_keras.errors import UserError
from ib_keras.types import check_count
from ib_keras.types import check_images
from ib_keras.types import check_labels
from ib_keras.types import count_classes

# Images to count the scores of a model with, and most images to infer its
# `IOSpec` from.
_FEW, _PROBE = 2, 2000

# Sections that a config must have for the arguments of the call.
_SECTIONS = ("dataset", "model", "stages", "threat_model")


def run(
    model: Any,
    images: Any = None,
    labels: Any = None,
    *,
    epsilon: float | None = None,
    norm: str | None = None,
    protocol: str | Mapping[str, Any] = "aa_mt",
    mode: str | None = None,
    num_samples: int | None = None,
    workdir: str | None = None,
    dataset: str | Mapping[str, Any] | None = None,
    num_examples: int | None = None,
    diagnostics: str | None = None,
    output: str | None = None,
    outputs: str | None = None,
    input_range: tuple[float, float] | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    quiet: bool = True,
) -> results.AuditResult:
    """Audits a model by a protocol: attacks, diagnostics, a verdict.

    Args:
        model: The path of a SavedModel or a `.keras` file, which is checked
            before it is loaded, or `hf://ORG/NAME[@REVISION]` of one on the
            Hugging Face Hub; a Keras model; or a function `(images) ->
            scores [batch, classes]` of TensorFlow operations.
        images: `[examples, height, width, channels]` in [0, 1]; None for those
            of `dataset`. A model in Python gets them unchanged, except for
            `input_range`.
        labels: int `[examples]`.
        epsilon: Radius in pixel units of [0, 1]; None for the protocol's own
            radii.
        norm: "linf" or "l2"; None for the protocol's own.
        protocol: Name of a file of `configs/audits/`, path of one of your own,
            or the config that such a file makes.
        mode: "mean", or "stochastic" of an `IBClassifier` or a Keras model
            with a bottleneck layer; None for the protocol's own, "mean" of
            ours.
        num_samples: S of stochastic mode; None for the model's own.
        workdir: The audit folder; the same call resumes. It keeps the images
            and labels that were given. None for a temporary one, which is
            removed with the result.
        dataset: Where there are no images, the name of a data set, or the
            section `dataset` of a config; None for the one that a SavedModel
            of ours was trained on.
        num_examples: How many are attacked, the first ones; None for all that
            are given, or as many as the protocol says. All that are given are
            used to infer the inputs of a model in a file.
        diagnostics: "none", "quick" or "full", the basis of the verdict; None
            for the protocol's own, "quick" of ours.
        output: Name of the tensor among several that the model returns.
        outputs: "logits", "log_probabilities" or "probabilities"; None infers.
        input_range: (lowest, highest) value of the images that the model
            takes; None for [0, 1] of a model in Python, inferred for a file.
        batch_size: Largest batch; None for the protocol's own.
        seed: A whole number; the same one gives the same result. None for the
            protocol's own, 0 of ours.
        quiet: Whether to print nothing.

    Returns:
        An `AuditResult`.

    Raises:
        UserError: If an argument, the model or the data cannot be used.
        UnsafeError: If the file holds what could do harm.

    References:
        Korshunova et al. 2021, appendix, for the default protocol: AutoPGD on
        cross-entropy and DLR, and MultiTargeted.
    """
    config = _config(protocol)
    if epsilon is not None:
        config["epsilon_curve"] = []
    if isinstance(dataset, str):
        dataset = {"name": dataset}
    config["dataset"].update(dataset or {})
    given = None
    if images is not None:
        given = _check_given(images, labels, dataset)
        if num_examples is None:
            num_examples = len(given[1])
        count = check_count("num_examples", num_examples)
        num_examples = min(count, len(given[1]))
    said = {
        "mode": mode,
        "seed": seed,
        "num_samples": num_samples,
        "num_examples": num_examples,
        "batch_size": batch_size,
        "diagnostics.set": diagnostics,
        "threat_model.epsilon": epsilon,
        "threat_model.norm": norm,
        "model.output": output,
        "model.outputs": outputs,
        "model.input_range": input_range,
    }
    for name, value in said.items():
        if value is not None:
            *sections, field = name.split(".")
            place = config
            for section in sections:
                place = place.setdefault(section, {})
            place[field] = value
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    if workdir is not None:
        return _audit(config, model, given, os.fspath(workdir), quiet)
    folder = tempfile.mkdtemp(prefix="ib_keras_audit_")
    try:
        result = _audit(config, model, given, folder, quiet)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result


def _config(protocol) -> dict[str, Any]:
    if isinstance(protocol, str | os.PathLike):
        return shipped.protocol(os.fspath(protocol))
    if isinstance(protocol, ml_collections.ConfigDict):
        return json.loads(protocol.to_json())
    is_config = isinstance(protocol, Mapping) and all(
        isinstance(protocol.get(name), Mapping) for name in _SECTIONS
    )
    if not is_config:
        raise UserError(
            "The protocol is not valid",
            received=repr(protocol)[:100],
            expected="a name, a path, or a config with the sections "
            f"{', '.join(_SECTIONS)}",
            fix='Give a name, such as "aa_mt", or what get_config() of a file '
            "of configs/audits returns.",
        )
    return copy.deepcopy(dict(protocol))


def _audit(config, model, given, folder, quiet) -> results.AuditResult:
    """Audits in a folder, which keeps the arrays that were given, too.

    They are stored as a file of the data set `npz`, so verification, reports
    and resuming find them.
    """
    images, labels = given or (None, None)
    if given is not None:
        config["dataset"] = _section(images, labels, folder)
    check = functools.partial(
        settings.check_start,
        config,
        workdir=folder,
        are_given=given is not None,
    )
    if hub.is_hub(model):
        check(None)  # Before anything is fetched.
        model = hub.fetch(model)
    check(model)
    if isinstance(model, str):
        audited = _load(model, config)
    else:
        audited = _of_python(model, images, config["model"])
    examples = given and _examples(audited, images, labels, config)
    subject = subjects.load(config, audited, given=examples)
    runner.audit_subject(config, subject, folder, quiet=quiet)
    if given is not None and not files.exists(config["dataset"]["path"]):
        arrays = dict(zip(("images", "labels"), given, strict=True))
        files.write_npz(config["dataset"]["path"], arrays)
    return results.load(folder, subject.images)


def _section(images, labels, folder) -> dict[str, Any]:
    """The section `dataset` for arrays; other arrays give another one."""
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    place = folder if files.is_remote(folder) else os.path.abspath(folder)
    return {
        "name": "npz",
        "split": "test",
        "path": files.join(place, folders.GIVEN),
        "description": f"{len(labels)} images given in Python, sha256 "
        f"{digest[:16]}",
    }


def _check_given(images, labels, dataset):
    if labels is None or dataset is not None:
        raise UserError(
            "The examples are ambiguous",
            received="images "
            + ("and a dataset" if dataset is not None else "without labels"),
            expected="images and labels, or a dataset",
            fix="Give labels=..., or leave out one of images and dataset.",
        )
    images = check_images(images)
    if not len(images):
        raise UserError(
            "There are no examples to audit",
            received="0 images",
            expected="1 image or more",
            fix="Give the images that the model is to be judged by.",
        )
    return images, check_labels(labels, len(images), count_classes(labels))


def _examples(audited, images, labels, config) -> Examples:
    """The examples of the call, in the form of those of a config."""
    if audited.num_classes is not None:
        labels = check_labels(labels, len(images), audited.num_classes)
    about = {k: v for k, v in config["dataset"].items() if k != "path"}
    count = config["num_examples"]
    known = images[:_PROBE], labels[:_PROBE]
    return Examples(images[:count], labels[:count], about, *known)


def _load(path: str, config) -> audited_model.AuditedModel:
    options = audited_model.Options.from_config(config["model"])
    size = config["batch_size"]
    return audited_model.load(
        path, options=options, probe=True, batch_size=size
    )


def _of_python(model: Any, images, section) -> audited_model.AuditedModel:
    """The audited model that a Keras model or a function is.

    Args:
        model: Likewise.
        images: Clean ones; None where a data set is named.
        section: `model` of the config.
    """
    if isinstance(model, audited_model.AuditedModel):
        return model
    if not callable(model):
        raise UserError(
            "This is not a model",
            received=repr(model)[:100],
            expected="a path, a Keras model or a function of images",
            fix="Give one of them as the first argument.",
        )
    from ib_keras import modes

    is_keras = hasattr(model, "get_config")
    shape = modes.image_shape(model) if images is None else images.shape[1:]
    some = tf.zeros([_FEW, *shape]) if images is None else images[:_FEW]
    function = _Inference(model) if is_keras else model
    answer = function(tf.constant(some))  # Builds the model if it is not built.
    is_stochastic = is_keras and modes.is_stochastic(model)
    return audited_model.from_function(
        function,
        shape,
        _count_classes(answer, section["output"], len(some)),
        stochastic=modes.stochastic(model) if is_stochastic else None,
        num_samples=getattr(model, "num_samples", modes.NUM_SAMPLES)
        if is_stochastic
        else None,
        name=str(getattr(model, "name", getattr(model, "__name__", "model"))),
    )


class _Inference:
    """A Keras model as a function of images."""

    def __init__(self, model):
        from ib_keras import modes

        self._model = model
        self._mean = modes.mean(model)

    def __call__(self, images):
        return self._mean(images)

    @property
    def variables(self):
        return self._model.variables


def _count_classes(answer, output, count) -> int:
    """The number of classes in a model's output for `count` images."""
    name = outputs_lib.choose(answer, output, count, None)
    scores = outputs_lib.flatten(answer)[name]
    return max(int(scores.shape[-1]) if scores.shape.rank > 1 else 2, 2)
