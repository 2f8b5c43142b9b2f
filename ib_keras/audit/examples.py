"""The examples of an audit: by its config and its model's metadata."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np

from ib_keras import files
from ib_keras import plugins
from ib_keras import workdirs
from ib_keras.audit.summary import Model
from ib_keras.errors import UserError
from ib_keras.types import check_count
from ib_keras.types import check_images
from ib_keras.types import check_labels

# Examples that a model's input and kind of outputs are inferred from, and the
# most bytes that more than the first few of them may take.
_FEWEST_PROBE, _MOST_PROBE = 500, 2000
_PROBE_BYTES = 64 << 20


class Examples(NamedTuple):
    """Clean examples.

    Attributes:
        images: float32 `[examples, height, width, channels]` in [0, 1].
        labels: int32 `[examples]`.
        dataset: For the summary: name, split, description.
        probe_images: The examples and the following ones of the split, up to
            2,000, from which the model's `IOSpec` is inferred.
        probe_labels: Of these.
        num_classes: Of the data set; None if it does not say.
    """

    images: np.ndarray
    labels: np.ndarray
    dataset: dict[str, str]
    probe_images: np.ndarray
    probe_labels: np.ndarray
    num_classes: int | None = None


def load(config: Mapping[str, Any], metadata: Mapping[str, Any]) -> Examples:
    """Loads the first `num_examples` of the split that a config names.

    Args:
        config: An audit config. If it names no data set, that of the model's
            metadata is used, with the arguments of its training.
        metadata: Of the SavedModel, with `input_shape` and `num_classes`
            where they are known.

    Returns:
        The `Examples`.

    Raises:
        UserError: If the data are absent, too few, or of another shape than
            the model takes.
    """
    from ib_keras.data import source as sources

    split = config["dataset"].get("split") or "test"
    source = sources.make(section(config["dataset"], metadata))
    shape = metadata.get("input_shape")
    if shape is not None and tuple(source.image_shape) != tuple(shape):
        raise misfit(source.image_shape, tuple(shape), f"{source.name} ")
    images, labels = sources.read(source, split)
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
    images = check_images(sources.to_float(images[:most]).numpy())
    labels = check_labels(labels[:most], most, classes)
    few = slice(None, min(most, probe))
    return Examples(
        images[:count],
        labels[:count],
        dataset,
        images[few],
        labels[few],
        source.num_classes,
    )


def section(
    dataset: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """The section of the data set's part, without its split.

    Args:
        dataset: The section `dataset` of an audit's config.
        metadata: Of the SavedModel; its data set, with the arguments of its
            training, replaces what the config leaves out.

    Returns:
        `{"name": ..., **arguments of its build()}`.

    Raises:
        UserError: If neither names a data set, or there is none of this name.
    """
    said = {k: v for k, v in dataset.items() if v is not None}
    said.pop("split", None)
    own = _own(metadata)
    if "name" not in said:
        if own.get("name") is None:
            raise UserError(
                "The SavedModel does not say which data set it is for",
                received="metadata without config.data",
                expected="the name of a data set in the audit's config",
                fix="Set --config.dataset.name.",
            )
        said = _of_trainer(plugins.expand("data", own)) | said
    else:
        said = plugins.expand("data", said)
        if said["name"] == str(own.get("name")).partition(":")[0]:
            said = _completed(said, plugins.expand("data", own))
    for key in ("data_dir", "download"):
        if not plugins.takes("data", said["name"], key):
            said.pop(key, None)
    return said


def _own(metadata) -> dict[str, Any]:
    """The section of the data set that a model was trained on, if known."""
    config = metadata.get("config")
    data = config.get("data") if isinstance(config, Mapping) else None
    return dict(data) if isinstance(data, Mapping) else {}


def _of_trainer(own):
    """The section without paths, which depend on the machine."""
    return {key: value for key, value in own.items() if key != "data_dir"}


def _completed(said, own):
    """A data set with the other arguments of the model's, if it is the same."""
    told = plugins.needed("data", own["name"])
    if any(said.get(key, own.get(key)) != own.get(key) for key in told):
        return said  # Another file, or another data set of TFDS.
    return _of_trainer(own) | said


def misfit(
    image_shape: Sequence[int],
    wanted: Sequence[int | None],
    whose: str = "",
    layout: str | None = None,
) -> UserError:
    """The error for images of another shape than the model takes.

    Args:
        image_shape: (height, width, channels).
        wanted: The model's, as far as it is known.
        whose: A word before "images", with a blank after it.
        layout: The requested one.
    """
    fixes = []
    if len(wanted) == 3 and wanted[-1] in (1, 3):
        *size, channels = wanted
        if channels != image_shape[-1]:
            mode = "grayscale" if channels == 1 else "rgb"
            fixes.append(f"--config.dataset.color_mode={mode}")
        if None not in size and tuple(size) != tuple(image_shape[:2]):
            fixes.append("--config.dataset.image_size={},{}".format(*size))
    fix = "Set dataset.name to the data set of the model."
    if fixes:
        fix = f"{fix} Or set {' and '.join(fixes)}, of tfds and image_folder."
    return UserError(
        "The data set does not fit the model",
        received=f"{whose}images of shape {tuple(image_shape)}",
        expected=f"images for the model's {tuple(wanted)}"
        + (f" with {layout}" if layout else ""),
        fix=fix,
    )


def of_folder(folder: str, model: Model) -> np.ndarray | None:
    """The clean images of a finished audit, where its data are at hand.

    Args:
        folder: The audit folder.
        model: Of its summary.

    Returns:
        float32 `[examples, ...]`; None if the data are not available, or
        there is no config that names them.

    Raises:
        UserError: If the audit's config is damaged.
    """
    path = files.join(folder, workdirs.CONFIG_FILE)
    if not files.exists(path):
        return None
    config = files.read_json(path)
    try:
        # What the audit found goes before what the metadata say.
        found = {
            "input_shape": model.image_shape,
            "num_classes": model.num_classes,
        }
        known = {key: v for key, v in found.items() if v is not None}
        return load(config["audit"], {**model.metadata, **known}).images
    except UserError:
        return None
