"""Errors for the user: received, expected, fix.

Every error about what a user gave (an argument, a flag, a config field, a
file) is a `UserError`: it says what was received, what was expected and how to
fix it. The launchers print its one line and exit with its status; everything
else that is raised is a bug of this package.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable

# Escape sequences by which Keras prints words in bold on a terminal.
_COLOURS = re.compile("\x1b\\[[0-9;]*m")


# The longest part of a message: a name out of a model can have megabytes.
_MOST = 2000


def printable(text: str) -> str:
    """Text without what a terminal or a log would act on.

    Control characters, escape sequences' beginnings, lone surrogates and marks
    that reverse the direction of reading are dropped; line breaks, carriage
    returns and tabs are not.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char
        for char in text
        if char in "\n\r\t" or unicodedata.category(char)[0] != "C"
    )


def _line(value) -> str:
    """A part of a message, on one line and not too long."""
    text = str(value)
    text = text if len(text) <= _MOST else f"{text[:_MOST]}..."
    return printable(" ".join(text.splitlines()))


class UserError(ValueError):
    """An input that cannot be used: what is wrong, received, expected, fix.

    Args:
        what: What is wrong, a phrase without a full stop.
        received: What was given.
        expected: What would have been accepted.
        fix: A sentence that says what to do.
    """

    exit_status = 2
    # AutoGraph and Keras replace the errors of the functions that they wrap by
    # others with longer texts, but let those with these attributes pass.
    ag_pass_through = True
    _keras_call_info_injected = True

    def __init__(self, what: str, *, received, expected, fix: str):
        self.what = what
        self.received = received
        self.expected = expected
        self.fix = fix
        super().__init__(
            f"{_line(what)}. Received: {_line(received)}. Expected: "
            f"{_line(expected)}. Fix: {_line(fix)}"
        )


class UnsafeError(UserError):
    """An input that is refused because using it could do harm."""

    exit_status = 3


class InUseError(UserError):
    """A folder that another process writes; it may be free later."""


class DivergedError(UserError):
    """A training whose numbers are no longer finite; it has an exit status."""


class Interrupted(Exception):
    """Work stopped on request, its state saved; the same call resumes it."""

    exit_status = 75


class ContradictionError(Exception):
    """A proof that an attack refutes: a bug of this package, saved whole."""

    exit_status = 1


# Names that other libraries use -> ours.
_ELSEWHERE = {
    "bce": "cross_entropy",
    "ce": "cross_entropy",
    "crossentropy": "cross_entropy",
    "cw": "margin",
    "eps": "epsilon",
    "fast": "quick",
    "inf": "linf",
    "iterations": "num_steps",
    "logit": "logits",
    "lr": "learning_rate",
    "multiworker": "multi_worker",
    "n_iter": "num_steps",
    "n_restarts": "num_restarts",
    "nb_iter": "num_steps",
    "nchw": "channels_first",
    "nhwc": "channels_last",
    "num_iterations": "num_steps",
    "prob": "probabilities",
    "probs": "probabilities",
    "restarts": "num_restarts",
    "softmax": "probabilities",
    "steps": "num_steps",
    "xent": "cross_entropy",
}


def _nearest(name: str, valid: list[str]) -> str | None:
    """The valid name that is most likely meant, whatever its case."""
    by_case = {item.lower(): item for item in valid}
    # Of a field in a section the last part is its name.
    section, dot, last = name.lower().rpartition(".")
    meant = section + dot + _ELSEWHERE.get(last, last)
    for word in (meant, name.lower()):
        if near := difflib.get_close_matches(word, list(by_case), n=1):
            return by_case[near[0]]
    return None


def unknown_name(kind: str, name, valid: Iterable[str], fix: str) -> UserError:
    """Returns the error for a name that is not one of the `valid` ones.

    Args:
        kind: What the name should be a name of, such as "attack".
        name: The name received.
        valid: The names that exist.
        fix: A sentence that says what to do.

    Returns:
        A `UserError` that lists the valid names and suggests the nearest.
    """
    valid = sorted(valid)
    nearest = _nearest(str(name), valid)
    if nearest:
        fix = f'Did you mean "{nearest}"? {fix}'
    return UserError(
        f"No {kind} has this name",
        received=f'"{name}"',
        expected=f"one of {', '.join(valid)}" if valid else "none",
        fix=fix,
    )


def reason(error: BaseException, length: int = 200) -> str:
    """What an exception says, in one line that is no longer than `length`."""
    # A message can have gigabytes, of which the beginning says enough.
    plain = _COLOURS.sub("", str(error)[: 20 * length])
    return " ".join(plain.split())[:length]
