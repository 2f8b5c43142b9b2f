"""Figure 11, beyond the paper: bottlenecks with adversarial training.

A panel for each objective, in mean mode above and in stochastic mode below, and
a table that compares each bottleneck with its deterministic baseline (the
twin), image by image.
"""

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ib_keras.audit import statistics
from ib_keras.errors import UserError
from ib_keras.figures import captions
from ib_keras.figures import drawing
from ib_keras.figures import panels
from ib_keras.figures import points as points_lib
from ib_keras.figures import reading
from ib_keras.figures import style

# As captions call them.
PROTOCOLS = {"aa_mt": "AA+MT", "fast_ensemble": "fast_ensemble"}
MODES = ("mean", "stochastic")
_SIGNIFICANCE = 0.05
_BAND = 0.15  # Opacity.
# Of a model's first, second and further values of beta or rho.
_COLORS = {
    "vib": ("#0072b2", "#56b4e9"),
    "ceb": ("#009e73", "#e69f00"),
    "deterministic": (style.INK,),
}
_MARKERS = {"vib": "o^", "ceb": "sD", "deterministic": "x"}
_OTHERS = ("#d55e00", "v")

_HEADING = (
    "| objective | bottleneck | mode | epsilon | seeds x images "
    "| only baseline | only bottleneck | difference | McNemar's p by seed |\n"
    + "|---" * 9
    + "|"
)
_EXPLANATION = (
    "Each bottleneck and its deterministic baseline, on the same images: how "
    "many only the baseline, and how many only the bottleneck classifies "
    "correctly under attack, over all seeds; the difference of their robust "
    "accuracies in points, with a 95% interval over images; and the p-value of "
    "McNemar's exact test for each seed. A star marks a p-value below 0.05 "
    "after Holm's correction for all tests of the table. The baseline has no "
    "noise, so both modes are compared with its mean mode."
)
_SAYING = (
    "Robust accuracy under {} in per cent, clean accuracy at 0; lines are "
    "means over seeds, bands reach from the lowest to the highest."
)


def draw(number: int, runs: reading.Runs) -> drawing.Drawing:
    """Robust accuracy against epsilon, a line a bottleneck, a panel a mode.

    Args:
        number: Of the figure.
        runs: Of a sweep whose labels have an `objective`.

    Returns:
        The `Drawing`, whose table has McNemar's tests.

    Raises:
        UserError: If no run has the audits, or they are by several protocols.
    """
    objectives = list(
        dict.fromkeys(labels["objective"] for labels in runs.planned.values())
    )
    protocol = _protocol(runs.done)
    by_panel = {
        (objective, mode): _points(runs.done, protocol, objective, mode)
        for mode in MODES
        for objective in objectives
    }
    points = [p for found in by_panel.values() for p in found]
    drawing.check_points(
        number, runs, points, f"audits by {' or '.join(PROTOCOLS)}"
    )
    said = _SAYING.format(PROTOCOLS[protocol])
    figure = style.figure(
        style.TWO_COLUMNS, 3.4, captions.write(runs, points, more=said)
    )
    axes = figure.subplots(len(MODES), len(objectives), squeeze=False)
    # The baselines first.
    ordered = sorted(points, key=lambda p: (not p.run.is_twin, p.model))
    looks = _looks(list(dict.fromkeys(p.model for p in ordered)))
    rows = []
    for above, mode in zip(axes, MODES, strict=True):
        for letter, objective, panel in zip(
            "abcdefgh", objectives, above, strict=False
        ):
            found = by_panel[objective, mode]
            rows += [p.row(number, letter) for p in found]
            # The baseline has no noise: the same line in both modes.
            twins = [p for p in by_panel[objective, "mean"] if p.run.is_twin]
            _draw_lines(
                panel, [*twins, *(p for p in found if p not in twins)], looks
            )
            panel.set_xticks(sorted({p.x for p in points}))
            if mode == MODES[0]:
                panels.title(panel, f"({letter}) {objective}")
                panel.tick_params(labelbottom=False)
            else:
                panel.set_xlabel(r"$\epsilon$")
            if not (twins or found):
                panels.say_empty(panel, "no run")
        panels.set_percent(above, f"{mode} mode", points)
    figure.legend(
        handles=[_entry(*item) for item in looks.items()],
        loc="outside upper center",
        ncols=len(looks),
    )
    return drawing.Drawing(
        figure,
        points_lib.COLUMNS,
        rows,
        captions.notes(runs, points),
        table=_table(runs.done, protocol),
    )


def _points(
    runs: Iterable[reading.Run], protocol: str, objective: str, mode: str
):
    """Clean and robust accuracies of one panel, by epsilon."""
    found = []
    for run in runs:
        if run.labels["objective"] != objective:
            continue
        audits = _audits(run, protocol, mode)
        for epsilon, audit in audits.items():
            robust = _accuracy(audit, "robust_accuracy")
            found.append(_point(run, mode, epsilon, audit, *robust))
        if audits:
            audit = next(iter(audits.values()))
            clean = _accuracy(audit, "clean_accuracy")
            found.append(_point(run, mode, 0.0, audit, *clean))
    return sorted(found, key=lambda p: (p.run.name, p.x))


def _accuracy(audit, field):
    share = float(audit[field])
    return share, points_lib.interval(share, audit["num_examples"])


def _point(run, mode, epsilon, audit, share, interval):
    return points_lib.Point(
        model=_name(run.labels),
        mode=mode,
        x=epsilon,
        y=share,
        interval=interval,
        num_examples=audit["num_examples"],
        run=run,
    )


def _protocol(runs: Iterable[reading.Run]) -> str:
    """The first of `PROTOCOLS` that all runs with any of them have.

    Raises:
        UserError: If there is none: lines would differ by their protocols.
    """
    by_run = [
        {audit["protocol"] for audit in run.record["audits"].values()}
        & PROTOCOLS.keys()
        for run in runs
    ]
    by_run = [found for found in by_run if found]
    for name in PROTOCOLS:
        if all(name in found for found in by_run):
            return name
    raise UserError(
        "Some runs were audited by one protocol, and some by another",
        received=" and ".join(PROTOCOLS),
        expected="one of them in all runs",
        fix="Name folders of sweeps that were made with one preset.",
    )


def _audits(
    run: reading.Run, protocol: str, mode: str
) -> dict[float, Mapping[str, Any]]:
    """The audits of a run by their radius, ascending."""
    found = {
        float(audit["threat_model"]["epsilon"]): audit
        for audit in run.record["audits"].values()
        if audit["protocol"] == protocol and audit["mode"] == mode
    }
    return dict(sorted(found.items()))


def _name(labels: Mapping[str, Any]) -> str:
    """Such as "vib beta=0.01": the model and what is swept."""
    swept = [f"{k}={labels[k]:g}" for k in ("beta", "rho") if k in labels]
    return " ".join([labels["model"], *swept])


def _draw_lines(
    axes: Axes,
    points: Sequence[points_lib.Point],
    looks: Mapping[str, tuple[str, str]],
) -> None:
    """A line of means for each model, with a band over its seeds."""
    for name in dict.fromkeys(p.model for p in points):
        own = [p for p in points if p.model == name]
        xs = sorted({p.x for p in own})
        ys = [[100 * p.y for p in own if p.x == x] for x in xs]
        color, marker = looks[name]
        if any(len(y) > 1 for y in ys):
            ends = [min(y) for y in ys], [max(y) for y in ys]
            axes.fill_between(xs, *ends, color=color, alpha=_BAND, lw=0)
        axes.plot(
            xs,
            [float(np.mean(y)) for y in ys],
            color=color,
            marker=marker,
            ms=2.8,
            lw=0.9,
            clip_on=False,
        )


def _looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each model, by its place among those of its kind.

    Args:
        names: Of all models of the figure, so that panels agree.
    """
    looks = {}
    for name in names:
        kind = name.split()[0]
        place = sorted(n for n in names if n.split()[0] == kind).index(name)
        known = kind in _COLORS and place < len(_COLORS[kind])
        looks[name] = (
            (_COLORS[kind][place], _MARKERS[kind][place]) if known else _OTHERS
        )
    return looks


def _entry(name: str, look: tuple[str, str]) -> Line2D:
    color, marker = look
    kind, *swept = name.split()
    words = [{"vib": "VIB", "ceb": "CEB"}.get(kind, kind)]
    for text in swept:
        field, _, value = text.partition("=")
        words.append(f"{captions.SYMBOLS[field]}={value}")
    return Line2D(
        [], [], label=" ".join(words), color=color, marker=marker, ms=3, lw=0.9
    )


@dataclasses.dataclass(frozen=True)
class _Row:
    """A line of the table."""

    words: tuple[str, ...]
    baseline: np.ndarray  # bool [seeds, images], which are robust.
    bottleneck: np.ndarray

    @property
    def p_values(self) -> list[float]:
        pairs = zip(self.bottleneck, self.baseline, strict=True)
        return [statistics.mcnemar(*pair).p_value for pair in pairs]


def _table(runs: Sequence[reading.Run], protocol: str) -> str:
    """Each bottleneck and its baseline of the same objective and seed."""
    twins = {
        (run.labels["objective"], run.labels["seed"]): run
        for run in runs
        if run.is_twin
    }
    found: dict[tuple, list[tuple[np.ndarray, np.ndarray]]] = {}
    for run in runs:
        objective = run.labels["objective"]
        twin = twins.get((objective, run.labels["seed"]))
        if run.is_twin or twin is None:
            continue
        for mode in MODES:
            of_twin = _audits(twin, protocol, "mean")
            for epsilon, audit in _audits(run, protocol, mode).items():
                pair = [_robust(a) for a in (of_twin.get(epsilon), audit)]
                if any(side is None for side in pair):
                    continue
                key = (objective, _name(run.labels), mode, f"{epsilon:g}")
                found.setdefault(key, []).append(tuple(pair))
    rows = [
        _Row(words, *(np.stack(side) for side in zip(*pairs, strict=True)))
        for words, pairs in found.items()
    ]
    if not rows:
        return ""
    corrected = iter(statistics.holm([p for row in rows for p in row.p_values]))
    lines = [_line(row, corrected) for row in rows]
    return "\n".join([_EXPLANATION, "", _HEADING, *lines]) + "\n"


def _robust(audit) -> np.ndarray | None:
    """Which examples are robust; None where the record does not say."""
    text = (audit or {}).get("is_robust")
    return None if text is None else np.array(list(text)) == "1"


def _line(row: _Row, corrected) -> str:
    difference, (low, high) = statistics.difference_over_seeds(
        row.bottleneck, row.baseline
    )
    tests = [
        f"{p:.2g}" + "*" * (next(corrected) < _SIGNIFICANCE)
        for p in row.p_values
    ]
    seeds, images = row.baseline.shape
    cells = [
        *row.words,
        f"{seeds} x {images}",
        str((row.baseline & ~row.bottleneck).sum()),
        str((row.bottleneck & ~row.baseline).sum()),
        f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
        ", ".join(tests),
    ]
    return "| " + " | ".join(cells) + " |"
