"""The audited model: a SavedModel folder made into functions to logits."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import export
from ib_keras import files
from ib_keras import seeds
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name
from ib_keras.types import LogitsFn

MODES = ("mean", "stochastic")
_CHUNK = 1 << 24


@dataclasses.dataclass(frozen=True)
class Target:
    """A loaded model and what is known of it.

    Attributes:
        path: The SavedModel folder.
        sha256: Of the folder: over the names and digests of its files.
        metadata: The JSON asset.
        loaded: What `tf.saved_model.load` returned.
    """

    path: str
    sha256: str
    metadata: dict[str, Any]
    loaded: Any

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return tuple(self.metadata["input_shape"])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.metadata["num_classes"])

    def logits_fn(self, mode: str, num_samples: int | None = None) -> LogitsFn:
        """The classifier that is audited, as attacks see it.

        Args:
            mode: "mean" or "stochastic".
            num_samples: S of stochastic mode; None takes the model's own.

        Returns:
            A function `(images, seed) -> logits`.

        Raises:
            UserError: If the model has no such endpoint.
        """
        if mode not in MODES:
            raise unknown_name("mode", mode, MODES, "Set mode to one of them.")
        endpoint = getattr(self.loaded, mode, None)
        if endpoint is None:
            present = [m for m in MODES if hasattr(self.loaded, m)]
            raise UserError(
                f"The SavedModel has no endpoint for {mode} mode",
                received=f"{self.path} with {', '.join(present) or 'none'}",
                expected=f'an endpoint "{mode}"',
                fix="Deterministic models have mean mode alone; set mode."
                if present
                else "Export the model with ib_keras.export.save.",
            )
        if mode == "mean":
            return lambda images, seed: endpoint(images)
        count = int(num_samples or self.metadata["num_samples"])
        return lambda images, seed: endpoint(
            images, seed, tf.constant(count, tf.int32)
        )


def hash_folder(path: str) -> str:
    """SHA-256 over the relative names and digests of all files below."""
    total = hashlib.sha256()
    names = []
    for folder, _, found in tf.io.gfile.walk(path):
        names += [files.join(folder, name) for name in found]
    for name in sorted(names):
        digest = hashlib.sha256()
        with tf.io.gfile.GFile(name, "rb") as file:
            while block := file.read(_CHUNK):
                digest.update(block)
        relative = name[len(path) :].lstrip("/")
        total.update(f"{relative}\0{digest.hexdigest()}\n".encode())
    return total.hexdigest()


def load(path: str) -> Target:
    """Loads a SavedModel that `ib_keras.export` wrote.

    Args:
        path: Its folder.

    Returns:
        A `Target`.

    Raises:
        UserError: If there is no such folder, it is damaged, or it holds no
            metadata.
    """
    path = path.rstrip("/")
    if not files.exists(files.join(path, "saved_model.pb")):
        inside = files.join(path, "saved_model")
        hint = f"Did you mean {inside}? " if files.exists(inside) else ""
        raise UserError(
            "There is no SavedModel",
            received=path,
            expected="a folder that holds saved_model.pb",
            fix=f"{hint}Give the folder that training exported.",
        )
    metadata = export.read_metadata(path)
    if metadata is None:
        raise UserError(
            "The SavedModel has no ib_keras metadata",
            received=path,
            expected=f"assets/{export.METADATA_FILE} in it",
            fix="Export the model with ib_keras.export.save.",
        )
    try:
        loaded = tf.saved_model.load(path)
    except Exception as error:  # TensorFlow has seven kinds for one fault.
        first_line = str(error).strip().splitlines()[:1]
        raise UserError(
            "The SavedModel is damaged or incomplete",
            received=f"{path} ({type(error).__name__}: {first_line})",
            expected="a whole SavedModel",
            fix="Copy or export the model again.",
        ) from error
    return Target(path, hash_folder(path), metadata, loaded)


def check_gradients(logits_fn: LogitsFn, image_shape) -> None:
    """Refuses a model that attacks cannot differentiate.

    Raises:
        UserError: If there is no gradient with respect to images.
    """
    images = tf.constant(
        np.linspace(0.0, 1.0, 2 * int(np.prod(image_shape))).reshape(
            [2, *image_shape]
        ),
        tf.float32,
    )
    problem = "None"
    gradient = None
    try:
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = logits_fn(images, seeds.from_int(0))
        gradient = tape.gradient(logits, images)
    except (LookupError, tf.errors.OpError) as error:
        problem = str(error).splitlines()[0]
    if gradient is None:
        raise UserError(
            "The model has no gradient with respect to images",
            received=problem,
            expected="a differentiable function from images to logits",
            fix="Export it without rounding, casts to integers or operations "
            "that have no gradient; gradient-free attacks need none.",
        )
