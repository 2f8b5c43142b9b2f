"""MNIST: 60,000 + 10,000 handwritten digits, 28x28x1, by TFDS.

Trained on without augmentation, as in the paper.
"""

from ib_keras.data import prepared
from ib_keras.data.source import DataSource

SPLITS = ("train", "test")


def build(data_dir: str | None = None, download: bool = True) -> DataSource:
    """Builds the MNIST source; its splits are "train" and "test".

    Args:
        data_dir: Folder of prepared TFDS data sets; None means TFDS_DATA_DIR
            or else `~/tensorflow_datasets`.
        download: Whether to download and prepare the data if it is not there.

    Returns:
        A `DataSource` with images 28x28x1.

    Raises:
        UserError: If the data is not there and cannot or must not be
            downloaded, or is damaged.
    """
    description, load = prepared.source(
        "mnist", "3.0.1", "MNIST", data_dir, download
    )
    return DataSource(
        name="mnist",
        description=description,
        image_shape=(28, 28, 1),
        class_names=tuple("0123456789"),
        load=load,
    )


def check(data_dir: str | None = None, download: bool = True) -> None:
    """Refuses what `build` refuses, if the data are not there at all."""
    prepared.check_folder("mnist", data_dir, download)
