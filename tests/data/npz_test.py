"""Archives of a user's own are read as what they hold, or refused."""

import numpy as np
import pytest

from ib_keras.audit import examples
from ib_keras.data import npz
from ib_keras.errors import UserError
from tests.support import runs


def save(folder, **arrays):
    path = str(folder / "own.npz")
    np.savez(path, **arrays)
    return path


def pair(count=12, shape=(4, 3), dtype=np.uint8):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [count, *shape]).astype(dtype)
    return images, np.arange(count) % 3


def test_one_pair_is_the_split_test(tmp_path):
    images, labels = pair()
    source = npz.build(save(tmp_path, images=images, labels=labels))
    assert source.image_shape == (4, 3, 1) and source.num_classes == 3
    found, truth = source.load("test[2:5]")
    np.testing.assert_array_equal(found[..., 0], images[2:5])
    np.testing.assert_array_equal(truth, labels[2:5])
    with pytest.raises(UserError, match="no such split"):
        source.load("train")


def test_files_of_keras_have_both(tmp_path):
    images, labels = pair(shape=(4, 3, 3))
    path = save(
        tmp_path,
        x_train=images,
        y_train=labels[:, None],
        x_test=images[:5],
        y_test=labels[:5, None],
    )
    source = npz.build(path, description="mine", class_names="abc")
    assert source.description == "mine" and source.class_names == tuple("abc")
    assert [len(source.load(s)[1]) for s in ("train", "test")] == [12, 5]


def test_floats_stay_as_they_are(tmp_path):
    images, labels = pair(dtype=np.float64)
    path = save(tmp_path, x=images / 255, y=labels)
    found, _ = npz.build(path).load("test")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[..., 0], images / 255, rtol=1e-6)


IMAGES, LABELS = pair()
WRONG = {
    "other names": ({"a": IMAGES, "b": LABELS}, "arrays a, b"),
    "flat images": ({"x": IMAGES[:, :, 0], "y": LABELS}, "shape (12, 4)"),
    "floats of 255": ({"x": IMAGES * 1.0, "y": LABELS}, "0 to 255"),
    "NaN": ({"x": IMAGES * np.nan, "y": LABELS}, "nan"),
    "long integers": ({"x": IMAGES.astype(int), "y": LABELS}, "int64"),
    "too few labels": ({"x": IMAGES, "y": LABELS[1:]}, "(11,)"),
    "one-hot labels": ({"x": IMAGES, "y": np.eye(3)[LABELS]}, "one-hot"),
    "labels below 0": ({"x": IMAGES, "y": LABELS - 1}, "-1"),
    "no images": ({"x": IMAGES[:0], "y": LABELS[:0]}, "shape (0"),
}


@pytest.mark.parametrize(("arrays", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_it_is_not_is_refused(tmp_path, arrays, said):
    error = runs.refused(npz.build, save(tmp_path, **arrays))
    assert said in str(error)


def test_pickles_and_missing_files_are_refused(tmp_path):
    path = save(tmp_path, x=np.array([{}, {}], object), y=LABELS[:2])
    runs.refused(npz.build, path)
    error = runs.refused(npz.build, str(tmp_path / "none.npz"))
    assert "none.npz" in error.received


def test_an_audit_takes_it_by_a_flag(tmp_path):
    config = runs.audit_config("fgs_epsilons", num_examples=6)
    config["dataset"] = {
        "name": "npz",
        "split": "test",
        "path": save(tmp_path, images=IMAGES, labels=LABELS),
        "data_dir": None,
        "download": True,
    }
    found = examples.load(config, {})
    np.testing.assert_allclose(
        found.images[..., 0] * 255, IMAGES[:6], atol=1e-4
    )
    assert found.dataset["name"] == "npz"
