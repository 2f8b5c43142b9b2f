"""From a finished audit to its findings and verdict.

The audit's own files are read, so diagnostics can be run later than the
attacks, and again with a larger set.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import files
from ib_keras.attacks import ledger as ledgers
from ib_keras.attacks import runner
from ib_keras.attacks.base import check_count
from ib_keras.audit import diagnostics
from ib_keras.audit import folder as folders
from ib_keras.audit.audited_model import loading
from ib_keras.audit.diagnostics.case import Case
from ib_keras.errors import UserError
from ib_keras.types import ThreatModel


def check(config: Mapping[str, Any]) -> None:
    """Refuses, before the attacks, wrong settings of the diagnostics.

    Raises:
        UserError: If the set is unknown, the count is invalid, or there is no
            model at the path of the deterministic baseline (`twin`).
    """
    section = config["diagnostics"]
    diagnostics.load(section["set"])
    check_count("diagnostics.num_examples", section["num_examples"])
    if section["twin"] is not None:
        loading.check_path(section["twin"])


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
    """Reads an audit folder into a `Case` for diagnostics.

    Args:
        config: The audit config.
        subject: `audit.subject.Subject` of it.
        stages: Its stages.
        summary: What summary.json holds.
        folder: The audit folder.
        twin: The subject of the deterministic baseline, or None.
        strategy: Where to run.

    Returns:
        A `Case`.

    Raises:
        UserError: If the folder's examples are not those of the subject.
    """
    radii = {float(summary["threat_model"]["epsilon"]): (folder, summary)}
    for point in summary["epsilon_curve"]:
        place = folders.radius(folder, point["epsilon"])
        if float(point["epsilon"]) not in radii:
            part = folders.summary(place)
            radii[float(point["epsilon"])] = place, part
    by_radius, certified, unproved = {}, {}, {}
    for epsilon, (place, part) in sorted(radii.items()):
        ledger, certified[epsilon] = _read_ledger(place, subject.labels)
        by_radius[epsilon] = ledger, part
        unproved[epsilon] = np.flatnonzero(
            ledger.is_robust & ~certified[epsilon]
        )
    main = float(summary["threat_model"]["epsilon"])
    breakable = [e for e, rows in unproved.items() if len(rows)]
    # Without a robust example there is nothing to attack again.
    epsilon = main if main in breakable else max(breakable, default=main)
    ledger = by_radius[epsilon][0]
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
        threat_model=ThreatModel(summary["threat_model"]["norm"], epsilon),
        stages=stages,
        rows=some(np.arange(len(ledger.label))),
        robust_rows=some(unproved[epsilon]),
        is_certified=certified[epsilon],
        seed=config["seed"],
        radii=by_radius,
        twin=twin,
        strategy=strategy,
        batch_size=min(config["batch_size"], len(ledger.label)),
        write=lambda name, found: files.write_npz(
            files.join(folder, f"{name}.npz"), found
        ),
    )


def _read_ledger(folder, labels):
    """The ledger of a folder, and which examples are certified there."""
    arrays = files.read_npz(files.join(folder, folders.EXAMPLES))
    ledger = ledgers.Ledger.of_arrays(arrays)
    if not np.array_equal(ledger.label, labels):
        raise UserError(
            "The audit's examples are not those of its data set",
            received=f"{len(ledger.label)} labels in {folder}",
            expected="the labels of the data set, in its order",
            fix="Use the data that the audit was made with, or audit again.",
        )
    nothing = np.zeros(len(labels), bool)
    return ledger, arrays.get("is_certified", nothing)


def examine(
    config: Mapping[str, Any],
    folder: str,
    make_case: Callable[[], Case],
    *,
    should_stop: Callable[[], bool] = lambda: False,
    quiet: bool = True,
) -> tuple[dict[str, Any] | None, bool]:
    """Runs the set of diagnostics that a config names, if it is not done.

    Args:
        config: The audit config.
        folder: The audit folder.
        make_case: Makes the case.
        should_stop: Called between diagnostics; true stops.
        quiet: Shows no progress.

    Returns:
        What findings.json holds (None where the set is "none" and there is
        no such file), and whether it is new.

    Raises:
        Interrupted: If it was stopped.
        UserError: If the folder cannot be used.
    """
    section = config["diagnostics"]
    name = section["set"]
    done = folders.findings(folder)
    if name == "none":
        return done, False
    case = make_case()
    if done and done["set"] in (name, "full"):
        asked_for = diagnostics.describe(done["set"], case)
        if all(done.get(key) == asked_for[key] for key in asked_for):
            return done, False
    found = diagnostics.examine(
        case, name, folder, should_stop=should_stop, quiet=quiet
    )
    return found, True
