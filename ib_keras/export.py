"""SavedModels that contain all that an audit needs.

Endpoints, all with a free batch size, `training=False` and gradients with
respect to images:

    mean(images) -> logits
    stochastic(images, seed, num_samples) -> logits   (stochastic models only)
    encode(images) -> {"loc", "scale"} of p(z|x)      (where there is one)
    serving_default = mean

A model whose encoder computes in bfloat16 has `mean_float32` and
`stochastic_float32` as well, with the same variables: its own endpoints are
what was trained and measured, and the float32 ones are accurate in their
gradients.

`save` takes `IBClassifier`s, and Keras models with or without bottleneck layers
(`bottlenecks.layer`).

A JSON asset, `assets/ib_keras.json`, says what the model is.
"""

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import tensorflow as tf

from ib_keras import files
from ib_keras import metadata as metadata_files
from ib_keras import seeds
from ib_keras.errors import UserError

if TYPE_CHECKING:
    import keras

read_metadata = metadata_files.read

# Suffix of endpoints in float32 of a model that computes in another type.
FLOAT32_SUFFIX = "_float32"


class _Endpoints(tf.Module):
    """The functions that are saved, and the variables they use."""

    def __init__(
        self, model: "keras.Model", image_shape, metadata_path, to_logits
    ):
        super().__init__(name="ib_classifier")
        self._model_variables = [v.value for v in model.variables]
        self.metadata = tf.saved_model.Asset(metadata_path)
        images = tf.TensorSpec([None, *image_shape], tf.float32, "images")
        found = _classifiers(model, images, to_logits)
        if _encoder(model) is not None:
            found["encode"] = _encode(model, images)
        if precision(model) != "float32":
            twins = _classifiers(model, images, to_logits, in_float32=True)
            found |= {name + FLOAT32_SUFFIX: f for name, f in twins.items()}
        for name, function in found.items():
            setattr(self, name, function)

    def signatures(self):
        """The same functions with named outputs, for `.signatures`."""
        modes = ("mean", "stochastic")
        names = [mode + twin for twin in ("", FLOAT32_SUFFIX) for mode in modes]
        named = {
            name: _named(getattr(self, name))
            for name in names
            if hasattr(self, name)
        }
        if hasattr(self, "encode"):
            named["encode"] = self.encode
        return {**named, "serving_default": named["mean"]}


def precision(model: "keras.Model") -> str:
    """The precision of a model: "float32", or the shortest type in it."""
    from ib_keras import classifier

    if isinstance(model, classifier.IBClassifier):
        return model.precision
    return classifier.precision_of(model)


def _classifiers(
    model: "keras.Model",
    images: tf.TensorSpec,
    to_logits: Callable[[Any], tf.Tensor],
    in_float32: bool = False,
) -> dict[str, Any]:
    """The functions to logits by name."""
    from ib_keras import classifier
    from ib_keras import modes

    def as_traced():
        # Read at each trace: TensorFlow traces once more when it saves.
        if in_float32:
            return classifier.computing_in_float32(model)
        return contextlib.nullcontext()

    @tf.function(input_signature=[images])
    def mean(images):
        with as_traced():
            return to_logits(modes.mean(model)(images))

    if not modes.is_stochastic(model):
        return {"mean": mean}
    draw = modes.stochastic(model)

    @tf.function(
        input_signature=[
            images,
            tf.TensorSpec([2], tf.int32, "seed"),
            tf.TensorSpec([], tf.int32, "num_samples"),
        ]
    )
    def stochastic(images, seed, num_samples):
        with as_traced():
            return to_logits(draw(images, seed, num_samples))

    return {"mean": mean, "stochastic": stochastic}


def _reading(model, image_shape) -> tuple[Callable[[Any], tf.Tensor], int]:
    """How a model's answer becomes logits, and how many classes there are.

    An `IBClassifier` returns logits. The kind of another model's outputs is
    inferred from its outputs for noise.
    """
    from ib_keras import classifier
    from ib_keras import modes
    from ib_keras.attacks import outputs

    if isinstance(model, classifier.IBClassifier):
        return (lambda logits: logits), model.num_classes
    noise, answer = outputs.trial(modes.mean(model), image_shape)
    name = outputs.choose(answer, None, len(noise), None)
    scores = outputs.flatten(answer)[name]
    kind = outputs.kind_of_trial(scores)
    if kind == "probabilities":
        warnings.warn(
            "The model returns probabilities; the export returns their "
            "logarithm, which has no gradient where float32 rounds one to 1. "
            "Give a model that returns logits.",
            stacklevel=3,
        )

    def to_logits(answer):
        return outputs.to_logits(outputs.flatten(answer)[name], kind)

    return to_logits, int(to_logits(answer).shape[1])


def _encoder(model) -> Callable[[tf.Tensor], Any] | None:
    """The function from images to p(z|x); None where it is not one."""
    from ib_keras import classifier
    from ib_keras import modes
    from ib_keras.bottlenecks import layer

    if isinstance(model, classifier.IBClassifier):
        return lambda images: model.posterior(images, training=False)
    if len(modes.bottlenecks(model)) != 1:
        return None

    def posterior(images):
        with layer.drawing(seeds.from_int(0)) as draws:
            model(images, training=False)
        return draws.posteriors[0]

    return posterior


def _encode(model, images: tf.TensorSpec):
    posterior_of = _encoder(model)

    @tf.function(input_signature=[images])
    def encode(images):
        posterior = posterior_of(images)
        return {"loc": posterior.mean(), "scale": posterior.stddev()}

    return encode


def _named(function):
    """Wraps a function so that its output is called "logits"."""
    return tf.function(
        lambda *arguments: {"logits": function(*arguments)},
        input_signature=function.input_signature,
    )


def save(
    model: "keras.Model",
    path: str,
    *,
    image_shape: Sequence[int] | None = None,
    num_samples: int | None = None,
    input_range: tuple[float, float] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Writes a classifier as a SavedModel, atomically.

    Args:
        model: A built `IBClassifier`, or any built Keras model from images to
            logits or probabilities; with a bottleneck layer such as
            `VIBLayer` in it both its modes are written.
        path: Folder to write; one that is there is replaced once the new one
            is complete, if it is a SavedModel.
        image_shape: (height, width, channels); None for what the model was
            built for.
        num_samples: S of stochastic mode where an audit does not say; None
            for the `IBClassifier`'s own, else 12.
        input_range: (lowest, highest) value of the images that the model
            takes; [0, 1] of an `IBClassifier`. None leaves it to each audit to
            infer, which raises an error where it cannot.
        metadata: Config, data set, class names, seed,
            step, clean accuracy, versions; None for the versions alone. Format
            version, input shape and range, precision and S are added here.

    Returns:
        The path.

    Raises:
        UserError: If the place cannot be written or holds something else than
            a SavedModel, or the model is not built or does not classify.
    """
    from ib_keras import modes

    _check_replaceable(path)
    shape = tuple(image_shape or modes.image_shape(model))
    to_logits, num_classes = _reading(model, shape)
    found = _described(model, shape, num_samples)
    found["num_classes"] = num_classes
    if input_range is not None:
        found["input_range"] = [float(value) for value in input_range]
    if metadata is None:
        metadata = {"versions": describe_versions()}
    full = {**found, **metadata}

    def write(folder: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            asset = os.path.join(scratch, metadata_files.FILE)
            files.write_json(asset, full)
            endpoints = _Endpoints(model, shape, asset, to_logits)
            tf.saved_model.save(
                endpoints, folder, signatures=endpoints.signatures()
            )

    files.write_folder(path, write)
    return path


def _check_replaceable(path: str) -> None:
    """Refuses a folder of something else, which would be replaced."""
    is_model = files.exists(files.join(path, "saved_model.pb"))
    is_empty = files.is_folder(path) and not files.listdir(path)
    if files.exists(path) and not (is_model or is_empty):
        raise UserError(
            "The path of the SavedModel holds something else",
            received=f"{path}, which is not a SavedModel",
            expected="a new folder, or a SavedModel to replace",
            fix="Save to another path.",
        )


def _described(model, image_shape, num_samples) -> dict[str, Any]:
    """What the metadata say of any model."""
    from ib_keras import classifier
    from ib_keras import modes

    is_ours = isinstance(model, classifier.IBClassifier)
    is_stochastic = modes.is_stochastic(model)
    default = model.num_samples if is_ours else modes.NUM_SAMPLES
    parts = [model] if is_ours else modes.bottlenecks(model)
    sampling = modes.sampling(model) if is_ours else "latents"
    return {
        "format_version": metadata_files.FORMAT_VERSION,
        "input_shape": list(image_shape),
        "input_range": [0.0, 1.0] if is_ours else None,
        "num_samples": (num_samples or default) if is_stochastic else None,
        "is_stochastic": is_stochastic,
        "precision": precision(model),
        "latent_dim": parts[0].bottleneck.latent_dim
        if len(parts) == 1
        else None,
        "stochastic_sampling": sampling if is_stochastic else None,
    }


def describe_versions() -> dict[str, str]:
    """The versions of the stack, for metadata and reports."""
    import platform
    from importlib import metadata as installed

    from ib_keras.version import __version__

    found = {"ib_keras": __version__, "python": platform.python_version()}
    for name in ("keras", "tensorflow-probability", "numpy"):
        found[name] = installed.version(name)
    found["tensorflow"] = tf.__version__
    return json.loads(json.dumps(found))
