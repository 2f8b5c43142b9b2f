"""TPU VMs against a stand-in gcloud, whose workers run what they are sent."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from launch.cloud import gcloud as gcloud_lib
from launch.cloud import states
from launch.cloud import vm
from tests.support import fake_gcloud
from tests.support import runs

WHERE = ("--project=my-project", "--zone=us-central2-b", "--name=vm")
NEW = ("create", *WHERE, "--type=v4-8")
TPUS = "compute tpus"

# Makes a venv of which only pip is missing, and notes what pip is told.
PYTHON = """#!/bin/bash
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
elif [ "$1 $2" = "-m pip" ]; then
  echo "${@:4}" >>"$FAKE_GCLOUD/pip"
else
  exec %s "$@"
fi
"""


class Cloud:
    """A folder where a user works, and the cloud that gcloud reaches."""

    def __init__(self, folder):
        self.here = folder / "here"
        self.folder = folder / "cloud"
        programs = folder / "bin"
        for path in (self.here, self.folder, programs):
            path.mkdir()
        stand_in = pathlib.Path(fake_gcloud.__file__)
        self.program(
            programs / "gcloud", f"exec {sys.executable} -S {stand_in}"
        )
        (programs / "python3.11").write_text(PYTHON % sys.executable)
        (programs / "python3.11").chmod(0o755)
        self.environment = os.environ | {
            "FAKE_GCLOUD": str(self.folder),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(runs.ROOT),
        }
        self.set()

    @staticmethod
    def program(path, line):
        path.write_text(f'#!/bin/bash\n{line} "$@"\n')
        path.chmod(0o755)

    def set(self, **changes):
        """Begins anew with so many workers, lives and failures to come."""
        state = {"workers": 1, "lives": [], "failures": []}
        state |= {"requests": {}, "nodes": {}, **changes}
        (self.folder / "state.json").write_text(json.dumps(state))

    def fail(self, of, said, *, status=1, times=1):
        path = self.folder / "state.json"
        state = json.loads(path.read_text())
        failure = {"of": of, "said": said, "status": status, "times": times}
        state["failures"].append(failure)
        path.write_text(json.dumps(state))

    def command(self, *words):
        return [
            *(sys.executable, "-m", "launch.tpu_vm", "--poll_seconds=0.05"),
            *words,
        ]

    def run(self, *words, status=0, **more):
        """Runs the command; its output, and what it said."""
        done = subprocess.run(
            self.command(*words),
            cwd=self.here,
            env=self.environment | more,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout, done.stderr

    def refused(self, *words, status=2, **more):
        """The one line with which the command refuses."""
        _, errors = self.run(*words, status=status, **more)
        parts = ("Error: ", "Received: ", "Expected: ", "Fix: ")
        assert errors.count("\n") == 1, errors
        assert all(part in errors for part in parts), errors
        return errors

    def calls(self):
        """What gcloud was asked, in short: group, verb."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        words = [json.loads(line) for line in lines]
        return [" ".join(w[2:4] if w[0] == "compute" else w[:2]) for w in words]

    def remembered(self):
        return json.loads((self.here / ".ib_keras_tpu_vm.json").read_text())

    def home(self, worker=0):
        return self.folder / f"worker-{worker}"

    def wait_for_job(self):
        """What status says when the job has ended on all workers."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            output, _ = self.run("status")
            if "running" not in output:
                return output
        raise AssertionError(output)


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    cloud = Cloud(tmp_path)
    yield cloud
    monkeypatch.setattr(fake_gcloud, "FOLDER", cloud.folder)
    fake_gcloud.end_workers()


@pytest.fixture
def ready(cloud):
    """A cloud with a VM on which everything is installed."""
    cloud.run(*NEW)
    cloud.run("install")
    return cloud


def gcloud(group, verb, name, *flags):
    """A command as the reference of gcloud has it."""
    place = "--zone=us-central2-b --project=my-project --quiet"
    return shlex.split(f"gcloud {TPUS} {group} {verb} {name} {place}") + [
        *flags
    ]


def dry(cloud, *words):
    """The commands of a dry run, as a shell would read them."""
    output, _ = cloud.run(*words, "--dry_run")
    return [shlex.split(line) for line in output.splitlines()]


# By verb and flags: what gcloud is asked first.
ASKED = {
    "on demand": (
        NEW,
        gcloud(
            *("tpu-vm", "create", "vm", "--accelerator-type=v4-8"),
            "--version=tpu-ubuntu2204-base",
        ),
    ),
    "spot": (
        (*NEW, "--spot", "--version=tpu-vm-x"),
        gcloud(
            *("tpu-vm", "create", "vm", "--accelerator-type=v4-8"),
            *("--version=tpu-vm-x", "--spot"),
        ),
    ),
    "queued": (
        ("create", *WHERE, "--type=v6e-4", "--spot", "--queued"),
        gcloud(
            *("queued-resources", "create", "vm", "--node-id=vm"),
            *("--accelerator-type=v6e-4", "--runtime-version=v2-alpha-tpuv6e"),
            "--spot",
        ),
    ),
    "delete": (("delete", *WHERE), gcloud("tpu-vm", "delete", "vm")),
    "delete queued": (
        ("delete", *WHERE, "--queued"),
        gcloud("queued-resources", "delete", "vm", "--force"),
    ),
    "adopt": (
        ("adopt", *WHERE),
        gcloud("tpu-vm", "describe", "vm", "--format=json"),
    ),
    "logs": (
        ("logs", *WHERE, "--worker=1", "--lines=7"),
        gcloud(
            *("tpu-vm", "ssh", "vm", "--worker=1"),
            "--command=bash ib_keras_vm/code/launch/run_on_vm.sh log 7",
        ),
    ),
    "doctor": (
        ("doctor", *WHERE, "--workdir=gs://b/a b"),
        gcloud(
            *("tpu-vm", "ssh", "vm", "--worker=all"),
            "--command=bash ib_keras_vm/code/launch/run_on_vm.sh exec python "
            "-m launch.doctor --vm '--workdir=gs://b/a b'",
        ),
    ),
    "fetch from a bucket": (
        ("fetch", "gs://b/run/", *WHERE, "--to=here"),
        shlex.split(
            "gcloud storage cp --recursive --project=my-project gs://b/run here"
        ),
    ),
    "fetch from the VM": (
        ("fetch", "runs/a", *WHERE),
        [
            *shlex.split(f"gcloud {TPUS} tpu-vm scp --zone=us-central2-b"),
            *("--project=my-project", "--quiet", "--recurse", "--worker=0"),
            *("vm:runs/a", "results"),
        ],
    ),
}


@pytest.mark.parametrize("case", ASKED)
def test_dry_run_prints_the_exact_command_and_runs_nothing(cloud, case):
    words, expected = ASKED[case]
    assert dry(cloud, *words)[0] == expected
    assert cloud.calls() == []


def test_words_of_the_job_reach_the_worker_as_they_were_typed(ready):
    job = ["printf", "%s|", "a b", "x'y", '$HOME "q"', "*", "--flag=1", "--"]
    ready.run("run", "--", *job)
    ready.wait_for_job()
    output, _ = ready.run("logs", "--lines=1")
    assert output.partition(": ")[2] == 'a b|x\'y|$HOME "q"|*|--flag=1|--|'


def test_settings_are_typed_once(cloud):
    dry(cloud, *NEW, "--spot", "--queued")
    assert cloud.remembered() == {
        "name": "vm",
        "project": "my-project",
        "request": "vm",
        "spot": True,
        "type": "v4-8",
        "zone": "us-central2-b",
    }
    expected = ASKED["delete queued"][1]
    assert dry(cloud, "delete") == [expected]
    # Another VM has nothing of this one but the place.
    assert dry(cloud, "delete", "--name=b") == [gcloud("tpu-vm", "delete", "b")]


def test_the_way_from_nothing_to_a_result(cloud):
    cloud.set(workers=2)
    (cloud.folder / "bucket/b/run").mkdir(parents=True)
    workdir = cloud.folder / "bucket/b/run"
    cloud.run(*NEW)
    cloud.run("install")
    output, _ = cloud.run(
        *("run", "--", "bash", "-c", 'echo done >"$1/$$"; sleep 0.1; exit 0'),
        *("job", f"{workdir}"),
    )
    assert "see status and logs" in output
    output = cloud.wait_for_job()
    assert output.count("exited 0") == 2
    cloud.run("fetch", "gs://b/run")
    assert len(list((cloud.here / "results/run").iterdir())) == 2
    cloud.run("delete")
    assert not list(cloud.folder.glob("worker-*"))
    output, _ = cloud.run("status")
    assert "NOT_FOUND" in output
    assert set(cloud.calls()) == {
        *("tpu-vm create", "tpu-vm describe", "tpu-vm scp", "tpu-vm ssh"),
        *("tpu-vm delete", "storage cp"),
    }


def heed_ctrl_c():
    """In a child: what a shell starts in the background ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_logs_are_followed(ready):
    ready.run("run", "--", "bash", "-c", "echo one; sleep 1; echo two")
    process = subprocess.Popen(
        ready.command("logs", "--follow"),
        cwd=ready.here,
        env=ready.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )
    lines = []
    while not lines or not lines[-1].endswith(": two\n"):
        lines.append(process.stdout.readline())
        assert lines[-1], lines
    # As Ctrl-C does, for everything that the terminal runs.
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=90) == 0
    process.stdout.close()
    assert [line.split(": ")[1] for line in lines[-2:]] == ["one\n", "two\n"]


def test_install_takes_the_pins_and_is_done_once(ready):
    pip = ready.folder / "pip"
    setup = (runs.ROOT / "setup.py").read_text()
    assert '"tf_keras==2.20.1"' in setup
    expected = [
        "--quiet --editable .[tpu,gcs]",
        "--quiet --no-deps tf_keras==2.20.1",
    ]
    assert pip.read_text().splitlines() == expected
    code = ready.home() / "ib_keras_vm/code"
    assert (code / "launch/train.py").exists()
    assert not list(code.rglob("__pycache__"))
    (code / "launch/stale.py").touch()
    ready.run("install")
    assert not (code / "launch/stale.py").exists()
    assert pip.read_text().splitlines() == expected


def test_a_job_outlives_the_connection_and_can_be_stopped(ready):
    job = (
        "bash",
        "-c",
        "trap 'echo saved; exit 75' TERM; while :; do sleep 0.05; done",
    )
    ready.run("run", "--", *job)
    assert "running" in ready.run("status")[0]
    ready.run("run", "--", *job)  # Is running, so nothing is started.
    assert "another job is running" in ready.refused("run", "--", "true")
    assert "a job is running" in ready.refused("install")
    ready.run("stop")
    assert "exited 75" in ready.wait_for_job()
    output, _ = ready.run("logs")
    assert output.count("--- ") == 1
    assert output.endswith(": saved\n")
    assert "nothing runs" in ready.run("stop")[0]


STATES = ["CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING"]


def test_create_waits_in_line(cloud):
    cloud.set(lives=[[*STATES, "PROVISIONING", "ACTIVE"]])
    output, _ = cloud.run(*NEW, "--queued")
    expected = [f"vm: {state}" for state in [*STATES, "READY"]]
    assert output.splitlines() == expected
    # Once more, as after Ctrl-C: the request keeps its place.
    cloud.run("create")
    assert cloud.calls().count("queued-resources create") == 2


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_create_says_that_a_request_failed(cloud, state):
    cloud.set(lives=[["WAITING_FOR_RESOURCES", state]])
    assert f"vm: {state}" in cloud.refused(*NEW, "--queued")
    assert "Delete it" in cloud.refused("create")
    cloud.run("delete")
    cloud.run("delete")  # Gone already, which is fine.


def counting_job(cloud, begun):
    """A job that hangs until it has been begun so often, on all workers."""
    path = cloud.folder / "lives"
    script = f"echo life >>{path}; [ $(wc -l <{path}) -ge {begun} ] || sleep 60"
    return ("bash", "-c", script)


@pytest.mark.parametrize("queued", [True, False])
def test_after_preemption_the_same_command_goes_on(cloud, queued):
    ready = "ACTIVE" if queued else "READY"
    lost = ["SUSPENDING"] * 3 + ["SUSPENDED"] if queued else ["PREEMPTED"]
    cloud.set(
        workers=2,
        lives=[[ready] * 4 + lost, [ready] * 3 + lost, [ready]],
    )
    cloud.run(*NEW, *(["--queued"] if queued else []))
    cloud.run("install")
    job = counting_job(cloud, 5)  # Two workers, three lives.
    output, _ = cloud.run("run", "--retries=2", "--", *job)
    assert "0 retries left" in output
    assert "The job ended with status 0." in output
    group = "queued-resources" if queued else "tpu-vm"
    assert cloud.calls().count(f"{group} create") == 3
    assert cloud.calls().count(f"{group} delete") == 2
    assert (cloud.folder / "lives").read_text() == "life\n" * 6
    assert len((cloud.folder / "pip").read_text().splitlines()) == 2 * 2 * 3


def test_retries_come_to_an_end(cloud):
    cloud.set(lives=[["READY"] * 3 + ["PREEMPTED"]] * 2)
    cloud.run(*NEW)
    cloud.run("install")
    errors = cloud.run(
        *("run", "--retries=1", "--", *counting_job(cloud, 9)), status=2
    )[1]
    assert "vm: PREEMPTED" in errors
    assert "--retries" in errors


@pytest.mark.parametrize("first", [75, 76])
def test_an_interrupted_job_is_started_again(ready, first):
    path = ready.folder / "once"
    script = f"[ -e {path} ] || {{ touch {path}; exit {first}; }}; exit 4"
    ready.run(*("run", "--retries=3", "--", "bash", "-c", script), status=4)
    assert ready.calls().count("tpu-vm create") == 1


def test_a_job_that_fails_is_not_started_again(ready):
    ready.run("run", "--retries=3", "--", "bash", "-c", "exit 3", status=3)
    output, _ = ready.run("logs")
    assert output.count("---") == 1


PASSING = {
    "a server that is busy": ("tpu-vm create", "ERROR: 503 UNAVAILABLE", 1),
    "no connection": ("tpu-vm ssh", "ssh: Connection refused", 255),
    "no capacity": ("tpu-vm create", "There is no more capacity in z", 1),
    "a copy that broke off": ("tpu-vm scp", "Connection reset by peer", 255),
}


@pytest.mark.parametrize("case", PASSING)
def test_what_may_pass_is_tried_again(cloud, case):
    of, said, status = PASSING[case]
    cloud.fail(of, said, status=status, times=2)
    output = cloud.run(*NEW)[0] + cloud.run("install")[0]
    assert output.count(" Again in ") == 2
    pauses = [0.05 / 6, 0.1 / 6]
    assert [f"Again in {p:g} s" in output for p in pauses] == [True, True]


def test_what_does_not_pass_is_said_in_the_end(cloud):
    cloud.fail("tpu-vm create", "ERROR: 503 UNAVAILABLE", times=9)
    assert "503" in cloud.refused(*NEW)
    assert cloud.calls() == ["tpu-vm create"] * 5


LOGIN = """ERROR: (gcloud.compute.tpus.tpu-vm.create) You do not currently have
an active account selected.
Please run:

  $ gcloud auth login

to obtain new credentials.
"""


def test_refusals_are_one_line_and_say_what_to_do(cloud):
    said = {
        LOGIN: "Run gcloud auth login.",
        "ERROR: Quota 'TPUV4' exceeded. Limit: 0": "Ask for more",
        "ERROR: ALREADY_EXISTS: it is there": "Use it by adopt",
        f"ERROR: \x1b[31m{'long ' * 200}": "See what gcloud says",
    }
    for text, fix in said.items():
        cloud.fail("tpu-vm create", text)
        errors = cloud.refused(*NEW)
        assert fix in errors
        assert "\x1b" not in errors
        assert len(errors) < 600
    assert len(cloud.calls()) == len(said)  # None of it passes by itself.


def test_an_answer_that_got_lost_is_not_an_error(cloud):
    cloud.run(*NEW)
    cloud.fail("tpu-vm create", "ERROR: deadline exceeded")
    output, _ = cloud.run("create")
    assert "READY" in output


def test_wrong_command_lines(cloud):
    cases = {
        ("creat",): 'Did you mean "create"?',
        (): "The verb is missing",
        ("create",): "no --name, and none in .ib_keras_tpu_vm.json",
        ("create", *WHERE): "no --type",
        ("create", *WHERE, "--type=w9-8"): "--type=w9-8",
        ("create", *WHERE[:2], "--name=-x", "--type=v4-8"): "Correct --name.",
        ("create", *WHERE[:2], "--name=a;b", "--type=v4-8"): "Correct --name.",
        ("run", *WHERE): "nothing after --",
        ("status", "now", *WHERE): "Arguments of status are not understood",
        ("status", *WHERE, "--", "x"): "Arguments of status are not understood",
        ("fetch", *WHERE): "There is nothing to fetch",
    }
    for words, expected in cases.items():
        assert expected in cloud.refused(*words), words
    assert "no program gcloud" in cloud.refused(
        *NEW, PATH=str(cloud.here), status=2
    )
    (cloud.here / ".ib_keras_tpu_vm.json").write_text('{"nme": 1}')
    assert "cannot be used" in cloud.refused("status")
    assert cloud.calls() == []


def test_a_vm_without_the_installation_says_so(cloud):
    cloud.run(*NEW)
    assert "Run install first." in cloud.refused("run", "--", "true")


def test_adopt_learns_what_the_vm_is(cloud):
    cloud.set(lives=[["ACTIVE"]])
    cloud.run(*NEW, "--queued", "--spot")
    (cloud.here / ".ib_keras_tpu_vm.json").unlink()
    output, _ = cloud.run("adopt", *WHERE)
    assert output == "vm: READY, v4-8, tpu-ubuntu2204-base, spot. Remembered.\n"
    assert cloud.remembered()["request"] == "vm"
    cloud.run("install")
    assert "no VM other" in cloud.refused("adopt", "--name=other")
    assert cloud.remembered()["name"] == "vm"


def test_doctor_runs_on_the_vm(ready):
    code = ready.home() / "ib_keras_vm/code/launch/doctor.py"
    code.write_text("import sys; print('ok', sys.argv[1:])")
    output, _ = ready.run("doctor", "--workdir=gs://b")
    assert output == "ok ['--vm', '--workdir=gs://b']\n"
    code.write_text("import sys; sys.exit(2)")
    ready.run("doctor", status=2)


def test_the_guide_is_complete(cloud):
    """Its commands, run dry in their order, ask for everything they need."""
    text = (runs.ROOT / "docs" / "tpu_vm.md").read_text()
    blocks = text.split("```bash\n")[1:]
    lines = [
        shlex.split(line)
        for block in blocks
        for line in block.split("```")[0].replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    ours = [w for w in lines if w[:3] == ["python", "-m", "launch.tpu_vm"]]
    assert lines == ours
    asked = []
    for words in ours:
        output, _ = cloud.run("--dry_run", *words[3:])
        asked += [line for line in output.splitlines() if line[:1] != "#"]
    assert cloud.calls() == []
    parts = " ".join(asked)
    for part in (
        *("queued-resources create", "tpu-vm scp", "tpu-vm ssh"),
        *("run_on_vm.sh install", "run_on_vm.sh start", "storage cp"),
        *("queued-resources delete", "launch.doctor"),
    ):
        assert part in parts, part
    verbs = {words[3] for words in ours}
    assert verbs == {
        *("create", "install", "doctor", "run", "status", "logs", "stop"),
        *("fetch", "delete", "adopt"),
    }


def test_overall_status_of_several_workers():
    def overall(*lines):
        return vm.overall(
            vm.read_workers(
                "noise\n".join(f"ib_keras_job h {line}\n" for line in lines)
            )
        )

    assert overall() is None
    assert overall("exited 0", "running") is None
    assert overall("exited 0", "exited 0") == 0
    assert overall("exited 0", "exited 75") == 75
    assert overall("exited 3", "exited 75", "exited 0") == 3
    assert overall("exited 0", "lost") == 75  # The worker was started anew.
    assert overall("none") == 75


def test_every_documented_state_has_a_meaning():
    requests = {
        "STATE_UNSPECIFIED": "waiting",
        "CREATING": "waiting",
        "ACCEPTED": "waiting",
        "WAITING_FOR_RESOURCES": "waiting",
        "PROVISIONING": "waiting",
        "ACTIVE": "ready",
        "SUSPENDING": "waiting",
        "DELETING": "waiting",
        "SUSPENDED": "lost",
        "FAILED": "lost",
    }
    nodes = {
        "READY": "ready",
        "RESTARTING": "waiting",
        "REIMAGING": "waiting",
        "REPAIRING": "waiting",
        "STARTING": "waiting",
        "STOPPED": "stopped",
        "PREEMPTED": "lost",
        "TERMINATED": "lost",
        "NOT_FOUND": "lost",
    }
    for state, expected in (requests | nodes).items():
        assert states.meaning(state) == expected, state


def test_a_gcloud_that_hangs_is_given_up_with_its_children(tmp_path):
    path = tmp_path / "gcloud"
    Cloud.program(path, f"sleep 60 & echo $! >{tmp_path}/child; wait; true")
    said = []
    runner = gcloud_lib.Gcloud(sleep=lambda s: None, say=said.append)
    start = time.monotonic()
    with pytest.raises(gcloud_lib.GcloudError, match="timed out after 0.5 s"):
        runner.run([str(path)], timeout=0.5, attempts=2)
    assert time.monotonic() - start < 10
    assert len(said) == 1
    child = (tmp_path / "child").read_text().strip()
    stat = pathlib.Path("/proc", child, "stat")
    assert not stat.exists() or stat.read_text().split()[2] in "ZX"


def test_ctrl_c_while_it_watches_leaves_the_job_alone(ready):
    process = subprocess.Popen(
        ready.command("run", "--retries=1", "--", "sleep", "60"),
        cwd=ready.here,
        env=ready.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    pid = ready.home() / "ib_keras_vm/run/pid"
    deadline = time.monotonic() + 90
    while not pid.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 75, errors
    assert "goes on there" in errors
    # gcloud was cut short, so its answer is not known; the job is.
    assert os.kill(int(pid.read_text().split()[0]), 0) is None


def test_a_vm_without_our_python_gets_one_by_uv(cloud):
    programs = cloud.here.parent / "bin"
    for name in ("python3.11", "python3.12"):
        Cloud.program(programs / name, "exit 1 #")
    uv = PYTHON.replace(
        'elif [ "$1 $2" = "-m pip" ]',
        """elif [ "$1 $2 $3" = "-m uv venv" ]; then
  echo "${@:2}" >>"$FAKE_GCLOUD/pip"
  mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python"
elif [ "$1 $2" = "-m pip" ]""",
    )
    (programs / "python3").write_text(uv % sys.executable)
    (programs / "python3").chmod(0o755)
    cloud.run(*NEW)
    cloud.run("install")
    lines = (cloud.folder / "pip").read_text().splitlines()
    assert lines[0] == "--quiet --user uv"
    assert lines[1].startswith("uv venv --quiet --seed --python 3.11 ")
    assert lines[2] == "--quiet --editable .[tpu,gcs]"


def test_a_failed_install_is_said_and_done_again(cloud):
    python = cloud.here.parent / "bin" / "python3.11"
    good = python.read_text()
    python.write_text(good.replace('echo "${@:4}"', "exit 1; echo"))
    cloud.run(*NEW)
    errors = cloud.refused("install")
    assert "ERROR: " in errors
    assert "pip install --quiet --editable" in errors
    python.write_text(good)
    cloud.run("install")
    assert len((cloud.folder / "pip").read_text().splitlines()) == 2
