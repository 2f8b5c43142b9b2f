"""The jobs that would be given to Slurm, without a Slurm."""

import pathlib

import pytest

from ib_keras.cluster import schedulers
from tests.support import runs

pytest.importorskip("dask_jobqueue")


def script(path=schedulers.SLURM_FILE):
    with schedulers.slurm_cluster(path, shebang="#!/bin/sh") as cluster:
        return cluster.job_script()


def write(folder, **changes):
    text = pathlib.Path(schedulers.SLURM_FILE).read_text()
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    path = folder / "slurm.yaml"
    path.write_text(text)
    return str(path)


def test_the_job_of_the_shipped_file():
    lines = script().splitlines()
    for line in (
        "#SBATCH -J ib_keras",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --mem=15G",
        "#SBATCH -t 04:00:00",
        "export TF_NUM_INTRAOP_THREADS=$SLURM_CPUS_PER_TASK",
    ):
        assert line in lines, lines
    command = lines[-1]
    assert " -m distributed.cli.dask_worker tcp://" in command
    assert "--nthreads 1 " in command
    assert "--nworkers" not in command
    assert "--lifetime 3h45m --lifetime-stagger 10m" in command


def test_processes_of_several_threads_are_refused(tmp_path):
    """Which is the default of dask_jobqueue: threads are cores/processes."""
    path = write(tmp_path, **{"cores: 1": "cores: 4"})
    error = runs.refused(schedulers.slurm_cluster, path)
    assert error.received == f"cores=4, processes=1 in {path}"


@pytest.mark.parametrize(
    "text", ["", "a: [", "jobqueue: 1", "jobqueue:\n  slurm:\n    speed: 1"]
)
def test_files_that_are_none_are_refused(tmp_path, text):
    path = tmp_path / "slurm.yaml"
    path.write_text(text)
    error = runs.refused(schedulers.slurm_cluster, str(path))
    assert str(path) in error.received
    gone = str(tmp_path / "none.yaml")
    assert gone in runs.refused(schedulers.slurm_cluster, gone).received
