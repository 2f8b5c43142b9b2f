"""A path becomes a loaded model, by way of the safety check.

TensorFlow and Keras have a dozen kinds of errors for one damaged file; here
they become one.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ib_keras import files
from ib_keras.audit import safety
from ib_keras.audit.target.signatures import Endpoint
from ib_keras.errors import UserError

_CHUNK = 1 << 24


def is_keras(path: str) -> bool:
    """Whether a path names a Keras file rather than a SavedModel folder."""
    return path.endswith((".keras", ".h5", ".hdf5"))


def check_path(path: str) -> None:
    """Refuses a path where there is no model.

    Raises:
        UserError: If there is neither a SavedModel nor a .keras file.
    """
    if is_keras(path) and files.exists(path) and not files.is_folder(path):
        return
    if files.exists(files.join(path, "saved_model.pb")):
        return
    inside = files.join(path, "saved_model")
    hint = f"Did you mean {inside}? " if files.exists(inside) else ""
    raise UserError(
        "There is no SavedModel",
        received=path,
        expected="a folder that holds saved_model.pb, or a .keras file",
        fix=f"{hint}Give the folder that training exported.",
    )


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def hash_folder(path: str) -> str:
    """SHA-256 over the relative names and digests of all files below.

    Of a single file it is the digest of the file alone.
    """
    if not files.is_folder(path):
        return _digest(path)
    total = hashlib.sha256()
    names = []
    for folder, _, found in tf.io.gfile.walk(path):
        names += [files.join(folder, name) for name in found]
    for name in sorted(names):
        relative = name[len(path) :].lstrip("/")
        total.update(f"{relative}\0{_digest(name)}\n".encode())
    return total.hexdigest()


@contextlib.contextmanager
def _one_error(path: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        kind = "Keras file" if is_keras(path) else "SavedModel"
        raise UserError(
            f"The {kind} is damaged or incomplete",
            received=f"{path} ({type(error).__name__}: {reason})",
            expected=f"a whole {kind}",
            fix="Copy or export the model again.",
        ) from error


def load(
    path: str,
    strategy: tf.distribute.Strategy | None = None,
    allow_ops: Sequence[str] = (),
    probe: bool = False,
) -> tuple[Any, Any]:
    """Checks a model and loads it.

    Args:
        path: A SavedModel folder or a .keras file.
        strategy: Whose devices get the variables.
        allow_ops: Operations that the user lets pass.
        probe: Whether a child process runs the model first, under limits.

    Returns:
        What TensorFlow or Keras loaded, and the safety report.

    Raises:
        UserError: If the model is damaged.
        UnsafeError: If it holds what could do harm.
    """
    with _one_error(path):
        report = safety.check(path, allow_ops=tuple(allow_ops), probe=probe)
        with (
            safety.loadable(path, report) as copy,
            strategy.scope() if strategy else contextlib.nullcontext(),
        ):
            if is_keras(path):
                import keras

                model = keras.saving.load_model(
                    copy, compile=False, safe_mode=True
                )
                return model, report
            return tf.saved_model.load(copy), report


def keras_endpoint(model: Any, name: str, path: str) -> Endpoint:
    """Makes an endpoint of a Keras model, its layers set to inference.

    Raises:
        UserError: If it takes more than images.
    """

    @tf.function
    def call(images):
        return model(images, training=False)

    variables = tuple(v.value for v in model.variables)
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return Endpoint(name, call, held=variables)
    if len(inputs) > 1:
        raise UserError(
            "The Keras model takes something else than images alone",
            received=f"{len(inputs)} inputs in {path}",
            expected="one input, a batch of images",
            fix="Save a model of the images alone.",
        )
    spec = tf.TensorSpec(inputs[0].shape, inputs[0].dtype)
    concrete = call.get_concrete_function(spec)
    return Endpoint(name, concrete, spec, concrete)
