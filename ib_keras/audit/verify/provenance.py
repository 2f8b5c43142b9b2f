"""The origin of an audit: the model, its files, the data, the verdict."""

import hashlib
from collections.abc import Mapping
from typing import Any

from ib_keras import export
from ib_keras import files
from ib_keras.audit import folder as folders
from ib_keras.audit import verdict as verdicts
from ib_keras.audit.verify import claims
from ib_keras.errors import UserError


def model(folder: claims.Folder, subject: Any) -> list[str]:
    """The model has the recorded digest, form and mode."""
    said = folder.summary
    problems = []
    for name, sha256 in {
        "the summary's sha256": said["model"]["sha256"],
        "config.json's sha256": folder.config_sha256,
    }.items():
        problems += claims.differences(name, sha256, subject.model.sha256)
    # Its path and notes are not claims.
    found = subject.model.describe()
    silent = {"path", "sha256", "notes"}
    # Missing in older audits.
    silent |= {"precision", "preprocessing"} - said["model"].keys()
    if found["kind"] == "keras" and said["model"].get("metadata") == {}:
        silent.add("metadata")  # Version 0.1 read none from such a file.
    for name in found.keys() - silent:
        problems += claims.differences(
            f"model.{name}", said["model"][name], found[name]
        )
    for name in ("mode", "num_samples", "num_judge_samples"):
        problems += claims.differences(name, said[name], getattr(subject, name))
    return problems


def labels(folder: claims.Folder, subject: Any) -> list[str]:
    """Data set and labels are those that the config names."""
    problems = claims.differences(
        "dataset", folder.summary["dataset"], subject.dataset
    )
    odd = folder.arrays["label"] != subject.labels
    if odd.any():
        problems.append(f"{claims.rows(odd)}: not the data set's")
    return problems


def versions(folder: claims.Folder) -> list[str]:
    """The versions of the stack are recorded."""
    said = folder.summary["versions"]
    missing = [n for n in export.describe_versions() if not said.get(n)]
    return [f"not recorded: {', '.join(missing)}"] if missing else []


def says_versions(folder: claims.Folder) -> str:
    """The sentence on recorded versions."""
    said = folder.summary.get("versions")
    here = export.describe_versions()
    if not isinstance(said, Mapping):
        return ""
    other = [f"{n} {said.get(n)}" for n in here if said.get(n) != here[n]]
    if not other:
        return "are recorded, and the same here"
    return f"are recorded; another here than {', '.join(other)}"


def says_safety(workdir: str) -> str:
    """The sentence if the record of the safety check holds."""
    if files.exists(files.join(workdir, folders.SAFETY)):
        return "the files are those that were checked"
    return "no safety.json to compare"


def safety(workdir: str, top: claims.Folder, path: str) -> list[str]:
    """The summary repeats safety.json, whose hashes are the model's files'."""
    said = top.summary.get("safety")
    if not files.exists(files.join(workdir, folders.SAFETY)):
        return ["the summary has it, the folder has not"] if said else []
    held = files.read_json(files.join(workdir, folders.SAFETY))
    rest = {n: held[n] for n in held if n not in folders.SAFETY_ALONE}
    problems = claims.differences("the summary's safety", said, rest)
    problems += claims.differences(
        "the files' sha256", _hash_files(path), held["files"]
    )
    return problems + _seal_problems(held, folders.SAFETY)


def _seal_problems(held, name):
    try:
        files.check_seal(held, name)
    except UserError as error:
        return [error.received]
    return []


def _hash_files(path):
    """Name -> SHA-256 of every file of a model."""
    if not files.is_folder(path):
        name = path.rpartition("/")[2]
        return {name: hashlib.sha256(files.read_bytes(path)).hexdigest()}
    found = {}
    path = path.rstrip("/")
    for folder, _, names in files.gfile.walk(path):
        for name in names:
            full = files.join(folder, name)
            relative = full[len(path) :].lstrip("/")
            found[relative] = hashlib.sha256(files.read_bytes(full)).hexdigest()
    return found


def says_findings(workdir: str) -> str:
    """The sentence if the verdict holds."""
    if files.exists(files.join(workdir, folders.FINDINGS)):
        return "the verdict follows from them"
    return "no findings.json to compare"


def findings(workdir: str, top: claims.Folder) -> list[str]:
    """The verdict follows from the findings; these are not measured again."""
    path = files.join(workdir, folders.FINDINGS)
    asked = top.config["diagnostics"]["set"]
    if not files.exists(path):
        problem = f'no findings.json, though the config asks for "{asked}"'
        return [] if asked == "none" else [problem]
    said = files.read_json(path)  # A broken seal is a claim that fails.
    due = verdicts.decide(said["findings"], top.summary)
    problems = _seal_problems(said, folders.FINDINGS)
    problems += claims.differences("seed", said["seed"], top.config["seed"])
    radii = [
        top.config["threat_model"]["epsilon"],
        *top.config["epsilon_curve"],
    ]
    if said["epsilon"] not in radii:
        problems.append(
            f"they are of radius {said['epsilon']}, the audit of {radii}"
        )
    for name, value in due.items():
        problems += claims.differences(
            f"verdict.{name}", said["verdict"][name], value
        )
    return problems
