"""What a study can take at most, by the measured gradient of each model."""

from collections.abc import Iterable
from typing import Any

from ib_keras.audit import jobs
from ib_keras.audit import runner
from ib_keras.audit import subject as subjects
from ib_keras.studies.plan import Job
from ib_keras.studies.plan import Plan


def rows(plan: Plan) -> Iterable[dict[str, Any]]:
    """The audits that are left, one after the other.

    Args:
        plan: The study.

    Yields:
        `job`, its name; `parts`, their number; `bytes`, the most that the
        progress of all parts takes on the disk; `seconds`, of the attacks on
        one machine such as this, if every example stays robust.

    Raises:
        UserError: If a model or its data cannot be used.
    """
    for job in plan.jobs:
        if not jobs.is_done(job.audit):
            yield _row(job)


def _row(job: Job) -> dict[str, Any]:
    audit = job.audit
    config = audit["config"]
    subject = subjects.load(
        config, audit["saved_model"], None, audit["allow_ops"], True
    )
    listed = runner.plan_subject(config, subject)
    radii = {row["epsilon"] for row in listed}
    # The arrays of the ledger beside the images take some 60 bytes each.
    size = subject.images.nbytes + 60 * len(subject.labels)
    return {
        "job": job.name,
        "parts": len(job.parts),
        "bytes": len(radii) * size,
        "seconds": sum(row["seconds"] for row in listed),
    }
