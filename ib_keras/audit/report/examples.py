"""The examples a page shows: some that broke and some that stand.

They are spaced evenly through the data set rather than picked, so a reader
sees what is usual.
"""

import dataclasses

import numpy as np

from ib_keras.audit.report import load
from ib_keras.audit.report import pictures
from ib_keras.audit.report import text

MAX_BROKEN = 8
MAX_STANDING = 4


@dataclasses.dataclass(frozen=True)
class Card:
    """One example: its pictures, what the model said, and what broke it."""

    index: int
    is_broken: bool
    label: str
    clean_prediction: str
    adversarial_prediction: str
    margin: str | None
    wrong_share: str | None
    how: str
    pictures: tuple[pictures.Picture, ...]


@dataclasses.dataclass(frozen=True)
class Examples:
    """The cards with what they were taken from."""

    cards: tuple[Card, ...]
    num_broken: int
    num_standing: int
    num_wrong_before: int
    has_clean: bool
    reduced_from: tuple[int, int] | None


def choose(audit: load.Audit, clean_images: np.ndarray | None) -> Examples:
    """Chooses examples and describes them.

    Args:
        audit: The audit.
        clean_images: The images before the attack, in the order of the
            audit's examples, or None where they are not at hand.

    Returns:
        The examples.
    """
    is_robust = audit.examples["is_robust"]
    is_broken = ~is_robust & (audit.examples["broken_by_stage"] >= 0)
    rows = [
        *_evenly(np.flatnonzero(is_broken), MAX_BROKEN),
        *_evenly(np.flatnonzero(is_robust), MAX_STANDING),
    ]
    height, width = audit.examples[load.IMAGES].shape[1:3]
    is_large = max(height, width) > pictures.MAX_SIDE
    return Examples(
        cards=tuple(_card(audit, row, clean_images) for row in rows),
        num_broken=int(is_broken.sum()),
        num_standing=int(is_robust.sum()),
        num_wrong_before=int((~is_robust & ~is_broken).sum()),
        has_clean=clean_images is not None,
        reduced_from=(height, width) if is_large else None,
    )


def _evenly(rows: np.ndarray, limit: int) -> list[int]:
    if len(rows) <= limit:
        return rows.tolist()
    ranks = np.linspace(0, len(rows) - 1, limit).round().astype(int)
    return rows[ranks].tolist()


def _card(audit: load.Audit, row: int, clean_images) -> Card:
    names = audit.metadata.get("class_names")
    values = {name: array[row] for name, array in audit.examples.items()}
    clean_name, adversarial_name, label = (
        text.class_name(int(values[key]), names)
        for key in ("clean_prediction", "adversarial_prediction", "label")
    )
    is_broken = not values["is_robust"]
    card = Card(
        index=int(values["index"]),
        is_broken=is_broken,
        label=label,
        clean_prediction=clean_name,
        adversarial_prediction=adversarial_name,
        margin=text.signed(values["margin"]) if "margin" in values else None,
        wrong_share=_wrong_share(audit, values),
        how=_how(audit, values, names) if is_broken else "",
        pictures=(),
    )
    clean = None if clean_images is None else clean_images[row]
    shown = _pictures(audit, card, clean, values[load.IMAGES])
    return dataclasses.replace(card, pictures=shown)


def _wrong_share(audit: load.Audit, values: dict) -> str | None:
    """The share, where there was more than one draw of noise to judge by."""
    share = values.get("wrong_share")
    is_known = share is not None and 0 <= share <= 1
    is_random = audit.mode == "stochastic" and audit.num_judge_samples != 1
    return text.percent(float(share)) if is_known and is_random else None


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
    if step >= 0:  # Iterate 0 is where the restart began.
        parts.append(f"step {step:,}" if step else "at the start")
    return ", ".join(parts)


def _pictures(audit, card: Card, clean, adversarial) -> tuple:
    """Clean, attacked and difference; the attacked one alone without clean."""
    noun = "adversarial" if card.is_broken else "nearest miss"
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
