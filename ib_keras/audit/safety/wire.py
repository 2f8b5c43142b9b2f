"""Counts the objects of a serialised message before it is parsed.

A message can make a parser create an object for every two bytes: 4 MiB become
215 MiB. This reads only tags and lengths, and stops at a limit.
"""

import functools

# A message of fewer bytes is small in any case.
SMALL = 4 << 20
# A packed number takes up to 8 bytes of memory, and a field about 110.
_PACKED = 16
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def count(data: bytes, descriptor, most: float) -> int:
    """Counts the fields of a message and of all messages inside of it.

    Args:
        data: The serialised message.
        descriptor: The `DESCRIPTOR` of its kind.
        most: Where to stop.

    Returns:
        The number of fields, where 16 bytes of packed numbers count as one;
        beyond `most` some number above it. Of bytes that are no message: the
        fields up to the fault, since no parser reads on.
    """
    total, pending = 0, [(0, len(data), descriptor)]
    try:
        while pending:
            at, end, kind = pending.pop()
            messages, numbers = _fields(kind)
            while at < end:
                total += 1
                if total > most:
                    return total
                tag = data[at]
                at += 1
                if tag > 127:
                    tag, at = _varint(data, at - 1)
                wire = tag & 7
                if wire == _BYTES:
                    size = data[at]
                    at += 1
                    if size > 127:
                        size, at = _varint(data, at - 1)
                    number = tag >> 3
                    if number in messages and size:
                        # What is left of this one is read after what is inside.
                        pending.append((at + size, end, kind))
                        end, kind = min(at + size, end), messages[number]
                        messages, numbers = _fields(kind)
                        continue
                    if number in numbers:
                        total += size // _PACKED
                    at += size
                elif wire == _VARINT:
                    _, at = _varint(data, at)
                elif wire in (_FIXED32, _FIXED64):
                    at += 4 if wire == _FIXED32 else 8
                else:  # A group, which no message here has.
                    return total
    except IndexError:  # The bytes end within a number.
        pass
    return total


def _varint(data, at):
    byte = data[at]
    at += 1
    if byte < 128:
        return byte, at
    value, shift = byte & 127, 7
    while byte >= 128:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if shift > 70:
            raise IndexError
    return value, at


@functools.cache
def _fields(descriptor):
    """Of a kind of message: number -> kind of messages; packed numbers."""
    messages, numbers = {}, set()
    for field in descriptor.fields:
        if field.message_type is not None:
            messages[field.number] = field.message_type
        elif field.type not in (field.TYPE_BYTES, field.TYPE_STRING):
            numbers.add(field.number)
    return messages, numbers
