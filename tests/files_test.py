import errno
import json
import os
import stat
import time
import uuid

import numpy as np
import pytest
import tensorflow as tf

from ib_keras import files
from ib_keras.errors import UserError

ARRAYS = {
    "images": np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4),
    "label": np.array([3, -1], np.int32),
    "empty": np.zeros([0, 2], bool),
    "scalar": np.float64(8 / 255),
}


@pytest.fixture(params=["local", "ram"])
def folder(request, tmp_path):
    """A folder that exists: on disk, and where `open` cannot go."""
    if request.param == "local":
        return str(tmp_path)
    return files.make_folder(f"ram://{uuid.uuid4().hex}/folder")


def user_error(function, *arguments) -> UserError:
    with pytest.raises(UserError) as error:
        function(*arguments)
    text = str(error.value)
    assert "Received:" in text and "Expected:" in text and "Fix:" in text
    return error.value


def test_bytes_and_text_come_back(folder):
    path = files.join(folder, "a.bin")
    files.write_bytes(path, b"\x00\xff\r\n")
    assert files.read_bytes(path) == b"\x00\xff\r\n"
    files.write_text(path, "µ\n")
    assert files.read_text(path) == "µ\n"
    assert files.read_bytes(path) == b"\xc2\xb5\n"
    assert files.listdir(folder) == ["a.bin"]


def test_json_comes_back_exactly(folder):
    path = files.join(folder, "a.json")
    value = {"epsilon": 8 / 255, "stages": [1, None, True], "name": "µ"}
    files.write_json(path, value)
    assert files.read_json(path) == value
    text = files.read_text(path)
    assert text.count("\n") > 3 and text.endswith("}\n")


def test_numpy_values_become_json(folder):
    path = files.join(folder, "a.json")
    files.write_json(path, {"a": np.float64(0.1), "b": np.arange(3)})
    assert files.read_json(path) == {"a": 0.1, "b": [0, 1, 2]}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_has_no_nan_and_no_infinity(folder, number):
    path = files.join(folder, "a.json")
    files.write_json(path, 1)
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, {"loss": number})
    assert files.read_json(path) == 1


def test_what_has_no_json_form_is_refused(folder):
    with pytest.raises(TypeError, match="set"):
        files.write_json(files.join(folder, "a.json"), {1, 2})
    assert files.listdir(folder) == []


def test_arrays_come_back_with_their_types(folder):
    path = files.join(folder, "a.npz")
    files.write_npz(path, ARRAYS)
    back = files.read_npz(path)
    assert set(back) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_equal_arrays_are_equal_bytes(folder, monkeypatch):
    first, second = (files.join(folder, name) for name in ("a", "b"))
    files.write_npz(first, ARRAYS)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 400 * 86400)
    others = {name: ARRAYS[name] for name in reversed(ARRAYS)}
    others["images"] = np.asfortranarray(ARRAYS["images"])
    files.write_npz(second, others)
    assert files.read_bytes(first) == files.read_bytes(second)


def test_other_arrays_are_other_bytes(folder):
    first, second = (files.join(folder, name) for name in ("a", "b"))
    files.write_npz(first, ARRAYS)
    files.write_npz(second, ARRAYS | {"label": np.array([3, 1], np.int32)})
    assert files.read_bytes(first) != files.read_bytes(second)


def write_old(path):
    files.write_text(path, "old")


WRITERS = {
    "bytes": lambda path: files.write_bytes(path, b"new"),
    "text": lambda path: files.write_text(path, "new"),
    "json": lambda path: files.write_json(path, "new"),
    "npz": lambda path: files.write_npz(path, ARRAYS),
}
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())


@writers
def test_a_kill_before_the_rename_leaves_the_old_file_alone(
    write, folder, monkeypatch
):
    path = files.join(folder, "a")
    write_old(path)

    def kill(*_, **__):
        # Here the new file is complete, beside the old one.
        assert len(files.listdir(folder)) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(files.gfile, "rename", kill)
    with pytest.raises(KeyboardInterrupt):
        write(path)
    assert files.listdir(folder) == ["a"]
    assert files.read_text(path) == "old"


class BrokenFile:
    """A file that accepts the first bytes and then no more."""

    error: Exception

    def __init__(self, path, mode):
        self._file = open(path, mode)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def write(self, data):
        self._file.write(data[: len(data) // 2])
        raise self.error


@writers
@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "Free some space"),
        (
            tf.errors.ResourceExhaustedError(None, None, "No space left"),
            "Free some space",
        ),
        (OSError(errno.EROFS, "Read-only file system"), "permissions"),
        (
            tf.errors.PermissionDeniedError(None, None, "Permission denied"),
            "permissions",
        ),
    ],
    ids=["ENOSPC", "exhausted", "EROFS", "denied"],
)
def test_a_write_that_fails_half_way_is_a_user_error(
    write, error, fix, tmp_path, monkeypatch
):
    path = str(tmp_path / "a")
    write_old(path)
    monkeypatch.setattr(BrokenFile, "error", error, raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(files.gfile, "GFile", BrokenFile)
        received = user_error(write, path)
    assert fix in received.fix
    assert path in received.received
    reason = getattr(error, "strerror", None) or error.message
    assert reason in received.received
    assert os.listdir(tmp_path) == ["a"]
    assert files.read_text(path) == "old"


@writers
def test_a_place_under_a_file_is_a_user_error(write, tmp_path):
    write_old(tmp_path / "a")
    user_error(write, tmp_path / "a" / "b")
    user_error(files.make_folder, tmp_path / "a" / "b")
    user_error(files.make_folder, tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


def test_a_read_only_folder_is_a_user_error(tmp_path):
    folder = tmp_path / "read_only"
    folder.mkdir()
    write_old(folder / "a")
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("permissions do not bind this user")
        for write in WRITERS.values():
            assert "permissions" in user_error(write, folder / "a").fix
            assert "permissions" in user_error(write, folder / "b").fix
    finally:
        folder.chmod(stat.S_IRWXU)
    assert os.listdir(folder) == ["a"]
    assert files.read_text(folder / "a") == "old"


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="there is no /proc")
def test_a_place_where_nobody_may_write_is_a_user_error():
    user_error(files.write_text, "/proc/ib_keras_test", "new")
    user_error(files.make_folder, "/proc/ib_keras_test/folder")


READERS = {"json": files.read_json, "npz": files.read_npz}
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())


def write_valid(path, read):
    if read is files.read_json:
        files.write_json(path, {"a": [1, 2, 3]})
    else:
        files.write_npz(path, ARRAYS)


@readers
def test_a_missing_file_is_named(read, folder):
    path = files.join(folder, "not_there")
    assert path in user_error(read, path).received


@readers
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.97])
def test_a_truncated_file_is_a_user_error(read, keep, folder):
    path = files.join(folder, "a")
    write_valid(path, read)
    data = files.read_bytes(path)
    files.write_bytes(path, data[: int(keep * len(data))])
    error = user_error(read, path)
    assert error.what == "A file is damaged"
    assert path in error.received


@readers
def test_a_folder_in_place_of_the_file_is_a_user_error(read, folder):
    path = files.make_folder(files.join(folder, "sub"))
    assert path in user_error(read, path).received


@readers
def test_bytes_that_are_something_else_are_a_user_error(read, folder):
    path = files.join(folder, "a")
    files.write_bytes(path, b"\xff\xfe\x00 nothing of the kind")
    user_error(read, path)


def test_one_wrong_byte_of_an_array_is_noticed(folder):
    path = files.join(folder, "a.npz")
    files.write_npz(path, ARRAYS)
    data = bytearray(files.read_bytes(path))
    position = data.index(ARRAYS["images"].tobytes()) + 41
    data[position] ^= 1
    files.write_bytes(path, bytes(data))
    assert "CRC" in user_error(files.read_npz, path).received


def test_an_npz_cannot_bring_code(folder):
    path = files.join(folder, "a.npz")
    files.write_npz(path, {"a": np.array([{"an": "object"}], dtype=object)})
    assert "pickle" in user_error(files.read_npz, path).received.lower()


def write_folder_of(text):
    def write(folder):
        assert files.listdir(folder) == []
        files.write_text(files.join(folder, "top"), text)
        below = files.make_folder(files.join(folder, "sub", "below"))
        files.write_text(files.join(below, "leaf"), text)

    return write


def read_folder(path):
    assert files.listdir(path) == ["sub", "top"]
    leaf = files.read_text(files.join(path, "sub", "below", "leaf"))
    assert files.read_text(files.join(path, "top")) == leaf
    return leaf


def test_a_folder_is_written_and_replaced_as_a_whole(folder):
    path = files.join(folder, "out")
    files.write_folder(path, write_folder_of("old"))
    assert read_folder(path) == "old"
    files.write_folder(path + "/", write_folder_of("new"))
    assert read_folder(path) == "new"
    assert files.listdir(folder) == ["out"]


def test_a_folder_is_not_there_before_it_is_complete(folder):
    path = files.join(folder, "out")

    def write(temporary):
        write_folder_of("new")(temporary)
        assert "out" not in files.listdir(folder)
        assert files.listdir(path) == []

    files.write_folder(path, write)
    assert read_folder(path) == "new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_folder_that_is_not_finished_leaves_the_old_one(folder, error):
    path = files.join(folder, "out")
    files.write_folder(path, write_folder_of("old"))

    def stop(temporary):
        files.write_text(files.join(temporary, "part"), "new")
        raise error

    with pytest.raises(error):
        files.write_folder(path, stop)
    assert read_folder(path) == "old"
    assert files.listdir(folder) == ["out"]


@pytest.mark.parametrize("renames", range(4))
def test_a_rename_that_fails_brings_the_old_folder_back(
    renames, folder, monkeypatch
):
    path = files.join(folder, "out")
    files.write_folder(path, write_folder_of("old"))
    rename, left = files.gfile.rename, [renames]

    def write(temporary):
        write_folder_of("new")(temporary)
        monkeypatch.setattr(files.gfile, "rename", failing)

    def failing(source, *arguments, **more):
        if left[0] == 0:
            # Once; what brings the old folder back is not to fail too.
            left[0] = -1
            raise OSError(errno.EIO, "Input/output error")
        left[0] -= 1
        return rename(source, *arguments, **more)

    try:
        files.write_folder(path, write)
    except UserError as refusal:
        assert "Input/output error" in str(refusal)
        assert read_folder(path) == "old"
    else:
        # Locally there are two renames, remotely one a file.
        assert renames >= 2 and "://" not in folder
        assert read_folder(path) == "new"
    assert files.listdir(folder) == ["out"]


def test_a_saved_model_survives_the_move(folder):
    module = tf.Module()
    module.factor = tf.Variable(3.0)
    module.double = tf.function(
        lambda x: x * module.factor, input_signature=[tf.TensorSpec([])]
    )
    path = files.join(folder, "saved_model")
    files.write_folder(path, lambda p: tf.saved_model.save(module, p))
    loaded = tf.saved_model.load(path)
    assert float(loaded.double(2.0)) == 6.0


def test_removing_takes_files_and_folders_and_what_is_not_there(folder):
    files.write_folder(files.join(folder, "out"), write_folder_of("x"))
    files.write_text(files.join(folder, "a"), "x")
    for name in ("out", "a", "not_there"):
        files.remove(files.join(folder, name))
    assert files.listdir(folder) == []


def test_a_folder_is_made_with_its_parents_and_twice(folder):
    path = files.join(folder, "a", "b", "c")
    assert files.make_folder(path) == path
    assert files.make_folder(path) == path
    assert files.listdir(files.join(folder, "a")) == ["b"]
    assert files.exists(path)
    assert not files.exists(files.join(folder, "d"))


def test_what_is_not_there_has_nothing_in_it(folder):
    assert files.listdir(files.join(folder, "not_there")) == []


def test_a_scheme_is_kept():
    assert (
        files.join("gs://bucket/a", "b", "c.json") == "gs://bucket/a/b/c.json"
    )


def test_paths_may_be_path_objects(tmp_path):
    files.write_json(tmp_path / "a.json", [1])
    assert files.read_json(tmp_path / "a.json") == [1]
    assert json.loads((tmp_path / "a.json").read_text()) == [1]
    assert files.exists(tmp_path / "a.json")
    assert files.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("look", [files.exists, files.listdir, files.remove])
def test_a_file_system_that_is_not_there_is_said_so(look):
    error = user_error(look, "nosuch://bucket/run")
    assert "nosuch://bucket/run" in error.received
    assert "ib_keras[gcs]" in error.expected


def test_a_sealed_file_is_refused_once_it_was_altered(tmp_path):
    """A bit of every byte is flipped once."""
    path = tmp_path / "sealed.json"
    value = {"label": "upper_bound", "list": [1, 0.1, None], "é": {"b": True}}
    sealed = files.write_sealed_json(str(path), value)
    assert files.read_json(str(path)) == sealed
    files.check_seal(sealed, "sealed.json")
    files.check_seal(value, "of an older version")
    whole = path.read_bytes()
    unnoticed = 0
    for at in range(len(whole)):
        altered = bytearray(whole)
        altered[at] ^= 1 << at % 7
        path.write_bytes(altered)
        try:
            read = files.read_json(str(path))
            files.check_seal(read, str(path))
        except UserError:
            continue
        # Space between words, or the name of the seal itself.
        assert {n: read[n] for n in value} == value
        unnoticed += 1
    assert unnoticed < 0.1 * len(whole)
