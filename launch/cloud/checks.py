"""What `launch.doctor --vm` checks of a TPU VM.

A check gives what is wrong and how to repair it, "" if nothing is, and what was
found. TensorFlow is asked in processes of their own: with a wrong libtpu its
import aborts the process, and chips that another one holds keep it waiting.
"""

import glob
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

from packaging.requirements import Requirement

# Device files of chips: v4 and older, and newer ones.
_CHIPS = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")


def all_checks(workdir: str | None) -> Iterator[tuple[str, str, str]]:
    """Makes the checks one after the other.

    Args:
        workdir: A remote folder to try to write to; None for none.

    Yields:
        The name of a check, what is wrong, and what was found.
    """
    yield "stack", *stack(_requirements(), _version)
    chips = [path for form in _CHIPS for path in glob.glob(form)]
    yield "chips", *devices(len(chips), lambda: ask_python(_COUNT_CORES))
    if workdir:
        _, why = ask_python(_WRITE_AND_READ, workdir)
        yield "workdir", why, f"{workdir} can be written and read."


def stack(
    requirements: Iterable[str], version_of: Callable[[str], str | None]
) -> tuple[str, str]:
    """Whether the versions are those of setup.py, libtpu's among them.

    Args:
        requirements: Of the distribution, as its metadata has them.
        version_of: Gives an installed version by name; None if there is none.
    """
    problems, found = [], {}
    for line in requirements:
        wanted = Requirement(line)
        extras = ("tpu", "gcs") if wanted.name != "tf_keras" else ("cpu",)
        marker = wanted.marker
        if marker and not any(marker.evaluate({"extra": e}) for e in extras):
            continue
        version = found[wanted.name] = version_of(wanted.name)
        if version is None:
            problems.append(f"{wanted.name} is not there")
        elif not wanted.specifier.contains(version, prereleases=True):
            problems.append(f"{wanted.name} {version}, not {wanted.specifier}")
    if version_of("tensorflow") is not None:
        problems.append("tensorflow is installed over tensorflow-tpu")
    if not found:
        problems = ["ib_keras is not installed"]
    names = ("tensorflow-tpu", "libtpu", "tf_keras", "keras")
    versions = ", ".join(f"{n} {found[n]}" for n in names if n in found)
    problem = f"{'; '.join(problems)}. Run install." if problems else ""
    return problem, f"{versions}, as required."


def devices(
    num_chips: int, ask: Callable[[], tuple[int | None, str]]
) -> tuple[str, str]:
    """Whether there are chips, and TensorFlow can use them.

    Args:
        num_chips: How many there are.
        ask: Gives how many cores TensorFlow sees, or None and why not.
    """
    if not num_chips:
        return (
            "none in /dev: this is no TPU VM, or its TPU driver does not run.",
            "",
        )
    cores, why = ask()
    problem = "" if cores else f"{num_chips}, but TensorFlow: {why or 'none'}"
    return problem, f"{num_chips}, {cores} cores in TensorFlow."


def ask_python(
    code: str, *arguments: str, seconds: float = 90.0
) -> tuple[Any, str]:
    """Runs code in a process of its own.

    Args:
        code: Prints JSON on its last line.
        *arguments: Its `sys.argv[1:]`.
        seconds: After which it is killed.

    Returns:
        The JSON value and "", or None and why there is none.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer in {seconds:g} s; does another process run?"
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["no word"]
        return None, f"status {done.returncode}, {said[0][:300]}"
    return json.loads(done.stdout.strip().splitlines()[-1]), ""


_COUNT_CORES = """
import json
import tensorflow as tf

resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
tf.tpu.experimental.initialize_tpu_system(resolver)
print(json.dumps(len(tf.config.list_logical_devices("TPU"))))
"""
# The chips stay with whoever has them.
_WRITE_AND_READ = """
import json
import os
import sys
import uuid

os.environ["TPU_LIBRARY_PATH"] = "/nonexistent"
import tensorflow as tf

gfile, text = tf.io.gfile, uuid.uuid4().hex
path = sys.argv[1].rstrip("/") + "/.doctor_" + text
gfile.makedirs(sys.argv[1])
with gfile.GFile(path, "w") as file:
    file.write(text)
with gfile.GFile(path) as file:
    read = file.read()
gfile.remove(path)
assert read == text, "what was written is not what is read"
print(json.dumps(True))
"""


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires("ib_keras") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
