"""Accuracy by class, for a small table."""

import dataclasses

import numpy as np

from ib_keras.audit import statistics
from ib_keras.audit.report import load
from ib_keras.audit.report import text

MAX_CLASSES = 20
_MAX_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Row:
    """One class, as text: count, accuracy, and the most frequent confusion."""

    name: str
    num_examples: int
    clean_accuracy: float
    robust_accuracy: float
    interval: tuple[float, float]
    mistaken_for: str


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes shown, in order of their numbers, and how many there are."""

    rows: tuple[Row, ...]
    num_classes: int


def describe(audit: load.Audit) -> Classes:
    """Counts by class.

    Args:
        audit: The audit.

    Returns:
        All classes that occur, or, where there are more than `MAX_CLASSES`,
        the ten that are least robust (of equals, the more frequent).
    """
    labels = audit.examples["label"]
    rows = {label: _row(audit, label) for label in np.unique(labels).tolist()}
    shown = sorted(rows)
    if len(rows) > MAX_CLASSES:
        shown.sort(
            key=lambda label: (
                rows[label].robust_accuracy,
                -rows[label].num_examples,
            )
        )
        shown = sorted(shown[:_MAX_SHOWN])
    return Classes(tuple(rows[label] for label in shown), len(rows))


def _row(audit: load.Audit, label: int) -> Row:
    examples = audit.examples
    is_own = examples["label"] == label
    is_robust = examples["is_robust"][is_own]
    names = audit.model.metadata.get("class_names")
    num_examples, num_robust = int(is_own.sum()), int(is_robust.sum())
    wrong = examples["adversarial_prediction"][is_own]
    wrong = wrong[wrong != label]
    mistaken_for = text.MISSING
    if wrong.size:
        values, counts = np.unique(wrong, return_counts=True)
        most = int(counts.argmax())
        mistaken_for = (
            f"{text.class_name(int(values[most]), names)} "
            f"({text.count(int(counts[most]))})"
        )
    return Row(
        name=text.class_name(label, names),
        num_examples=num_examples,
        clean_accuracy=float(
            (examples["clean_prediction"][is_own] == label).mean()
        ),
        robust_accuracy=num_robust / num_examples,
        interval=statistics.wilson_interval(num_robust, num_examples),
        mistaken_for=mistaken_for,
    )
