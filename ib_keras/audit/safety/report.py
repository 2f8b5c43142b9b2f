"""The limits of the safety check, its problems and its report."""

import dataclasses
import math
import os
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

from ib_keras.errors import UnsafeError
from ib_keras.errors import UserError

# Increased whenever the rules change, so that an old safety.json names the
# rules by which it was made.
RULES_VERSION = 2

_GIGABYTE = 1 << 30
_MEGABYTE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on the resources and on the size of a model.

    `NAME=NUMBER` among the `allow_ops` of a check raises one.

    Attributes:
        memory_gb: GiB that the first calls may take beyond the weights.
        seconds: Wall clock for loading and the first calls.
        max_model_gb: GiB that variables may have, and a `.keras` file; None
            takes half of this machine's memory.
        max_graph_mb: MiB of `saved_model.pb`, and eight times those of a
            `config.json`.
        max_asset_mb: MiB of all assets together.
        max_fields: Fields of all messages inside of a `saved_model.pb`: each
            takes up to 110 bytes when it is parsed.
        max_nodes: Nodes of all functions and of the main graph.
        max_functions: Functions.
        max_depth: Functions that call one another, one inside of the other.
        max_calls: Nodes that a function has once all calls in it are put in
            place of one another, as a runtime does.
        scan_seconds: Processor time for reading the graph.
        scan_memory_mb: MiB of addresses for reading the graph.
    """

    memory_gb: float = 3.0
    seconds: float = 60.0
    max_model_gb: float | None = None
    max_graph_mb: float = 128.0
    max_asset_mb: float = 64.0
    max_fields: float = 2e6
    max_nodes: float = 2e5
    max_functions: float = 1e4
    max_depth: float = 100.0
    max_calls: float = 2e6
    scan_seconds: float = 5.0
    scan_memory_mb: float = 600.0

    def max_model_bytes(self) -> int:
        """Bytes that a model may have."""
        if self.max_model_gb is not None:
            return int(self.max_model_gb * _GIGABYTE)
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2

    def memory_bytes(self) -> int:
        """Bytes that the first calls may take beyond the weights."""
        return int(self.memory_gb * _GIGABYTE)

    def graph_bytes(self) -> int:
        """Bytes that `saved_model.pb` or `config.json` may have."""
        return int(self.max_graph_mb * _MEGABYTE)

    def scan_bytes(self) -> int:
        """Bytes of addresses that reading the graph may take."""
        return int(self.scan_memory_mb * _MEGABYTE)

    def raised(self, allow_ops: Iterable[str]) -> "Limits":
        """These limits with those of `NAME=NUMBER` among what is allowed.

        Raises:
            UserError: If there is no such limit, or it is no number.
        """
        return dataclasses.replace(self, **_raised(allow_ops))


def _raised(allow_ops):
    """The limits that texts give: name -> number."""
    names = {field.name for field in dataclasses.fields(Limits)}
    found = {}
    for text in allow_ops:
        name, is_limit, number = text.partition("=")
        if not is_limit:
            continue
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if name not in names or not 0 < value < math.inf:
            raise UserError(
                "--allow_ops raises no such limit",
                received=shown(text),
                expected=f"NAME=NUMBER with one of {', '.join(sorted(names))}",
                fix="Give the text from the refusal.",
            )
        found[name] = value
    return found


def raising(allow_ops: Iterable[str]) -> set[str]:
    """Those texts of `allow_ops` that raise a limit."""
    return {text for text in allow_ops if "=" in text}


def over(name: str, value: float, what: str, limits: Limits) -> list["Problem"]:
    """The problem of a model that is beyond one of the limits on reading it.

    Args:
        name: Of the limit.
        value: What the model has.
        what: What it has, such as "3000 functions".
        limits: Those that hold.

    Returns:
        No or one problem, with the text that would raise the limit.
    """
    limit = getattr(limits, name)
    if value <= limit:
        return []
    return [Problem(f"{what}, where {limit:g} is the limit", f"{name}={value}")]


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
    """The report on an accepted model.

    Attributes:
        path: Of the model.
        kind: "saved_model" or "keras".
        files: SHA-256 of every file, by its name relative to `path`; of a
            `.keras` file, of itself.
        ops: Family -> sorted names of the operations (of a `.keras` file, of
            the classes) that were found.
        allow_ops: What the caller allowed beyond the rules.
        exceptions: Those of them that the model needed.
        limits: The `Limits` of the check, by name.
        notes: Sentences about what is allowed but should be known.
        probe: Results of the first calls in a child process; None if they were
            not made.
        seconds: That the check took.
        rules_version: `RULES_VERSION` of the check.
    """

    path: str
    kind: str
    files: dict[str, str]
    ops: dict[str, list[str]]
    allow_ops: list[str] = dataclasses.field(default_factory=list)
    exceptions: list[str] = dataclasses.field(default_factory=list)
    limits: dict[str, Any] = dataclasses.field(default_factory=dict)
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
    """A name in a model, escaped and cut for messages."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    text = ascii(str(text))
    return text if len(text) <= length else text[: length - 4] + "...'"


def reason(error: BaseException, length: int = 200) -> str:
    """An exception as a part of one line, escaped and cut."""
    # A message can have gigabytes; its beginning is enough.
    text = (
        " ".join(str(error)[: 20 * length].split())
        .encode("ascii", "replace")
        .decode()
    )
    return f"{type(error).__name__}: {text[:length]}"


def damaged(path: str, why: str) -> UserError:
    """The error for a model whose files are incomplete."""
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
    # Problems that no flag allows are decisive, so they are named first.
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
    """Notes on allowed names that the model does not need."""
    return [
        f"--allow_ops names {name}, which the model does not need."
        for name in sorted(set(allow_ops) - set(used) - raising(allow_ops))
    ]
