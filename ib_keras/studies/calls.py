"""What the workers of a study do: calls of JSON values, by `study.tasks`.

TensorFlow is imported by the first call of a process.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

# A call of the model that hangs for so long ends its process.
_WATCHDOG_MINUTES = 30.0


def check(
    saved_model: str,
    allow_ops: Sequence[str],
    batch_size: int,
    workdirs: Sequence[str],
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Checks a model and tries it in a child process, once for all its audits.

    Args:
        saved_model: Its path.
        allow_ops: Operations that the check lets pass.
        batch_size: The largest of its audits.
        workdirs: Audit folders that get the report, as `safety.json`.
        should_stop: Not asked.

    Returns:
        Nothing of interest.

    Raises:
        UnsafeError: If the model is refused.
        UserError: If it is damaged.
    """
    del should_stop
    from ib_keras import files
    from ib_keras.audit import folder as folders
    from ib_keras.audit import safety

    report = safety.check(
        saved_model,
        allow_ops=tuple(allow_ops),
        probe=True,
        batches=safety.batch_sizes(batch_size),
    )
    safety.finish(report)
    for workdir in workdirs:
        path = files.join(workdir, folders.SAFETY)
        files.write_sealed_json(path, report.to_json())
    return {}


def attack(
    job: Mapping[str, Any],
    first: int,
    last: int,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """As `shards.attack`, with the limits of `launch.audit` on memory."""
    from ib_keras import lazy

    lazy.tensorflow()
    from ib_keras.audit import shards
    from ib_keras.audit.safety import rlimits

    rlimits.for_audit(job["allow_ops"], job["config"]["num_samples"])
    return shards.attack(
        job,
        first,
        last,
        should_stop=should_stop,
        watchdog_minutes=_WATCHDOG_MINUTES,
    )


def merge(
    job: Mapping[str, Any],
    parts: Sequence[Sequence[int]],
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """As `shards.merge`; gives the robust accuracy alone."""
    del should_stop
    from ib_keras import lazy

    lazy.tensorflow()
    from ib_keras.audit import shards

    summary = shards.merge(job, parts, watchdog_minutes=_WATCHDOG_MINUTES)
    return {"robust_accuracy": summary["robust_accuracy"]}


def examine(
    job: Mapping[str, Any], should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """As `shards.examine`, and writes the page; gives the verdict's label."""
    from ib_keras import lazy

    lazy.tensorflow()
    from ib_keras.audit import report
    from ib_keras.audit import shards

    found = shards.examine(
        job, should_stop=should_stop, watchdog_minutes=_WATCHDOG_MINUTES
    )
    report.write_page([job["workdir"]])
    return {"verdict": found and found["verdict"]["label"]}
