"""What the safety check found: limits, problems, and the report of a check."""

import dataclasses
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

from ib_keras.errors import UnsafeError
from ib_keras.errors import UserError

# Raised by one whenever the rules refuse or accept something that they did not
# before, so that an old safety.json says by which rules it was made.
RULES_VERSION = 1

_GIGABYTE = 1 << 30


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much a model may take.

    Attributes:
        memory_gb: GiB that the first calls may take beyond the weights.
        seconds: Wall clock for loading and the first calls.
        max_model_gb: GiB of the files, and of what variables and constants
            declare; None takes half of this machine's memory.
        max_graph_mb: MiB of `saved_model.pb`, or of a `config.json`.
    """

    memory_gb: float = 3.0
    seconds: float = 60.0
    max_model_gb: float | None = None
    max_graph_mb: float = 512.0

    def max_model_bytes(self) -> int:
        """Bytes that a model may have."""
        if self.max_model_gb is not None:
            return int(self.max_model_gb * _GIGABYTE)
        import os

        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2

    def memory_bytes(self) -> int:
        """Bytes that the first calls may take beyond the weights."""
        return int(self.memory_gb * _GIGABYTE)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is not allowed.

    Attributes:
        what: What it is and where.
        token: What `--allow_ops` takes to allow it; None if nothing does.
    """

    what: str
    token: str | None = None


@dataclasses.dataclass
class Report:
    """An accepted model: by which rules, with what in it.

    Attributes:
        path: What was checked.
        kind: "saved_model" or "keras".
        files: SHA-256 of every file, by its name relative to `path`; of a
            `.keras` file, of itself.
        ops: Family -> sorted names of the operations (of a `.keras` file, of
            the classes) that were found.
        allow_ops: What the caller allowed beyond the rules.
        exceptions: Those of them that the model needed.
        notes: Sentences about what is allowed but worth knowing.
        probe: What the first calls in a child process showed; None if they
            were not made.
        seconds: That the check took.
        rules_version: `RULES_VERSION` of the check.
    """

    path: str
    kind: str
    files: dict[str, str]
    ops: dict[str, list[str]]
    allow_ops: list[str] = dataclasses.field(default_factory=list)
    exceptions: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    probe: dict[str, Any] | None = None
    seconds: float = 0.0
    rules_version: int = RULES_VERSION

    @property
    def status(self) -> str:
        """Either "accepted" or "accepted with exceptions"."""
        return "accepted with exceptions" if self.exceptions else "accepted"

    def to_json(self) -> dict[str, Any]:
        """The content of `safety.json`."""
        return {"status": self.status, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Report":
        """The inverse of `to_json`."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in value.items() if k in names})


def shown(text: Any, length: int = 80) -> str:
    """A name out of a model as a message may show it: escaped and short."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    text = ascii(str(text))
    return text if len(text) <= length else text[: length - 4] + "...'"


def reason(error: BaseException, length: int = 200) -> str:
    """An exception as a part of one line, escaped and short."""
    text = " ".join(str(error).split()).encode("ascii", "replace").decode()
    return f"{type(error).__name__}: {text[:length]}"


def damaged(path: str, why: str) -> UserError:
    """The error for a model whose files are not whole."""
    return UserError(
        "The model is damaged or incomplete",
        received=f"{path} ({why})",
        expected="a whole SavedModel folder, or a whole .keras file",
        fix="Copy or export the model again.",
    )


def refuse(path: str, problems: Sequence[Problem]) -> UnsafeError:
    """The error for a model with problems: names the first ones.

    Args:
        path: The model.
        problems: All that was found; at least one.

    Returns:
        An `UnsafeError` with the `--allow_ops` text that would allow all of
        them, where there is one.
    """
    # What no flag allows decides, so it is named first.
    ordered = sorted(problems, key=lambda problem: problem.token is not None)
    first = list(dict.fromkeys(problem.what for problem in ordered))
    text = "; ".join(first[:3])
    if len(first) > 3:
        others = sorted({p.token for p in ordered[3:] if p.token})
        named = f" ({', '.join(others)})" if others else ""
        text += f"; and {len(first) - 3} more{named}"
    tokens = sorted({p.token for p in problems if p.token is not None})
    if all(problem.token is not None for problem in problems):
        fix = (
            "Do not load a model that you do not trust; if you know what this"
            f" is for, add --allow_ops={','.join(tokens)}"
        )
    else:
        fix = "No flag allows this; export the model again without it."
    return UnsafeError(
        "The model is refused before anything of it runs",
        received=f"{path}: {text}",
        expected="a model that only computes (docs/safety.md has the rules)",
        fix=fix,
    )


def unused(allow_ops: Iterable[str], used: Iterable[str]) -> list[str]:
    """Notes for what was allowed in vain."""
    return [
        f"--allow_ops names {name}, which the model does not need."
        for name in sorted(set(allow_ops) - set(used))
    ]
