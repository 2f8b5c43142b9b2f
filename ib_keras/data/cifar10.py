"""CIFAR-10: 50,000 + 10,000 colour images, 32x32x3, by TFDS.

Trained on with random crops (4 pixels of zero padding) and horizontal flips,
as in the paper.
"""

import functools

from ib_keras.data import augment
from ib_keras.data import prepared
from ib_keras.data.source import DataSource

SPLITS = ("train", "test")
# The order of the labels in the original files.
_CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def build(data_dir: str | None = None, download: bool = True) -> DataSource:
    """Builds the CIFAR-10 source; its splits are "train" and "test".

    Args:
        data_dir: Folder of prepared TFDS data sets; None means TFDS_DATA_DIR
            or else `~/tensorflow_datasets`.
        download: Whether to download and prepare the data if it is not there.

    Returns:
        A `DataSource` with images 32x32x3. Its description is "CIFAR-10 (JPEG
        re-encoded)" where the prepared copy holds JPEG images.

    Raises:
        UserError: If the data is not there and cannot or must not be
            downloaded, or is damaged.
    """
    description, load = prepared.source(
        "cifar10", "3.0.2", "CIFAR-10", data_dir, download
    )
    return DataSource(
        name="cifar10",
        description=description,
        image_shape=(32, 32, 3),
        class_names=_CLASS_NAMES,
        load=load,
        augment=functools.partial(augment.random_crop_and_flip, pad=4),
    )


def check(data_dir: str | None = None, download: bool = True) -> None:
    """Refuses what `build` refuses, if the data are not there at all."""
    prepared.check_folder("cifar10", data_dir, download)
