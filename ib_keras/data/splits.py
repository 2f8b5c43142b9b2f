"""Split strings: which examples "train[:90%]" or "test[:64]" are.

The syntax is that of TFDS, read by its own parser, so it is the same for every
data set of the package.
"""

from collections.abc import Mapping
from typing import Any

from ib_keras import plugins
from ib_keras.errors import UserError
from ib_keras.errors import unknown_name


def resolve(
    split: str, sizes: Mapping[str, int]
) -> tuple[tuple[str, int, int], ...]:
    """Finds the examples that a split string names.

    Args:
        split: A split string, such as "train", "test[:64]", "train[-10%:]".
        sizes: The number of examples of each whole split.

    Returns:
        The parts of the split in order, each `(name, start, stop)` with
        `0 <= start < stop <= sizes[name]`.

    Raises:
        UserError: If the split does not exist, is not a split string, reaches
            past the end or is empty.

    Example:
        >>> resolve("test[:64]", {"train": 512, "test": 128})
        (('test', 0, 64),)
    """
    import tensorflow_datasets as tfds

    infos = {
        name: tfds.core.SplitInfo(
            name=name,
            shard_lengths=[size],
            num_bytes=0,
            filename_template=None,
        )
        for name, size in sizes.items()
    }
    try:
        instructions = tfds.core.ReadInstruction.from_spec(split).to_absolute(
            infos
        )
    except (ValueError, NotImplementedError, AssertionError) as error:
        raise _split_error("There is no such split", split, sizes) from error
    parts = []
    for instruction in instructions:
        name = str(instruction.splitname)
        size = sizes[name]
        start, stop = instruction.from_, instruction.to
        start = 0 if start is None else start
        stop = size if stop is None else stop
        if not 0 <= start < stop <= size:
            raise _split_error("The split is empty", split, sizes)
        parts.append((name, start, stop))
    return tuple(parts)


def check_name(data: Mapping[str, Any], field: str, split: str) -> None:
    """Refuses a split that the data set does not have, from its name alone.

    Only data sets whose module lists its `SPLITS` are known without loading
    them.

    Args:
        data: The section of the data set.
        field: Of the config, for the message.
        split: A split string.

    Raises:
        UserError: If it names another split.
    """
    known = plugins.constant("data", data.get("name", ""), "SPLITS")
    for part in str(split).split("+") if known else ():
        name = part.partition("[")[0].strip()
        if name not in known:
            raise unknown_name("split", name, known, f"Correct {field}.")


def _split_error(what: str, split, sizes: Mapping[str, int]) -> UserError:
    known = ", ".join(f"{name} ({size})" for name, size in sizes.items())
    first = next(iter(sizes))
    return UserError(
        what,
        received=f'"{split}"',
        expected=f"a part of the splits with their sizes: {known}",
        fix=f'Write it as "{first}", "{first}[:100]" or "{first}[:10%]".',
    )
