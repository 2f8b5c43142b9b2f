"""The paper's figures and one of our own, from the records of sweeps.

`reading` reads the folders, `points` selects the numbers, one file per kind of
figure draws them, `style` sets their look, `captions` their captions. `FIGURES`
is the table of all; `write` draws one and writes its files.
"""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Sequence

from ib_keras import files
from ib_keras.errors import UserError
from ib_keras.figures import adversarial
from ib_keras.figures import cifar10
from ib_keras.figures import drawing
from ib_keras.figures import mnist
from ib_keras.figures import points
from ib_keras.figures import reading
from ib_keras.figures import samples
from ib_keras.figures import style
from ib_keras.figures import summary
from ib_keras.figures import surfaces
from ib_keras.figures import toys


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        draws: `(number, runs)` -> `Drawing`.
        configs: The experiments it can be drawn from, the paper's first; the
            first available one is used. None needs no runs.
    """

    draws: Callable[..., drawing.Drawing]
    configs: tuple[str, ...] = ()


_MNIST = ("mnist_vib", "digits_vib")
_CEB = ("cifar10_ceb", "digits_ceb")
_CIFAR10_VIB = ("cifar10_vib", "digits_vib")

FIGURES = {
    1: Figure(mnist.draw_fgs, _MNIST),
    2: Figure(functools.partial(mnist.draw_restarts, epsilon=0.2), _MNIST),
    3: Figure(functools.partial(cifar10.draw, swept="rho"), _CEB),
    4: Figure(functools.partial(surfaces.draw, num_images=1), _CEB),
    5: Figure(toys.draw, ("toy_overlap_vib",)),
    6: Figure(samples.draw),
    7: Figure(toys.draw, ("toy_tsipras_vib",)),
    8: Figure(functools.partial(mnist.draw_restarts, epsilon=0.1), _MNIST),
    9: Figure(functools.partial(cifar10.draw, swept="beta"), _CIFAR10_VIB),
    10: Figure(functools.partial(surfaces.draw, num_images=3), _CEB),
    11: Figure(adversarial.draw, ("ib_adversarial",)),
}


def choose(asked: Sequence[str], sweeps: Sequence[reading.Runs]) -> list[int]:
    """Which figures are asked for.

    Args:
        asked: Numbers, or "all" alone: what the sweeps have, and what needs
            none.
        sweeps: From `reading.load`.

    Returns:
        Keys of `FIGURES`.

    Raises:
        UserError: If there is no such figure.
    """
    words = list(dict.fromkeys(word.strip() for word in asked))
    there = {sweep.config for sweep in sweeps}
    if words == ["all"]:
        return [
            number
            for number, figure in FIGURES.items()
            if not figure.configs or there.intersection(figure.configs)
        ]
    numbers = {str(number): number for number in FIGURES}
    if not words or not numbers.keys() >= set(words):
        raise UserError(
            "There is no such figure",
            received=f'"{",".join(asked)}"',
            expected=f"numbers from 1 to {len(FIGURES)}, or all",
            fix="Correct --figure; commas go between numbers.",
        )
    return [numbers[word] for word in words]


def draw(number: int, sweeps: Sequence[reading.Runs]) -> drawing.Drawing:
    """Draws a figure.

    Args:
        number: Of the figure, a key of `FIGURES`.
        sweeps: From `reading.load`; those of other experiments are
            skipped.

    Returns:
        Its `Drawing`.

    Raises:
        UserError: If there is no run to draw, or the sweeps are of several
            budgets.
    """
    figure = FIGURES[number]
    with style.settings():
        if not figure.configs:
            return figure.draws(number, None)
        for config in figure.configs:
            own = [sweep for sweep in sweeps if sweep.config == config]
            if own:
                return figure.draws(number, reading.merge(own))
    config = figure.configs[0]
    given = [f"{s.config} in {s.folders[0]}" for s in sweeps]
    raise UserError(
        f"Figure {number} has no runs",
        received=", ".join(given) or "no --runs",
        expected=f"a sweep of {' or '.join(figure.configs)}",
        fix=f"Make one: python -m launch.sweep --config=configs/{config}.py "
        f"--workdir=runs/{config}, then add --runs=runs/{config}.",
    )


def write(
    number: int, sweeps: Sequence[reading.Runs], folder: str
) -> tuple[list[str], tuple[str, ...]]:
    """Draws a figure and writes it, as PDF, SVG and PNG, and its numbers.

    They go into a CSV, point by point, and over seeds into a Markdown table.

    Args:
        number: Of the figure.
        sweeps: As `draw`.
        folder: Where `figure_N.*` go; files of these names are replaced.

    Returns:
        The paths, and notes: which runs are missing or left out.

    Raises:
        UserError: As `draw`, or if the folder cannot be written.
    """
    drawn = draw(number, sweeps)
    with style.settings():
        contents = style.save(drawn.figure)
    contents[".csv"] = points.to_csv(drawn.columns, drawn.rows).encode()
    table = summary.to_markdown(drawn.columns, drawn.rows)
    if table is not None:
        text = f"{table}\n{drawn.table}" if drawn.table else table
        contents[".md"] = text.encode()
    files.make_folder(folder)
    paths = []
    for ending, content in contents.items():
        path = files.join(folder, f"figure_{number}{ending}")
        files.write_bytes(path, content)
        paths.append(path)
    return paths, drawn.notes
