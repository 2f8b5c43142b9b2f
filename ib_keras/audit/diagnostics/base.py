"""Findings, the answers of diagnostics.

A diagnostic asks one question about an audit: is there a sign that the number
is not believable? It answers with a `Finding`, which states what was
measured, what it was compared with, and what to do about it.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated
from typing import Any

from ib_keras import schemas
from ib_keras.errors import UserError

PASS = "pass"  # noqa: S105
WARN = "warn"
FAIL = "fail"
NOT_APPLICABLE = "not applicable"
STATUSES = (PASS, WARN, FAIL, NOT_APPLICABLE)
MOST_EXAMPLES = 5


@dataclasses.dataclass(frozen=True)
class Finding:
    """The answer of one check.

    Attributes:
        id: Of the check in the literature's list that docs/diagnostics.md
            holds, such as "D6".
        question: What was asked; a pass says yes.
        status: "pass", "warn", "fail" or "not applicable".
        value: The number measured; None where nothing was measured.
        threshold: What it was compared with; None where nothing was.
        evidence: One or two sentences with the numbers.
        advice: What to do next; empty where there is nothing to do.
        source: Paper and section that the check is from.
        examples: Positions in examples.npz that show it, at most five.
        data: More numbers, JSON values, for tables and charts.
    """

    id: str
    question: str
    status: Annotated[str, schemas.one_of(*STATUSES)]
    evidence: str
    source: str = ""
    value: schemas.Figure | None = None
    threshold: schemas.Figure | None = None
    advice: str = ""
    examples: tuple[schemas.Count, ...] = ()
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name in ("value", "threshold"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                object.__setattr__(self, name, None)
                if self.status == PASS:
                    object.__setattr__(self, "status", WARN)

        if self.status not in STATUSES:
            raise UserError(
                "A finding has no such status",
                received=repr(self.status),
                expected=f"one of {', '.join(STATUSES)}",
                fix="Fix the diagnostic.",
            )
        few = tuple(int(e) for e in self.examples)[:MOST_EXAMPLES]
        object.__setattr__(self, "examples", few)

    def to_json(self) -> dict[str, Any]:
        """The finding as findings.json holds it."""
        return dataclasses.asdict(self) | {"examples": list(self.examples)}


def is_clear(count: int) -> bool:
    """Whether a paired difference of so many examples is more than chance.

    Its standard error is the root of the count; it has to be over two of them,
    so four examples are not enough and five are.
    """
    return count > 2 * math.sqrt(count)
