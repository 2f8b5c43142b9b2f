"""`.keras` files: members, sizes and classes, before Keras sees them.

Keras' safe mode has been bypassed repeatedly, so it is only the second line of
defence: `config.json` may name only the classes listed here.
"""

import hashlib
import io
import json
import math
import os
import struct
import zipfile
from collections.abc import Callable

from ib_keras.audit.safety import classes
from ib_keras.audit.safety import tree
from ib_keras.audit.safety.report import Limits
from ib_keras.audit.safety.report import Problem
from ib_keras.audit.safety.report import Report
from ib_keras.audit.safety.report import damaged
from ib_keras.audit.safety.report import raising
from ib_keras.audit.safety.report import reason
from ib_keras.audit.safety.report import refuse
from ib_keras.audit.safety.report import shown
from ib_keras.audit.safety.report import unused
from ib_keras.errors import UnsafeError
from ib_keras.errors import UserError

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_MEMBERS = (CONFIG, METADATA, WEIGHTS)
_MAX_RATIO = 100
# Below this many bytes a high ratio is harmless.
_SMALL = 1 << 20
# Weights are numbers, which hardly compress.
_MAX_WEIGHTS_RATIO = 10
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# Records at the end of a zip file, the second in files over 4 GiB.
_RECORD = struct.Struct("<4s4H2LH")
_END_BYTES = 20 + _RECORD.size
_MAX_MEMBERS = 100
# Names and dates of a member, in front of it and in the directory.
_HEADER_BYTES = 1 << 10
# What HDF5 needs beside the numbers, once and for each array and group.
_HDF5_BYTES, _HDF5_ITEM_BYTES = 1 << 20, 16 << 10


def inspect(
    place: str,
    path: str,
    allow_ops: list[str],
    limits: Limits,
    make_room: Callable[[int, int], None] = lambda largest, total: None,
) -> Report:
    """The static pass over a local `.keras` file.

    Args:
        place: The file.
        path: In messages and in the report.
        allow_ops: Names of classes that are accepted beyond the list.
        limits: On sizes.
        make_room: As of `checking.inspect`.

    Returns:
        A `Report` without `probe`.

    Raises:
        UserError: If the file is damaged or not a `.keras` file.
        UnsafeError: If it is refused.
    """
    size = _check_file(place, path, limits)
    make_room(size, size)
    data = tree.read(place, "", size)
    members = _read(data, path, limits)
    config = _parse(members[CONFIG], path)
    _drop_compiled(config)
    found = classes.scan(config, frozenset(allow_ops))
    problems = [*found.problems, *_weight_problems(members, path, limits)]
    if problems:
        raise refuse(path, problems)
    return Report(
        path=path,
        kind="keras",
        files={os.path.basename(path): hashlib.sha256(data).hexdigest()},
        ops={"classes": sorted(found.names)},
        allow_ops=list(allow_ops),
        exceptions=sorted(found.used | raising(allow_ops)),
        limits=vars(limits),
        notes=unused(allow_ops, found.used),
    )


def write(place: str, path: str, report: Report, folder: str) -> str:
    """Writes the private copy that is loaded: config and weights alone.

    Args:
        place: The local file.
        path: In messages.
        report: Of its check.
        folder: An empty local folder.

    Returns:
        The path of the copy.

    Raises:
        UserError: If the file is not the checked one.
    """
    limits = Limits(**report.limits)
    # Read once: the hashed bytes are those that are written.
    data = tree.read(place, "", _check_file(place, path, limits))
    digest = hashlib.sha256(data).hexdigest()
    if report.files != {os.path.basename(path): digest}:
        raise UserError(
            "The model has changed since it was checked",
            received=path,
            expected="the file whose SHA-256 the check recorded",
            fix="Run the same command again.",
        )
    members = _read(data, path, limits)
    config = _parse(members[CONFIG], path)
    _drop_compiled(config)
    config["compile_config"] = None
    members[CONFIG] = json.dumps(config).encode()
    copy = os.path.join(folder, "model.keras")
    with zipfile.ZipFile(copy, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return copy


def _check_file(place, path, limits):
    """What the file and its members may take, before they are read."""
    if os.path.islink(place) or not os.path.isfile(place):
        raise refuse(path, [Problem("a link or a device in place of a file")])
    size = os.path.getsize(place)
    limit = limits.max_model_bytes()
    if size > limit:
        what = f"a file of {size / 2**30:.1f} GiB, over the limit"
        raise refuse(path, [Problem(what)])
    with open(place, "rb") as file:
        _check_kind(file.read(len(_HDF5_MAGIC)), path)
        file.seek(max(size - _END_BYTES, 0))
        _check_end(file.read(), size, path)
    try:
        with zipfile.ZipFile(place) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, struct.error) as error:
        raise damaged(path, reason(error)) from error
    if problems := _member_problems(infos, limits):
        raise refuse(path, problems)
    held = sum(i.compress_size + _HEADER_BYTES for i in infos)
    if size > held:
        what = f"{size - held} bytes and more that are of no member"
        raise refuse(path, [Problem(what)])
    return max(size, sum(i.file_size for i in infos))


def _check_kind(head, path):
    if head == _HDF5_MAGIC or path.endswith((".h5", ".hdf5")):
        raise UnsafeError(
            "Models in .h5 files are refused, since loading one can run code",
            received=path,
            expected="a SavedModel folder or a .keras file",
            fix="Where you trust it, load it with Keras and save it by"
            ' model.save("model.keras") or model.export("folder").',
        )
    if not path.endswith(".keras"):
        raise UserError(
            "The file is not a model that can be loaded",
            received=path,
            expected="a SavedModel folder or a .keras file",
            fix="Give the folder itself, or a file named *.keras.",
        )


def _check_end(end, size, path):
    """A directory of few members at the end, which zipfile reads whole."""
    record = end[-_RECORD.size :]
    if len(record) < _RECORD.size or record[:4] != b"PK\5\6":
        raise damaged(path, "it does not end as a .keras file does")
    *_, count, length, _, comment = _RECORD.unpack(record)
    is_large = end[:4] == b"PK\6\7"  # A second record, for large files.
    if (
        count > _MAX_MEMBERS
        or length > _MAX_MEMBERS * _HEADER_BYTES
        or comment
        or (is_large and size < 1 << 31)
    ):
        what = f"a directory of {count} members in {length} bytes"
        raise refuse(path, [Problem(what)])


def _read(data, path, limits):
    """The members that are known, each within the limits."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            problems = _member_problems(infos, limits)
            if problems:
                raise refuse(path, problems)
            members = {i.filename: _member(archive, i) for i in infos}
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
        raise damaged(path, reason(error)) from error
    except Exception as error:  # zlib and struct raise their own errors.
        if isinstance(error, UserError):
            raise
        raise damaged(path, reason(error)) from error
    for name in (CONFIG, WEIGHTS):
        if name not in members:
            raise damaged(path, f"there is no {name} in it")
    return members


def _member(archive, info):
    with archive.open(info) as member:
        data = member.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename} has another size")
    return data


def _member_problems(infos, limits):
    names = [info.filename for info in infos]
    problems = [
        Problem(f"{names.count(name)} members named {shown(name)}")
        for name in sorted(set(names))
        if names.count(name) > 1
    ]
    total = 0
    for info in infos:
        name = shown(info.filename)
        total += info.file_size
        if info.filename not in _MEMBERS:
            problems.append(
                Problem(f"the member {name}, which no image classifier needs")
            )
        is_weights = info.filename == WEIGHTS
        ratio = _MAX_WEIGHTS_RATIO if is_weights else _MAX_RATIO
        if info.file_size > ratio * info.compress_size + _SMALL:
            problems.append(
                Problem(
                    f"the member {name} of {info.file_size} bytes in"
                    f" {info.compress_size}, as of a decompression bomb"
                )
            )
    small = [i for i in infos if i.filename != WEIGHTS]
    # Text becomes up to twenty times as many bytes of objects.
    most = limits.max_graph_mb / 8
    largest = math.ceil(max((i.file_size for i in small), default=0) / 2**20)
    if largest > most:
        what = f"{CONFIG} of {largest} MiB, where {most:g} is the limit"
        problems.append(Problem(what, f"max_graph_mb={8 * largest}"))
    if total > limits.max_model_bytes():
        problems.append(
            Problem(f"members of {total / 2**30:.1f} GiB, over the limit")
        )
    return problems


def _parse(data, path):
    def no_duplicates(pairs):
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            raise refuse(path, [Problem(f"a key twice in {CONFIG}")])
        return dict(pairs)

    try:
        config = json.loads(data, object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise damaged(path, f"{CONFIG}: {reason(error)}") from error
    if not isinstance(config, dict):
        raise damaged(path, f"{CONFIG} is no dictionary")
    return config


def _drop_compiled(config):
    """Removes the compile configs of models, and of models inside of them.

    They are loaded with compile=False, which Keras applies to the outermost
    one alone; the copy that is loaded has none.
    """
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                value.pop("compile_config", None)
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _weight_problems(members, path, limits):
    """Links, external storage and sizes in the HDF5 file of the weights."""
    import h5py

    problems, total, count = [], 0, 0
    try:
        with h5py.File(io.BytesIO(members[WEIGHTS]), "r") as file:
            pending = [file]
            while pending:
                group = pending.pop()
                for name in group:
                    count += 1
                    place = shown(f"{group.name}/{name}")
                    link = group.get(name, getlink=True)
                    if not isinstance(link, h5py.HardLink):
                        kind = type(link).__name__
                        problems.append(Problem(f"a {kind} at {place}"))
                        continue
                    item = group[name]
                    if isinstance(item, h5py.Group):
                        pending.append(item)
                        continue
                    if item.external or item.is_virtual:
                        problems.append(
                            Problem(f"data of another file at {place}")
                        )
                    total += item.nbytes
    except Exception as error:  # h5py has no own type of error.
        raise damaged(path, f"{WEIGHTS}: {reason(error)}") from error
    stored = len(members[WEIGHTS])
    if total > max(_MAX_RATIO * stored, _SMALL) or (
        total > limits.max_model_bytes()
    ):
        problems.append(
            Problem(f"weights that declare {total} bytes in {stored}")
        )
    padding = stored - total - count * _HDF5_ITEM_BYTES
    if padding > _HDF5_BYTES:
        problems.append(Problem(f"{padding} bytes in {WEIGHTS} of no array"))
    return problems
