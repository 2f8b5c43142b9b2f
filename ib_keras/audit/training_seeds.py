"""One number for several trainings that differ in their seed alone.

The rule for collapsed runs: a training whose clean accuracy on the audited
examples is below `min_clean_accuracy` has learned too little to measure its
robustness. The default threshold is half way from guessing to perfect accuracy,
(1 + 1 / classes) / 2. It depends on clean accuracy alone and is fixed before
any robust accuracy is known; the excluded runs, and why, are part of the
result.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ib_keras.audit import summary as summaries
from ib_keras.errors import UserError


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """An accuracy over training seeds.

    Attributes:
        mean: Over the runs that count.
        minimum: The lowest.
        maximum: The highest.
        num_runs: n, how many count.
        excluded: Folder -> why it does not count.
        min_clean_accuracy: The threshold of the rule.
        values: Folder -> accuracy, of the runs that count.
    """

    mean: float
    minimum: float
    maximum: float
    num_runs: int
    excluded: dict[str, str]
    min_clean_accuracy: float
    values: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)


def aggregate(
    folders: Sequence[str],
    *,
    metric: str = "robust_accuracy",
    min_clean_accuracy: float | None = None,
) -> Aggregate:
    """Summarises audits of models that differ in their training seed.

    Args:
        folders: Their folders.
        metric: A field of the summary.
        min_clean_accuracy: Below it a run has collapsed; None is half way
            from guessing to perfect accuracy.

    Returns:
        An `Aggregate`. Collapsed runs, unfinished audits, and models that were
        already counted are left out.

    Raises:
        UserError: If no run is left, or the audits are not of one kind:
            another data set, threat model, protocol, mode or number of
            examples.
    """
    counted: dict[str, summaries.Summary] = {}
    excluded: dict[str, str] = {}
    first = None
    for folder in folders:
        try:
            summary = summaries.read(folder)
        except UserError as error:
            excluded[folder] = f"no finished audit ({error.received})"
            continue
        first = first or (folder, summary)
        _check_kind(folder, summary, *first)
        threshold = (
            _halfway(summary)
            if min_clean_accuracy is None
            else min_clean_accuracy
        )
        reason = _reason(summary, threshold, counted)
        if reason:
            excluded[folder] = reason
        else:
            counted[folder] = summary
    if not counted:
        reasons = "; ".join(f"{f}: {why}" for f, why in excluded.items())
        raise UserError(
            "No run is left to summarise",
            received=reasons or "no folders",
            expected="one finished audit of a model that learned, or more",
            fix="Finish the audits, or lower min_clean_accuracy.",
        )
    values = {f: float(getattr(s, metric)) for f, s in counted.items()}
    return Aggregate(
        mean=sum(values.values()) / len(values),
        minimum=min(values.values()),
        maximum=max(values.values()),
        num_runs=len(values),
        excluded=excluded,
        min_clean_accuracy=float(threshold),
        values=values,
    )


def halfway(num_classes: int) -> float:
    """The threshold of the rule: half way from guessing to perfect."""
    return (1 + 1 / num_classes) / 2


def collapse(clean_accuracy: float, threshold: float) -> str | None:
    """Why a run of this clean accuracy has collapsed; None if it has not."""
    if clean_accuracy >= threshold:
        return None
    return f"collapsed: clean accuracy {clean_accuracy:.4f} < {threshold:.4f}"


def _reason(summary, threshold, counted):
    """Why a run does not count; None if it does."""
    collapsed = collapse(summary.clean_accuracy, threshold)
    if collapsed:
        return collapsed
    for folder, other in counted.items():
        if other.model.sha256 == summary.model.sha256:
            return f"the same model as {folder}"
    return None


def _halfway(summary):
    model = summary.model
    num_classes = model.num_classes or model.metadata.get("num_classes")
    if not num_classes:
        raise UserError(
            "The model does not say how many classes it has",
            received="metadata without num_classes",
            expected="a threshold for collapsed runs",
            fix="Give min_clean_accuracy.",
        )
    return halfway(int(num_classes))


def _check_kind(folder, summary, first_folder, first):
    names = (
        "dataset",
        "threat_model",
        "protocol",
        "protocol_version",
        "mode",
        "num_examples",
    )
    for name in names:
        if getattr(summary, name) != getattr(first, name):
            raise UserError(
                f"Audits of several kinds have no mean: {name} differs",
                received=f"{getattr(summary, name)} in {folder}",
                expected=f"{getattr(first, name)}, as in {first_folder}",
                fix="Summarise them apart.",
            )
