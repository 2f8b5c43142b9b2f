"""The landscapes of an audit: which examples get one, and the file of them."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras.attacks import ledger as ledgers
from ib_keras.audit.landscape import surface as landscape
from ib_keras.errors import UserError
from ib_keras.types import ThreatModel

NAME = "landscapes"
FILE = f"{NAME}.npz"

_PLACE = (
    "broken_by_stage",
    "broken_by_restart",
    "broken_by_target",
    "broken_at_step",
)
_AXES = ("first_axis", "second_axis")
_NUMBERS = ("attack_at", "attack_cross_entropy", "attack_margin")


def choose(
    ledger: ledgers.Ledger, rows: Iterable[int], num_examples: int
) -> list[int]:
    """Chooses whose landscapes to evaluate: the hardest, then typical ones.

    Robust examples by falling margin and broken ones by falling restart
    alternate; of each kind the first comes first, then the middle one, then the
    rest in order. Clean errors were not attacked and are left out.

    Args:
        ledger: Of a finished audit.
        rows: Positions to choose from.
        num_examples: How many at most.

    Returns:
        Positions.
    """
    rows = np.asarray(list(rows), int)
    margin = np.nan_to_num(ledger.margin, nan=-np.inf)
    robust = rows[ledger.is_robust[rows]]
    robust = robust[np.argsort(-margin[robust], kind="stable")]
    broken = rows[~ledger.is_robust[rows] & (ledger.broken_by_stage[rows] >= 0)]
    keys = [-getattr(ledger, name)[broken] for name in reversed(_PLACE)]
    broken = broken[np.lexsort(keys)]
    turns = [_middle_second(kind.tolist()) for kind in (robust, broken)]
    longest = max(map(len, turns))
    order = [t[i] for i in range(longest) for t in turns if i < len(t)]
    return order[:num_examples]


def _middle_second(rows: list[int]) -> list[int]:
    if len(rows) < 3:
        return rows
    middle = len(rows) // 2
    return [rows[0], rows[middle], *rows[1:middle], *rows[middle + 1 :]]


def plane(
    images: np.ndarray,
    ledger: ledgers.Ledger,
    row: int,
    threat_model: ThreatModel,
    seed: tf.Tensor,
) -> landscape.Plane:
    """The plane of one example of an audit.

    Args:
        images: float32 `[examples, ...]`, the clean images.
        ledger: Of the audit.
        row: The example's position.
        threat_model: Of the audit.
        seed: int32 `[2]`; each example's random direction follows from it.

    Returns:
        The `Plane`.
    """
    return landscape.plane(
        images[row],
        ledger.label[row],
        threat_model,
        ledger.adversarial_images[row] - images[row],
        seeds.fold(seed, row),
    )


def to_arrays(
    rows: Sequence[int], landscapes: Sequence[landscape.Landscape]
) -> dict[str, np.ndarray]:
    """What `landscapes.npz` holds: `row`, and a stack of each attribute."""
    arrays = {"row": np.asarray(rows, np.int64)}
    for name in landscape.Landscape._fields:
        values = [getattr(one, name) for one in landscapes]
        kind = bool if name == "in_ball" else np.float32
        arrays[name] = np.stack(values).astype(kind)
    return arrays


def from_arrays(
    arrays: Mapping[str, np.ndarray], path: str, num_examples: int
) -> list[tuple[int, landscape.Landscape]]:
    """Reads what `to_arrays` made.

    Args:
        arrays: Of the file.
        path: Of the file, for messages.
        num_examples: Of the audit.

    Returns:
        Position and landscape of each example.

    Raises:
        UserError: If an array is missing or has another form.
    """
    missing = {"row", *landscape.Landscape._fields} - arrays.keys()
    if missing:
        raise _damaged(f"{path} without {', '.join(sorted(missing))}")
    row = arrays["row"]
    if row.ndim != 1 or row.dtype.kind != "i":
        raise _damaged(f"{path}: row, shape {row.shape}, dtype {row.dtype}")
    if row.size and not 0 <= row.min() <= row.max() < num_examples:
        raise _damaged(f"{path}: rows beyond the {num_examples} examples")
    grid = arrays["first_axis"].shape[-1:]
    for name in landscape.Landscape._fields:
        array = arrays[name]
        shape = row.shape + grid * 2
        if name in _AXES:
            shape = row.shape + grid
        elif name in _NUMBERS:
            shape = row.shape
        kind = "b" if name == "in_ball" else "f"
        if array.shape != shape or array.dtype.kind != kind or grid < (5,):
            raise _damaged(
                f"{path}: {name}, shape {array.shape}, dtype {array.dtype}"
            )
    for name in _AXES:
        axes = arrays[name]
        if not (np.isfinite(axes).all() and (np.diff(axes) > 0).all()):
            raise _damaged(f"{path}: {name}, which does not rise")
    if not arrays["in_ball"].any(axis=(1, 2)).all():
        raise _damaged(f"{path}: in_ball, where nothing is in a ball")
    if not np.isfinite(arrays["attack_at"]).all():
        raise _damaged(f"{path}: attack_at, which is not finite")
    return [
        (
            int(row[position]),
            landscape.Landscape(
                *(arrays[n][position] for n in landscape.Landscape._fields)
            ),
        )
        for position in range(len(row))
    ]


def to_csv(found: landscape.Landscape) -> str:
    """One line for each point of the grid, with a heading."""
    maps = [
        name
        for name in landscape.Landscape._fields
        if name not in _AXES + _NUMBERS
    ]
    first, second = np.meshgrid(found.first_axis, found.second_axis)
    columns = [first, second] + [getattr(found, name) for name in maps]
    lines = [",".join(["first", "second", *maps])]
    for values in zip(*(column.ravel() for column in columns), strict=True):
        lines.append(",".join(f"{value:.9g}" for value in values))
    return "\n".join(lines) + "\n"


def _damaged(received: str) -> UserError:
    return UserError(
        "The landscapes are not what an audit writes",
        received=received,
        expected="row, and one map of each kind for each row",
        fix="Remove the file, or run the audit again.",
    )
