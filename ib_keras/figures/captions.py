"""The caption of a figure: its data, and what is left out."""

from collections.abc import Iterable
from collections.abc import Sequence

from ib_keras.figures import points as points_lib
from ib_keras.figures import reading

SYMBOLS = {"beta": r"$\beta$", "rho": r"$\rho$"}
# Fields of a training config that may differ from run to run: the seed, what
# is swept and twinned, where the files are, and what changes no result.
_MAY_DIFFER = (
    "seed",
    "bottleneck",
    "data.data_dir",
    "data.download",
    "checkpoint",
    "steps_per_call",
)


def write(
    runs: reading.Runs,
    points: Sequence[points_lib.Point],
    *,
    images: str = "test images",
    more: str = "",
) -> str:
    """States data, budget, numbers of seeds and examples, and excluded runs.

    Args:
        runs: All runs of the figure.
        points: All points that it draws.
        images: The name of the examples.
        more: A sentence of the figure itself.

    Returns:
        The caption.
    """
    drawn = {p.run.name: p.run for p in points}
    sentences = [f"{_data(drawn.values())}. {runs.budget.rstrip('.')}."]
    sentences.append(f"{_seeds(drawn.values())}; {_examples(points, images)}.")
    sentences.append(_clean(drawn.values()))
    sentences.append(_left_out(runs, drawn))
    sentences += _mixed(drawn.values())
    return " ".join(s for s in (*sentences, more) if s)


def notes(
    runs: reading.Runs, points: Iterable[points_lib.Point]
) -> tuple[str, ...]:
    """The printed notes: each run that is not in the figure, by name."""
    drawn = {p.run.name for p in points}
    fates: dict[str, list[str]] = {}
    for name, why in runs.missing.items():
        fates.setdefault(f"Missing, {why}", []).append(name)
    for name, why in runs.excluded.items():
        how = "Marked" if name in drawn else "Left out"
        fates.setdefault(f"{how}, {why}", []).append(name)
    lines = [f"{fate}: {', '.join(names)}" for fate, names in fates.items()]
    for run in runs.done:
        if run.name not in drawn:
            error = run.record["error"]
            why = f" ({error})" if error else ""
            lines.append(f"Without what this figure needs: {run.name}{why}")
    if runs.missing:
        lines.append(f"What is missing is made by: {runs.command}")
    return (*lines, *runs.notes)


def percent(share: float) -> str:
    """A share with one digit after the point."""
    return f"{100 * share:.1f}"


def count(number: int, noun: str) -> str:
    """A number with its noun, which gets an s where it needs one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def radius(epsilon: float) -> str:
    """Epsilon, in 255ths where it is a whole number of them."""
    steps = 255 * epsilon
    is_whole = abs(steps - round(steps)) < 1e-6 and round(steps)
    return f"{round(steps)}/255" if is_whole else f"{epsilon:g}"


def span(values: Iterable, text=str) -> str:
    """One value, or the lowest and the highest."""
    values = sorted(set(values))
    ends = dict.fromkeys(text(v) for v in (values[0], values[-1]))
    return "–".join(ends)


def _data(runs) -> str:
    found = dict.fromkeys(
        r.record["dataset"]["description"].rstrip(".") for r in runs
    )
    text = ", ".join(found)
    return text[:1].upper() + text[1:]


def _seeds(runs) -> str:
    """The number of seeds of each value; separately for the baseline."""
    groups: dict[tuple, set] = {}
    for run in runs:
        others = {k: v for k, v in run.labels.items() if k != "seed"}
        key = (run.is_twin, *sorted(others.items()))
        groups.setdefault(key, set()).add(run.labels.get("seed"))
    by_kind = [
        [len(seeds) for key, seeds in groups.items() if key[0] is is_twin]
        for is_twin in (False, True)
    ]
    texts = [
        f"{span(sizes)} seed{'' if max(sizes) == 1 else 's'}" if sizes else ""
        for sizes in by_kind
    ]
    if not texts[0] or texts[0] == texts[1]:
        return texts[0] or texts[1]
    return texts[0] + (f" (baseline: {texts[1]})" if texts[1] else "")


def _examples(points, images) -> str:
    counts = [p.num_examples for p in points if p.num_examples]
    if not counts:
        return f"all {images}"
    arm = points_lib.widest(points)
    return (
        f"{span(counts, lambda n: f'{n:,}')} {images}, 95% intervals reach at "
        f"most {percent(arm)} points up or down"
    )


def _clean(runs) -> str:
    """Clean accuracy on the test split, in mean mode, by training."""
    kinds = {"": [], "baseline ": []}
    for run in runs:
        accuracy = run.record["result"].get("accuracy")
        if isinstance(accuracy, int | float):
            kinds["baseline " if run.is_twin else ""].append(float(accuracy))
    texts = [
        f"{name}{span(found, percent)}%"
        for name, found in kinds.items()
        if found
    ]
    return f"Clean accuracy {', '.join(texts)}." if texts else ""


def _left_out(runs, drawn) -> str:
    text = f"{len(drawn)} of {count(len(runs.planned), 'run')}"
    kinds: dict[str, int] = {}
    for name, why in runs.excluded.items():
        kind = why.partition(":")[0].partition(" as ")[0]
        kind += " and marked" if name in drawn else ""
        kinds[kind] = kinds.get(kind, 0) + 1
    reasons = [f"{number} {kind}" for kind, number in kinds.items()]
    if runs.missing:
        reasons.append(f"{len(runs.missing)} missing")
    without = [r for r in runs.done if r.name not in drawn]
    if without:
        reasons.append(f"{len(without)} not audited so")
    return f"{text} ({', '.join(reasons)})." if reasons else f"{text}."


def _mixed(runs) -> list[str]:
    """A warning where runs of one kind were not trained or audited alike."""
    fields: dict[tuple, set[str]] = {}
    for run in runs:
        own = dict(_flat(run.record["config"]))
        for name, found in run.record["audits"].items():
            own[f"{name}.version"] = found.get("protocol_version")
            own[f"{name}.epsilon"] = found["threat_model"]["epsilon"]
        for field, value in own.items():
            kind = (run.labels["model"], run.labels.get("objective"))
            key = (*kind, field)
            fields.setdefault(key, set()).add(repr(value))
    mixed = {key[-1] for key, values in fields.items() if len(values) > 1}
    if not mixed:
        return []
    return [f"Runs are not alike in {', '.join(sorted(mixed))}."]


def _flat(section, inside=""):
    for name, value in section.items():
        path = f"{inside}{name}"
        if path in _MAY_DIFFER:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{path}.")
        else:
            yield path, value
