"""Small data sets of a user's own, as files: one archive, one folder."""

import pathlib

import numpy as np
from PIL import Image

NAMES = ("bird", "cat", "dog", "frog")
SHAPE = (6, 5, 3)


def images(split, size, shape=SHAPE):
    """Noise that is darker for some classes, and its labels."""
    rng = np.random.default_rng(len(split))
    labels = np.arange(size) % len(NAMES)
    noise = rng.integers(0, 256, [size, *shape])
    noise[:, 0] = (noise[:, 0] + 255 * labels.reshape(-1, 1, 1)) // 4
    return noise.astype(np.uint8), labels


def npz(folder, shape=SHAPE) -> str:
    """The path of an archive with 200 and 60 images of four classes."""
    path = pathlib.Path(folder, "own.npz")
    arrays = {}
    for split, size in (("train", 200), ("test", 60)):
        arrays[f"x_{split}"], arrays[f"y_{split}"] = images(split, size, shape)
    np.savez(path, **arrays)
    return str(path)


def image_folder(folder, shape=SHAPE, has_splits=True) -> str:
    """The path of a folder with the images of `npz`; or of its test alone."""
    root = pathlib.Path(folder, "photos")
    for split, size in (("train", 200), ("test", 60)):
        if has_splits or split == "test":
            _write(root / split if has_splits else root, split, size, shape)
    return str(root)


def _write(root, split, size, shape):
    for i, (image, label) in enumerate(
        zip(*images(split, size, shape), strict=True)
    ):
        path = root / NAMES[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(path)
