"""The index of a checkpoint, read as data: the places of its tensors.

TensorFlow's reader allocates the declared sizes before it reads, so 242 bytes
can cost a gigabyte. This one accepts only what TensorFlow writes (a table in
LevelDB's format, not compressed).

References:
    "Leveldb file format", doc/table_format.md of github.com/google/leveldb.
"""

import dataclasses
import struct

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import tensor_bundle_pb2

_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_FOOTER = 48
# After each block: its compression, a byte, and its checksum.
_TRAILER = 5
_HEADER = b""
_MAX_TENSORS = 100_000


class NotAnIndex(Exception):
    """The bytes are not an index that TensorFlow writes."""


@dataclasses.dataclass(frozen=True)
class Index:
    """A checkpoint's index.

    Attributes:
        num_shards: Number of its data files.
        tensors: Key -> `BundleEntryProto`.
    """

    num_shards: int
    tensors: dict[str, tensor_bundle_pb2.BundleEntryProto]


def parse(data: bytes) -> Index:
    """Reads the bytes of `variables.index`.

    Raises:
        NotAnIndex: If TensorFlow does not write such bytes.
    """
    try:
        return _parse(data)
    except (IndexError, DecodeError, UnicodeDecodeError, struct.error) as error:
        raise NotAnIndex(f"it is cut or damaged ({error})") from error


def _parse(data):
    if len(data) < _FOOTER or data[-8:] != _MAGIC:
        raise NotAnIndex("it does not end as an index does")
    _, at = _handle(data, len(data) - _FOOTER)
    (begin, size), _ = _handle(data, at)
    found, last = {}, None
    for limit, handle in _entries(_block(data, begin, size)):
        (begin, size), _ = _handle(handle, 0)
        for key, value in _entries(_block(data, begin, size)):
            # A lookup relies on this order; a list of all does not.
            if last is not None and not last < key <= limit:
                raise NotAnIndex("its keys are not in order")
            found[key] = value
            last = key
            if len(found) > _MAX_TENSORS:
                raise NotAnIndex(f"it has more than {_MAX_TENSORS} tensors")
    if _HEADER not in found:
        raise NotAnIndex("it has no header")
    header = tensor_bundle_pb2.BundleHeaderProto.FromString(found.pop(_HEADER))
    if header.endianness != header.LITTLE:
        raise NotAnIndex("its numbers are big-endian")
    entry = tensor_bundle_pb2.BundleEntryProto
    return Index(
        header.num_shards,
        {k.decode(): entry.FromString(value) for k, value in found.items()},
    )


def _handle(data, at):
    """(Offset, size) of a block, and the rest."""
    begin, at = varint(data, at)
    size, at = varint(data, at)
    return (begin, size), at


def _block(data, begin, size):
    end = begin + size
    if end + _TRAILER > len(data) - _FOOTER:
        raise NotAnIndex("a block of it lies outside")
    if data[end] != 0:
        raise NotAnIndex("it is compressed, as TensorFlow writes none")
    return data[begin:end]


def _entries(block):
    """The pairs of a block; keys share a prefix with the previous one."""
    (num_restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 * (num_restarts + 1)
    if num_restarts < 1 or end < 0:
        raise NotAnIndex("a block of it has no places to start")
    restarts = set(struct.unpack(f"<{num_restarts}I", block[end:-4]))
    at, key, found = 0, b"", []
    while at < end:
        start = at
        shared, at = varint(block, at)
        rest, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or at + rest + size > end:
            raise NotAnIndex("an entry of it lies outside")
        if start in restarts:
            restarts.remove(start)
            if shared:
                raise NotAnIndex("a key of it begins nowhere")
        key = key[:shared] + block[at : at + rest]
        found.append((key, block[at + rest : at + rest + size]))
        at += rest + size
    if restarts - {0}:
        raise NotAnIndex("a lookup would start within an entry")
    return found


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte at a place, and the place after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise NotAnIndex("a number of it has no end")
