"""Folders prepared by TensorFlow Datasets: found or made, then read.

Shared by the data sets that TFDS knows. A prepared folder is
`<data_dir>/<name>/<version>`; `data_dir` is an argument, else the environment
variable TFDS_DATA_DIR as it was when TFDS was imported, else
`~/tensorflow_datasets`.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable

import numpy as np
from absl import logging

from ib_keras import files
from ib_keras.data import records
from ib_keras.data import splits
from ib_keras.errors import UserError

# (folder, split, ...) -> arrays. A split is decoded once in a process.
_cache: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}

# Examples that are joined at once while a split is decoded.
_BLOCK = 1000


def source(
    name: str, version: str, original: str, data_dir=None, download: bool = True
) -> tuple[str, Callable[[str], tuple[np.ndarray, np.ndarray]]]:
    """Opens a data set, without TFDS where that is not needed.

    Args:
        name: As of `open_builder`.
        version: The one that TFDS prepares.
        original: As of `describe`.
        data_dir: As of `open_builder`.
        download: As of `open_builder`.

    Returns:
        What `describe` gives, and `load` of the builder.

    Raises:
        UserError: As `open_builder` and `describe`.
    """
    folder = None
    # Other code may have replaced it by a mock.
    if "tensorflow_datasets" not in sys.modules:
        folder = records.find(name, version, data_dir)
    start = folder and records.first_bytes(folder)
    if not start:
        builder = open_builder(name, data_dir, download=download)
        return describe(builder, original), functools.partial(load, builder)

    def load_split(split):
        key = (folder, str(split))
        if key not in _cache:
            arrays = records.read(folder, str(split))
            if arrays is None:
                return load(open_builder(name, data_dir, download=False), split)
            _cache[key] = _frozen(*arrays)
        return _cache[key]

    return _named(start, original), load_split


def open_builder(
    name: str, data_dir=None, *, download: bool = True, is_local: bool = False
):
    """Returns the TFDS builder of a data set that is ready to be read.

    Args:
        name: A registered TFDS data set, such as "mnist".
        data_dir: Folder of prepared data sets, or None for TFDS's own rule.
        download: Whether a data set that is not there may be downloaded and
            prepared.
        is_local: Whether it needs no network, and so is prepared even where
            downloads are off.

    Returns:
        A `tfds.core.DatasetBuilder` whose folder exists.

    Raises:
        UserError: If the data set is not there and may not be downloaded, the
            download fails, or the folder is damaged.
    """
    builder = construct(name, data_dir)
    check(builder, download or is_local)
    if builder.data_path.exists():
        return builder
    if not is_local:
        logging.warning(
            "%s is not there: downloading the data set %s. Without a network "
            "TFDS gives up after some minutes.",
            builder.data_path,
            name,
        )
    try:
        builder.download_and_prepare()
    except Exception as error:
        # Network, disk and TFDS each raise their own errors.
        # Another process may have finished the same folder meanwhile.
        builder = construct(name, data_dir)
        if builder.data_path.exists():
            return builder
        raise _prepare_error(builder, error, is_local) from error
    return builder


def check(builder, download: bool) -> None:
    """Refuses a data set that is not there and may not be downloaded.

    Args:
        builder: The result of `construct`.
        download: Whether it may.

    Raises:
        UserError: If so.
    """
    if not download and not builder.data_path.exists():
        version = str(builder.version)
        raise _absent(builder.name, builder.data_path, f"/{version}")


def check_folder(name: str, data_dir: str | None, download: bool) -> None:
    """As `check`, without TFDS, whose import takes half a second.

    Args:
        name: As of `open_builder`.
        data_dir: As of `open_builder`.
        download: Whether it may be downloaded.

    Raises:
        UserError: If it is not there in any version, and may not.
    """
    folder = files.join(records.root(data_dir), name)
    if not download and not files.is_remote(folder):
        if not os.path.isdir(folder):
            raise _absent(name, folder)


def load(
    builder,
    split: str,
    keys: tuple[str, str] | None = None,
    form: Callable | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a split of a prepared folder, once in a process.

    Args:
        builder: The result of `open_builder`.
        split: A split string, such as "train[:90%]".
        keys: The features with images and labels; None for those that the data
            set declares.
        form: What is done to each image; it can be hashed.

    Returns:
        Images uint8 `[n, height, width, channels]` and labels int32 `[n]`, in
        the order of the files. They are read-only, since callers share them.

    Raises:
        UserError: If the split does not exist or the folder is damaged.
    """
    key = (os.fspath(builder.data_path), str(split), keys, form)
    if key not in _cache:
        arrays = _decode(builder, str(split), keys, form)
        # Without files it is mocked by tfds.testing.mock_data.
        if not builder.data_path.exists():
            return arrays
        _cache[key] = arrays
    return _cache[key]


def forget() -> None:
    """Frees the splits that this process has read."""
    _cache.clear()


def describe(builder, original: str) -> str:
    """Names a data set for reports, and says if its images were re-encoded.

    TFDS stores images that it prepared itself losslessly, as PNG. Neither
    `features.json` nor `dataset_info.json` records that somebody prepared a
    folder with another encoding, so the first stored image is checked.

    Args:
        builder: The result of `open_builder`.
        original: The name of the original data set, such as "CIFAR-10".

    Returns:
        `original`, or `original` with "(JPEG re-encoded)" or "(re-encoded)".

    Raises:
        UserError: If the folder is damaged.
    """
    import tensorflow_datasets as tfds

    decoders = tfds.decode.PartialDecoding(
        {"image": True}, decoders={"image": tfds.decode.SkipDecoding()}
    )
    with _damage_errors(builder):
        examples = builder.as_dataset(split="train[:1]", decoders=decoders)
        example = next(iter(examples))
    return _named(example["image"].numpy()[:4], original)


def _named(start: bytes, original: str) -> str:
    if start == b"\x89PNG":
        return original
    if start[:3] == b"\xff\xd8\xff":
        return f"{original} (JPEG re-encoded)"
    return f"{original} (re-encoded)"


def _is_for_users(record) -> bool:
    """Whether a warning is not about how TFDS itself is written."""
    return ".dtype` is deprecated" not in str(record.msg)


logging.get_absl_logger().addFilter(_is_for_users)


def construct(name: str, data_dir=None):
    """Returns the TFDS builder of a data set that may not be there.

    Args:
        name: As of `open_builder`.
        data_dir: As of `open_builder`.

    Returns:
        A `tfds.core.DatasetBuilder`.

    Raises:
        UserError: If TFDS has none; the cause is TFDS's own error.
    """
    import tensorflow_datasets as tfds

    if data_dir:
        data_dir = os.path.expanduser(os.fspath(data_dir))
    try:
        return tfds.builder(name, data_dir=data_dir or None)
    except Exception as error:
        # JSON, protobuf and TFDS each raise their own errors.
        raise UserError(
            f"The folder of the data set {name} cannot be read",
            received=f"in {data_dir or 'the default data_dir'}: "
            f"{_reason(error)}",
            expected="a folder prepared by TensorFlow Datasets",
            fix="Remove the damaged folder, or give another data_dir.",
        ) from error


def _decode(builder, split, keys, form) -> tuple[np.ndarray, np.ndarray]:
    sizes = {
        name: info.num_examples for name, info in builder.info.splits.items()
    }
    if sizes:  # Empty under tfds.testing.mock_data.
        splits.resolve(split, sizes)
    with _damage_errors(builder):
        dataset = _open(builder, split, keys, form)
        blocks = list(dataset.batch(_BLOCK).as_numpy_iterator())
        images = np.concatenate([block for block, _ in blocks])
        labels = np.concatenate([block for _, block in blocks])
    return _frozen(images, labels.astype(np.int32))


def _open(builder, split, keys, form):
    """Pairs of image and label, as a `tf.data.Dataset`."""
    if keys is None:
        return builder.as_dataset(split=split, as_supervised=True)
    import tensorflow_datasets as tfds

    image, label = keys
    decoders = tfds.decode.PartialDecoding({image: True, label: True})
    dataset = builder.as_dataset(split=split, decoders=decoders)
    return dataset.map(
        lambda example: (form(example[image]), example[label]),
        num_parallel_calls=-1,  # tf.data.AUTOTUNE
    )


def _frozen(images, labels):
    images.setflags(write=False)
    labels.setflags(write=False)
    return images, labels


@contextlib.contextmanager
def _damage_errors(builder):
    """Turns the errors of a damaged folder into a `UserError`."""
    try:
        yield
    except Exception as error:
        # Files, records and TFDS each raise their own errors.
        raise UserError(
            f"The data set {builder.name} cannot be read",
            received=f"in {builder.data_path}: {_reason(error)}",
            expected="the whole files that TensorFlow Datasets wrote",
            fix="Remove that folder and prepare it again.",
        ) from error


def _prepare_error(builder, error: Exception, is_local: bool) -> UserError:
    received = f"in {builder.data_path}: {_reason(error)}"
    if is_local:
        return UserError(
            f"The data set {builder.name} could not be prepared",
            received=received,
            expected="a folder that can be written, with space left",
            fix="Point data_dir (or the environment variable TFDS_DATA_DIR) "
            "to such a folder.",
        )
    return UserError(
        f"The data set {builder.name} could not be downloaded and prepared",
        received=received,
        expected="a network, and a folder that can be written",
        fix=f"{_point(f'{builder.name}/{builder.version}')}, or run this "
        "again where there is a network.",
    )


def _absent(name, folder, version="") -> UserError:
    return UserError(
        f"The data set {name} is not there and downloads are off",
        received=f"no folder {folder}",
        expected="a folder prepared by TensorFlow Datasets",
        fix=f"{_point(name + version)}, or allow the download with "
        "download=True.",
    )


def _point(folder: str) -> str:
    return (
        "Point data_dir (or the environment variable TFDS_DATA_DIR) to a "
        f"folder that holds {folder}"
    )


def _reason(error: Exception) -> str:
    lines = (getattr(error, "message", None) or str(error)).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
