"""TPU VMs against a stand-in gcloud, whose workers run what they are sent."""

import pathlib
import shlex
import time

import pytest

from ib_keras.errors import UserError
from launch.cloud import gcloud as gcloud_lib
from launch.cloud import vm as vm_lib
from launch.cloud.settings import Settings
from tests.support import runs
from tests.support.fake_gcloud import FakeCloud

pytestmark = pytest.mark.commands

WHERE = ("--project=my-project", "--zone=us-central2-b", "--name=vm")
PLACE = "--zone=us-central2-b --quiet --project=my-project"
SETTINGS = Settings("my-project", "us-central2-b", "vm", "v4-8")


@pytest.fixture
def make(tmp_path):
    """Makes a VM of settings, and the cloud that it is in."""
    clouds = []

    def made(**arguments):
        cloud = FakeCloud(tmp_path, **arguments)
        clouds.append(cloud)
        pauses = cloud.pauses = []
        gcloud = gcloud_lib.Gcloud(
            call=cloud, sleep=lambda s: (pauses.append(s), time.sleep(0.02))
        )
        return vm_lib.VM(SETTINGS, gcloud), cloud

    yield made
    for cloud in clouds:
        cloud.end_workers()


@pytest.fixture
def ready(make):
    """A VM on which everything is installed, and its cloud."""
    vm, cloud = make()
    vm.create()
    vm.install()
    return vm, cloud


def ask(vm, *words):
    """What a verb of run_on_vm.sh prints."""
    return vm.gcloud.run(vm.on_vm(*words))


def end_of_job(vm):
    """What status says when the job has ended on all workers."""
    deadline = time.monotonic() + 60
    while "running" in (output := ask(vm, "status")):
        assert time.monotonic() < deadline, output
    return output


# --- The command line --------------------------------------------------------


def command(folder, *words, module="launch.tpu_vm"):
    """Runs the command in a folder; its status, output and errors."""
    process = runs.Process(*words, module=module, cwd=folder, tensorflow=False)
    return process.wait(), process.read("output"), process.read("errors")


def test_the_guide_is_complete(tmp_path):
    """Its commands, run dry in their order, ask for everything they need."""
    text = (runs.ROOT / "docs" / "tpu_vm.md").read_text()
    block = text.split("```bash\n")[1].split("```")[0].replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    ours = [w[3:] for w in lines if w[:3] == ["python", "-m", "launch.tpu_vm"]]
    asked = {}
    for words in ours:
        status, output, errors = command(tmp_path, "--dry_run", *words)
        assert (status, errors) == (0, ""), words
        asked[words[0]] = output.splitlines()
    create, queue, node = asked["create"]
    assert create == (
        f"gcloud compute tpus queued-resources create my-vm {PLACE} "
        "--node-id=my-vm --accelerator-type=v4-8 "
        "--runtime-version=tpu-ubuntu2204-base --spot"
    )
    describe = f"describe my-vm {PLACE} --format=json"
    assert queue == f"gcloud compute tpus queued-resources {describe}"
    assert node == f"gcloud compute tpus tpu-vm {describe}"
    assert asked["delete"] == [
        f"gcloud compute tpus queued-resources delete my-vm {PLACE} --force",
        f"gcloud compute tpus tpu-vm delete my-vm {PLACE}",
    ]
    ssh = f"gcloud compute tpus tpu-vm ssh my-vm {PLACE} --worker="
    script = "'--command=bash ib_keras_vm/code/launch/run_on_vm.sh"
    assert asked["logs"] == [f"{ssh}0 {script} follow 20'"]
    assert asked["doctor"][0].startswith(
        f"{ssh}all {script} exec python -m launch.doctor --vm --workdir=gs://"
    )
    assert asked["run"][0].startswith(f"{ssh}all {script} start env TFDS_")
    assert set(asked) == {
        *("create", "install", "doctor", "run", "status", "logs", "stop"),
        "delete",
    }


def test_settings_are_those_given_before_and_now():
    old = Settings(*("p", "z", "a", "v4-8", "tpu-vm-x"), spot=True)
    assert old.updated(name=None, spot=None) == old
    assert old.updated(name="b") == Settings("p", "z", "b")
    new = old.updated(type="v6e-4")
    assert new == Settings("p", "z", "a", "v6e-4", spot=True)
    assert new.software() == "v2-alpha-tpuv6e"
    assert old.software() == "tpu-vm-x"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("creat", *WHERE), 'Did you mean "create"?'),
        (("status",), "no --project, and none in .ib_keras_tpu_vm.json"),
        (("create", *WHERE), "no --type"),
        (("create", *WHERE, "--type=w9-8"), "--type=w9-8"),
        (("delete", *WHERE[:2], "--name=-x"), "Add --name="),
        (("run", *WHERE), "of run a command after --"),
        (("status", "now", *WHERE), "Arguments of status are not understood"),
    ],
)
def test_wrong_command_lines(tmp_path, words, expected):
    status, output, errors = command(tmp_path, *words)
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert expected in errors


def test_a_job_that_would_leave_the_tpu_alone_is_noticed(tmp_path):
    job = "-- python -m launch.train --config=configs/mnist_vib.py".split()
    run = ("tpu_vm", "run", *WHERE, "--dry_run", *job)
    status, output, errors = command(tmp_path, *run, module="ib_keras")
    assert status == 0
    assert errors.count("\n") == 1
    assert "Warning: train would use the VM's CPU alone" in errors
    assert "Add --tpu=local" in errors
    assert output.startswith("gcloud compute tpus tpu-vm ssh vm")


@pytest.mark.parametrize(
    ("job", "is_warned"),
    [
        ("ib_keras train --config=mnist_vib", True),
        ("bash -c 'cd x && python -m launch.audit --saved_model=m'", True),
        ("python -m launch.sweep --config=configs/mnist_vib.py", True),
        ("python -m launch.train --tpu=local", False),
        ("python -m launch.train --tpu my-vm", False),
        ("python -m ib_keras train --strategy=tpu", False),
        ("python -m launch.report --workdir=x", False),
        ("true", False),
    ],
)
def test_only_jobs_without_the_tpu_are_warned_of(job, is_warned):
    assert (vm_lib.cpu_warning(shlex.split(job)) is not None) == is_warned


# --- From create to delete ---------------------------------------------------


def test_from_no_vm_to_a_result(make, capsys):
    line = ["CREATING", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    vm, cloud = make(workers=1, lives=[line])
    vm.create()
    said = capsys.readouterr().out.splitlines()
    assert said == [f"vm: {state}" for state in [*line[:-1], "READY"]]
    vm.create()  # As after Ctrl-C: the request keeps its place.
    vm.install()
    job = ["printf", "%s|", "a b", "x'y", '$HOME "q"', "*", "--flag=1", "--"]
    vm.start(job)
    assert end_of_job(vm).count("exited 0") == 1
    assert (
        ask(vm, "log", "1").partition(": ")[2]
        == 'a b|x\'y|$HOME "q"|*|--flag=1|--|'
    )
    vm.delete()
    vm.delete()  # Gone already, which is fine.
    assert not cloud.homes()
    assert vm.state() == "NOT_FOUND"


def test_install_takes_the_versions_of_setup_py_and_is_done_once(ready):
    vm, cloud = ready
    done = cloud.pip_log.read_text().splitlines()
    assert done[0] == "--quiet --editable .[tpu,gcs]"
    assert done[1].startswith("--quiet --no-deps tf_keras")
    assert f'"{done[1].split()[-1]}"' in (runs.ROOT / "setup.py").read_text()
    code = cloud.home() / "ib_keras_vm/code"
    assert (code / "launch/train.py").exists()
    assert not list(code.rglob("__pycache__"))
    (code / "launch/stale.py").touch()
    vm.install()
    assert not (code / "launch/stale.py").exists()
    assert cloud.pip_log.read_text().splitlines() == done


def test_a_vm_without_our_python_gets_one_by_uv(make):
    vm, cloud = make()
    python = (cloud.programs / "python3.11").read_text()
    cloud.program("python3", python)
    for name in ("python3.11", "python3.12"):
        cloud.program(name, "#!/bin/bash\nexit 1\n")
    vm.create()
    vm.install()
    lines = cloud.pip_log.read_text().splitlines()
    assert lines[0] == "--quiet --user uv"
    assert lines[1].startswith("uv venv --quiet --seed --python 3.11 ")
    assert lines[2] == "--quiet --editable .[tpu,gcs]"


def test_a_job_outlives_the_connection_and_can_be_stopped(ready):
    vm, _ = ready
    script = "trap 'echo saved; exit 75' TERM; while :; do sleep 0.05; done"
    job = ("bash", "-c", script)
    vm.start(job)
    assert "running" in ask(vm, "status")
    vm.start(job)  # Is running, so nothing is started.
    for refused in (lambda: vm.start(["true"]), vm.install):
        with pytest.raises(UserError, match="job is running; stop it first"):
            refused()
    ask(vm, "stop")
    assert "exited 75" in end_of_job(vm)
    log = ask(vm, "log", "50")
    assert log.count("--- ") == 1
    assert log.endswith(": saved\n")
    assert "nothing runs" in ask(vm, "stop")


# --- Retries -----------------------------------------------------------------


def test_after_preemption_the_same_command_goes_on(make):
    life = ["ACTIVE"] * 3 + ["SUSPENDING"] * 2 + ["SUSPENDED"]
    vm, cloud = make(workers=2, lives=[life, life, ["ACTIVE"]])
    path = cloud.folder / "lives"  # The job ends in its third life.
    script = f"echo life >>{path}; [ $(wc -l <{path}) -ge 5 ] || sleep 60"
    status = vm.keep_running(("bash", "-c", script), "all", retries=2)
    assert status == 0
    assert path.read_text() == "life\n" * 6
    # There was none at first, and each was installed on both workers.
    assert cloud.calls.count("queued-resources create") == 3
    assert len(cloud.pip_log.read_text().splitlines()) == 2 * 2 * 3


def test_retries_come_to_an_end(make):
    vm, _ = make(lives=[["ACTIVE"] * 2 + ["PREEMPTED"]] * 2)
    with pytest.raises(gcloud_lib.GcloudError, match="vm: PREEMPTED"):
        vm.keep_running(["sleep", "60"], "all", retries=1)


@pytest.mark.parametrize(
    ("first", "last"),
    [(75, 4), pytest.param(3, 3, marks=pytest.mark.slow)],
)
def test_only_an_interrupted_job_is_started_again(ready, first, last):
    vm, cloud = ready
    path = cloud.folder / "once"
    script = f"[ -e {path} ] || {{ touch {path}; exit {first}; }}; exit {last}"
    status = vm.keep_running(("bash", "-c", script), "all", retries=3)
    assert status == last
    assert cloud.calls.count("queued-resources create") == 1
    assert ask(vm, "log", "9").count("---") == (1 if first == last else 2)


def test_a_vm_that_was_stopped_is_left_alone(make):
    vm, cloud = make(lives=[["ACTIVE", "STOPPED"]])
    vm.create()
    with pytest.raises(UserError, match="The VM was stopped"):
        vm.keep_running(["true"], "all", retries=3)
    assert "queued-resources delete" not in cloud.calls


@pytest.mark.parametrize(
    ("of", "status", "said"),
    [
        ("queued-resources create", 1, "ERROR: 503 UNAVAILABLE"),
        ("tpu-vm scp", 255, "Connection reset by peer"),
        ("tpu-vm ssh", 255, "ssh: Connection refused"),
    ],
)
def test_what_may_pass_is_tried_again(make, of, status, said):
    vm, cloud = make()
    cloud.fail(of, status, said, times=2)
    vm.create()
    vm.install()
    assert cloud.pauses == [5.0, 10.0]


def test_what_does_not_pass_is_said_in_one_line(make):
    vm, cloud = make()
    login = "ERROR: no active account.\nPlease run:\n  gcloud auth login"
    for said, attempts, expected in (
        ("ERROR: 503 UNAVAILABLE", 5, "Run it again later"),
        (login, 1, "no active account. Please run: gcloud auth login"),
        ("RESOURCE_EXHAUSTED: Quota 'TPUV4' exceeded.", 1, "Quota 'TPUV4'"),
        (f"ERROR: \x1b[31m{'long ' * 200}", 1, "Do what gcloud says"),
    ):
        cloud.calls.clear()
        cloud.fail("queued-resources create", 1, said, times=attempts)
        with pytest.raises(gcloud_lib.GcloudError) as caught:
            vm.create()
        assert expected in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 600
        assert len(cloud.calls) == attempts


def test_the_status_of_a_job_on_several_workers():
    def status(*states):
        lines = [f"noise\nib_keras_job h {state}\n" for state in states]
        return vm_lib.job_status("".join(lines))

    assert status() is None
    assert status("exited 0", "running") is None
    assert status("exited 0", "exited 0") == 0
    assert status("exited 0", "exited 75") == 75
    assert status("exited 3", "exited 75", "exited 0") == 3
    assert status("exited 0", "lost") == 75  # The worker was started anew.
    assert status("none") == 75


def test_without_gcloud_it_is_said_where_to_get_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    for call in (gcloud_lib.Gcloud().run, gcloud_lib.Gcloud().stream):
        error = runs.refused(call, ["gcloud", "version"])
        assert error.received == "no program gcloud on PATH"


def test_a_gcloud_that_hangs_is_given_up_with_its_children(tmp_path):
    script = f"sleep 60 & echo $! >{tmp_path}/child; wait; true"
    began = time.monotonic()
    found = gcloud_lib.call(["bash", "-c", script], timeout=0.5)
    assert found == (1, "", "timed out after 0.5 s")
    assert time.monotonic() - began < 10
    child = (tmp_path / "child").read_text().strip()
    stat = pathlib.Path("/proc", child, "stat")
    assert not stat.exists() or stat.read_text().split()[2] in "ZX"
