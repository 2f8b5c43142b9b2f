"""Diagnostics: the checks that say whether an audit's number can be believed.

One question a file; a file defines `build(**arguments)`, whose result has

    cost: "free" (reads the audit), "cheap" (in the quick set) or "full"
    ids: of the findings that it gives
    ask(case) -> list of `base.Finding`; empty where the question does not apply
        to the model

A new file is found by its name. `examine` asks the questions of a set and
writes findings.json with the verdict.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

from ib_keras import files
from ib_keras import plugins
from ib_keras.audit import folder as folders
from ib_keras.audit import verdict
from ib_keras.audit.diagnostics import base
from ib_keras.audit.settings import SETS
from ib_keras.errors import Interrupted
from ib_keras.errors import UserError
from ib_keras.errors import reason
from ib_keras.errors import unknown_name
from ib_keras.progress import Progress

if TYPE_CHECKING:
    from ib_keras.audit.diagnostics.case import Case

_PARTIAL_FILE = "findings_partial.json"
FORMAT_VERSION = 1

_COSTS: dict[str, tuple[str, ...]] = {"none": (), "quick": ("free", "cheap")}
_COSTS["full"] = (*_COSTS["quick"], "full")

# Arguments of the full set.
_FULL_ARGUMENTS: dict[str, dict[str, Any]] = {
    "expectation": {"num_eot": (4, 16)},
    "gradient_free": {"num_queries": 5000},
    "hard_label": {"num_queries": 2000},
    "noise": {"num_points": 5000},
    "smoothed_gradients": {"num_steps": 40, "num_pairs": 8},
    "stand_in": {"num_rounds": 8},
}


def load(name: str) -> dict[str, Any]:
    """Builds the diagnostics of a set.

    Args:
        name: "none", "quick" or "full".

    Returns:
        Module name -> diagnostic, in the order of names.

    Raises:
        UserError: If there is no such set.
    """
    if name not in SETS:
        raise unknown_name(
            "set of diagnostics", name, SETS, "Set diagnostics.set to one."
        )
    found = {}
    for part in plugins.names("audit.diagnostics"):
        arguments = _FULL_ARGUMENTS.get(part, {}) if name == "full" else {}
        diagnostic = plugins.build(
            "audit.diagnostics", {"name": part, **arguments}
        )
        if diagnostic.cost in _COSTS[name]:
            found[part] = diagnostic
    return found


def examine(
    case: "Case",
    set_name: str,
    folder: str,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    quiet: bool = True,
) -> dict[str, Any]:
    """Asks the questions of a set, or resumes asking them.

    Args:
        case: The audit.
        set_name: "quick" or "full".
        folder: The audit folder; answers are saved one by one.
        should_stop: Called between questions; true stops.
        quiet: Shows no progress.

    Returns:
        What findings.json holds.

    Raises:
        Interrupted: If it was stopped; the answers so far are saved.
        UserError: If there is no such set or the folder cannot be written.
    """
    path = files.join(folder, folders.FINDINGS)
    partial = files.join(folder, _PARTIAL_FILE)
    asked_for = describe(set_name, case)
    answers = _restore(partial, asked_for)
    asked = load(set_name)
    with Progress(
        len(asked), "question", "diagnostics", len(answers), quiet
    ) as bar:
        for name, diagnostic in asked.items():
            if name in answers:
                continue
            if should_stop():
                raise Interrupted(
                    f"Stopped before the diagnostic {name}; the same command "
                    "resumes there."
                )
            bar.update(len(answers), asks=name)
            answers[name] = _ask(case, name, diagnostic)
            state = {**asked_for, "answers": answers}
            files.write_sealed_json(partial, state)
        bar.update(len(answers))
    found = [
        {**finding, "name": name}
        for name, rows in answers.items()
        for finding in rows
    ]
    found.append(_conclude(case, found, asked))
    found.sort(key=lambda f: (_number(f["id"]), f["question"]))
    result = {
        "format_version": FORMAT_VERSION,
        **asked_for,
        "epsilon": float(case.threat_model.epsilon),
        "verdict": verdict.decide(found, case.summary),
        "findings": found,
        "gradient_evaluations": sum(f["gradient_evaluations"] for f in found),
        "seconds": round(sum(f["seconds"] for f in found), 3),
    }
    sealed = files.write_sealed_json(path, result)
    files.remove(partial)
    return sealed


def _conclude(case, findings, diagnostics):
    """What all checks say together, with what looking further cost."""
    from ib_keras.audit.diagnostics import combined

    began, before = time.monotonic(), case.gradient_evaluations
    further = combined.look_further(
        case, findings, lambda case, name: _ask(case, name, diagnostics[name])
    )
    return {
        **combined.conclude(case, findings, further).to_json(),
        "gradient_evaluations": case.gradient_evaluations - before,
        "seconds": round(time.monotonic() - began, 3),
        "name": "combined",
    }


def _ask(case, name, diagnostic):
    """The findings of one diagnostic, with what they cost on the first."""
    began, before = time.monotonic(), case.gradient_evaluations
    try:
        if _is_moot(case, diagnostic):
            findings = _not_asked(name, diagnostic)
        else:
            findings = diagnostic.ask(case)
    except Exception as error:
        # A foreign model can raise any error, for an image or a gradient that
        # the audit did not use. A check that was not run does not pass.
        findings = [
            base.Finding(
                id=id,
                question=f"Can {name} be asked?",
                status=base.WARN,
                evidence=f"The check could not be run: {type(error).__name__}, "
                + reason(error, 300),
                advice="Without it the number is an upper bound; see whether "
                "the model takes every image in [0, 1].",
                source="ib_keras",
                data={"error": type(error).__name__},
            )
            for id in getattr(diagnostic, "ids", (name,))
        ]
    rows = [finding.to_json() for finding in findings]
    for index, row in enumerate(rows):
        row["gradient_evaluations"] = (
            0 if index else (case.gradient_evaluations - before)
        )
        row["seconds"] = 0.0 if index else round(time.monotonic() - began, 3)
    return rows


def _is_moot(case, diagnostic) -> bool:
    """Whether its answer could not change the verdict, so that it is skipped.

    If no example is robust at any radius, checks that could lower the number
    are skipped; those that could make it invalid are not.
    """
    if diagnostic.cost == "free" or case.is_any_robust:
        return False
    return not set(diagnostic.ids) & set(verdict.VALIDITY)


def _not_asked(name, diagnostic):
    """A finding for each id of a check that was not asked."""
    # Docstrings of the modules begin like "D7: does random noise find more?".
    said = plugins.load("audit.diagnostics", name).__doc__.splitlines()[0]
    question = said.partition(": ")[2]
    return [
        base.Finding(
            id=id,
            question=question[:1].upper() + question[1:],
            status=base.NOT_APPLICABLE,
            evidence="Not asked: no example is robust at any radius of the "
            "audit, and nothing can lower zero.",
            source="ib_keras",
        )
        for id in diagnostic.ids
    ]


def describe(set_name: str, case: "Case") -> dict[str, Any]:
    """What answers depend on besides the audit; else they are asked again."""
    return {
        "set": set_name,
        "seed": case.seed,
        "num_examples": len(case.rows),
        "twin": case.twin.model.sha256 if case.twin else None,
    }


def _restore(partial, asked_for):
    if not files.exists(partial):
        return {}
    try:
        saved = files.read_sealed_json(partial)
    except UserError:
        return {}  # They are asked again.
    is_ours = isinstance(saved, dict)
    if not is_ours or any(saved.get(k) != v for k, v in asked_for.items()):
        return {}
    return saved["answers"]


def _number(id: str):
    digits = "".join(c for c in id if c.isdigit())
    return (id.rstrip("0123456789"), int(digits or 0))
