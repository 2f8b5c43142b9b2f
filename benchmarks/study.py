"""What a study costs beside its attacks, and what it finds.

python -m benchmarks.study equal --models='runs/*/saved_model' [--images=200]
python -m benchmarks.study stubs [--parts=10000]
python -m benchmarks.study memory [--models=20] [--images=100]
python -m benchmarks.study table [--audits=10000] [--images=1000]

`equal`: three models by two protocols, each on two workers of one intra-op
thread against `launch.audit`; and the wall time of two workers against one.
`stubs`: parts that do nothing, of which 1% fail at the first try. `memory`:
resident memory of one process after each of many models. `table`: audits that
never were, as Parquet. Give the machine nothing else to do.
"""

import argparse
import glob
import json
import os
import pathlib
import random
import resource
import tempfile
import time
from typing import Any

import numpy as np

FLOATS = ("adversarial_images", "margin", "wrong_share", "loss")
FLOATS += ("gradient_norm",)


def _one_thread():
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = "1"


def _protocols(images: int) -> dict[str, Any]:
    same = {"num_examples": images, "threat_model": {"epsilon": 0.1}}
    return {
        "pgd": {"protocol": "pgd_restarts", "epsilon_curve": (), **same},
        "aa_mt": {"protocol": "aa_mt", **same},
    }


def _get_protocol(name):
    import importlib

    module = importlib.import_module(f"configs.audits.{name}")
    return json.loads(module.get_config().to_json())


def equal(options):
    """Numbers of a study against those of one process, and its overhead."""
    _one_thread()
    from ib_keras.studies import plan
    from ib_keras.studies import study

    folder = pathlib.Path(tempfile.mkdtemp(prefix="study_"))
    models = sorted(glob.glob(options.models))[:3]
    walls = {}
    sizes = [(None, 1), (None, 2)]
    sizes += [(-(-options.images // 4), 2), (options.images * 2 // 5, 2)]
    for size, workers in sizes:
        config = {
            "models": models,
            "protocols": _protocols(options.images),
            "examples_per_part": size,
        }
        workdir = str(folder / f"{size}_{workers}")
        made = plan.make(config, workdir, _get_protocol)
        result = study.run(made, workdir, num_workers=workers, quiet=True)
        walls[size, workers] = result.seconds
        idle = result.seconds * workers - result.busy_seconds
        print(
            f"examples_per_part={size}, {workers} workers: "
            f"{result.seconds:.1f} s, {result.num_tasks} tasks, "
            f"{len(result.failures)} failures; engine and waiting "
            f"{idle / (result.seconds * workers):.1%}",
            flush=True,
        )
    print(f"two workers / one: {walls[None, 2] / walls[None, 1]:.2f}")
    _compare(folder, made, sizes)


def _compare(folder, made, sizes):
    """The folders of all studies against those of one process."""
    from ib_keras.audit import runner
    from ib_keras.audit import verify

    for job in made.jobs:
        whole = folder / "whole" / job.name
        audit = job.audit
        runner.audit(audit["config"], audit["saved_model"], str(whole))
        for size, workers in sizes:
            place = folder / f"{size}_{workers}" / "audits" / job.name
            worst, others = 0.0, []
            given = _arrays(place)
            for name, expected in _arrays(whole).items():
                if name in FLOATS:
                    worst = max(worst, _difference(given[name], expected))
                elif not np.array_equal(given[name], expected):
                    others.append(name)
            others += _summary_differences(place, whole)
            bad = [c.name for c in verify.verify(str(place)).checks if not c.ok]
            print(
                f"{job.name}, examples_per_part={size}, {workers} workers: "
                f"largest difference {worst:.1e}; differ otherwise: {others}; "
                f"checks of launch.verify that fail: {bad}",
                flush=True,
            )


def _difference(given, expected):
    """The largest; infinities have to be the same."""
    same = (given == expected) | (np.isnan(given) & np.isnan(expected))
    apart = np.zeros(same.shape)
    np.subtract(given, expected, where=~same, out=apart)
    return float(np.abs(apart).max(initial=0.0))


def _summary_differences(place, whole):
    """Fields of the summaries that differ, but for seconds and commands."""
    given, expected = (
        _flat(json.loads((folder / "summary.json").read_text()))
        for folder in (place, whole)
    )
    return [
        f"{name} ({given.get(name)}, {expected.get(name)})"
        for name in sorted(given.keys() | expected.keys())
        if given.get(name) != expected.get(name)
    ]


def _flat(value, name="summary.json"):
    """Path -> value of all that is no list and no dictionary."""
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    else:
        return {name: value}
    found = {}
    for key, inner in pairs:
        if key not in ("command", "seal", "seconds"):
            found |= _flat(inner, f"{name}:{key}")
    return found


def _arrays(folder):
    with np.load(folder / "examples.npz") as arrays:
        return dict(arrays)


def stub(folder, index, should_stop):
    """A part that does nothing, and fails now and then at its first try."""
    del should_stop
    path = pathlib.Path(folder, str(index))
    chance = random.Random(index).random()
    if chance < 0.01 and not path.exists():
        path.touch()
        raise MemoryError("planted")
    return index


def stubs(options):
    """Seconds of many parts that do nothing."""
    from ib_keras.cluster import engine
    from ib_keras.cluster import schedulers
    from ib_keras.cluster import tasks

    with (
        tempfile.TemporaryDirectory() as folder,
        schedulers.connect("local", 2, 2) as client,
    ):
        listed = [
            tasks.Task(
                f"part:{i}",
                "benchmarks.study:stub",
                {"folder": folder, "index": i},
                group=str(i // 10),
            )
            for i in range(options.parts)
        ]
        made = engine.Engine(client, 2)
        made.check(60)
        began = time.monotonic()
        found = [o.value for o in made.run(listed, lambda: False)]
        seconds = time.monotonic() - began
        failed = len(os.listdir(folder))
    is_right = sorted(found) == list(range(options.parts))
    print(
        f"{options.parts} parts, {failed} of them failed at first: "
        f"{seconds:.1f} s; every part booked once: {is_right}"
    )


def memory(options):
    """Resident memory of one process after each model."""
    import keras

    from benchmarks import models
    from ib_keras import export
    from ib_keras.audit import jobs
    from ib_keras.audit import shards

    with tempfile.TemporaryDirectory() as folder:
        found = []
        for index in range(options.models):
            path = f"{folder}/model_{index}"
            made = models.build("cifar10", "vib", changes={"seed": index})
            export.save(made, path, image_shape=(32, 32, 3))
            keras.backend.clear_session()
            config = _get_protocol("pgd_restarts")
            config["dataset"] |= {
                "name": "random_images",
                "image_shape": [32, 32, 3],
                "num_classes": 10,
                "num_test": max(options.images, 500),
            }
            config["num_examples"] = options.images
            config["batch_size"] = min(options.images, 100)
            config["stages"]["pgd"]["num_restarts"] = 1
            config["stages"]["pgd"]["attack"]["num_steps"] = 2
            config["epsilon_curve"] = []
            job = jobs.make(config, path, f"{folder}/audit_{index}")
            jobs.claim(job)
            shards.attack(job, 0, options.images)
            now = int(_status("VmRSS")) / 1024
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            found.append(now)
            print(f"model {index}: {now:.0f} MB, peak {peak:.0f}", flush=True)
    if len(found) > 5:
        print(f"from model 5 to the last: {found[-1] / found[4] - 1:+.1%}")


def _status(name):
    text = pathlib.Path("/proc/self/status").read_text()
    return next(
        line.split()[1] for line in text.splitlines() if line.startswith(name)
    )


def table(options):
    """Seconds and memory of writing a table, and of reading one column."""
    from pyarrow import dataset

    from ib_keras.studies import folder as folders
    from ib_keras.studies import table as tables
    from tests.studies import table_test

    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        names = [f"model_{i}" for i in range(options.audits)]
        study = {"examples_per_part": None, "protocols": {"pgd": {}}}
        study["models"] = {name: {} for name in names}
        (root / folders.STUDY).write_text(json.dumps(study))
        table_test.COUNT = options.images
        for index, name in enumerate(names):
            place = root / "audits" / name / "pgd"
            sha256 = f"{index:064x}"
            table_test.write_audit(place, index, 0.1, sha256)
            (place / "config.json").write_text('{"audit": {}}')
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        began = time.monotonic()
        written = tables.write(folder)
        seconds = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{written.num_examples} rows: {seconds:.1f} s, peak memory "
            f"{before:.0f} MB before, {after:.0f} MB after"
        )
        began = time.monotonic()
        columns = ["model_sha256", "is_robust"]
        rows = dataset.dataset(root / "examples").to_table(columns)
        robust = rows.to_pandas().groupby("model_sha256").is_robust.mean()
        print(
            f"robust accuracy of {len(robust)} models read back in "
            f"{time.monotonic() - began:.2f} s"
        )


def main():
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(required=True)
    for kind, sizes in (
        (equal, {"images": 200}),
        (stubs, {"parts": 10_000}),
        (memory, {"models": 20, "images": 100}),
        (table, {"audits": 10_000, "images": 1000}),
    ):
        one = kinds.add_parser(kind.__name__)
        one.set_defaults(run=kind)
        for name, value in sizes.items():
            one.add_argument(f"--{name}", type=int, default=value)
        if kind is equal:
            one.add_argument("--models", required=True)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
