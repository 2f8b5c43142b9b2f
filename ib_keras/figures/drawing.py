"""A drawn figure: the picture, its numbers, its notes."""

import dataclasses
from collections.abc import Sequence

from matplotlib.figure import Figure

from ib_keras.errors import UserError
from ib_keras.figures import reading


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure with its numbers and notes.

    Attributes:
        figure: The picture.
        columns: Heading of the numbers.
        rows: All numbers that are drawn.
        notes: Lines to print: what is missing or left out, by name.
        table: More for its Markdown file, behind the means over seeds.
    """

    figure: Figure
    columns: Sequence[str]
    rows: Sequence[Sequence]
    notes: tuple[str, ...]
    table: str = ""


def check_points(
    number: int, runs: reading.Runs, points: Sequence, what: str
) -> None:
    """Refuses to draw a figure that would be empty.

    Raises:
        UserError: If there is nothing to draw, with what is needed, the states
            of the runs, and the command that makes them.
    """
    if points:
        return
    fates = {**runs.excluded, **runs.missing}
    received = [f"{name} {why}" for name, why in fates.items()]
    without = [run.name for run in runs.done if run.name not in fates]
    received += [f"{name} without it" for name in without]
    if len(received) > 4:
        received = [*received[:4], f"and {len(received) - 4} more"]
    raise UserError(
        f"Figure {number} has nothing to draw",
        received=f"{', '.join(runs.folders)}: "
        + ("; ".join(received) or "no run that it is about"),
        expected=f"runs with {what}",
        fix=f"Make them: {runs.command}"
        if runs.missing or not fates
        else "Sweep with another preset: these runs are done, and none counts.",
    )
