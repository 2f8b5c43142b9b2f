"""A stand-in for `gcloud`: a cloud in a folder, with workers that run bash.

The variable FAKE_GCLOUD names the folder. In it are `calls.jsonl` (what was
asked, in order), `bucket/` (what lies under gs://), `worker-0/` and so on (the
homes of the VM's workers, on which ssh runs the command for real) and
`state.json`:

    workers   how many a VM has
    lives     the states that each VM, or each queued resource, goes through:
              one more at each look, the last one stays
    failures  of calls to come: a part of the call, exit status, standard
              error, and how many times
    requests, nodes   what exists
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

FOLDER = pathlib.Path(os.environ.get("FAKE_GCLOUD", "."))
STATE = FOLDER / "state.json"
# States in which a VM has no machine any more.
GONE = ("SUSPENDING", "SUSPENDED", "FAILED", "PREEMPTED", "TERMINATED")


class Refusal(Exception):
    """What `gcloud` refuses, with its exit status."""

    def __init__(self, said, status=1):
        self.status = status
        super().__init__(said)


def worker_homes():
    return sorted(FOLDER.glob("worker-*"))


def end_workers():
    """Takes the machines away, with what runs on them."""
    for home in worker_homes():
        with contextlib.suppress(OSError, ValueError):
            pid = (home / "ib_keras_vm/run/pid").read_text().split()[0]
            os.killpg(int(pid), signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)


def boot_workers(number):
    for index in range(number):
        (FOLDER / f"worker-{index}").mkdir(exist_ok=True)


class Cloud:
    def __init__(self, state, words):
        self.state = state
        self.flags = {}
        self.words = []
        for word in words:
            flag, equals, value = word.partition("=")
            if word.startswith("--"):
                self.flags[flag[2:]] = value if equals else True
            else:
                self.words.append(word)

    def main(self):
        path = " ".join(self.words[:4])
        actions = {
            "compute tpus tpu-vm create": self.create_node,
            "compute tpus tpu-vm describe": self.describe_node,
            "compute tpus tpu-vm delete": self.delete_node,
            "compute tpus tpu-vm ssh": self.ssh,
            "compute tpus tpu-vm scp": self.scp,
            "compute tpus queued-resources create": self.create_request,
            "compute tpus queued-resources describe": self.describe_request,
            "compute tpus queued-resources delete": self.delete_request,
        }
        if self.words[:2] == ["storage", "cp"]:
            return self.storage_cp()
        for flag in ("zone", "project", "quiet"):
            if flag not in self.flags:
                raise Refusal(f"ERROR: --{flag} must be given", 2)
        return actions[path]()

    # Nodes.

    def create_node(self):
        name = self.words[4]
        for flag in ("accelerator-type", "version"):
            if flag not in self.flags:
                raise Refusal(f"ERROR: argument --{flag} is needed", 2)
        if name in self.state["nodes"]:
            raise Refusal("ERROR: ALREADY_EXISTS: Resource already exists")
        self.state["nodes"][name] = self.new_thing()
        boot_workers(self.state["workers"])
        return 0

    def new_thing(self):
        lives = self.state["lives"]
        states = lives.pop(0) if lives else ["READY"]
        return {"states": states, "flags": self.flags}

    def step(self, thing):
        """The state now; the next look sees the next one."""
        state = thing["states"][0]
        if len(thing["states"]) > 1:
            thing["states"].pop(0)
        if state in GONE:
            end_workers()
        return state

    def find(self, kind, name):
        if name not in self.state[kind]:
            raise Refusal(f"ERROR: NOT_FOUND: Resource {name} was not found")
        return self.state[kind][name]

    def describe_node(self):
        thing = self.find("nodes", self.words[4])
        flags = thing["flags"]
        described = {
            "state": "READY" if "request" in thing else self.step(thing),
            "acceleratorType": flags["accelerator-type"],
            "runtimeVersion": flags.get(
                "version", flags.get("runtime-version")
            ),
            "schedulingConfig": {"spot": "spot" in flags},
        }
        if "request" in thing:
            described["queuedResource"] = (
                f"projects/p/locations/z/queuedResources/{thing['request']}"
            )
        print(json.dumps(described))
        return 0

    def delete_node(self):
        self.find("nodes", self.words[4])
        del self.state["nodes"][self.words[4]]
        end_workers()
        return 0

    # Queued resources.

    def create_request(self):
        name = self.words[4]
        for flag in ("node-id", "accelerator-type", "runtime-version"):
            if flag not in self.flags:
                raise Refusal(f"ERROR: argument --{flag} is needed", 2)
        if name in self.state["requests"]:
            raise Refusal("ERROR: ALREADY_EXISTS: Resource already exists")
        self.state["requests"][name] = self.new_thing()
        return 0

    def describe_request(self):
        name = self.words[4]
        thing = self.find("requests", name)
        state = self.step(thing)
        node = thing["flags"]["node-id"]
        if state == "ACTIVE" and node not in self.state["nodes"]:
            self.state["nodes"][node] = {
                "request": name,
                "flags": thing["flags"],
            }
            boot_workers(self.state["workers"])
        if state in GONE:
            self.state["nodes"].pop(node, None)
        thing["now"] = state
        print(json.dumps({"name": name, "state": {"state": state}}))
        return 0

    def delete_request(self):
        thing = self.find("requests", self.words[4])
        if "force" not in self.flags and thing.get("now") != "FAILED":
            raise Refusal("ERROR: FAILED_PRECONDITION: it has nodes; --force")
        del self.state["requests"][self.words[4]]
        self.state["nodes"].pop(thing["flags"]["node-id"], None)
        end_workers()
        return 0

    # Workers.

    def chosen_workers(self, name):
        self.find("nodes", name)
        homes = worker_homes()
        if not homes:
            raise Refusal(
                'ERROR: This TPU has terminal state "PREEMPTED", so it cannot '
                "be used anymore."
            )
        worker = self.flags.get("worker", "0")
        return homes if worker == "all" else [homes[int(worker)]]

    def ssh(self):
        status = 0
        for home in self.chosen_workers(self.words[4]):
            print("SSH: Attempting to connect...", file=sys.stderr)
            done = subprocess.run(
                ["bash", "-c", self.flags["command"]],
                cwd=home,
                env=os.environ | {"HOME": str(home)},
                check=False,
            )
            status = status or done.returncode
        return status

    def scp(self):
        source, target = self.words[4:]
        name, colon, path = target.partition(":")
        if colon:
            for home in self.chosen_workers(name):
                shutil.copy(source, home / path)
            return 0
        name, _, path = source.partition(":")
        (home,) = self.chosen_workers(name)
        return copy_folder(home / path, target)

    def storage_cp(self):
        source, target = self.words[2:]
        path = FOLDER / "bucket" / source.removeprefix("gs://")
        return copy_folder(path, target)


def copy_folder(source, target):
    if not source.is_dir():
        raise Refusal("ERROR: The following URLs matched no objects or files")
    shutil.copytree(source, pathlib.Path(target, source.name))
    return 0


def planned_failure(state, call):
    for failure in state["failures"]:
        if failure["times"] and failure["of"] in call:
            failure["times"] -= 1
            return failure
    return None


def main(words):
    with open(FOLDER / "calls.jsonl", "a") as file:
        file.write(json.dumps(words) + "\n")
    state = json.loads(STATE.read_text())
    failure = planned_failure(state, " ".join(words))
    try:
        if failure is not None:
            raise Refusal(failure["said"], failure["status"])
        return Cloud(state, words).main()
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return refusal.status
    finally:
        new = STATE.with_suffix(".new")
        new.write_text(json.dumps(state))
        new.replace(STATE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
