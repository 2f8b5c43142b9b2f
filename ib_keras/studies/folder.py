"""The folder of a study.

study.json         its models with their SHA-256, its protocols, its parts
audits/MODEL/PROTOCOL/   audit folders, as launch.audit writes them
failures.jsonl     what has failed in the last run; absent if nothing has
summaries.parquet  and examples/, by --table
"""

import json
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from ib_keras import files
from ib_keras import workdirs
from ib_keras.audit import folder as folders
from ib_keras.audit import settings
from ib_keras.errors import UserError
from ib_keras.studies.plan import Plan

STUDY, FAILURES = "study.json", "failures.jsonl"
AUDITS, SUMMARIES, EXAMPLES = "audits", "summaries.parquet", "examples"

_OURS = {
    AUDITS,
    EXAMPLES,
    FAILURES,
    STUDY,
    SUMMARIES,
    workdirs.LOCK_FILE,
}


def check(workdir: str, plan: Plan) -> None:
    """Refuses a folder of another study; writes nothing.

    Models and protocols may be added to a study.

    Raises:
        UserError: If it is one, or holds something else, or a model has
            changed since.
    """
    path = files.join(workdir, STUDY)
    if not files.exists(path):
        _check_is_ours(workdir)
        return
    there = read(workdir)
    here = plan.to_json()
    _check_same(
        path,
        "examples_per_part",
        there["examples_per_part"],
        here["examples_per_part"],
    )
    for name, protocol in here["protocols"].items():
        workdirs.check_same(
            "The folder is that of another study",
            path,
            there["protocols"].get(name, protocol),
            protocol,
            settings.MAY_DIFFER,
            f"protocols.{name}.",
            added=settings.ADDED,
        )
    for name, model in here["models"].items():
        before = there["models"].get(name, model)
        if before["sha256"] != model["sha256"]:
            raise UserError(
                "A model has changed since the study was planned",
                received=f"{model['path']} with SHA-256 {model['sha256']}",
                expected=f"{before['sha256']}, as in {path}",
                fix="Restore the model, or choose another --workdir.",
            )


def _check_same(path, name, before, now):
    if before != now:
        raise UserError(
            "The folder is that of another study",
            received=f"{name}={now!r}",
            expected=f"{name}={before!r}, as in {path}",
            fix="Choose another --workdir, or give the config it was made by.",
        )


def _check_is_ours(workdir):
    if files.exists(workdir) and not files.is_folder(workdir):
        strange = ["a file"]
    else:
        strange = [
            name
            for name in files.listdir(workdir)
            if name not in _OURS and not files.is_leftover(name)
        ]
    if strange:
        raise UserError(
            "The workdir holds something else",
            received=f"{workdir} with {', '.join(strange[:3])}, and no {STUDY}",
            expected="a new or empty folder, or one of an earlier study",
            fix="Choose another --workdir.",
        )


def read(workdir: str) -> dict[str, Any]:
    """What `study.json` holds.

    Raises:
        UserError: If it is missing or damaged.
    """
    path = files.join(workdir, STUDY)
    found = files.read_json(path)
    needed = {"examples_per_part", "protocols", "models"}
    if not isinstance(found, Mapping) or not needed <= found.keys():
        raise UserError(
            "A file is not that of a study",
            received=path,
            expected=f"JSON with {', '.join(sorted(needed))}",
            fix="Restore it, or choose another --workdir.",
        )
    return dict(found)


def claim(workdir: str, plan: Plan) -> None:
    """Writes `study.json`, with what the folder had before."""
    path = files.join(workdir, STUDY)
    here = plan.to_json()
    there = read(workdir) if files.exists(path) else None
    if there is not None:
        for name in ("protocols", "models"):
            here[name] = {**there[name], **here[name]}
    if here != there:
        files.make_folder(workdir)
        files.write_json(path, here)


def is_study(workdir: str) -> bool:
    """Whether a folder is that of a study."""
    return files.exists(files.join(workdir, STUDY))


def finished(workdir: str) -> list[tuple[str, str, str]]:
    """Model, protocol and folder of each audit that has its summary."""
    study = read(workdir)
    places = [
        (model, name, files.join(workdir, AUDITS, model, name))
        for model in study["models"]
        for name in study["protocols"]
    ]
    return [
        place
        for place in places
        if files.exists(files.join(place[2], folders.SUMMARY))
    ]


def verdict_label(audit: str) -> str | None:
    """The label of a finished audit's verdict; None where it has none."""
    found = folders.findings(audit)
    return found["verdict"]["label"] if found else None


def write_failures(workdir: str, found: Sequence[Mapping[str, Any]]) -> str:
    """Writes what has failed, a line each; removes the file if nothing has.

    Returns:
        Its path.
    """
    path = files.join(workdir, FAILURES)
    if found:
        text = "".join(f"{json.dumps(dict(row))}\n" for row in found)
        files.write_text(path, text)
    else:
        files.remove(path)
    return path
