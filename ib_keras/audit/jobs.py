"""Audits that others make in parts: what they are told, without TensorFlow.

See `shards`, which does what is planned here.
"""

import json
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from ib_keras import files
from ib_keras import workdirs
from ib_keras.audit import folder as folders
from ib_keras.audit import settings
from ib_keras.audit.audited_model import options
from ib_keras.errors import UserError


def make(
    config: Mapping[str, Any],
    saved_model: str,
    workdir: str,
    *,
    sha256: str | None = None,
    allow_ops: Sequence[str] = (),
    command: str = "",
    git_commit: str | None = None,
    is_checked: bool = False,
) -> dict[str, Any]:
    """Describes an audit to those who will make it.

    Args:
        config: An audit config, nested JSON values.
        saved_model: Folder of the SavedModel, or a .keras file.
        workdir: The audit folder.
        sha256: Of the model, where it is known; None computes it.
        allow_ops: Operations that the safety check lets pass.
        command: For the summary, how this was started.
        git_commit: Likewise, of the code.
        is_checked: Whether config and model went through
            `settings.check_start`; then only the workdir is checked.

    Returns:
        JSON values.

    Raises:
        UserError: If there is no model, or config or workdir cannot be used.
    """
    if not is_checked:
        settings.check_start(config, saved_model)
    made = {
        "saved_model": saved_model,
        "sha256": sha256 or options.hash_folder(saved_model.rstrip("/")),
        "config": json.loads(json.dumps(config)),
        "workdir": workdir,
        "allow_ops": list(allow_ops),
        "command": command,
        "git_commit": git_commit,
    }
    workdirs.check(workdir, owner(made), *settings.tolerated("audit."))
    return made


def claim(job: Mapping[str, Any]) -> None:
    """Makes the audit folder this job's.

    Raises:
        UserError: If it is that of another audit.
    """
    tolerated = settings.tolerated("audit.")
    workdirs.claim(job["workdir"], owner(job), *tolerated)


def owner(job: Mapping[str, Any]) -> dict[str, Any]:
    """What `config.json` of the audit folder holds."""
    return {"audit": job["config"], "model_sha256": job["sha256"]}


def is_merged(job: Mapping[str, Any]) -> bool:
    """Whether the audit folder has its summary."""
    return files.exists(files.join(job["workdir"], folders.SUMMARY))


def is_done(job: Mapping[str, Any]) -> bool:
    """Whether it has its diagnostics, too, as far as the config wants them."""
    if not is_merged(job):
        return False
    asked = job["config"]["diagnostics"]["set"]
    if asked == "none":
        return True
    found = folders.findings(job["workdir"])
    return found is not None and found["set"] in (asked, "full")


def targets_error(
    stage: str, asked: int, num_classes: int, where: str = ""
) -> UserError:
    """The error for an attack that aims at more classes than there are.

    Args:
        stage: Its name.
        asked: Its number of targets.
        num_classes: Of the model.
        where: A text behind the number of classes.
    """
    return UserError(
        "The protocol has more targets than the model has classes",
        received=f"num_targets={asked} of stage {stage}",
        expected=f"at most {num_classes - 1}, the other classes{where}; 0 for "
        "all of them",
        fix=f"Set stages.{stage}.attack.num_targets=0.",
    )


def check_parts(
    parts: Sequence[Sequence[int]], num_examples: int
) -> list[tuple[int, int]]:
    """Refuses parts that do not hold every example exactly once.

    Args:
        parts: (first, last) of each, in any order.
        num_examples: Of the audit.

    Returns:
        The parts in the order of their examples.

    Raises:
        UserError: If two overlap, or an example is in none.
    """
    ranges = sorted((int(first), int(last)) for first, last in parts)
    end = 0
    for first, last in [*ranges, (num_examples, num_examples)]:
        if first < end or last > num_examples:
            raise UserError(
                "Parts of the audit overlap",
                received=f"examples {first} to {last - 1} beside those up to "
                f"{end - 1}, of {num_examples}",
                expected="every example in one part",
                fix="Give parts that follow one another.",
            )
        if first > end:
            raise UserError(
                "Parts of the audit leave a gap",
                received=f"no part with examples {end} to {first - 1}",
                expected="every example in one part",
                fix="Attack these examples, too.",
            )
        end = last
    return ranges


def split(
    num_examples: int, examples_per_part: int | None
) -> list[tuple[int, int]]:
    """Ranges of so many examples; the last one has the rest.

    Args:
        num_examples: Of the audit.
        examples_per_part: None for one part.

    Returns:
        (first, last) of each.

    Raises:
        UserError: If the size is none, or larger than the audit.
    """
    size = num_examples if examples_per_part is None else examples_per_part
    if type(size) is not int or not 1 <= size <= num_examples:
        raise UserError(
            "The size of parts does not fit the audit",
            received=f"examples_per_part={size}",
            expected=f"a whole number from 1 to num_examples={num_examples}",
            fix="Set --config.examples_per_part to it, or leave it out.",
        )
    return [
        (first, min(first + size, num_examples))
        for first in range(0, num_examples, size)
    ]
