"""hf:// paths, with a stand-in for `huggingface_hub` and with the real one."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import ib_keras
from ib_keras.audit import hub
from ib_keras.audit import safety
from ib_keras.errors import UnsafeError
from tests.support import hostile
from tests.support import runs
from tests.support.fake_hub import COMMIT
from tests.support.fake_hub import FakeHub


@pytest.fixture
def fake(tmp_path, monkeypatch):
    made = FakeHub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    return made


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "saved_model"
    return runs.foreign_model(folder, mean=runs.bright_or_dark)


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten()]
    keras.Sequential([*layers, keras.layers.Dense(2)]).save(path)
    return path


def names(folder):
    return {
        p.relative_to(folder).as_posix()
        for p in pathlib.Path(folder).rglob("*")
    }


def test_a_saved_model_comes_without_links_and_without_other_files(
    fake, saved_model
):
    place = fake.repository("org/name")
    shutil.copytree(saved_model, place, dirs_exist_ok=True)
    path = hub.fetch("hf://org/name@v1")
    assert fake.asked == [("org/name", "v1")]
    assert path.endswith(f"org--name/{COMMIT}/saved_model")
    assert names(path) == names(saved_model)
    assert safety.check(path, probe=False).kind == "saved_model"
    before = os.stat(path).st_ino
    assert hub.fetch("hf://org/name@v1") == path
    assert os.stat(path).st_ino == before


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("model.keras", "hf://org/name"),
        ("best/x.keras", "hf://org/name/best"),
        ("best/x.keras", "hf://org/name@refs%2Fpr%2F1/best/x.keras"),
    ],
)
def test_a_keras_file_is_found(fake, keras_file, place, path):
    repository = fake.repository("org/name")
    (repository / place).parent.mkdir(exist_ok=True)
    shutil.copy(keras_file, repository / place)
    found = hub.fetch(path)
    assert found.endswith(f"{COMMIT}/{place}")
    assert not os.path.islink(found)
    assert pathlib.Path(found).read_bytes() == keras_file.read_bytes()
    assert fake.asked[0][1] == ("refs/pr/1" if "@" in path else None)


def test_a_model_as_keras_uploads_it_is_packed_again(fake, keras_file):
    with zipfile.ZipFile(keras_file) as archive:
        archive.extractall(fake.repository("org/name"))
    path = hub.fetch("hf://org/name")
    assert path.endswith("model.keras")
    first = pathlib.Path(path).read_bytes()
    images = np.random.default_rng(0).random((3, 4, 4, 1), np.float32)
    expected = keras.saving.load_model(keras_file)(images)
    found = keras.saving.load_model(path)(images)
    np.testing.assert_array_equal(found, expected)
    os.remove(path)
    hub.fetch("hf://org/name")
    assert pathlib.Path(path).read_bytes() == first


def test_what_is_fetched_is_checked(fake, tmp_path):
    """The operation that writes files, in a model of the hub."""
    make, word, _ = hostile.SAVED_MODELS["write in serving"]
    marker = tmp_path / "marker"
    planted = make(tmp_path / "planted", marker)
    shutil.copytree(planted, fake.repository("org/evil"), dirs_exist_ok=True)
    images = np.zeros((2, 4, 4, 1), np.float32)
    with pytest.raises(UnsafeError, match=word):
        ib_keras.audit("hf://org/evil", images, [0, 1], epsilon=0.1)
    assert not marker.exists()


def test_a_model_of_the_hub_is_audited(fake, saved_model, tmp_path):
    place = fake.repository("org/name")
    shutil.copytree(saved_model, place, dirs_exist_ok=True)
    images = np.full((2, 4, 4, 1), [[[[0.52]]], [[[0.1]]]], np.float32)
    result = ib_keras.audit(
        *("hf://org/name", images, [1, 0]),
        **{"epsilon": 0.1, "protocol": "fgs_epsilons", "diagnostics": "none"},
        workdir=str(tmp_path / "audit"),
    )
    # A shift of the mean by 0.1 crosses 0.5 from 0.52 and not from 0.1.
    assert (result.clean_accuracy, result.robust_accuracy) == (1.0, 0.5)
    summary = json.loads((tmp_path / "audit/summary.json").read_text())
    assert f"org--name/{COMMIT}" in summary["model"]["path"]


def test_refusals_say_what_to_do(fake, saved_model, keras_file, monkeypatch):
    for path in ("hf://name", "hf://a/b/../c", "hf://a/b@", "hf://a b/c"):
        assert "names no model" in runs.refused(hub.fetch, path).what
    error = runs.refused(hub.fetch, "hf://org/absent")
    assert "404 Client Error org/absent is not there" in error.received
    place = fake.repository("org/name")
    assert "with none" in runs.refused(hub.fetch, "hf://org/name").received
    shutil.copytree(saved_model, place, dirs_exist_ok=True)
    shutil.copy(keras_file, place)
    error = runs.refused(hub.fetch, "hf://org/name")
    assert "with model.keras, saved_model" in error.received
    assert hub.fetch("hf://org/name/model.keras").endswith("model.keras")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    error = runs.refused(hub.fetch, "hf://org/name")
    assert 'pip install "ib_keras[hub]"' in error.fix


def test_the_command_refuses_before_tensorflow_is_imported(tmp_path):
    """A field of the config first, then the library that is not there."""
    code = "import runpy, sys; sys.modules['huggingface_hub'] = None; "
    code += "runpy.run_module('launch.audit', run_name='__main__')"
    words = ["--config=configs/audits/fgs_epsilons.py", f"--workdir={tmp_path}"]
    words.append("--saved_model=hf://org/name")
    for more, said in (
        (["--config.mode=men"], 'Did you mean "mean"?'),
        ([], 'pip install "ib_keras[hub]"'),
    ):
        process = runs.Process(*words, *more, code=code, tensorflow=False)
        assert process.wait() == 2
        assert process.read("errors").count("\n") == 1
        assert said in process.read("errors")
    assert not list(tmp_path.iterdir())


def test_the_real_library_finds_a_snapshot_in_its_cache(
    tmp_path, keras_file, monkeypatch
):
    """Without a network, in a process of its own: it reads variables once."""
    pytest.importorskip("huggingface_hub", reason="the extra hub is not there")
    cache = tmp_path / "hub" / "models--org--name"
    (cache / "blobs").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    snapshot = cache / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    shutil.copy(keras_file, cache / "blobs" / "x")
    (snapshot / "model.keras").symlink_to(cache / "blobs" / "x")
    code = """
import sys
from ib_keras.audit import hub
print(hub.fetch("hf://org/name"))
try:
    hub.fetch("hf://org/absent")
except ValueError as error:
    print(error)
print("tensorflow" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=runs.ROOT,
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    path, refusal, imported = done.stdout.splitlines()
    assert pathlib.Path(path).read_bytes() == keras_file.read_bytes()
    assert refusal.startswith("The model cannot be fetched. Received: hf://org")
    assert imported == "False"
