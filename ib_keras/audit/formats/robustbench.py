"""A claim in the fields of RobustBench's model files.

The fields are those of the JSON files in its repository's `model_info`, where
accuracies are texts in per cent. What an audit cannot know (the paper, its
authors, what it reported) is null, for a person to fill in.

References:
    Croce et al., "RobustBench: a standardized adversarial robustness
    benchmark", NeurIPS datasets and benchmarks 2021; its rules, section 3.
"""

import json
from collections.abc import Sequence
from typing import Any

from ib_keras.audit import formats
from ib_keras.audit import verdict
from ib_keras.audit.formats import rows
from ib_keras.audit.formats import verdicts
from ib_keras.audit.report import findings
from ib_keras.audit.report import load
from ib_keras.audit.report import text
from ib_keras.errors import UserError

# The data sets that its leaderboards are about, and how many of their test
# images are attacked.
_TEST_SIZES = {"cifar10": 10000, "cifar100": 10000, "imagenet": 5000}
_AUTOATTACK = "autoattack_standard"


def build() -> formats.Format:
    """Builds the format."""
    return formats.Format("robustbench.json", render, is_completed_by_hand=True)


def render(audits: Sequence[load.Audit]) -> formats.Document:
    """Renders the claim of one audit.

    Raises:
        UserError: If there are several audits.
    """
    if len(audits) != 1:
        raise UserError(
            "A RobustBench claim is about one audit",
            received=f"{len(audits)} audits",
            expected="one",
            fix="Write a claim for each --workdir.",
        )
    (audit,) = audits
    found = verdicts.of(audit)
    fields = claim(audit, found)
    return formats.Document(
        json.dumps(fields, indent=2) + "\n",
        tuple(_notes(audit, found, fields)),
    )


def claim(audit: load.Audit, found: findings.Verdict | None) -> dict:
    """The fields of the claim.

    Args:
        audit: The audit.
        found: Its verdict; None where no diagnostics were run.

    Returns:
        Field -> value; None where it is not known.
    """
    row = next(r for r in rows.of(audit) if r.folder == audit.folder)
    robust = _percent(row.robust.value)
    is_autoattack = audit.protocol == _AUTOATTACK
    fields: dict[str, Any] = {
        "link": None,
        "name": None,
        "authors": None,
        # Our training configs have one data set and nothing else.
        "additional_data": False if _is_ours(audit) else None,
        "number_forward_passes": row.num_samples or 1,
        "dataset": row.dataset.removeprefix("tfds:"),
        "venue": None,
        "architecture": _architecture(audit),
        "eps": text.epsilon(row.epsilon),
        "clean_acc": _percent(row.clean.value),
        "reported": None,
        "autoattack_acc": robust if is_autoattack else None,
    }
    if not is_autoattack:
        fields["external"] = robust
    fields["footnote"] = (
        f"{robust}% robust accuracy is due to {rows.protocol(row)} of ib_keras "
        f"{row.version}: {text.quantity(row.num_examples, 'example')}, "
        f"{text.count(row.restarts)} restarts, "
        f"{text.count(row.gradient_evaluations)} gradient evaluations; "
        f"95% interval {text.interval((row.robust.low, row.robust.high))}."
    )
    if row.certified is not None:
        fields["footnote"] += f" Certified: {_percent(row.certified)}%."
    fields["unreliable"] = (
        None if found is None else found.label != verdict.BELIEVABLE
    )
    return fields


def _notes(audit, found, fields) -> list[str]:
    unknown = [name for name, value in fields.items() if value is None]
    notes = [f"Not known, and so null: {', '.join(unknown)}."]
    if found is None:
        notes.append(
            "`unreliable` is null, for no diagnostics were run on this audit."
        )
    if audit.mode == "stochastic":
        notes.append(
            "RobustBench excludes randomised models: its rules ask for a "
            "deterministic forward pass. This claim is of stochastic mode."
        )
    if audit.protocol == _AUTOATTACK:
        notes.append(
            "`autoattack_acc` is by this package's own AutoAttack, which is "
            "not the authors' code; RobustBench will run that."
        )
    else:
        notes.append(
            f'`external` is the number of "{text.clean(audit.protocol, 40)}"; '
            f"`autoattack_acc` needs the protocol {_AUTOATTACK}."
        )
    size = _TEST_SIZES.get(fields["dataset"])
    if size is None:
        notes.append(
            f'RobustBench has no leaderboard for "{fields["dataset"]}", but '
            f"for {', '.join(_TEST_SIZES)}."
        )
    elif audit.num_examples < size:
        notes.append(
            f"RobustBench attacks {size:,} examples; this audit has "
            f"{audit.num_examples:,}."
        )
    return notes


def _is_ours(audit: load.Audit) -> bool:
    config = audit.model.metadata.get("config")
    return isinstance(config, dict) and isinstance(config.get("data"), dict)


def _architecture(audit: load.Audit) -> str | None:
    """The encoder and bottleneck by name, where our metadata are there."""
    config = audit.model.metadata.get("config")
    sections = config if isinstance(config, dict) else {}
    names = [
        text.clean(sections[part]["name"], 60)
        for part in ("encoder", "bottleneck")
        if isinstance(sections.get(part), dict) and sections[part].get("name")
    ]
    return " + ".join(names) or None


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
