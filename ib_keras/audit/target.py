"""The audited model: a SavedModel folder made into functions to logits."""

import contextlib
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
        # Looked up at each call, so that the functions keep `loaded` alive:
        # without it TensorFlow drops the variables that they use.
        if not hasattr(self.loaded, mode):
            present = [m for m in MODES if hasattr(self.loaded, m)]
            raise UserError(
                f"The SavedModel has no endpoint for {mode} mode",
                received=f"{self.path} with {', '.join(present) or 'none'}",
                expected=f'an endpoint "{mode}"',
                fix="Deterministic models have mean mode alone; set mode."
                if present
                else "Export the model with ib_keras.export.save.",
            )
        self._check_batch_is_free(mode)
        if mode == "mean":
            return lambda images, seed: self.loaded.mean(images)
        count = int(num_samples or self.metadata["num_samples"])
        return lambda images, seed: self.loaded.stochastic(
            images, seed, tf.constant(count, tf.int32)
        )

    def _check_batch_is_free(self, mode):
        for concrete in getattr(self.loaded, mode).concrete_functions:
            shape = concrete.structured_input_signature[0][0].shape
            if shape.rank and shape[0] is not None:
                raise UserError(
                    "The endpoint has a fixed batch size",
                    received=f'"{mode}" of {self.path}, which takes {shape}',
                    expected="a free batch axis, [None, ...]",
                    fix="Export it with tf.TensorSpec([None, ...]).",
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


def load(path: str, strategy: tf.distribute.Strategy | None = None) -> Target:
    """Loads a SavedModel that `ib_keras.export` wrote.

    Args:
        path: Its folder.
        strategy: Whose devices get the variables.

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
    missing = {"input_shape", "num_classes"} - metadata.keys()
    if missing:
        raise UserError(
            "The SavedModel's metadata are incomplete",
            received=f"{path} without {', '.join(sorted(missing))}",
            expected=f"what ib_keras writes to assets/{export.METADATA_FILE}",
            fix="Export the model with ib_keras.export.save.",
        )
    try:
        with strategy.scope() if strategy else contextlib.nullcontext():
            loaded = tf.saved_model.load(path)
    except Exception as error:  # TensorFlow has seven kinds for one fault.
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            "The SavedModel is damaged or incomplete",
            received=f"{path} ({type(error).__name__}: {reason})",
            expected="a whole SavedModel",
            fix="Copy or export the model again.",
        ) from error
    return Target(path, hash_folder(path), metadata, loaded)


def check_gradients(
    logits_fn: LogitsFn, image_shape, num_classes: int, is_needed: bool = True
) -> None:
    """Refuses a model that attacks cannot differentiate.

    Args:
        logits_fn: The audited classifier.
        image_shape: (height, width, channels) by the metadata.
        num_classes: How many logits there are by the metadata.
        is_needed: False where no attack takes a gradient.

    Raises:
        UserError: If it is no function from such images to so many logits, or
            there is no gradient with respect to images.
    """
    images = tf.constant(
        np.linspace(0.0, 1.0, 2 * int(np.prod(image_shape))).reshape(
            [2, *image_shape]
        ),
        tf.float32,
    )
    problem = "None"
    gradient = None
    with tf.GradientTape() as tape:
        tape.watch(images)
        try:
            logits = logits_fn(images, seeds.from_int(0))
            answer = f"shape {tuple(logits.shape)}, {logits.dtype.name}"
        except Exception as error:  # A foreign graph can raise anything.
            reason = " ".join(str(error).split())[:200]
            logits, answer = None, f"{type(error).__name__}: {reason}"
    if answer != f"shape {(2, num_classes)}, float32":
        raise UserError(
            "The model is not what its metadata say",
            received=f"{answer} for images of shape {tuple(images.shape)}",
            expected=f"logits of shape {(2, num_classes)}, float32",
            fix="Export the model with ib_keras.export.save.",
        )
    if not is_needed:
        return
    try:
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


def check_finite(
    logits_fn: LogitsFn, images: np.ndarray, batch_size: int
) -> None:
    """Refuses a model that answers no image with finite logits.

    The runner refuses it too, but first here, where nothing is written yet.

    Raises:
        UserError: If there is not one finite answer.
    """
    for first in range(0, len(images), batch_size):
        batch = tf.constant(images[first : first + batch_size])
        logits = logits_fn(batch, seeds.from_int(0)).numpy()
        if np.isfinite(logits).all(axis=-1).any():
            return
    raise UserError(
        "The model's logits are not finite on any clean image",
        received="NaN or infinity for every example",
        expected="finite logits",
        fix="Check the model's weights, and that images in [0, 1] are what it "
        "takes.",
    )
