"""Prepared folders read without TFDS, where they have the usual format.

Importing TFDS and opening a data set takes longer than reading its records.
Only one known format is read here: one file of records per split, images as PNG
or JPEG, one label each. In all other cases, damage included, `read` returns
None, and TFDS is used.
"""

import json
import os
import re

import numpy as np

_BLOCK = 1000
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_IMAGE = "tensorflow_datasets.core.features.image_feature.Image"
_LABEL = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"


def find(name: str, version: str, data_dir: str | None) -> str | None:
    """The folder of a data set that TFDS would use.

    Args:
        name: Of the data set.
        version: The one that TFDS prepares.
        data_dir: As of `prepared.open_builder`.

    Returns:
        Its path; None if there is none, or other versions as well.
    """
    folder = os.path.join(root(data_dir), name)
    try:
        versions = os.listdir(folder)
    except OSError:
        return None
    return os.path.join(folder, version) if versions == [version] else None


def root(data_dir: str | None) -> str:
    """The folder of prepared data sets, by TFDS's rule.

    Args:
        data_dir: As of `prepared.open_builder`.
    """
    given = data_dir or os.environ.get("TFDS_DATA_DIR")
    return os.path.expanduser(given or os.path.join("~", "tensorflow_datasets"))


def read(folder: str, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Reads a split, or a slice of it by two numbers.

    Args:
        folder: What `find` gave.
        split: Such as "test" or "train[:500]".

    Returns:
        Images uint8 and labels int32, as TFDS gives them; None where the
        folder or the split has another format.
    """
    import tensorflow as tf

    try:
        found = _open(folder, split)
        if found is None:
            return None
        path, shape, size, start, stop = found
        records = tf.data.TFRecordDataset(path)
        blocks = records.batch(_BLOCK)
        if int(blocks.reduce(0, lambda n, b: n + tf.shape(b)[0])) != size:
            return None
        some = records.skip(start).take(stop - start).batch(_BLOCK)
        decoded = some.map(
            lambda block: _decode(block, shape), tf.data.AUTOTUNE
        )
        parts = list(decoded.as_numpy_iterator())
    except (OSError, KeyError, TypeError, ValueError, tf.errors.OpError):
        return None
    images, labels = (
        np.concatenate(found) for found in zip(*parts, strict=True)
    )
    return images, labels.astype(np.int32)


def first_bytes(folder: str) -> bytes | None:
    """How the first stored image of the split "train" begins."""
    import tensorflow as tf

    try:
        found = _open(folder, "train")
        if found is None:
            return None
        record = next(iter(tf.data.TFRecordDataset(found[0])))
        images, _ = _parse(tf.stack([record]))
        return images[0].numpy()[:4]
    except (OSError, KeyError, TypeError, ValueError, tf.errors.OpError):
        return None


def _open(folder, split):
    """Path, image shape, size, start and stop of a split; None if unknown."""
    with open(os.path.join(folder, "dataset_info.json"), "rb") as file:
        info = json.load(file)
    with open(os.path.join(folder, "features.json"), "rb") as file:
        features = json.load(file)["featuresDict"]["features"]
    image, label = features["image"], features["label"]
    kinds = (image["pythonClassName"], label["pythonClassName"])
    is_known = kinds == (_IMAGE, _LABEL) and info["fileFormat"] == "tfrecord"
    if not is_known or set(image["image"]) != {"dtype", "shape"}:
        return None
    shape = [int(n) for n in image["image"]["shape"]["dimensions"]]
    matched = re.fullmatch(r"(\w+)(?:\[(\d*):(\d*)\])?", split)
    if matched is None or image["image"]["dtype"] != "uint8":
        return None
    name, start, stop = matched.groups()
    (row,) = (row for row in info["splits"] if row["name"] == name)
    if row["filepathTemplate"] != _TEMPLATE or len(row["shardLengths"]) != 1:
        return None
    size = int(row["shardLengths"][0])
    start, stop = int(start or 0), int(stop or size)
    if not 0 <= start < stop <= size:
        return None
    file = f"{info['name']}-{name}.tfrecord-00000-of-00001"
    return os.path.join(folder, file), shape, size, start, stop


def _parse(records):
    import tensorflow as tf

    known = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    parsed = tf.io.parse_example(records, known)
    return parsed["image"], parsed["label"]


def _decode(records, shape):
    import tensorflow as tf

    encoded, labels = _parse(records)
    # It decodes JPEG, too, and is one operation, where decode_image is a tree
    # of conditions that takes twice the time.
    images = tf.map_fn(
        lambda one: tf.io.decode_png(one, shape[-1]),
        encoded,
        fn_output_signature=tf.TensorSpec(shape, tf.uint8),
    )
    return images, labels
