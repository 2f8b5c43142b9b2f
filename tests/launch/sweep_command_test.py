"""launch.sweep as it is typed: done, again, stopped, killed, diverged."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.support import runs

pytestmark = pytest.mark.commands

GRID = """
import ml_collections
from configs import digits_vib

FGS = {
    "fgs_mean": {
        "protocol": "fgs_epsilons",
        "num_examples": 16,
        "epsilon_curve": (0.1,),
        "threat_model.epsilon": 0.1,
        "diagnostics.set": "none",
    }
}


def get_config(preset=""):
    config = digits_vib.get_config(preset)
    config.encoder = ml_collections.ConfigDict({"name": "linear"})
    return config


def sweep(add, preset=""):
    for seed in range(3):
        add(
            f"vib_seed_{seed}",
            {"seed": seed, "optim.learning_rate": RATES[seed]},
            audits=FGS,
            labels={"model": "vib", "beta": 0.01, "seed": seed},
        )
    add(
        "deterministic_seed_0",
        {"seed": 0},
        config="digits_deterministic",
        audits=FGS,
        labels={"model": "deterministic", "seed": 0},
    )
    return "Made for a test."
"""
NAMES = [
    *("vib_seed_0", "vib_seed_1", "vib_seed_2", "deterministic_seed_0"),
]


def write_grid(folder, rates=(0.01, 0.01, 0.01)):
    path = folder / "grid.py"
    path.write_text(f"{GRID}\n\nRATES = {rates}\n")
    return f"--config={path}:smoke"


def start(*arguments):
    return runs.start("launch.sweep", *arguments)


def command(*arguments, status=0):
    """Its output and its errors."""
    process = start(*arguments)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == status, errors[-2000:]
    assert "Traceback" not in errors
    return output, errors


def times(workdir):
    return {
        path: path.stat().st_mtime_ns
        for path in workdir.rglob("*")
        if path.is_file() and path.name != "sweep.lock"
    }


def workers(process):
    """The workers of a sweep, and not what keeps count of semaphores."""
    found = []
    # Dask starts them from a thread.
    for listed in pathlib.Path(f"/proc/{process.pid}/task").glob("*/children"):
        for pid in map(int, listed.read_text().split()):
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"spawn_main" in words:
                found.append(pid)
    return found


def is_alive(pid):
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """An undisturbed sweep, and what it printed."""
    folder = tmp_path_factory.mktemp("sweep")
    workdir = folder / "whole"
    output, errors = command(
        write_grid(folder), f"--workdir={workdir}", "--workers=2"
    )
    return workdir, output, errors


def test_a_sweep_leaves_records_and_prints_its_table(done):
    workdir, output, errors = done
    assert sorted(os.listdir(workdir)) == [
        *("records", "runs", "sweep.json", "sweep.lock", "table.csv")
    ]
    assert json.loads((workdir / "sweep.json").read_text()) == {
        "format_version": 1,
        "config": "grid",
        "preset": "smoke",
        "budget": "Made for a test.",
        "overrides": {},
        "num_runs": 4,
        "runs": [
            {
                "name": name,
                "labels": {"model": "vib", "beta": 0.01, "seed": seed},
            }
            for seed, name in enumerate(NAMES[:3])
        ]
        + [{"name": NAMES[3], "labels": {"model": "deterministic", "seed": 0}}],
    }
    table = (workdir / "table.csv").read_text().splitlines()
    assert table[0] == (
        "name,model,beta,seed,status,collapsed,accuracy,accuracy_stochastic,"
        "fgs_mean@0.1"
    )
    assert [line.split(",")[0] for line in table[1:]] == NAMES
    assert [line.split()[0] for line in output.splitlines()[1:5]] == NAMES
    assert output.splitlines()[-1] == f"Table: {workdir}/table.csv"
    # What libraries say is in the logs.
    assert "First call" not in output + errors
    for name in NAMES:
        log = (workdir / "runs" / name / "log.txt").read_text()
        assert "First call done" in log


def test_a_second_run_does_and_writes_nothing(done):
    workdir, output, _ = done
    before = times(workdir)
    began = time.monotonic()
    again, errors = command(
        write_grid(workdir.parent), f"--workdir={workdir}", "--workers=2"
    )
    assert time.monotonic() - began < 60
    assert again == output
    assert not errors
    assert times(workdir) == before


def test_list_says_what_is_done_and_writes_nothing(done, tmp_path):
    workdir, _, _ = done
    before = times(workdir)
    grid = write_grid(tmp_path)
    output, _ = command(grid, f"--workdir={workdir}", "--list")
    assert output.count("done, collapsed: clean accuracy") == 4
    new = tmp_path / "new"
    output, _ = command(grid, f"--workdir={new}", "--list", "--only=vib")
    assert [line.split()[0] for line in output.splitlines()[:3]] == NAMES[:3]
    assert output.count("to do; training, fgs_mean") == 3
    assert not new.exists()
    assert times(workdir) == before


def test_a_config_that_has_changed_is_refused_by_its_field(done, tmp_path):
    workdir, _, _ = done
    before = times(workdir)
    grid = write_grid(tmp_path, rates=(0.01, 0.02, 0.01))
    _, errors = command(grid, f"--workdir={workdir}", status=2)
    assert "optim.learning_rate=0.02. Expected: optim.learning_rate" in errors
    assert times(workdir) == before


def test_a_config_without_a_grid_is_told_so(tmp_path):
    config = "--config=configs/mnist_ceb.py"
    _, errors = command(config, f"--workdir={tmp_path}/new", status=2)
    assert "does not define sweep()" in errors
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_one_worker_is_this_process_and_needs_no_dask(done, tmp_path):
    workdir, _, _ = done
    new = tmp_path / "new"
    code = (
        "import runpy, sys\n"
        "for name in ('dask', 'distributed'): sys.modules[name] = None\n"
        "runpy.run_module('launch.sweep', run_name='__main__', alter_sys=True)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, write_grid(tmp_path), f"--workdir={new}"],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert tables(workdir, new)


@pytest.mark.slow
def test_what_diverges_is_a_result_and_the_others_go_on(done, tmp_path):
    workdir, _, _ = done
    grid = write_grid(tmp_path, rates=(0.01, 1e30, 0.01))
    new = tmp_path / "new"
    output, errors = command(grid, f"--workdir={new}", "--only=vib_seed_[01]")
    assert "vib_seed_1 diverged: DivergedError: " in errors
    assert "vib_seed_2" not in output
    expected, table = (
        (place / "table.csv").read_text().splitlines()
        for place in (workdir, new)
    )
    assert table[1] == expected[1]
    assert table[2] == "vib_seed_1,vib,0.01,1,diverged,,,,"
    assert table[3] == "vib_seed_2,vib,0.01,2,to do,,,,"
    # It is not tried again.
    before = times(new)
    again, _ = command(grid, f"--workdir={new}", "--only=vib_seed_[01]")
    assert again == output
    assert times(new) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_saves_and_the_same_command_goes_on(
    done, tmp_path, number
):
    workdir, _, _ = done
    new = tmp_path / "new"
    arguments = (write_grid(tmp_path), f"--workdir={new}", "--workers=2")
    process = start(*arguments)
    wait_for((new / "runs" / NAMES[1] / "log.txt").exists)
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 75
    assert errors.endswith("runs done; run the same command again.\n")
    assert "Traceback" not in errors
    command(*arguments)
    assert tables(workdir, new)


def tables(*workdirs):
    """Whether the tables of sweeps are the same, to the byte."""
    first, *others = ((w / "table.csv").read_bytes() for w in workdirs)
    return all(other == first for other in others)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_table(done, tmp_path):
    workdir, _, _ = done
    new = tmp_path / "new"
    arguments = (write_grid(tmp_path), f"--workdir={new}", "--workers=2")
    chance = random.Random(0)
    for turn in range(5):
        process = start(*arguments)
        logs = [new / "runs" / name / "log.txt" for name in NAMES]
        before = [log.exists() and log.stat().st_size for log in logs]

        def is_at_work(logs=logs, before=before):
            now = [log.exists() and log.stat().st_size for log in logs]
            return now != before

        # Turn by turn while workers start, and while they do runs.
        if turn % 2:
            wait_for(lambda p=process, w=is_at_work: w() or p.poll() == 0)
        time.sleep(chance.uniform(0, 10))
        children = workers(process) if process.poll() is None else []
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        wait_for(lambda pids=children: not any(map(is_alive, pids)), 10)
    command(*arguments)
    assert tables(workdir, new)


@pytest.mark.slow
def test_workers_do_not_outlive_the_sweep(done, tmp_path):
    """Where it alone is killed, by its number, and not its group."""
    workdir, _, _ = done
    new = tmp_path / "new"
    arguments = (write_grid(tmp_path), f"--workdir={new}", "--workers=2")
    process = start(*arguments)
    wait_for((new / "runs" / NAMES[0] / "log.txt").exists)
    children = workers(process)
    assert len(children) == 2
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(is_alive, children)), 10)
    command(*arguments)
    assert tables(workdir, new)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(done, tmp_path):
    workdir, _, _ = done
    new = tmp_path / "new"
    process = start(write_grid(tmp_path), f"--workdir={new}", "--workers=2")
    log = new / "runs" / NAMES[0] / "log.txt"
    wait_for(log.exists)
    victim = workers(process)[0]
    os.kill(victim, signal.SIGKILL)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert tables(workdir, new)
