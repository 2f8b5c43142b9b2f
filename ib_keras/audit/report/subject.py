"""Reads the facts on the audited model, and its safety check."""

import dataclasses
from collections.abc import Mapping

from ib_keras.audit.report import fields

ACCEPTED = "accepted"
ACCEPTED_WITH_EXCEPTIONS = "accepted with exceptions"


@dataclasses.dataclass(frozen=True)
class Model:
    """The facts on the model; None where they are not recorded."""

    kind: str | None
    signature: str | None
    outputs: str | None
    input_range: tuple[float, float] | None
    layout: str | None
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Safety:
    """The scan of the model's files before they were loaded.

    `ops` maps a family of operations to those met; `files` a relative name to
    its SHA-256. `exceptions` passed only by request of the user; `was_probed`
    is whether first calls were made in a separate process.
    """

    status: str
    rules_version: int | None
    allow_ops: tuple[str, ...]
    exceptions: tuple[str, ...]
    notes: tuple[str, ...]
    was_probed: bool
    ops: Mapping[str, tuple[str, ...]]
    files: Mapping[str, str]

    @property
    def has_exceptions(self) -> bool:
        """Whether anything passed that the rules refuse."""
        return self.status != ACCEPTED or bool(self.exceptions)


def read_model(record: fields.Record) -> Model:
    """Reads the facts in `summary["model"]`.

    Args:
        record: That object, empty for audits that lack it.

    Returns:
        The facts.

    Raises:
        UserError: If a field is of another kind.
    """
    input_range = record.figures("input_range", 2, None)
    return Model(
        kind=record.text("kind", None),
        signature=record.text("signature", None),
        outputs=record.text("outputs", None),
        input_range=tuple(input_range) if input_range else None,
        layout=record.text("layout", None),
        notes=tuple(record.texts("notes", ())),
    )


def read_safety(record: fields.Record) -> Safety:
    """Reads `safety.json`, or its copy in the summary.

    Args:
        record: The object.

    Returns:
        The scan.

    Raises:
        UserError: If a field is missing or of another kind.
    """
    ops = record.record("ops", {})
    hashes = record.record("files", {})
    return Safety(
        status=record.choice("status", (ACCEPTED, ACCEPTED_WITH_EXCEPTIONS)),
        rules_version=record.count("rules_version", None),
        allow_ops=tuple(record.texts("allow_ops", ())),
        exceptions=tuple(record.texts("exceptions", ())),
        notes=tuple(record.texts("notes", ())),
        was_probed=record.value.get("probe") is not None,
        ops={family: tuple(ops.texts(family)) for family in sorted(ops.value)},
        files={name: hashes.text(name) for name in sorted(hashes.value)},
    )
