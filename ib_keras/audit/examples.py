"""The examples of an audit: by its config and its model's metadata."""

import inspect
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import numpy as np

from ib_keras import files
from ib_keras import plugins
from ib_keras import workdirs
from ib_keras.errors import UserError
from ib_keras.types import check_count
from ib_keras.types import check_images
from ib_keras.types import check_labels

# Examples that a model's input and kind of outputs are told by, and the bytes
# that more than the first few of them may take.
_FEWEST_PROBE, _MOST_PROBE = 500, 2000
_PROBE_BYTES = 64 << 20


class Examples(NamedTuple):
    """Clean examples.

    Attributes:
        images: float32 `[examples, height, width, channels]` in [0, 1].
        labels: int32 `[examples]`.
        dataset: For the summary: name, split, description.
        probe_images: The examples and what follows them in the split, up to
            2,000: what a model is found out by.
        probe_labels: Of these.
    """

    images: np.ndarray
    labels: np.ndarray
    dataset: dict[str, str]
    probe_images: np.ndarray
    probe_labels: np.ndarray


def load(config: Mapping[str, Any], metadata: Mapping[str, Any]) -> Examples:
    """Loads the first `num_examples` of the split that a config names.

    Args:
        config: An audit config. Where it names no data set, the model's own
            is taken, by the arguments it was trained with.
        metadata: Of the SavedModel, with `input_shape` and `num_classes`
            where they are known.

    Returns:
        The `Examples`.

    Raises:
        UserError: If the data are absent, too few, or of another shape than
            the model takes.
    """
    section = {k: v for k, v in config["dataset"].items() if v is not None}
    split = section.pop("split", "test")
    own = dict((metadata.get("config") or {}).get("data") or {})
    name = section.setdefault("name", own.get("name"))
    if name is None:
        raise UserError(
            "The SavedModel does not say which data set it is for",
            received="metadata without config.data",
            expected="the name of a data set in the audit's config",
            fix="Set --config.dataset.name.",
        )
    if name == own.get("name"):
        # Where the files are is this machine's business, not the trainer's.
        own.pop("data_dir", None)
        section = {**own, **section}
    accepted = inspect.signature(plugins.load("data", name).build).parameters
    for key in ("data_dir", "download"):
        if key not in accepted:
            section.pop(key, None)
    source = plugins.build("data", section)
    shape = metadata.get("input_shape")
    if shape is not None and tuple(source.image_shape) != tuple(shape):
        raise UserError(
            "The data set does not fit the model",
            received=f"{source.name} images of shape {source.image_shape}",
            expected=f"images of shape {tuple(shape)}",
            fix="Set dataset.name to the data set of the model.",
        )
    images, labels = source.load(split)
    count = check_count("num_examples", config["num_examples"])
    if count > len(labels):
        raise UserError(
            "There are fewer examples than asked for",
            received=f"num_examples={count}",
            expected=f"at most {len(labels)} in {source.name} {split}",
            fix=f"Set --config.num_examples={len(labels)}.",
        )
    classes = int(metadata.get("num_classes") or source.num_classes)
    dataset = {
        "name": source.name,
        "split": split,
        "description": source.description,
    }
    probe = _PROBE_BYTES // (4 * int(np.prod(source.image_shape)))
    probe = min(max(probe, _FEWEST_PROBE), _MOST_PROBE)
    most = min(max(count, probe), len(labels))
    from ib_keras.data import source as sources

    images = check_images(sources.to_float(images[:most]).numpy())
    labels = check_labels(labels[:most], most, classes)
    few = slice(None, min(most, probe))
    return Examples(
        images[:count], labels[:count], dataset, images[few], labels[few]
    )


def of_folder(folder: str, summary: Mapping[str, Any]) -> np.ndarray | None:
    """The clean images of a finished audit, where its data are at hand.

    Args:
        folder: The audit folder.
        summary: Its summary.

    Returns:
        float32 `[examples, ...]`; None where the data are not here.
    """
    try:
        config = files.read_json(files.join(folder, workdirs.CONFIG_FILE))
        model = summary["model"]
        about = {**model["metadata"], **_shapes(model)}
        return load(config["audit"], about).images
    except UserError:
        return None


def _shapes(model):
    """What the audit found, which goes before what the metadata say."""
    known = {
        "input_shape": model.get("image_shape"),
        "num_classes": model.get("num_classes"),
    }
    return {key: value for key, value in known.items() if value is not None}
