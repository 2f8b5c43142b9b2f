"""Digits: the 1,797 real 8x8 digits that are part of scikit-learn.

No network is needed: the TFDS data set `ib_digits` is prepared from the
installed scikit-learn when it is first used. The split into 1,438 training and
359 test images is this library's: of each class a fifth (rounded), chosen with
a fixed seed, is for the test. No image is in both, but the 13 writers are, so
test accuracy is somewhat optimistic. Pixels are scaled from 0..16 to
0..255.

References:
    Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI
    Machine Learning Repository, 1998 (the test part of the original).
"""

import functools

import numpy as np
import tensorflow_datasets as tfds

from ib_keras.data import prepared
from ib_keras.data.source import DataSource

SPLITS = ("train", "test")
_TEST_FRACTION = 0.2
_SPLIT_SEED = 17


class IbDigits(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of scikit-learn's digits; importing it registers it."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Stratified split of 1,438 and 359 images."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="The 8x8 handwritten digits of scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://scikit-learn.org/stable/datasets/"
            "toy_dataset.html#digits-dataset",
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing is downloaded.
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)
        is_test = _is_test(digits.target)
        return {
            "train": self._generate_examples(images, digits.target, ~is_test),
            "test": self._generate_examples(images, digits.target, is_test),
        }

    def _generate_examples(self, images, labels, chosen):
        for index in np.flatnonzero(chosen).tolist():
            yield (
                index,
                {
                    "image": images[index, :, :, None],
                    "label": int(labels[index]),
                },
            )


def _is_test(labels: np.ndarray) -> np.ndarray:
    """Marks the test images; RandomState's streams are frozen by NumPy."""
    random = np.random.RandomState(_SPLIT_SEED)
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        indices = random.permutation(np.flatnonzero(labels == label))
        is_test[indices[: round(_TEST_FRACTION * len(indices))]] = True
    return is_test


def build(data_dir: str | None = None, download: bool = True) -> DataSource:
    """Builds the digits source; its splits are "train" and "test".

    Args:
        data_dir: Folder of prepared TFDS data sets, where this one is written
            when it is first used; None means TFDS_DATA_DIR or else
            `~/tensorflow_datasets`.
        download: Has no effect, since nothing is downloaded.

    Returns:
        A `DataSource` with images 8x8x1.

    Raises:
        UserError: If the folder cannot be written or is damaged.
    """
    builder = prepared.open_builder(
        IbDigits.name, data_dir, download=download, is_local=True
    )
    return DataSource(
        name="digits",
        description="scikit-learn digits",
        image_shape=(8, 8, 1),
        class_names=tuple("0123456789"),
        load=functools.partial(prepared.load, builder),
    )
