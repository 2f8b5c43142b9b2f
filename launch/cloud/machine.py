"""What the checks of a TPU VM look at, on this machine.

TensorFlow is asked in processes of their own: with a wrong libtpu its import
aborts the process, and a chip that is held can keep it waiting.
"""

import datetime
import email.utils
import glob
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable

from launch.cloud import checks

# Of chips: v4 and older, and newer ones.
_CHIPS = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
_LOCK_FILE = "/tmp/libtpu_lockfile"
_METADATA_SERVER = "http://metadata.google.internal/"


def all_checks(workdir: str | None) -> list[tuple[str, Callable]]:
    """The checks in order, each with its name.

    Args:
        workdir: A remote folder to try to write to; None for none.
    """
    chips = [path for form in _CHIPS for path in sorted(glob.glob(form))]
    lock = _LOCK_FILE if os.path.exists(_LOCK_FILE) else None
    home = os.path.expanduser("~")
    folder = os.environ.get("TFDS_DATA_DIR") or os.path.join(
        home, "tensorflow_datasets"
    )

    def devices():
        return checks.devices(chips, find_holders(chips), _count_cores)

    return [
        ("stack", lambda: checks.stack(_requirements(), _version)),
        ("devices", devices),
        ("chip", lambda: checks.holders(find_holders(chips), lock)),
        ("disk", lambda: checks.disk(shutil.disk_usage(home).free, home)),
        ("data", lambda: checks.data(folder, lambda: _names_in(folder))),
        ("gs", lambda: checks.bucket(workdir, lambda: write_and_read(workdir))),
        ("clock", lambda: checks.clock(_seconds_off())),
    ]


def find_holders(chips: list[str], proc: str = "/proc") -> dict[int, str]:
    """Command lines of the processes with an open device file, by ID.

    Those of other users cannot be seen.
    """
    held_by = {}
    for link in glob.glob(os.path.join(proc, "[0-9]*", "fd", "*")):
        try:
            if os.readlink(link) not in chips:
                continue
            number = int(link[len(proc) :].strip("/").split("/")[0])
            with open(os.path.join(proc, str(number), "cmdline"), "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
            held_by[number] = " ".join(words).strip()
        except (OSError, ValueError):
            continue  # It has ended meanwhile, or is not ours.
    return held_by


def ask_python(
    code: str, *arguments: str, seconds: float = 90.0, **environment: str
) -> tuple[object, str]:
    """Runs code in a process of its own.

    Args:
        code: Prints JSON on its last line.
        *arguments: Its `sys.argv[1:]`.
        seconds: After which it is killed.
        **environment: Variables to set.

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
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
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
tf.config.experimental_connect_to_cluster(resolver)
tf.tpu.experimental.initialize_tpu_system(resolver)
print(json.dumps(len(tf.config.list_logical_devices("TPU"))))
"""
_NAMES_IN = """
import json
import sys
import tensorflow as tf

gfile, folder = tf.io.gfile, sys.argv[1]
names = gfile.listdir(folder) if gfile.exists(folder) else []
print(json.dumps([name.rstrip("/") for name in names]))
"""
_WRITE_AND_READ = """
import json
import sys
import uuid
import tensorflow as tf

gfile, text = tf.io.gfile, uuid.uuid4().hex
path = sys.argv[1].rstrip("/") + "/.doctor_" + text
gfile.makedirs(sys.argv[1])
with gfile.GFile(path, "w") as file:
    file.write(text)
with gfile.GFile(path) as file:
    read = file.read()
gfile.remove(path)
print(json.dumps(read if read == text else None))
"""
# Files alone are asked for: the chips stay with whoever has them.
_NO_CHIP = {"TPU_LIBRARY_PATH": "/nonexistent"}


def _count_cores():
    return ask_python(_COUNT_CORES)


def _names_in(folder):
    return ask_python(_NAMES_IN, folder, **_NO_CHIP)


def write_and_read(folder: str) -> tuple[object, str]:
    """Writes a file into a folder, local or remote, and reads it."""
    return ask_python(_WRITE_AND_READ, folder, **_NO_CHIP)


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


def _seconds_off() -> float | None:
    """This clock against that of the cloud's own server beside the VM."""
    try:
        with urllib.request.urlopen(_METADATA_SERVER, timeout=5) as answer:
            date = answer.headers["Date"]
        theirs = email.utils.parsedate_to_datetime(date)
    except (OSError, TypeError, ValueError):
        return None
    now = datetime.datetime.now(datetime.UTC)
    return (now - theirs).total_seconds()
