"""Any image data set of TensorFlow Datasets (TFDS), by its name there.

`tfds:fashion_mnist`, `tfds:emnist/letters`, `tfds:cifar10_corrupted/fog_3`:
the text after the colon is an argument of `tfds.builder`. A folder that was
prepared in TFDS's format is read without the code that prepared it.
"""

import difflib
from collections.abc import Sequence

import numpy as np

from ib_keras.data import images
from ib_keras.data import prepared
from ib_keras.data import records
from ib_keras.data import splits
from ib_keras.data.source import DataSource
from ib_keras.errors import UserError
from ib_keras.errors import reason
from ib_keras.errors import unknown_name


def build(
    tfds_name: str,
    image_key: str | None = None,
    label_key: str | None = None,
    image_size: Sequence[int] | int | None = None,
    color_mode: str | None = None,
    data_dir: str | None = None,
    download: bool = True,
) -> DataSource:
    """Opens a data set of TFDS; its splits are those that TFDS gives it.

    Args:
        tfds_name: As `tfds.builder` takes it: `NAME`, `NAME/CONFIG`,
            `NAME:VERSION`.
        image_key: The feature with the images; None for the one that the data
            set declares for supervised learning, or else `image`.
        label_key: The feature with the classes; None for the one
            that the data set declares, or else `label`.
        image_size: (height, width), or one number for both, which images are
            stretched to; None for their own, if all are of one size.
        color_mode: "grayscale" or "rgb"; None for what they are.
        data_dir: Folder of prepared TFDS data sets; None means TFDS_DATA_DIR
            or else `~/tensorflow_datasets`.
        download: Whether to download and prepare the data if it is not there.

    Returns:
        A `DataSource` that is called `tfds:NAME`.

    Raises:
        UserError: If TFDS has no such data set, it has no images or classes
            under these keys, or it is not there and cannot be downloaded.
    """
    # Errors are raised before anything is downloaded.
    _, keys, form = _open(
        tfds_name, image_key, label_key, image_size, color_mode, data_dir
    )
    builder = prepared.open_builder(tfds_name, data_dir, download=download)
    image, label = (builder.info.features[key] for key in keys)
    height, width, channels = image.shape
    shape = (*(form.size or (height, width)), form.channels or channels)

    def load(split):
        sizes = {n: s.num_examples for n, s in builder.info.splits.items()}
        if sizes:  # Empty under tfds.testing.mock_data.
            parts = splits.resolve(split, sizes)
            count = sum(stop - start for _, start, stop in parts)
            images.check_memory(f"{tfds_name} {split}", count, shape)
        return prepared.load(builder, split, keys=keys, form=form)

    return DataSource(
        name=f"tfds:{tfds_name}",
        description=f"{tfds_name} (TFDS {builder.version})",
        image_shape=shape,
        class_names=_names(label),
        load=load,
    )


def check(
    tfds_name: str,
    data_dir: str | None = None,
    download: bool = True,
    **arguments,
) -> None:
    """Refuses what `build` refuses, but for a download that fails.

    Args:
        tfds_name: As of `build`.
        data_dir: As of `build`.
        download: As of `build`.
        **arguments: The others of `build`.

    Raises:
        UserError: As `build`.
    """
    builder, _, _ = _open(tfds_name, data_dir=data_dir, **arguments)
    prepared.check(builder, download)


def _open(
    tfds_name,
    image_key=None,
    label_key=None,
    image_size=None,
    color_mode=None,
    data_dir=None,
):
    """The builder, the keys of images and labels, and the images' form."""
    form = images.form(image_size, color_mode)
    builder = _construct(tfds_name, data_dir)
    return builder, _keys(builder, image_key, label_key, form), form


def _construct(tfds_name, data_dir):
    """The builder of a data set, which may not be prepared yet."""
    import tensorflow_datasets as tfds

    try:
        return prepared.construct(tfds_name, data_dir)
    except UserError as error:
        cause = error.__cause__
        # Of a config or version; damaged folders raise other errors.
        if type(cause) in (AssertionError, ValueError):
            raise _wrong_version(tfds_name, cause) from cause
        if not isinstance(cause, tfds.core.DatasetNotFoundError):
            raise
    known = tfds.list_builders(with_community_datasets=False)
    near = difflib.get_close_matches(tfds_name, known, n=3)
    raise UserError(
        "TensorFlow Datasets has no data set of this name",
        received=f'"{tfds_name}"',
        expected="one of its catalogue, such as "
        f"{', '.join(near or ['fashion_mnist', 'kmnist', 'svhn_cropped'])}, "
        f"or one that is prepared in {records.root(data_dir)}",
        fix="Correct the name, or point data_dir to the folder that holds it.",
    )


def _wrong_version(tfds_name, error) -> UserError:
    return UserError(
        "TensorFlow Datasets does not open a data set of this name",
        received=f'"{tfds_name}" ({reason(error, 300)})',
        expected="NAME, NAME/CONFIG, NAME:VERSION or NAME/CONFIG:VERSION",
        fix="Correct the config or the version.",
    )


def _keys(builder, image_key, label_key, form) -> tuple[str, str]:
    """The keys of images and labels, if they are such features."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    if not isinstance(features, tfds.features.FeaturesDict):
        raise UserError(
            "The data set has no features by name",
            received=f"{builder.name} with {type(features).__name__}",
            expected="a data set of labelled images",
            fix="Choose another one.",
        )
    declared = builder.info.supervised_keys or ("image", "label")
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    keys = []
    for field, given, default, kind in zip(
        ("image_key", "label_key"),
        (image_key, label_key),
        declared[:2],
        kinds,
        strict=True,
    ):
        there = [key for key in features if isinstance(features[key], kind)]
        key = given or default
        if key not in there:
            raise _wrong_key(builder, field, key, there)
        keys.append(key)
    _check_image(builder, features[keys[0]], form)
    return tuple(keys)


def _wrong_key(builder, field, key, there) -> UserError:
    kind = {"image_key": "images", "label_key": "classes"}[field]
    if there:
        return unknown_name(
            f"feature of {kind} of the TFDS data set {builder.name}",
            key,
            there,
            f"Set {field} to one of them.",
        )
    return UserError(
        f"The TFDS data set has no {kind}",
        received=f"{builder.name} with {', '.join(builder.info.features)}",
        expected="a data set of labelled images",
        fix="Choose another one.",
    )


def _check_image(builder, feature, form):
    height, width, channels = feature.shape
    dtype = np.dtype(feature.np_dtype)
    if dtype != np.uint8:
        raise UserError(
            "The images are not of 8 bits",
            received=f"{builder.name} with {dtype.name}",
            expected="uint8",
            fix="Write them as uint8 into a .npz file, for the data set npz.",
        )
    if channels is None or (form.size is None and None in (height, width)):
        raise UserError(
            "The images are not of one shape",
            received=f"{builder.name} with images of shape {feature.shape}",
            expected="one height, width and number of channels",
            fix="Set image_size to (height, width), such as 224,224."
            if channels
            else "Choose another data set.",
        )
    wanted = form.channels or channels
    if wanted != channels and {wanted, channels} != {1, 3}:
        raise UserError(
            "The images have other channels",
            received=f"{builder.name} with {channels}, asked for {wanted}",
            expected="grayscale or rgb, of images that are either",
            fix="Leave out color_mode.",
        )


def _names(label) -> tuple[str, ...]:
    names = tuple(label.names)
    # Some have several classes of one name.
    if len(set(names)) < len(names):
        return tuple(map(str, range(len(names))))
    return names
