"""The commands, as lists of words: nothing here runs anything.

Syntax: https://cloud.google.com/sdk/gcloud/reference/compute/tpus. A VM that
comes by a queued resource is a node of that resource and is reached by its own
name, as any other.
"""

import shlex

from launch.cloud.settings import Settings

# On the VM, under the user's home.
FOLDER = "ib_keras_vm"
SCRIPT = f"{FOLDER}/code/launch/run_on_vm.sh"
# In the folder where the command runs.
ARCHIVE = ".ib_keras_tpu_vm.tgz"
# What a VM needs of a checkout.
PARTS = (
    "configs",
    "ib_keras",
    "launch",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "setup.py",
)


def create(settings: Settings) -> list[str]:
    """Asks for the VM, at once or by a queued resource."""
    if settings.request:
        words = _tpus("queued-resources", "create", settings.request, settings)
        words += [
            f"--node-id={settings.name}",
            f"--accelerator-type={settings.type}",
            f"--runtime-version={settings.software()}",
        ]
    else:
        words = _tpus("tpu-vm", "create", settings.name, settings)
        words += [
            f"--accelerator-type={settings.type}",
            f"--version={settings.software()}",
        ]
    return [*words, "--spot"] if settings.spot else words


def delete(settings: Settings) -> list[str]:
    """Deletes the VM.

    A queued resource goes only by force while it has a node, and a suspended
    one counts against the quota until it is deleted.
    """
    if settings.request:
        name = settings.request
        return [*_tpus("queued-resources", "delete", name, settings), "--force"]
    return _tpus("tpu-vm", "delete", settings.name, settings)


def describe_node(settings: Settings) -> list[str]:
    """Asks for the state of the VM, as JSON."""
    words = _tpus("tpu-vm", "describe", settings.name, settings)
    return [*words, "--format=json"]


def describe_request(settings: Settings) -> list[str]:
    """Asks for the state of the queued resource, as JSON."""
    words = _tpus("queued-resources", "describe", settings.request, settings)
    return [*words, "--format=json"]


def pack(root: str) -> list[str]:
    """Packs a checkout, without what was built or cached."""
    return ["tar", "-czf", ARCHIVE, "--exclude=__pycache__", "-C", root, *PARTS]


def send(settings: Settings) -> list[str]:
    """Copies the packed checkout to every worker."""
    place = f"{settings.name}:{ARCHIVE}"
    return [*_scp(settings), ARCHIVE, place, "--worker=all"]


def unpack_and_install(settings: Settings) -> list[str]:
    """Unpacks it and runs the installer of `run_on_vm.sh`, on every worker."""
    new = f"{FOLDER}/new"
    return ssh(
        settings,
        f"rm -rf {new} && mkdir -p {new} && tar -xzf {ARCHIVE} -C {new} && "
        f"bash {new}/launch/run_on_vm.sh install",
    )


def on_vm(
    settings: Settings, verb: str, *words: str, worker: str = "all"
) -> list[str]:
    """Runs a verb of `run_on_vm.sh`; the words reach it as they are."""
    command = shlex.join(["bash", SCRIPT, verb, *words])
    return ssh(settings, command, worker)


def ssh(settings: Settings, command: str, worker: str = "all") -> list[str]:
    """Runs a shell command on workers."""
    words = _tpus("tpu-vm", "ssh", settings.name, settings)
    return [*words, f"--worker={worker}", f"--command={command}"]


def fetch(
    settings: Settings, source: str, folder: str, worker: str = "0"
) -> list[str]:
    """Copies a folder of a bucket, or of a worker, into a local folder."""
    if source.startswith("gs://"):
        return [
            *["gcloud", "storage", "cp", "--recursive"],
            *[f"--project={settings.project}", source, folder],
        ]
    words = [*_scp(settings), "--recurse", f"--worker={worker}"]
    # What begins with a hyphen would be taken for a flag.
    folder = f"./{folder}" if folder.startswith("-") else folder
    return [*words, f"{settings.name}:{source}", folder]


def _scp(settings: Settings) -> list[str]:
    words = ["gcloud", "compute", "tpus", "tpu-vm", "scp"]
    return [*words, *_place(settings)]


def _tpus(group: str, verb: str, name: str, settings: Settings) -> list[str]:
    words = ["gcloud", "compute", "tpus", group, verb, name]
    return [*words, *_place(settings)]


def _place(settings: Settings) -> list[str]:
    # Without --quiet it would ask, and wait for an answer for ever.
    place = [f"--zone={settings.zone}", f"--project={settings.project}"]
    return [*place, "--quiet"]
