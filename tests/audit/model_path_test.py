"""A path that is no model is answered with what to do."""

import pytest

from ib_keras.audit.audited_model import options
from tests.support import runs

WRONG = {
    "net.tflite": "TensorFlow Lite",
    "net.onnx": "onnx2tf",
    "net.pth": "ONNX",
    "net.weights.h5": "weights alone",
}


@pytest.mark.parametrize(("name", "said"), WRONG.items())
def test_other_formats_are_known(tmp_path, name, said):
    (tmp_path / name).write_bytes(b"1")
    error = runs.refused(options.check_path, str(tmp_path / name))
    assert said in error.fix


def saved(folder):
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"1")
    return str(folder)


def test_the_file_inside_of_the_folder(tmp_path):
    folder = saved(tmp_path / "model")
    error = runs.refused(options.check_path, f"{folder}/saved_model.pb")
    assert error.fix == f"Give its folder: {folder}"
    options.check_path(folder)


def test_the_newest_version_of_tensorflow_serving(tmp_path):
    for version in ("2", "10", "notes"):
        newest = saved(tmp_path / "base" / version)
    newest = str(tmp_path / "base" / "10")
    error = runs.refused(options.check_path, str(tmp_path / "base"))
    assert error.fix == f"Did you mean {newest}?"
