"""Which audits are compared with which: a model's with its baseline's.

The baseline is a model. It is the requested one, else the deterministic twin,
which is the model trained by the same config but for its bottleneck, else the
first; a note says how it was found.
"""

import dataclasses
import json
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from ib_keras import errors
from ib_keras.audit.report import load
from ib_keras.audit.report import names

_TWIN = "deterministic"


@dataclasses.dataclass(frozen=True)
class Baselines:
    """The baseline of each model, and how it was found.

    Attributes:
        of: Model -> its baseline, both by `names.model`; models that are
            baselines have none.
        note: How they were found, in a sentence or two; "" for one audit.
    """

    of: Mapping[str, str]
    note: str


def choose(audits: Sequence[load.Audit], wanted: str | None) -> Baselines:
    """Finds the baseline of each model.

    Args:
        audits: In the order of the page.
        wanted: The audit folder, name or path of a model; None for the
            deterministic twin.

    Returns:
        The `Baselines`.

    Raises:
        UserError: If no audit is of the wanted model.
    """
    named = dict(zip(map(names.model, audits), names.of(audits), strict=True))
    asked = None if wanted is None else _wanted(audits, named, wanted)
    if len(audits) == 1:
        return Baselines({}, "")
    if len(named) == 1:
        return Baselines({}, "All audits are of one model: no baseline.")
    if asked is not None:
        return _all_with(asked, named, f"The baseline is {named[asked]}.")
    return _by_default(audits, named)


def _by_default(audits, named) -> Baselines:
    """The deterministic twin, or else the first model."""
    twins = [
        model
        for model in named
        if any(_is_twin(a) for a in audits if names.model(a) == model)
    ]
    first = next(iter(named))
    if not twins:
        note = (
            "None of these models is known to be a deterministic twin, so the "
            f"first, {named[first]}, is the baseline; --baseline names another."
        )
        return _all_with(first, named, note)
    if len(twins) == 1 or len(twins) == len(named):
        note = f"The baseline is {named[twins[0]]}, the deterministic twin."
        if len(twins) > 1:
            note = (
                "All models are deterministic; the baseline is the first, "
                f"{named[twins[0]]}; --baseline names another."
            )
        return _all_with(twins[0], named, note)
    return _each_with_its_twin(audits, twins, named)


def bottleneck(audit: load.Audit) -> Mapping:
    """The bottleneck's section of the training config; empty if unknown."""
    config = audit.model.metadata.get("config")
    section = config.get("bottleneck") if isinstance(config, dict) else None
    return section if isinstance(section, dict) else {}


def is_noiseless(audit: load.Audit) -> bool:
    """Whether the model is known to have no noise."""
    return _is_twin(audit) or audit.model.metadata.get("is_stochastic") is False


def _wanted(audits, named, wanted: str) -> str:
    """The model that is meant by a folder, a name or a path."""
    meant: dict[str, Any] = {}
    for audit in audits:
        model = names.model(audit)
        for word in (audit.folder, named[model], audit.model.path or ""):
            meant.setdefault(word.rstrip("/"), model)
    if wanted.rstrip("/") not in meant:
        raise errors.unknown_name(
            "audited model",
            wanted,
            [audit.folder for audit in audits],
            "Set --baseline to the folder of one of these audits, or to the "
            "name of its model.",
        )
    return meant[wanted.rstrip("/")]


def _all_with(baseline, named, note: str) -> Baselines:
    others = [model for model in named if model != baseline]
    return Baselines({model: baseline for model in others}, note)


def _is_twin(audit: load.Audit) -> bool:
    return bottleneck(audit).get("name") == _TWIN


def _each_with_its_twin(audits, twins, named) -> Baselines:
    """For each model the deterministic one that was trained alike."""
    training = {names.model(audit): _training(audit) for audit in audits}
    found, lonely = {}, []
    for model in named:
        if model in twins:
            continue
        own = [twin for twin in twins if training[twin] == training[model]]
        if not own:
            lonely.append(named[model])
        found[model] = own[0] if own else twins[0]
    note = (
        f"{len(twins)} models are deterministic; each other model is compared "
        "with the first of them that was trained by the same config but for "
        "the bottleneck. --baseline names one for all."
    )
    if lonely:
        note += (
            f" {', '.join(lonely)}: no deterministic model was trained so, "
            f"compared with {named[twins[0]]}."
        )
    return Baselines(found, note)


def _training(audit: load.Audit) -> str:
    """The training config without its bottleneck, as text to compare."""
    config = audit.model.metadata.get("config")
    config = dict(config) if isinstance(config, dict) else {}
    config.pop("bottleneck", None)
    return json.dumps(config, sort_keys=True)
