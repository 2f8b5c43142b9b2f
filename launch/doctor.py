"""Prints versions, devices and data folders, for bug reports.

python -m launch.doctor
python -m launch.doctor --vm [--workdir=gs://bucket/folder]

--vm prints instead, one line per check, whether a TPU VM is ready for a run.
"""

import importlib.util
import os
import platform
import sys
from importlib import metadata

from absl import flags as absl_flags

from launch import flags

absl_flags.DEFINE_bool(
    "vm", False, "Check what a TPU VM needs; status 2 if something is missing."
)
absl_flags.DEFINE_string(
    "workdir", None, "With --vm: a gs:// folder to try to write to."
)

_REQUIRED = (
    "tensorflow",
    "keras",
    "tensorflow-probability",
    "tf_keras",
    "tensorflow-datasets",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "matplotlib",
    "jinja2",
    "pyyaml",
    "absl-py",
    "ml-collections",
    "tqdm",
    "tensorboard",
    "filelock",
)
_OPTIONAL = ("cleverhans", "tensorflow-io-gcs-filesystem")
# Variables that change what runs, or where.
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "KERAS_BACKEND",
    "KERAS_HOME",
    "OMP_NUM_THREADS",
    "TFDS_DATA_DIR",
    "TF_DETERMINISTIC_OPS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_USE_LEGACY_KERAS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
)
_DATA_SETS = ("mnist", "cifar10")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _program() -> list[str]:
    import ib_keras

    commit = flags.git_commit()
    where = os.path.dirname(os.path.abspath(ib_keras.__file__))
    return [
        f"ib_keras {ib_keras.__version__} in {where}",
        f"commit {commit}" if commit else "no commit: not a checkout",
        f"Python {platform.python_version()}, {sys.executable}",
        platform.platform(),
    ]


def _stack() -> list[str]:
    lines = [f"{name} {_version(name)}" for name in _REQUIRED]
    return lines + [f"{name} {_version(name)} (optional)" for name in _OPTIONAL]


def _devices() -> list[str]:
    lines = [f"{os.cpu_count()} CPU cores, {_memory()} GB of memory"]
    if importlib.util.find_spec("tensorflow") is None:
        return [*lines, 'TensorFlow is not installed: pip install ".[cpu]"']
    import tensorflow as tf

    for device in tf.config.list_physical_devices():
        found = tf.config.experimental.get_device_details(device)
        name = found.get("device_name", "")
        lines.append(f"{device.device_type} {device.name} {name}".rstrip())
    return lines


def _memory() -> str:
    try:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return "unknown"
    return f"{pages / 2**30:.1f}"


def _data() -> list[str]:
    if importlib.util.find_spec("tensorflow") is None:
        return ["not looked for, without TensorFlow"]
    from ib_keras import files

    folder = os.environ.get("TFDS_DATA_DIR") or os.path.expanduser(
        os.path.join("~", "tensorflow_datasets")
    )
    lines = [folder if files.is_folder(folder) else f"no folder {folder}"]
    for name in _DATA_SETS:
        versions = files.listdir(files.join(folder, name))
        found = f"prepared, {', '.join(versions)}" if versions else "not there"
        lines.append(f"{name}: {found}")
    return lines


def _variables() -> list[str]:
    found = [f"{n}={os.environ[n]}" for n in _VARIABLES if n in os.environ]
    return found or ["none that we know to matter"]


def _vm() -> int:
    """Prints the checks of a TPU VM as they are made."""
    from launch.cloud import checks

    status = 0
    for name, problem, says in checks.all_checks(absl_flags.FLAGS.workdir):
        state = "FAILED" if problem else "ok    "
        print(f"{state} {name}: {problem or says}", flush=True)
        status = 2 if problem else status
    return status


def main() -> int:
    """Prints what a bug report should hold, or whether a VM is fit."""
    if absl_flags.FLAGS.vm:
        return _vm()
    sections = {
        "Program": _program,
        "Stack": _stack,
        "Devices": _devices,
        "Data": _data,
        "Environment": _variables,
    }
    for title, lines in sections.items():
        print(title)
        for line in lines():
            print(f"  {line}")
    return 0


if __name__ == "__main__":
    flags.run(main)
