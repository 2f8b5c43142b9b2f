"""Distinct names of the audited models, for pages and tables."""

from collections.abc import Iterable
from collections.abc import Sequence

from ib_keras.audit.report import load
from ib_keras.audit.report import text

_MAX_LENGTH = 60
# Usual names of a SavedModel's folder, which do not identify the model.
_USUAL = "saved_model"


def model(audit: load.Audit) -> str:
    """The audited model, as a key: its sha256, or its path in old audits."""
    return audit.model.sha256 or audit.model.path or ""


def of(audits: Sequence[load.Audit]) -> list[str]:
    """Names of the models of some audits, no two models by the same.

    A name is as much of the end of the model's path as tells it from the
    others; where paths are equal it ends in the start of the sha256. A model
    that was at several paths has the name of the first.

    Args:
        audits: Any number of them.

    Returns:
        One name an audit, in their order; audits of one model share it.
    """
    firsts = {model(audit): audit for audit in reversed(audits)}
    paths = {key: _parts(audit) for key, audit in firsts.items()}
    found = [_shown(_tail(path, paths.values())) for path in paths.values()]
    found = [
        f"{name} ({text.clean(key[:7])})" if found.count(name) > 1 else name
        for name, key in zip(found, paths, strict=True)
    ]
    named = dict(zip(paths, _numbered(found), strict=True))
    return [named[model(audit)] for audit in audits]


def labels(audits: Sequence[load.Audit]) -> list[str]:
    """Names of the audits: the model's, and what else distinguishes them."""
    found = of(audits)
    found = [
        f"{name}, {_attack(audit)}" if found.count(name) > 1 else name
        for name, audit in zip(found, audits, strict=True)
    ]
    return _numbered(found)


def _parts(audit: load.Audit) -> tuple[str, ...]:
    parts = [part for part in (audit.model.path or "").split("/") if part]
    if len(parts) > 1 and parts[-1] == _USUAL:
        parts.pop()
    return tuple(parts)


def _tail(own: tuple[str, ...], paths: Iterable[tuple]) -> tuple[str, ...]:
    """The shortest end of a path that is that of no other."""
    for depth in range(1, len(own)):
        tail = own[-depth:]
        if all(path == own or path[-depth:] != tail for path in paths):
            return tail
    return own


def _shown(tail: tuple[str, ...]) -> str:
    return text.clean("/".join(tail), _MAX_LENGTH) or "unnamed model"


def _attack(audit: load.Audit) -> str:
    return text.clean(f"{audit.protocol}, {audit.mode}", _MAX_LENGTH)


def _numbered(names: Sequence[str]) -> list[str]:
    """Names with their place among equals, where they have equals."""
    return [
        f"{name} ({names[:place].count(name) + 1})"
        if names.count(name) > 1
        else name
        for place, name in enumerate(names)
    ]
