"""Runs `gcloud`, with patience, and puts its refusals into one line.

Its exit status says little, so what it says on standard error is looked at;
but after `ssh` it ends with the status of the remote command, or with 255 when
there was no connection. What may pass by itself is tried again after a while,
twice as long each time.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from ib_keras.errors import UserError

ATTEMPTS = 5
# By kind, what standard error matches; the first that does decides.
_KINDS = (
    (
        "login",
        r"gcloud auth login|active account|invalid_grant|reauthent"
        r"|could not load the default credentials",
    ),
    ("lost", r"it cannot be used anymore"),
    ("key", r"ssh-add"),
    ("exists", r"already_?\s?exists|code[^\n]{0,9}\b409\b"),
    ("missing", r"NOT_FOUND|was not found|could not be found"),
    ("quota", r"quota[^\n]* (exceeded|exhausted|limit)|Quota limit"),
    (
        "capacity",
        r"no more capacity|RESOURCE_EXHAUSTED|insufficient capacity"
        r"|stockout|not enough resources",
    ),
    (
        "passing",
        r"UNAVAILABLE|DEADLINE.EXCEEDED|timed? ?out|connection (reset|refused"
        r"|closed)|return code \[255\]|\b50[0234]\b|\b429\b"
        r"|(?-i:\bINTERNAL\b)|temporar|rateLimit|broken pipe"
        r"|network is unreachable",
    ),
)
# Of `run_on_vm.sh` for what it refuses, and of a shell that does not find it.
_REMOTE_REFUSAL, _REMOTE_ABSENT, _NO_CONNECTION = 2, 127, 255
_FIXES = {
    "login": "Run gcloud auth login.",
    "lost": "Delete it and create it again; run --retries=N does both.",
    "key": "Run ssh-add with the key named, which several workers need.",
    "exists": "Use it by adopt, or choose another --name.",
    "missing": "See --name, --zone and --project, or create it.",
    "quota": "Ask for more in the console, or take another --type or --zone.",
    "capacity": "Add --queued to wait in line, or take another --zone.",
    "passing": "Try again, and see the state by status.",
    "absent": "Run install first.",
    "refused": "See what gcloud says; --dry_run prints the command.",
}


class GcloudError(UserError):
    """What `gcloud` could not do.

    Args:
        kind: A key of the fixes above.
        words: The command.
        said: What it said, cut to a line.
    """

    def __init__(self, kind: str, words: list[str], said: str):
        self.kind = kind
        super().__init__(
            f"{what(words)} failed",
            received=said or "no word",
            expected="a command that gcloud carries out",
            fix=_FIXES[kind],
        )

    @property
    def may_pass(self) -> bool:
        """Whether a VM made anew, or some time, can mend it."""
        return self.kind in ("passing", "capacity", "missing", "lost", "absent")


def what(words: list[str]) -> str:
    """A command in short, such as "gcloud tpu-vm create"."""
    names = [word for word in words[:5] if word not in ("compute", "tpus")]
    return " ".join(names[:3]) if names[0] == "gcloud" else names[0]


def kind_of(words: list[str], status: int, said: str) -> str:
    """The kind of a failure, from exit status and standard error."""
    if "ssh" in words[:5]:
        kinds = {
            _REMOTE_REFUSAL: "refused",
            _REMOTE_ABSENT: "absent",
            _NO_CONNECTION: "passing",
        }
        if status in kinds:
            return kinds[status]
    for kind, pattern in _KINDS:
        if re.search(pattern, said, re.IGNORECASE):
            return kind
    return "refused"


def one_line(said: str, length: int = 300) -> str:
    """The end of what was said, in one line without control characters."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [i for i, line in enumerate(lines) if line.startswith("ERROR")]
    text = " ".join(lines[errors[0] :] if errors else lines[-3:])
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= length else f"{text[: length - 3]}..."


class Gcloud:
    """Runs commands, or prints them.

    Args:
        dry_run: Whether to print commands and to run none.
        pause: Seconds before the second attempt.
        sleep: Of seconds.
        say: Takes a line for the user.
    """

    def __init__(
        self,
        *,
        dry_run: bool = False,
        pause: float = 5.0,
        sleep: Callable[[float], None] = time.sleep,
        say: Callable[[str], None] = print,
    ):
        self.dry_run = dry_run
        self.pause = pause
        self.sleep = sleep
        self.say = say

    def run(
        self,
        words: list[str],
        *,
        timeout: float = 300.0,
        attempts: int = ATTEMPTS,
        done_if: tuple[str, ...] = (),
    ) -> str:
        """Runs a command until it succeeds or fails for good.

        Args:
            words: The command.
            timeout: Seconds after which an attempt is given up.
            attempts: How often to try at most.
            done_if: Kinds of failure that mean that there is nothing to do.

        Returns:
            What it printed; nothing in a dry run.

        Raises:
            GcloudError: If it fails.
            UserError: If there is no such program.
        """
        if self.dry_run:
            self.say(shlex.join(words))
            return ""
        for attempt in range(1, attempts + 1):
            status, printed, said = _call(words, timeout)
            if status == 0:
                return printed
            kind = kind_of(words, status, said)
            # An attempt whose answer was lost may have done the work.
            is_done = kind == "exists" and attempt > 1 and "create" in words
            if is_done or kind in done_if:
                return printed
            if kind not in ("passing", "capacity") or attempt == attempts:
                raise GcloudError(kind, words, one_line(said))
            pause = self.pause * 2 ** (attempt - 1)
            self.say(
                f"{what(words)}: {one_line(said, 120)} Again in {pause:g} s."
            )
            self.sleep(pause)
        raise AssertionError("not reached")

    def stream(self, words: list[str]) -> int:
        """Runs a command whose output goes to the user; its exit status."""
        if self.dry_run:
            self.say(shlex.join(words))
            return 0
        try:
            return subprocess.run(words, check=False).returncode
        except FileNotFoundError:
            raise _no_program(words[0]) from None

    def describe(self, words: list[str]) -> dict | None:
        """Runs a `describe`; None if there is no such thing, or a dry run."""
        try:
            printed = self.run(words)
        except GcloudError as error:
            if error.kind == "missing":
                return None
            raise
        if self.dry_run:
            return None
        try:
            return dict(json.loads(printed))
        except (TypeError, ValueError):
            raise GcloudError("refused", words, one_line(printed)) from None


def _no_program(name: str) -> UserError:
    fix = "Install the Google Cloud CLI (cloud.google.com/sdk/docs/install)."
    return UserError(
        f"There is no {name} here",
        received=f"no program {name} on PATH",
        expected=f"{name}, installed",
        fix=fix if name == "gcloud" else f"Install {name}.",
    )


def _call(words: list[str], timeout: float) -> tuple[int, str, str]:
    """Exit status, standard output and error; a timeout is a failure."""
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # gcloud is a script that starts others; all must go at a timeout.
            start_new_session=sys.platform != "win32",
        )
    except FileNotFoundError:
        raise _no_program(words[0]) from None
    try:
        printed, said = process.communicate(timeout=timeout)
        return process.returncode, printed, said
    except subprocess.TimeoutExpired:
        _end(process)
        return 1, "", f"timed out after {timeout:g} s"
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen) -> None:
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):  # Has just ended.
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
