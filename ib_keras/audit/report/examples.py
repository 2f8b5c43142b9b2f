"""The examples a page shows: typical ones, the worst, and those in findings.

The typical ones are spaced evenly through the data set, not picked by hand. The
worst are those broken by the widest margin and those robust by the narrowest.
"""

import dataclasses

import numpy as np

from ib_keras.audit.report import evidence
from ib_keras.audit.report import load
from ib_keras.audit.report import outcomes
from ib_keras.audit.report import pictures
from ib_keras.audit.report import text

MAX_BROKEN = 6
MAX_ROBUST = 3
MAX_WORST_BROKEN = 2
MAX_WORST_ROBUST = 1
MAX_NAMED = 6

_TYPICAL = ("Typical", "Spaced evenly through the data set, not picked.")
_WORST = (
    "Worst",
    "Broken by the widest margin, and robust by the narrowest.",
)
_NAMED = (
    "In findings",
    "What findings that warn or fail point at. Outcomes and pictures are those "
    "of the audit's own attacks.",
)


@dataclasses.dataclass(frozen=True)
class Card:
    """One example: its pictures, the predictions, and what broke it.

    `row` is its position in the audit, `index` that in the data set, `outcome`
    one of those of `outcomes`. `note` explains numbers that seem to contradict
    it.
    """

    row: int
    index: int
    outcome: str
    label: str
    clean_prediction: str
    adversarial_prediction: str
    margin: str | None
    wrong_share: str | None
    how: str
    note: str
    pictures: tuple[pictures.Picture, ...]


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of cards, and how they were chosen."""

    title: str
    note: str
    cards: tuple[Card, ...]


@dataclasses.dataclass(frozen=True)
class Examples:
    """The groups of cards; `shown` holds their rows."""

    groups: tuple[Group, ...]
    shown: frozenset[int]
    num_broken: int
    num_robust: int
    num_wrong_before: int
    has_clean: bool
    reduced_from: tuple[int, int] | None


def choose(audit: load.Audit, clean_images: np.ndarray | None) -> Examples:
    """Chooses examples and describes them.

    Args:
        audit: The audit.
        clean_images: The images before the attack, in the order of the
            audit's examples, or None if they are not available.

    Returns:
        The examples.
    """
    is_robust = audit.examples["is_robust"]
    is_broken = ~is_robust & (audit.examples["broken_by_stage"] >= 0)
    named = evidence.named_examples(audit, MAX_NAMED)
    worst = _worst(audit, is_broken, named)
    rest = np.ones(audit.num_examples, bool)
    rest[named + worst] = False
    typical = [
        *_evenly(np.flatnonzero(is_broken & rest), MAX_BROKEN),
        *_evenly(np.flatnonzero(is_robust & rest), MAX_ROBUST),
    ]
    height, width = audit.examples[load.IMAGES].shape[1:3]
    is_large = max(height, width) > pictures.MAX_SIDE
    return Examples(
        groups=tuple(
            Group(
                title,
                note,
                tuple(_card(audit, row, clean_images) for row in rows),
            )
            for (title, note), rows in (
                (_TYPICAL, typical),
                (_WORST, worst),
                (_NAMED, named),
            )
            if rows
        ),
        shown=frozenset([*typical, *worst, *named]),
        num_broken=int(is_broken.sum()),
        num_robust=int(is_robust.sum()),
        num_wrong_before=int((~is_robust & ~is_broken).sum()),
        has_clean=clean_images is not None,
        reduced_from=(height, width) if is_large else None,
    )


def _worst(
    audit: load.Audit, is_broken: np.ndarray, taken: list[int]
) -> list[int]:
    """Broken by the widest margin, and robust by the narrowest."""
    if "margin" not in audit.examples:
        return []
    margin = audit.examples["margin"]
    order = np.argsort(-margin, kind="stable")
    order = order[np.isfinite(margin[order]) & ~np.isin(order, taken)]
    broken = order[is_broken[order]][:MAX_WORST_BROKEN]
    robust = order[audit.examples["is_robust"][order]][:MAX_WORST_ROBUST]
    return [*broken.tolist(), *robust.tolist()]


def _evenly(rows: np.ndarray, limit: int) -> list[int]:
    if len(rows) <= limit:
        return rows.tolist()
    ranks = np.linspace(0, len(rows) - 1, limit).round().astype(int)
    return rows[ranks].tolist()


def _card(audit: load.Audit, row: int, clean_images) -> Card:
    names = audit.model.metadata.get("class_names")
    values = {name: array[row] for name, array in audit.examples.items()}
    clean_name, adversarial_name, label = (
        text.class_name(int(values[key]), names)
        for key in ("clean_prediction", "adversarial_prediction", "label")
    )
    outcome, share = outcomes.of(values), _wrong_share(audit, values)
    card = Card(
        row=row,
        index=int(values["index"]),
        outcome=outcome,
        label=label,
        clean_prediction=clean_name,
        adversarial_prediction=adversarial_name,
        margin=text.signed(values["margin"]) if "margin" in values else None,
        wrong_share=share,
        how=_how(audit, values, names) if outcome == outcomes.BROKEN else "",
        note="" if share is None else outcomes.note(values),
        pictures=(),
    )
    clean = None if clean_images is None else clean_images[row]
    shown = _pictures(audit, card, clean, values[load.IMAGES])
    return dataclasses.replace(card, pictures=shown)


def _wrong_share(audit: load.Audit, values: dict) -> str | None:
    """The share, where there was more than one draw of noise to judge by."""
    share = values.get("wrong_share")
    if share is None or not 0 <= share <= 1 or not audit.is_random:
        return None
    return text.percent(float(share))


def _how(audit: load.Audit, values: dict, names) -> str:
    """What broke it, such as "pgd_ce, restart 3, step 17"; restarts from 1."""
    stage = int(values["broken_by_stage"])
    is_known = stage < len(audit.stages)
    parts = [
        text.clean(audit.stages[stage].name, 40)
        if is_known
        else f"stage {stage + 1}"
    ]
    if values.get("broken_by_target", -1) >= 0:
        target = text.class_name(int(values["broken_by_target"]), names)
        parts.append(f"target {target}")
    if values.get("broken_by_restart", -1) >= 0:
        parts.append(f"restart {values['broken_by_restart'] + 1:,}")
    step = values.get("broken_at_step", -1)
    if step >= 0:  # Iterate 0 is the start of the restart.
        parts.append(f"step {step:,}" if step else "at the start")
    return ", ".join(parts)


def _pictures(audit, card: Card, clean, adversarial) -> tuple:
    """Clean, attacked and difference; the attacked one alone without clean."""
    noun = outcomes.NOUNS[card.outcome]
    example = f"example {card.index}, label {card.label}"
    attacked = pictures.picture(
        adversarial,
        noun,
        f"{noun.capitalize()}, {example}, "
        f"predicted {card.adversarial_prediction}",
    )
    if clean is None:
        return (attacked,)
    change, gain = pictures.difference(
        clean,
        adversarial,
        audit.threat_model.norm,
        float(audit.threat_model.epsilon),
    )
    caption = f"change ×{gain:.3g}" if gain else "no change"
    return (
        pictures.picture(
            clean,
            "clean",
            f"Clean, {example}, predicted {card.clean_prediction}",
        ),
        attacked,
        pictures.picture(
            change,
            caption,
            f"Difference made to {example}: {caption}, around mid grey",
        ),
    )
