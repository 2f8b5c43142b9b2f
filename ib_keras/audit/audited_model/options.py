"""What a user specifies of a model, and its path, without TensorFlow."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from typing import Any

from ib_keras import files
from ib_keras.audit.audited_model import preprocessing as preprocessings
from ib_keras.audit.audited_model.preprocessing import Preprocessing
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name
from ib_keras.types import KINDS

MODES = ("mean", "stochastic")
LAYOUTS = ("channels_last", "channels_first")

_CHUNK = 1 << 24

# Formats of models that are not audited -> what to do.
_OTHER_FORMATS = {
    ".tflite": "TensorFlow Lite has no gradients: give the SavedModel or the "
    ".keras file that it was converted from.",
    ".onnx": "Convert it to a SavedModel, for instance with onnx2tf.",
    ".pt": "Convert it to a SavedModel by way of ONNX.",
    ".pth": "Convert it to a SavedModel by way of ONNX.",
    ".weights.h5": "These are weights alone: build the model, load them, and "
    "save it as a .keras file.",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user specifies of a model; None leaves it to be inferred.

    Attributes:
        signature: Name of the endpoint.
        output: Name of the tensor among several that it returns.
        outputs: "logits", "log_probabilities" or "probabilities".
        input_range: (lowest, highest) value of the images that it takes.
        layout: "channels_last" or "channels_first".
        preprocessing: Of images in [0, 1] before the model; `input_range` is
            a special case.
    """

    signature: str | None = None
    output: str | None = None
    outputs: str | None = None
    input_range: tuple[float, float] | None = None
    layout: str | None = None
    preprocessing: Preprocessing | None = None

    def __post_init__(self):
        if self.outputs is not None and self.outputs not in KINDS:
            raise unknown_name(
                "kind of outputs",
                self.outputs,
                KINDS,
                "Set --config.model.outputs to it.",
            )
        if self.layout is not None and self.layout not in LAYOUTS:
            raise unknown_name(
                "layout", self.layout, LAYOUTS, "Set --config.model.layout."
            )
        if self.input_range is not None:
            found = _check_range(self.input_range)
            object.__setattr__(self, "input_range", found)
        if self.input_range is not None and self.preprocessing is not None:
            raise UserError(
                "The model's input is specified in two ways",
                received=f"input_range={self.input_range} and "
                f"preprocessing={self.preprocessing.describe()}",
                expected="one of them",
                fix="Leave out --config.model.input_range.",
            )

    @property
    def said_preprocessing(self) -> Preprocessing | None:
        """The preprocessing that the user specifies, in either way."""
        if self.input_range is not None:
            return Preprocessing.of_range(*self.input_range)
        return self.preprocessing

    @classmethod
    def from_config(cls, section: Mapping[str, Any] | None) -> "Options":
        """Reads the section `model` of an audit config.

        Raises:
            UserError: If a field has an invalid value.
        """
        fields = dict(section or {})
        said = preprocessings.from_config(fields.pop("preprocessing", None))
        return cls(**fields, preprocessing=said)


def _check_range(values) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in values)
    except (TypeError, ValueError):
        low = high = 0.0
    if not -1e6 < low < high < 1e6:
        raise UserError(
            "The model's range of input values is invalid",
            received=values,
            expected="two numbers, the lower one first",
            fix="Set --config.model.input_range=0,255 or another.",
        )
    return low, high


def is_keras(path: str) -> bool:
    """Whether a path names a Keras file rather than a SavedModel folder."""
    return path.endswith((".keras", ".h5", ".hdf5"))


def check_path(path: str) -> None:
    """Refuses a path where there is no model.

    Raises:
        UserError: If there is neither a SavedModel nor a .keras file.
    """
    is_weights = path.endswith(".weights.h5")
    if (
        is_keras(path)
        and not is_weights
        and files.exists(path)
        and not files.is_folder(path)
    ):
        return
    if files.exists(files.join(path, "saved_model.pb")):
        return
    raise UserError(
        "There is no SavedModel",
        received=path,
        expected="a folder that holds saved_model.pb, or a .keras file",
        fix=_what_to_give(path),
    )


def _what_to_give(path: str) -> str:
    """What to do about a path that is not a model, by what is there."""
    other = next((kind for kind in _OTHER_FORMATS if path.endswith(kind)), None)
    if other is not None:
        return _OTHER_FORMATS[other]
    if path.endswith("saved_model.pb"):
        return f"Give its folder: {path.rpartition('/')[0] or '.'}"
    places = ["saved_model"]
    if os.path.isdir(path):
        # TensorFlow Serving keeps versions in folders named by numbers.
        numbers = [int(name) for name in os.listdir(path) if name.isdigit()]
        places += map(str, sorted(numbers, reverse=True))
    for place in places:
        inside = files.join(path, place)
        if files.exists(files.join(inside, "saved_model.pb")):
            return f"Did you mean {inside}?"
    return "Give the folder that training exported."


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with files.open_bytes(path) as file:
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
    for name in sorted(files.walk(path)):
        relative = name[len(path) :].lstrip("/")
        total.update(f"{relative}\0{_digest(name)}\n".encode())
    return total.hexdigest()
