r"""Every fault point of a short training: what ours and others lose.

python -m benchmarks.faults [--systems=ours,BackupAndRestore] [--stride=4]

A training of 8 steps with 2 checkpoints runs in a real process whose k-th
change of the disk fails, for every k until there is none: the disk is full
from then on; the process is killed in the middle of the write; it is killed
before the change (before a rename, for example). Besides, each file of a run
that was killed late is cut to half, as a loss of power can. Then it is run
again, on a good disk, and must end as the undisturbed run did: with the same
weights, bit for bit, and the same log. Changes are counted where every program
makes them, in the C library, by `faulty_disk.c`, which needs a C compiler and
Linux. `--jobs` kinds of faults are tried at once.

The peers have the best case: data in a fixed order, a model without
noise, all seeds fixed. BackupAndRestore saves once an epoch, CSVLogger
appends; CheckpointManager is the loop of TensorFlow's guide, whose batches
are a function of the step as ours are, and a log that is appended to.
"""

import argparse
import collections
import concurrent.futures
import csv
import ctypes
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "faults.csv"
MODES = {"full": 1, "killed half-way": 2, "killed before": 3}
CUT = "file cut to half"
NUM_STEPS = 8
COUNTS = ("points", "finished", "same weights", "same log", "survived")


def run_ours(workdir):
    from ib_keras.training import loop
    from tests.support import runs

    # TensorBoard's event files are a by-product, with the time in their names.
    loop.train(runs.smoke_config(), workdir, quiet=True)
    weights = b"".join(a.tobytes() for a in runs.checkpoint(workdir).values())
    return weights, json.dumps(runs.metrics(workdir))


def peer_parts():
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    rng = np.random.default_rng(0)
    images = rng.random((64, 8, 8, 1), np.float32)
    return model, images, rng.integers(0, 10, 64)


def digest(model, log):
    weights = model.get_weights() + [
        v.numpy() for v in model.optimizer.variables
    ]
    return b"".join(w.tobytes() for w in weights), log


def run_backup(workdir):
    import keras

    model, images, labels = peer_parts()
    log = os.path.join(workdir, "log.csv")
    os.makedirs(workdir, exist_ok=True)
    model.fit(
        images,
        labels,
        batch_size=16,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[
            keras.callbacks.BackupAndRestore(
                os.path.join(workdir, "backup"), delete_checkpoint=False
            ),
            keras.callbacks.CSVLogger(log, append=True),
        ],
    )
    return digest(model, pathlib.Path(log).read_text())


def run_manager(workdir):
    import tensorflow as tf

    model, images, labels = peer_parts()
    model.optimizer.build(model.trainable_variables)
    step = tf.Variable(0)
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(step=step, model=model, optimizer=model.optimizer),
        os.path.join(workdir, "checkpoints"),
        max_to_keep=2,
    )
    manager.checkpoint.restore(manager.latest_checkpoint)
    os.makedirs(workdir, exist_ok=True)
    log = os.path.join(workdir, "log.jsonl")
    while int(step) < NUM_STEPS:
        begin = int(step) % 4 * 16
        rows = slice(begin, begin + 16)
        model.reset_metrics()  # The loss of this batch, not of all so far.
        loss = model.train_on_batch(images[rows], labels[rows])
        step.assign_add(1)
        if int(step) % 4 == 0:
            with open(log, "a") as file:
                file.write(json.dumps({"step": int(step), "loss": float(loss)}))
                file.write("\n")
            manager.save()
    return digest(model, pathlib.Path(log).read_text())


SYSTEMS = {
    "ours": run_ours,
    "BackupAndRestore": run_backup,
    "CheckpointManager": run_manager,
}


def serve(library, systems):
    """Runs jobs from stdin, each in a fork that has imported everything."""
    import keras  # noqa: F401
    import tensorflow as tf  # noqa: F401

    from ib_keras.training import loop  # noqa: F401
    from tests.support import runs  # noqa: F401

    disk = ctypes.CDLL(library)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            os.dup2(os.open(job["errors"], os.O_WRONLY | os.O_CREAT), 2)
            disk.arm(job["workdir"].encode(), job["mode"], job["at"])
            try:
                weights, log = systems[job["system"]](job["workdir"])
            finally:
                # The answer is outside of the folder, on a good disk.
                count = disk.num_changes()
                pathlib.Path(job["answer"] + ".count").write_text(str(count))
            answer = [hashlib.sha256(weights).hexdigest(), log]
            pathlib.Path(job["answer"]).write_text(json.dumps(answer))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


class Runner:
    """Runs systems in forks of one process, on a disk that can fail.

    Args:
        scratch: A folder for its files.
        module: Whose `--serve` calls `serve`.
    """

    def __init__(self, scratch, module="benchmarks.faults"):
        self.scratch = scratch
        library = os.path.join(scratch, "libfaulty_disk.so")
        source = str(ROOT / "benchmarks" / "faulty_disk.c")
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"],
            check=True,
        )
        self.server = subprocess.Popen(
            [sys.executable, "-m", module, "--serve", library],
            cwd=ROOT,
            env=os.environ
            | {"LD_PRELOAD": library, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, system, workdir, mode=0, at=0):
        """Exit status, answer (None if it had none) and number of changes."""
        answer = os.path.join(self.scratch, "answer")
        for name in (answer, f"{answer}.count"):
            pathlib.Path(name).unlink(missing_ok=True)
        job = {
            "system": system,
            "workdir": workdir,
            "mode": mode,
            "at": at,
            "answer": answer,
            "errors": os.path.join(self.scratch, "errors"),
        }
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        status = int(self.server.stdout.readline())
        read = {
            name: json.loads(pathlib.Path(name).read_text())
            for name in (answer, f"{answer}.count")
            if os.path.exists(name)
        }
        return status, read.get(answer), read.get(f"{answer}.count")

    def close(self):
        self.server.stdin.close()
        self.server.wait()


def judge(runner, system, mode, reference, stride):
    """Counts the outcomes of all fault points of one kind."""
    counts = collections.Counter()
    at = 1
    while True:
        workdir = tempfile.mkdtemp(dir=runner.scratch)
        _, _, changes = runner.run(system, workdir, MODES[mode], at)
        if changes is not None and changes < at:
            shutil.rmtree(workdir)
            return counts
        status, answer, _ = runner.run(system, workdir)
        shutil.rmtree(workdir)
        count(counts, status, answer, reference)
        if answer != reference:
            print(f"  {system}, {mode}, change {at}: not the same", flush=True)
        at += stride


def judge_cut_files(runner, system, reference, changes):
    """Truncates each file of a killed run to half, one at a time.

    As a loss of power can: the last writes are not on the disk yet.
    """
    counts = collections.Counter()
    killed = os.path.join(runner.scratch, f"killed_{system}")
    # Late enough for two checkpoints, early enough for some work to be left.
    for at in range(changes, 0, -1):
        shutil.rmtree(killed, ignore_errors=True)
        runner.run(system, killed, MODES["killed before"], at)
        if not os.path.exists(os.path.join(killed, "result.json")):
            break
    paths = sorted(p for p in pathlib.Path(killed).rglob("*") if p.is_file())
    for path in paths:
        name = path.relative_to(killed)
        # By-products and temporary files are never read.
        if "tensorboard" in name.parts or any(".tmp" in p for p in name.parts):
            continue
        workdir = tempfile.mkdtemp(dir=runner.scratch)
        shutil.copytree(killed, workdir, dirs_exist_ok=True)
        cut = pathlib.Path(workdir, name)
        os.truncate(cut, cut.stat().st_size // 2)
        status, answer, _ = runner.run(system, workdir)
        shutil.rmtree(workdir)
        count(counts, status, answer, reference)
        if answer != reference:
            print(f"  {system}, cut {name}: not the same", flush=True)
    return counts


def count(counts, status, answer, reference):
    counts["points"] += 1
    counts["finished"] += status == 0
    if answer is not None:
        counts["same weights"] += answer[0] == reference[0]
        counts["same log"] += answer[1] == reference[1]
        counts["survived"] += answer == reference


def examine(scratch, system, fault, stride):
    """A line of the table: a system and a kind of fault."""
    runner = Runner(tempfile.mkdtemp(dir=scratch))
    first = os.path.join(runner.scratch, "reference")
    status, reference, changes = runner.run(system, first)
    if status != 0:
        sys.exit(pathlib.Path(runner.scratch, "errors").read_text())
    if fault == CUT:
        counts = judge_cut_files(runner, system, reference, changes)
    else:
        counts = judge(runner, system, fault, reference, stride)
    runner.close()
    return [system, fault, changes, *(counts[name] for name in COUNTS)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", default=str(RESULTS))
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, SYSTEMS)
    with (
        tempfile.TemporaryDirectory() as scratch,
        open(options.output, "w", newline="", buffering=1) as file,
        concurrent.futures.ThreadPoolExecutor(options.jobs) as pool,
    ):
        writer = csv.writer(file)
        writer.writerow(["system", "fault", "changes", *COUNTS])
        tasks = [
            pool.submit(examine, scratch, system, fault, options.stride)
            for system in options.systems.split(",")
            for fault in [*MODES, CUT]
        ]
        for task in tasks:
            writer.writerow(task.result())
            print("  ", *task.result(), flush=True)


if __name__ == "__main__":
    main()
