"""SavedModels that a later audit needs nothing else for.

Endpoints, all with a free batch size, `training=False` and gradients with
respect to images:

    mean(images) -> logits
    stochastic(images, seed, num_samples) -> logits   (stochastic models only)
    encode(images) -> {"loc", "scale"} of p(z|x)
    serving_default = mean

A model whose encoder computes in bfloat16 has `mean_float32` and
`stochastic_float32` besides, by the same variables: its own endpoints are what
was trained and measured, their twins are what gradients can be taken of.

A JSON asset, `assets/ib_keras.json`, says what the model is.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import tensorflow as tf

from ib_keras import files
from ib_keras.errors import UserError

if TYPE_CHECKING:
    from ib_keras.classifier import IBClassifier

FORMAT_VERSION = 1
METADATA_FILE = "ib_keras.json"

# Behind the name of an endpoint that computes in float32 where it does not.
FLOAT32_SUFFIX = "_float32"


class _Endpoints(tf.Module):
    """The functions that are saved, and the variables they use."""

    def __init__(self, model: "IBClassifier", image_shape, metadata_path):
        super().__init__(name="ib_classifier")
        self._model_variables = [v.value for v in model.variables]
        self.metadata = tf.saved_model.Asset(metadata_path)
        images = tf.TensorSpec([None, *image_shape], tf.float32, "images")

        @tf.function(input_signature=[images])
        def encode(images):
            posterior = model.posterior(images, training=False)
            return {"loc": posterior.mean(), "scale": posterior.stddev()}

        self.encode = encode
        found = _classifiers(model, images)
        if model.precision != "float32":
            twins = _classifiers(model, images, in_float32=True)
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
        named["encode"] = self.encode
        return {**named, "serving_default": named["mean"]}


def _classifiers(
    model: "IBClassifier", images: tf.TensorSpec, in_float32: bool = False
) -> dict[str, Any]:
    """The functions to logits by name."""
    from ib_keras import classifier

    sampling = stochastic_sampling(model)

    def call(images, **arguments):
        # Asked at each trace: TensorFlow traces once more when it saves.
        with (
            classifier.computing_in_float32(model)
            if in_float32
            else contextlib.nullcontext()
        ):
            return model(images, training=False, **arguments)

    @tf.function(input_signature=[images])
    def mean(images):
        return call(images, mode="mean")

    @tf.function(
        input_signature=[
            images,
            tf.TensorSpec([2], tf.int32, "seed"),
            tf.TensorSpec([], tf.int32, "num_samples"),
        ]
    )
    def stochastic(images, seed, num_samples):
        return call(
            images,
            mode="stochastic",
            noise_seed=seed,
            num_samples=num_samples,
            sampling=sampling,
        )

    if not model.is_stochastic:
        return {"mean": mean}
    return {"mean": mean, "stochastic": stochastic}


def _named(function):
    """Wraps a function so that its output is called "logits"."""
    return tf.function(
        lambda *arguments: {"logits": function(*arguments)},
        input_signature=function.input_signature,
    )


def stochastic_sampling(model: "IBClassifier") -> str:
    """How the stochastic endpoint draws: "logits" where that is less."""
    fewer = model.num_classes - 1 < model.bottleneck.latent_dim
    return "logits" if fewer else "latents"


def save(
    model: "IBClassifier",
    path: str,
    *,
    image_shape,
    metadata: Mapping[str, Any],
) -> str:
    """Writes a classifier as a SavedModel, atomically.

    Args:
        model: A built classifier.
        path: Folder to write; one that is there is replaced once the new one
            is complete.
        image_shape: (height, width, channels).
        metadata: What the caller knows: config, data set, class names, seed,
            step, clean accuracy, versions. Format version, endpoints, input
            shape and range, precision and S are added here.

    Returns:
        The path.

    Raises:
        UserError: If the place cannot be written.
    """
    full = {
        "format_version": FORMAT_VERSION,
        "input_shape": list(image_shape),
        "input_range": [0.0, 1.0],
        "num_classes": model.num_classes,
        "num_samples": model.num_samples if model.is_stochastic else None,
        "is_stochastic": model.is_stochastic,
        "precision": model.precision,
        "latent_dim": model.bottleneck.latent_dim,
        "stochastic_sampling": stochastic_sampling(model)
        if model.is_stochastic
        else None,
        **metadata,
    }

    def write(folder: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            asset = os.path.join(scratch, METADATA_FILE)
            files.write_json(asset, full)
            endpoints = _Endpoints(model, tuple(image_shape), asset)
            tf.saved_model.save(
                endpoints, folder, signatures=endpoints.signatures()
            )

    files.write_folder(path, write)
    return path


def read_metadata(path: str) -> dict[str, Any] | None:
    """Reads the JSON asset of a SavedModel folder without loading the model.

    Args:
        path: The SavedModel folder.

    Returns:
        The metadata; None where the folder has none, because other code
        exported the model.

    Raises:
        UserError: If the asset is damaged or of a newer format.
    """
    file = files.join(path, "assets", METADATA_FILE)
    if not files.exists(file):
        return None
    metadata = files.read_json(file)
    if not isinstance(metadata, dict):
        metadata = {}
    version = metadata.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise UserError(
            "The SavedModel's metadata are of an unknown format",
            received=f"format version {version} in {file}",
            expected=f"{FORMAT_VERSION} or earlier",
            fix="Update ib_keras to the version that exported the model.",
        )
    return metadata


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
