"""Checkpoints are whole or absent, and a bad one is never begun again from."""

import os

import keras
import numpy as np
import pytest

from ib_keras import files
from ib_keras.training.checkpoints import Checkpoints
from tests.support import runs


def variables(scale=1.0, shapes=((2, 3), (3,), ())):
    """Variables with values that no other has."""
    rng = np.random.default_rng(0)
    return [
        keras.Variable(scale * rng.normal(size=shape), name=f"v{index}")
        for index, shape in enumerate(shapes)
    ]


def values(of):
    return [np.array(variable.value) for variable in of]


def saved(folder, steps, keep=10):
    """Checkpoints of these steps; the values are those of the step."""
    checkpoints = Checkpoints(str(folder), keep)
    for step in steps:
        checkpoints.save(step, variables(step), {"gathered": [[1, {"a": 0.1}]]})
    return checkpoints


def path_of(folder, step):
    return folder / f"step-{step:010d}.npz"


def assert_restored(into, step):
    for ours, theirs in zip(values(into), values(variables(step)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_newest_comes_back_exactly(tmp_path):
    into, said = variables(0.0), []
    header = saved(tmp_path, (5, 10, 7)).restore(into, said.append)
    assert header == {"step": 10, "gathered": [[1, {"a": 0.1}]]}
    assert_restored(into, 10)
    assert said == []


def test_an_empty_folder_and_none_are_a_fresh_start(tmp_path):
    into = variables(3.0)
    for folder in (tmp_path, tmp_path / "not_there"):
        assert Checkpoints(str(folder)).restore(into) is None
    assert_restored(into, 3.0)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_n_are_kept(tmp_path, keep):
    saved(tmp_path, (1, 2, 3, 4, 5), keep)
    steps = range(5 - keep + 1, 6)
    assert sorted(os.listdir(tmp_path)) == [
        path_of(tmp_path, step).name for step in steps
    ]


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-12.npz").write_bytes(b"not of ours")
    saved(tmp_path, (1, 2, 3), keep=1)
    assert sorted(os.listdir(tmp_path)) == [
        "notes.txt",
        "step-0000000003.npz",
        "step-12.npz",
    ]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    place = data.index(values(variables(10))[0].tobytes())
    data[place + 3] ^= 1
    path.write_bytes(bytes(data))


def of_another_shape(path):
    checkpoints = Checkpoints(str(path.parent))
    checkpoints.save(10, variables(10, ((2, 4), (4,), ())), {})


def of_fewer_variables(path):
    checkpoints = Checkpoints(str(path.parent))
    checkpoints.save(10, variables(10)[:2], {})


def of_other_names(path):
    others = [
        keras.Variable(v, name=f"other{i}")
        for i, v in enumerate(values(variables(10)))
    ]
    Checkpoints(str(path.parent)).save(10, others, {})


def without_a_header(path):
    files.write_npz(path, {"a": np.zeros(2)})


FAULTS = {
    function.__name__: function
    for function in (
        truncate,
        empty,
        flip_a_bit,
        of_another_shape,
        of_fewer_variables,
        of_other_names,
        without_a_header,
    )
}
faults = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


@faults
def test_a_damaged_newest_checkpoint_is_skipped_with_a_message(tmp_path, fault):
    checkpoints = saved(tmp_path, (5, 10))
    fault(path_of(tmp_path, 10))
    into, said = variables(0.0), []
    assert checkpoints.restore(into, said.append)["step"] == 5
    assert_restored(into, 5)
    (line,) = said
    assert line.startswith("Checkpoint of step 10 is skipped: ")
    assert str(path_of(tmp_path, 10)) in line
    assert "\n" not in line


@faults
def test_where_all_are_bad_nothing_is_restored(tmp_path, fault):
    checkpoints = saved(tmp_path, (10,))
    fault(path_of(tmp_path, 10))
    before = runs.snapshot(tmp_path)
    into = variables(3.0)
    error = runs.refused(checkpoints.restore, into, lambda line: None)
    assert error.what == "No checkpoint can be restored"
    assert f"1 in {tmp_path}" in error.received
    assert_restored(into, 3.0)
    assert runs.snapshot(tmp_path) == before


def test_one_of_another_model_names_what_differs(tmp_path):
    checkpoints = saved(tmp_path, (5, 10))
    others = variables(0.0, ((2, 3), (3,), (7,)))
    error = runs.refused(checkpoints.restore, others, lambda line: None)
    assert "2 in " in error.received
    assert "The checkpoint is of another model" in error.received
    assert "0002:v2" in error.received


def test_layers_with_new_numbers_are_the_same(tmp_path):
    """Keras calls the second dense layer of a process dense_1."""

    def layer():
        made = keras.layers.Dense(3)
        made.build((None, 2))
        return made

    first, second = layer(), layer()
    assert first.name != second.name
    first.kernel.assign(np.full((2, 3), 7.0))
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(1, first.weights, {})
    assert checkpoints.restore(second.weights)["step"] == 1
    assert (second.kernel.numpy() == 7.0).all()


@pytest.mark.parametrize("half", [False, True])
def test_a_save_that_is_killed_leaves_the_older_ones(
    tmp_path, monkeypatch, half
):
    folder = tmp_path / "checkpoints"
    for at in range(1, 20):
        files.remove(folder)
        saved(folder, (1, 2), keep=2)
        disk = runs.DyingDisk(files.gfile, at, half)
        with monkeypatch.context() as patch:
            patch.setattr(files, "gfile", disk)
            try:
                saved(folder, (3,), keep=2)
            except runs.Killed:
                pass
        into = variables(0.0)
        step = Checkpoints(str(folder)).restore(into)["step"]
        assert step in (2, 3)
        assert_restored(into, step)
        if not disk.is_dead:
            assert step == 3
            break
    assert at == (2 if half else 5)


def test_a_full_disk_is_one_clear_error_and_loses_nothing(
    tmp_path, monkeypatch
):
    saved(tmp_path, (1, 2), keep=2)
    before = runs.snapshot(tmp_path)
    full = OSError(28, "No space left on device")
    for at in (2, 3):  # The first change makes the folder, which is there.
        disk = runs.DyingDisk(files.gfile, at, error=full)
        with monkeypatch.context() as patch:
            patch.setattr(files, "gfile", disk)
            error = runs.refused(saved, tmp_path, (3,), keep=2)
        assert "No space left on device" in error.received
        assert "Free some space" in error.fix
        assert runs.snapshot(tmp_path) == before
