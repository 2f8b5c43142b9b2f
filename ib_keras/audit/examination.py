"""From a finished audit to its findings and verdict.

The audit's own files are read, so diagnostics can be run when the attacks are
long done, and again with a larger set.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import files
from ib_keras.attacks import runner
from ib_keras.attacks.base import check_count
from ib_keras.audit import diagnostics
from ib_keras.audit.diagnostics.case import Case
from ib_keras.errors import UserError
from ib_keras.types import ThreatModel


def build_case(
    config: Mapping[str, Any],
    subject,
    stages: Sequence[runner.Stage],
    summary: Mapping[str, Any],
    folder: str,
    *,
    twin=None,
    strategy: tf.distribute.Strategy | None = None,
) -> Case:
    """Reads an audit folder into what diagnostics see.

    Args:
        config: The audit config.
        subject: `audit.runner.Subject` of it.
        stages: Its stages.
        summary: What summary.json holds.
        folder: The audit folder.
        twin: The subject of the twin, or None.
        strategy: Where to run.

    Returns:
        A `Case`.

    Raises:
        UserError: If the folder's examples are not those of the subject.
    """
    arrays = files.read_npz(files.join(folder, "examples.npz"))
    names = [field.name for field in dataclasses.fields(runner.Ledger)]
    ledger = runner.Ledger(**{name: arrays[name] for name in names})
    if not np.array_equal(ledger.label, subject.labels):
        raise UserError(
            "The audit's examples are not those of its data set",
            received=f"{len(ledger.label)} labels in {folder}",
            expected="the labels of the data set, in its order",
            fix="Use the data that the audit was made with, or audit again.",
        )
    count = check_count(
        "diagnostics.num_examples", config["diagnostics"]["num_examples"]
    )
    rng = np.random.default_rng(config["seed"])

    def some(positions):
        chosen = rng.permutation(positions)[:count]
        return np.sort(chosen)

    return Case(
        subject=subject,
        ledger=ledger,
        summary=summary,
        threat_model=ThreatModel(
            summary["threat_model"]["norm"], summary["threat_model"]["epsilon"]
        ),
        stages=stages,
        rows=some(np.arange(len(ledger.label))),
        standing=some(np.flatnonzero(ledger.is_robust)),
        seed=config["seed"],
        twin=twin,
        strategy=strategy,
        write=lambda name, found: files.write_npz(
            files.join(folder, f"{name}.npz"), found
        ),
    )


def examine(
    config: Mapping[str, Any],
    folder: str,
    make_case: Callable[[], Case],
    *,
    should_stop: Callable[[], bool] = lambda: False,
    quiet: bool = True,
) -> dict[str, Any] | None:
    """Runs the set of diagnostics that a config names, if it is not done.

    Args:
        config: The audit config.
        folder: The audit folder.
        make_case: Makes the case where there is something to ask.
        should_stop: Asked between diagnostics.
        quiet: Shows no progress.

    Returns:
        What findings.json holds; None where the set is "none" and there is
        no such file.

    Raises:
        Interrupted: If it was stopped.
        UserError: If the set is unknown or the folder cannot be used.
    """
    name = config["diagnostics"]["set"]
    diagnostics.load(name)  # Refuses an unknown set.
    path = files.join(folder, diagnostics.FINDINGS_FILE)
    done = files.read_json(path) if files.exists(path) else None
    if name == "none" or (done and done["set"] in (name, "full")):
        return done
    return diagnostics.examine(
        make_case(), name, folder, should_stop=should_stop, quiet=quiet
    )
