"""What `launch.doctor --vm` checks of a TPU VM, a line each.

TensorFlow is asked in processes of their own: with a wrong libtpu its import
aborts the process, and a chip that is held keeps it waiting.
"""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Check:
    """What one check found.

    Args:
        name: Of the check.
        problem: What is wrong and how to mend it; "" if nothing is.
        says: What was found.
    """

    name: str
    problem: str
    says: str = ""

    def __str__(self):
        state = "FAILED" if self.problem else "ok    "
        return f"{state} {self.name}: {self.problem or self.says}"


def all_checks(workdir: str | None) -> Iterator[Check]:
    """Makes the checks one after the other.

    Args:
        workdir: A remote folder to try to write to; None for none.
    """
    yield stack(_requirements(), _version)
    chips = [path for form in _CHIPS for path in sorted(glob.glob(form))]
    yield devices(chips, find_holders(chips), lambda: ask_python(_COUNT_CORES))
    if workdir:
        _, why = ask_python(_WRITE_AND_READ, workdir)
        yield Check("workdir", why, f"{workdir} can be written and read.")


def stack(
    requirements: Iterable[str], version_of: Callable[[str], str | None]
) -> Check:
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
    return Check("stack", problem, f"{versions}, as required.")


def devices(
    chips: list[str],
    held_by: dict[int, str],
    ask: Callable[[], tuple[int | None, str]],
) -> Check:
    """Whether there are chips, they are free, and TensorFlow can use them.

    Args:
        chips: Their device files.
        held_by: Command lines of the processes that hold one, by ID.
        ask: Gives how many cores TensorFlow sees, or None and why not.
    """
    if not chips:
        return Check("chips", "none in /dev: this is no TPU VM, or it is ill.")
    if held_by:
        who = "; ".join(f"{p}: {c[:120]}" for p, c in sorted(held_by.items()))
        return Check("chips", f"held by {who}. Wait, or stop it.")
    cores, why = ask()
    problem = "" if cores else f"{len(chips)}, but TensorFlow: {why or 'none'}"
    return Check("chips", problem, f"{len(chips)}, {cores} cores, free.")


def find_holders(chips: list[str]) -> dict[int, str]:
    """Command lines of the processes with an open device file, by ID.

    Those of other users cannot be seen.
    """
    held_by = {}
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(link) in chips:
                number = link.split("/")[2]
                with open(f"/proc/{number}/cmdline", errors="replace") as file:
                    held_by[int(number)] = file.read().replace("\0", " ")
        except OSError:
            continue  # It has ended meanwhile, or is not ours.
    return held_by


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
        return None, f"no answer in {seconds:g} s."
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
