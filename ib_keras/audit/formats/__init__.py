"""Audits in other formats: tables, a model card, a RobustBench claim.

    from ib_keras.audit import formats
    written = formats.write(["audits/vib", "audits/twin"], "markdown")

A format is a module of this package with `build()`, which returns a `Format`;
its name is the module's. `rows` and `verdicts` are what they share. A number is
shown with its interval, its budget and its verdict: without them it is no
evidence. Text from models is foreign, and each format escapes it in its
own way.
"""

import dataclasses
import os
from collections.abc import Callable
from collections.abc import Sequence

from ib_keras import errors
from ib_keras import files
from ib_keras import plugins
from ib_keras.audit.report import load

_PACKAGE = "audit.formats"


@dataclasses.dataclass(frozen=True)
class Document:
    """The document that a format makes of some audits.

    Attributes:
        text: The file's content.
        notes: Sentences for the user: what is not known, what the tool that
            reads the file would refuse.
    """

    text: str
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of audits.

    Attributes:
        file_name: The default name of its file.
        render: From a list of one `load.Audit` or several to the `Document`;
            takes the baseline, too, where it `compares`.
        is_completed_by_hand: Whether people add what an audit cannot know. Such
            a file is never overwritten.
        compares: Whether the document compares models with a baseline.
    """

    file_name: str
    render: Callable[..., Document]
    is_completed_by_hand: bool = False
    compares: bool = False


@dataclasses.dataclass(frozen=True)
class Written:
    """A file that was written, and notes about it."""

    path: str
    notes: tuple[str, ...]


def names() -> tuple[str, ...]:
    """Lists the formats, sorted."""
    return plugins.names(_PACKAGE)


def get(name: str) -> Format:
    """Returns a format by its name.

    Raises:
        UserError: If there is none of this name.
    """
    if name not in names():
        raise errors.unknown_name(
            "format", name, names(), "Set --format to one of them."
        )
    return plugins.load(_PACKAGE, name).build()


def write(
    folders: Sequence[str],
    name: str,
    path: str | None = None,
    baseline: str | None = None,
) -> Written:
    """Writes one audit or several in a format.

    Args:
        folders: Audit folders, local or remote, in the order to show them.
        name: Of the format.
        path: Where to; None for the format's own file name in the first
            folder. A file that is there is replaced, unless people complete
            such files by hand.
        baseline: The audit folder, name or path of the model that the others
            are compared with; None for the deterministic baseline (twin).

    Returns:
        Where the file is, and notes about it.

    Raises:
        UserError: If there is no such format, a folder is not a whole audit,
            the format takes fewer audits, or the file cannot be written or
            is there and must not be replaced.
    """
    form = get(name)
    if baseline is not None and not form.compares:
        raise errors.UserError(
            "This format does not compare models",
            received=f"--baseline={baseline} and the format {name}",
            expected="a format that compares models: html, "
            + ", ".join(n for n in names() if get(n).compares),
            fix="Leave out --baseline.",
        )
    if not folders or isinstance(folders, str):
        raise errors.UserError(
            "There is no audit to write",
            received=repr(folders),
            expected="a list of one or more audit folders",
            fix="Name the folder of each audit.",
        )
    audits = [load.load(os.fspath(folder)) for folder in folders]
    document = form.render(audits, *([baseline] if form.compares else ()))
    if path is None:
        path = files.join(folders[0], form.file_name)
    if parent := os.path.dirname(path):
        files.make_folder(parent)
    if form.is_completed_by_hand and files.exists(path):
        _check_same(path, document.text)
    files.write_text(path, document.text)
    return Written(path, document.notes)


def _check_same(path: str, text: str) -> None:
    """Raises a UserError where a file has another content than `text`."""
    if not files.is_folder(path):
        with files.user_errors("read the file", path):
            if files.read_bytes(path) == text.encode():
                return
    raise errors.UserError(
        "This file would overwrite another one",
        received=path,
        expected="no such file: people add to files of this format",
        fix="Name another --output, or move that file away.",
    )
