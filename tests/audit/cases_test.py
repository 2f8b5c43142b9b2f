"""Models that version 0.1 audited wrongly: audited rightly, or asked about."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import attacks
from ib_keras import seeds
from ib_keras.audit import audited_model
from ib_keras.audit.audited_model import checks
from ib_keras.errors import UserError

# Case -> lowest and highest value of what the model was trained on.
RANGES = {
    "standardised": (-0.814, 1.847),
    "centred": (-0.5, 0.5),
    "mnist_constants": (-0.4242, 2.8215),
    "cold_0.1": (0.0, 1.0),
    "cold_0.01": (0.0, 1.0),
    "two_classes": (0.0, 1.0),
    "one_sigmoid": (0.0, 1.0),
    "gradients_not_saved": (0.0, 1.0),
    "bicubic": (0.0, 1.0),
}


@pytest.fixture(scope="session")
def cases(shared_folder, tmp_path_factory):
    """The folder of the models, and 500 images with their labels."""
    path = shared_folder / "cases" / "make_models.py"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    folder = tmp_path_factory.mktemp("cases")
    # Apart, for a process that has exported custom gradients knows them.
    subprocess.run(
        [sys.executable, str(path), str(folder)],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    spec = importlib.util.spec_from_file_location("make_models", path)
    module = importlib.util.module_from_spec(spec)
    was, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    spec.loader.exec_module(module)
    sys.dont_write_bytecode = was
    _, images, _, labels = module.data()
    return folder, images, labels


def inferred(cases, name):
    folder, images, labels = cases
    if name in ("one_sigmoid", "two_classes"):
        labels = labels % 2
    model = audited_model.load(str(folder / name))
    return model.infer_io(images, labels), images, labels


@pytest.mark.parametrize("name", RANGES)
def test_the_range_is_found_or_asked_for(cases, name):
    try:
        model, *_ = inferred(cases, name)
    except UserError as error:
        assert "--config.model." in error.fix
        assert name in list(RANGES)[:5]
    else:
        found = model.describe()["input_range"]
        assert found == pytest.approx(RANGES[name], abs=0.01)


def test_what_misses_are_gradients_and_not_logits(cases):
    model, images, _ = inferred(cases, "gradients_not_saved")
    logits_fn = model.logits_fn("mean")
    checks.check_gradients(logits_fn, images, 10, is_needed=False)
    with pytest.raises(UserError, match="no gradient") as error:
        checks.check_gradients(logits_fn, images, 10)
    assert "experimental_custom_gradients=True" in error.value.fix


def test_one_sigmoid_is_the_same_through_the_library(cases):
    model, images, labels = inferred(cases, "one_sigmoid")
    logits_fn = model.logits_fn("mean")
    loaded = tf.saved_model.load(str(cases[0] / "one_sigmoid"))
    images, labels = images[:100], labels[:100].astype(np.int32)
    ways = {
        "command": lambda x: logits_fn(x, seeds.from_int(0)),
        "[n, 1]": loaded.serve,
        "[n]": lambda x: loaded.serve(x)[:, 0],
    }
    found = {
        name: attacks.run(
            way,
            images,
            labels,
            "fgs",
            epsilon=0.1,
            outputs="logits" if name == "command" else "probabilities",
        ).is_robust
        for name, way in ways.items()
    }
    for each in found.values():
        np.testing.assert_array_equal(each, found["command"])
    assert 0 < found["command"].mean() < 1
