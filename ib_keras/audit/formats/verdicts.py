"""The verdict of an audit, in words and as an exit status."""

from collections.abc import Mapping
from typing import Any

from ib_keras import files
from ib_keras.audit import folder as folders
from ib_keras.audit import verdict
from ib_keras.audit.report import findings
from ib_keras.audit.report import load
from ib_keras.errors import UserError

_WORDS = {
    verdict.BELIEVABLE: "believable",
    verdict.UPPER_BOUND: "upper bound",
    verdict.INVALID: "invalid",
}
NOT_JUDGED = "not judged"

# The exit status of an audit whose verdict is that of --fail_on or worse.
FAILED = 4


def of(audit: load.Audit) -> findings.Verdict | None:
    """The verdict; None where no diagnostics were run."""
    return audit.findings.verdict if audit.findings else None


def words(found: findings.Verdict | None) -> str:
    """The verdict as tables print it."""
    return _WORDS[found.label] if found else NOT_JUDGED


def sentence(found: findings.Verdict) -> str:
    """The verdict in words, with the sentence that explains it."""
    words = verdict.WORDS[found.label]
    parts = [words[0].upper() + words[1:], found.sentence]
    return " ".join(f"{part.rstrip('.')}." for part in parts if part)


def check_gate(fail_on: str, config: Mapping[str, Any], folder: str) -> None:
    """Refuses, before any attack, a --fail_on that cannot take effect.

    Args:
        fail_on: The mildest label to fail on, or "never".
        config: Of the audit.
        folder: Of the audit, which may be finished.

    Raises:
        UserError: If the audit is to fail on a verdict that it will not have.
    """
    section = config.get("diagnostics") or {"set": "none"}
    is_judged = files.exists(files.join(folder, folders.FINDINGS))
    if fail_on == "never" or is_judged or section["set"] != "none":
        return
    raise UserError(
        "There will be no verdict to fail on",
        received=f"--fail_on={fail_on} with diagnostics off",
        expected="diagnostics, which the verdict is made of",
        fix="Set --config.diagnostics.set=quick, or --fail_on=never.",
    )


def exit_status(found: findings.Verdict | None, fail_on: str) -> int:
    """The exit status of an audit for continuous integration.

    Args:
        found: The verdict of the audit.
        fail_on: The mildest label to fail on, or "never".

    Returns:
        4 where the verdict is that label or a worse one, else 0. A verdict
        that is missing is as bad as any.
    """
    if fail_on == "never":
        return 0
    is_bad = found is None or verdict.is_as_bad(found.label, fail_on)
    return FAILED if is_bad else 0
