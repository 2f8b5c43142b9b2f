"""Calls of a study without TensorFlow, which leave what the real ones leave.

What a call of a part does is in a file `plan.json` beside the study.
"""

import json
import os
import pathlib
import signal
import time

from ib_keras import files
from ib_keras.audit import folder as folders
from ib_keras.audit import jobs
from ib_keras.errors import Interrupted
from ib_keras.errors import UnsafeError


def _root(job):
    """The folder of the study's folder."""
    return pathlib.Path(job["workdir"]).parents[3]


def _deeds(root, key):
    """What is planned for a part: "die", "unsafe", ..."""
    path = root / "deeds.json"
    return json.loads(path.read_text()).get(key) if path.exists() else None


def begun(root, key) -> list[int]:
    """The processes that began a part."""
    path = pathlib.Path(root, "begun", key.replace("/", "_"))
    return list(map(int, path.read_text().split())) if path.exists() else []


def check(saved_model, allow_ops, batch_size, workdirs, should_stop):
    root = _root({"workdir": workdirs[0]})
    if _deeds(root, f"check {saved_model}") == "unsafe":
        raise UnsafeError("Planted", received=1, expected=2, fix="None.")
    for workdir in workdirs:
        files.write_json(files.join(workdir, folders.SAFETY), {})
    return {}


def attack(job, first, last, should_stop):
    root = _root(job)
    name = "/".join(pathlib.Path(job["workdir"]).parts[-2:])
    key = f"{name} {first}-{last}"
    (root / "begun").mkdir(exist_ok=True)
    with open(root / "begun" / key.replace("/", "_"), "a") as file:
        file.write(f"{os.getpid()}\n")
    deed = _deeds(root, key)
    if deed == "die" or (deed == "once" and len(begun(root, key)) == 1):
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
    while deed == "wait" and not (root / "go").exists():
        if should_stop():
            (root / "saved").touch()
            raise Interrupted("Saved.")
        time.sleep(0.02)
    place = folders.part(job["workdir"], first, last)
    if files.exists(place) or jobs.is_merged(job):
        return {}  # Its worker was lost with the answer.
    files.make_folder(place)
    files.write_json(files.join(place, "part.json"), [first, last])
    return {}


def merge(job, parts, should_stop):
    jobs.check_parts(parts, job["config"]["num_examples"])
    path = files.join(job["workdir"], folders.SUMMARY)
    if files.exists(path):
        return files.read_json(path)
    for first, last in parts:
        place = folders.part(job["workdir"], first, last)
        assert files.read_json(files.join(place, "part.json")) == [first, last]
    files.write_json(path, {"robust_accuracy": 0.5})
    return {"robust_accuracy": 0.5}


def examine(job, should_stop):
    path = files.join(job["workdir"], folders.FINDINGS)
    found = {"set": job["config"]["diagnostics"]["set"]}
    files.write_json(path, found)
    return found
