"""Loads a model from a path, after the safety check.

TensorFlow and Keras raise a dozen kinds of errors for a damaged file; here they
become one.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ib_keras import metadata as metadata_files
from ib_keras.audit import safety
from ib_keras.audit.audited_model.options import check_path
from ib_keras.audit.audited_model.options import hash_folder
from ib_keras.audit.audited_model.options import is_keras
from ib_keras.audit.audited_model.signatures import Endpoint
from ib_keras.errors import UserError
from ib_keras.errors import reason

__all__ = [
    "check_path",
    "hash_folder",
    "is_keras",
    "keras_endpoint",
    "load",
    "with_modes",
]

# Of JSON, which becomes twenty times as many bytes of objects.
_MOST_METADATA = 1 << 20


@contextlib.contextmanager
def _one_error(path: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        kind = "Keras file" if is_keras(path) else "SavedModel"
        raise UserError(
            f"The {kind} is damaged or incomplete",
            received=f"{path} ({type(error).__name__}: {reason(error)})",
            expected=f"a whole {kind}",
            fix="Copy or export the model again.",
        ) from error


def load(
    path: str,
    strategy: tf.distribute.Strategy | None = None,
    allow_ops: Sequence[str] = (),
    probe: bool = False,
    batch_size: int | None = None,
) -> tuple[Any, Any, dict[str, Any] | None]:
    """Checks a model and loads it.

    Args:
        path: A SavedModel folder or a .keras file.
        strategy: Its devices get the variables.
        allow_ops: Operations that the user lets pass.
        probe: Whether a child process runs the model first, under limits.
        batch_size: The largest batch that it will be called on; None for
            small ones.

    Returns:
        What TensorFlow or Keras loaded, the safety report, and the metadata
        of a SavedModel that has them.

    Raises:
        UserError: If the model is damaged.
        UnsafeError: If it holds what could do harm.
    """
    metadata = None
    with _one_error(path):
        report = safety.check(
            path,
            allow_ops=tuple(allow_ops),
            probe=probe,
            batches=safety.batch_sizes(batch_size),
        )
        with (
            safety.loadable(path, report) as copy,
            strategy.scope() if strategy else contextlib.nullcontext(),
        ):
            if is_keras(path):
                import keras

                model = keras.saving.load_model(
                    copy, compile=False, safe_mode=True
                )
            else:
                metadata = _metadata(copy, path)
                model = tf.saved_model.load(copy)
        # Larger batches were tried while it was loaded; none is called before.
        safety.finish(report)
    return model, report, metadata


def _metadata(copy, path):
    """The metadata of a copy; messages are about the model itself."""
    asset = metadata_files.path(copy)
    try:
        if os.path.isfile(asset) and os.path.getsize(asset) > _MOST_METADATA:
            raise UserError(
                "The SavedModel's metadata are too long",
                received=f"{os.path.getsize(asset)} bytes in {asset}",
                expected=f"at most {_MOST_METADATA}",
                fix="Export the model again, or take the file away.",
            )
        return metadata_files.read(copy)
    except UserError as error:
        raise UserError(
            error.what,
            received=str(error.received).replace(copy, path),
            expected=error.expected,
            fix=error.fix,
        ) from error


def sha256(report: Any) -> str:
    """The `hash_folder` of the files that a safety report is of."""
    if report.kind == "keras":
        (digest,) = report.files.values()
        return digest
    total = hashlib.sha256()
    for name, digest in sorted(report.files.items()):
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()


def keras_endpoint(model: Any, name: str, path: str) -> Endpoint:
    """Makes an endpoint of a Keras model, its layers set to inference.

    Raises:
        UserError: If it takes more than images.
    """
    from ib_keras import modes

    call = tf.function(modes.mean(model))

    variables = tuple(v.value for v in model.variables)
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return Endpoint(name, call, held=variables)
    if len(inputs) > 1:
        raise UserError(
            "The Keras model takes more than images",
            received=f"{len(inputs)} inputs in {path}",
            expected="one input, a batch of images",
            fix="Save a model of the images alone.",
        )
    spec = tf.TensorSpec(inputs[0].shape, inputs[0].dtype)
    concrete = call.get_concrete_function(spec)
    return Endpoint(name, concrete, spec, concrete)


class _WithModes:
    """A Keras model whose stochastic mode is called as an export's is."""

    def __init__(self, model, stochastic):
        self.model = model
        self.stochastic = stochastic


def with_modes(model: Any) -> tuple[Any, dict[str, Any]]:
    """A Keras model with its stochastic mode, where it has one.

    Returns:
        The model, or an object with it and a function `stochastic`; and the
        metadata that an export would have of the mode.
    """
    from ib_keras import modes

    if not modes.is_stochastic(model):
        return model, {}
    stochastic = tf.function(modes.stochastic(model), reduce_retracing=True)
    num_samples = getattr(model, "num_samples", modes.NUM_SAMPLES)
    metadata = {"is_stochastic": True, "num_samples": num_samples}
    return _WithModes(model, stochastic), metadata
