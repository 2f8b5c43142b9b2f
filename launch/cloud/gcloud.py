"""Runs `gcloud`, with patience, and puts its refusals into one line.

Its exit status says little, so its standard error is read; but `ssh` ends with
the status of the remote command, or with 255 without a connection. What may
pass by itself is tried again, after twice as long each time.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable

from ib_keras.errors import UserError

ATTEMPTS = 5
# By kind, what standard error matches; the first that does decides.
_KINDS = {
    "refused": r"auth login|active account|invalid_grant|quota",
    "exists": r"already.?exists|code[^\n]{0,9}\b409\b",
    "lost": r"cannot be used anymore",
    "missing": r"NOT_FOUND|not found|could not be found",
    "passing": r"UNAVAILABLE|DEADLINE.EXCEEDED|timed? ?out|connection (reset"
    r"|refused|closed)|return code \[255\]|\b50[0234]\b|\b429\b"
    r"|(?-i:\bINTERNAL\b)|temporar|rateLimit|broken pipe|RESOURCE_EXHAUSTED"
    r"|network is unreachable|capacity|stockout",
}
# Of ssh: run_on_vm.sh refuses, it is not installed, there is no connection.
_REMOTE_KINDS = {2: "refused", 127: "absent", 255: "passing"}
_FIXES = {
    "refused": "Do what gcloud says; --dry_run prints the command.",
    "exists": "Choose another --name.",
    "lost": "Delete it and create it again; run --retries=N does both.",
    "missing": "Check --name, --zone and --project, or run create.",
    "passing": "Run it again later; status says what the VM does.",
    "absent": "Run install first.",
}


class GcloudError(UserError):
    """What `gcloud` could not do, of a kind above."""

    def __init__(self, kind: str, what: str, said: str):
        self.kind = kind
        super().__init__(
            what,
            received=one_line(said) or "no word",
            expected="a VM that is ready, and a command that it takes",
            fix=_FIXES[kind],
        )


def short(words: list[str]) -> str:
    """A command in short, such as "gcloud tpu-vm create"."""
    names = [word for word in words if word not in ("compute", "tpus")]
    return " ".join(names[:3]) if names[0] == "gcloud" else names[0]


def one_line(said: str, length: int = 300) -> str:
    """What was said since the first ERROR, without control characters."""
    text = " ".join(said[max(said.find("ERROR"), 0) :].split())
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _kind(words: list[str], status: int, said: str) -> str:
    if "ssh" in words and status in _REMOTE_KINDS:
        return _REMOTE_KINDS[status]
    found = (k for k, p in _KINDS.items() if re.search(p, said, re.IGNORECASE))
    return next(found, "refused")


def _no_program(error: FileNotFoundError) -> UserError:
    return UserError(
        f"There is no {error.filename} here",
        received=f"no program {error.filename} on PATH",
        expected="the Google Cloud CLI, installed",
        fix="See cloud.google.com/sdk/docs/install.",
    )


def call(words: list[str], timeout: float) -> tuple[int, str, str]:
    """Exit status, standard output and error; a timeout is a failure."""
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # gcloud is a script that starts others, which must end with it.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise _no_program(error) from None
    try:
        printed, said = process.communicate(timeout=timeout)
        return process.returncode, printed, said
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):  # Has just ended.
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return 1, "", f"timed out after {timeout:g} s"
        raise


class Gcloud:
    """Runs commands, or prints them.

    Args:
        dry_run: Whether to print commands and to run none.
        pause: Seconds before the second attempt.
        sleep: Of seconds.
        call: As the function above.
    """

    def __init__(
        self,
        *,
        dry_run: bool = False,
        pause: float = 5.0,
        sleep: Callable[[float], None] = time.sleep,
        call: Callable[[list[str], float], tuple[int, str, str]] = call,
    ):
        self.dry_run = dry_run
        self.pause = pause
        self.sleep = sleep
        self._call = call

    def run(
        self,
        words: list[str],
        *,
        timeout: float = 300.0,
        done_if: str | None = None,
    ) -> str:
        """Runs a command until it succeeds or fails for good.

        Args:
            words: The command.
            timeout: Seconds after which an attempt is given up.
            done_if: The kind of failure that means that nothing is to be done.

        Returns:
            What it printed; nothing in a dry run.

        Raises:
            GcloudError: If it fails.
            UserError: If there is no such program.
        """
        if self.dry_run:
            print(shlex.join(words))
            return ""
        for attempt in range(ATTEMPTS):
            status, printed, said = self._call(words, timeout)
            kind = _kind(words, status, said) if status else ""
            if not kind or kind == done_if:
                return printed
            if kind != "passing" or attempt == ATTEMPTS - 1:
                break
            pause = self.pause * 2**attempt
            print(
                f"{short(words)}: {one_line(said, 120)} Again in {pause:g} s."
            )
            self.sleep(pause)
        raise GcloudError(kind, f"{short(words)} failed", said)

    def stream(self, words: list[str]) -> int:
        """Runs a command whose output goes to the user.

        Returns:
            0, or 2 if it failed.
        """
        if self.dry_run:
            print(shlex.join(words))
            return 0
        try:
            return 2 if subprocess.run(words, check=False).returncode else 0
        except FileNotFoundError as error:
            raise _no_program(error) from None

    def describe(self, words: list[str]) -> dict | None:
        """Runs a `describe`; None if there is no such thing, or a dry run."""
        printed = self.run([*words, "--format=json"], done_if="missing")
        return json.loads(printed) if printed.strip() else None
