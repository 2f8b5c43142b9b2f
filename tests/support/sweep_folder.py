"""Folders of sweeps as launch.sweep leaves them, with invented numbers.

`make` writes sweep.json, records/ and table.csv in the format that figures
read; what a test needs wrong it changes in the files.
"""

import hashlib
import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from configs import ib_adversarial
from ib_keras import files
from ib_keras.audit import statistics

MNIST_BETAS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_DESCRIPTIONS = {
    "mnist": "MNIST",
    "cifar10": "CIFAR-10 (JPEG re-encoded)",
    "toy_overlap": "toy problem of two features",
    "toy_tsipras": "toy problem of Tsipras et al.",
}
_BUDGETS = {
    "mnist_vib": "10 of 200 epochs, 3 of 10 seeds, 1,000 of 10,000 test images",
    "cifar10_ceb": "5 of 1,000 epochs in batches of 128, 1 of 10 seeds",
    "cifar10_vib": "5 of 1,000 epochs in batches of 128, 1 of 10 seeds",
    "ib_adversarial": "5 of 20 epochs, 3 of 5 seeds",
    "toy_overlap_vib": "The paper's steps, batches and examples, and 10 seeds",
    "toy_tsipras_vib": "The paper's steps, batches and examples, and 10 seeds",
}
CLASSES = ("airplane", "truck", "frog", "deer")


def plan(config: str, seeds=3, values=None) -> list[dict[str, Any]]:
    """Names and labels of the runs of a sweep."""
    if config == "ib_adversarial":
        return _study(seeds)
    model = "ceb" if config.endswith("ceb") else "vib"
    swept = "rho" if model == "ceb" else "beta"
    twin = "linear" if config.startswith("toy") else "deterministic"
    if values is None:
        values = {
            "rho": (1.0, 2.0, 3.0, 4.0, 5.0),
            "beta": MNIST_BETAS,
        }[swept]
    runs = [
        {
            "name": f"{model}_{swept}_{value:g}_seed_{seed}",
            "labels": {"model": model, swept: value, "seed": seed},
        }
        for value in values
        for seed in range(seeds)
    ]
    runs += [
        {
            "name": f"{twin}_seed_{seed}",
            "labels": {"model": twin, "seed": seed},
        }
        for seed in range(seeds)
    ]
    return runs


def _study(seeds) -> list[dict[str, Any]]:
    """Those of `configs/ib_adversarial.py`."""
    runs: list[dict[str, Any]] = []
    ib_adversarial.sweep(
        lambda name, fields, labels, **_: runs.append(
            {"name": name, "labels": labels}
        ),
        "cpu",
    )
    return [run for run in runs if run["labels"]["seed"] < seeds]


def make(
    folder,
    config: str = "mnist_vib",
    *,
    seeds: int = 3,
    values=None,
    num_examples: int = 1000,
    preset: str = "cpu",
    level: float = 1.0,
) -> pathlib.Path:
    """Writes the folder of a finished sweep.

    Args:
        folder: Where to.
        config: A module of `configs/` with a sweep.
        seeds: How many.
        values: Of beta or rho.
        num_examples: Of each audit.
        preset: Of the config.
        level: Factor of all robust accuracies.

    Returns:
        The folder.
    """
    folder = pathlib.Path(folder)
    runs = plan(config, seeds, values)
    write(
        folder / "sweep.json",
        {
            "format_version": 1,
            "config": config,
            "preset": preset,
            "budget": _BUDGETS[config],
            "overrides": {},
            "num_runs": len(runs),
            "runs": runs,
        },
    )
    for position, run in enumerate(runs):
        rng = np.random.default_rng(position)
        record = make_record(
            config, run["name"], run["labels"], rng, num_examples, level
        )
        record["preset"] = preset
        write(folder / "records" / f"{run['name']}.json", record)
    (folder / "table.csv").write_text("name\n")
    return folder


def write(path: pathlib.Path, content) -> None:
    """Writes a JSON file of the folder."""
    os.makedirs(path.parent, exist_ok=True)
    files.write_json(path, content)


def change(folder, name: str, **fields) -> None:
    """Replaces fields of the record of a run."""
    path = pathlib.Path(folder) / "records" / f"{name}.json"
    write(path, json.loads(path.read_text()) | fields)


def make_record(config, name, labels, rng, num_examples, level=1.0):
    """The record of a run that is done."""
    data = config.rpartition("_")[0].replace("ib", "mnist")
    is_twin = labels["model"] in ("deterministic", "linear")
    strength = 0.0 if is_twin else _strength(labels)
    sections = {"name": data}
    result = {"step": 6000, "accuracy": 0.982 + 0.004 * rng.random()}
    if data.startswith("toy"):
        sections["num_examples"] = 10_000
        result = _toy_result(strength, is_twin, rng)
    elif not is_twin:
        result["accuracy_stochastic"] = result["accuracy"] - 0.002
    if "objective" in labels:
        audits = _of_study(is_twin, rng, num_examples)
    else:
        audits = _audits(data, is_twin, strength, rng, num_examples, level)
    bottleneck = {"name": labels["model"], "latent_dim": 256}
    bottleneck |= {k: v for k, v in labels.items() if k in ("beta", "rho")}
    return {
        "format_version": 1,
        "name": name,
        "labels": labels,
        "preset": "cpu",
        "status": "done",
        "error": None,
        "collapsed": None,
        "config": {
            "seed": labels["seed"],
            "num_epochs": 10,
            "data": sections,
            "bottleneck": bottleneck,
        },
        "config_version": "0" * 12,
        "dataset": {
            "name": data,
            "split": "test",
            "description": _DESCRIPTIONS[data],
        },
        "result": result,
        "model": {
            "sha256": hashlib.sha256(name.encode()).hexdigest(),
            "num_classes": 2 if data.startswith("toy") else 10,
            "is_stochastic": not is_twin,
        },
        "audits": audits,
        "landscapes": (
            [landscape(i, rng) for i in range(3)]
            if data == "cifar10" and not is_twin
            else None
        ),
        "seconds": {"train": 60.0, "audits": 30.0},
        "versions": {"tensorflow": "2.20.0"},
        "git_commit": None,
    }


def landscape(index: int, rng, grid: int = 41) -> dict[str, Any]:
    """A surface with a cliff inside of the ball."""
    axis = np.linspace(-1.5, 1.5, grid)
    u, v = np.meshgrid(axis, axis)
    place = rng.uniform(0.2, 0.7)
    loss = 9 / (1 + np.exp(-14 * (u + 0.3 * np.sin(4 * v) - place)))
    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    corners = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    ball = [
        ((1 - share) * corners[i] + share * corners[(i + 1) % 4]).tolist()
        for i in range(4)
        for share in np.linspace(0, 1, 20)
    ]
    return {
        "index": 3 * index,
        "label": index,
        "class_name": CLASSES[index],
        "prediction": index,
        "adversarial_prediction": (index + 1) % 10,
        "is_robust": False,
        "epsilon": 8 / 255,
        "axis_unit": "epsilon",
        "us": axis.round(4).tolist(),
        "vs": axis.round(4).tolist(),
        "cross_entropy": loss.round(4).tolist(),
        "ball": [ball],
        "attack_at": 1.0,
        "attack_cross_entropy": 8.9,
        "wrong_share": 0.2,
        "attack": {
            "num_restarts": 10,
            "attack": {"name": "pgd", "num_steps": 20, "step_size": 0.007},
        },
        "image_shape": [32, 32, 3],
        "image": [row.tobytes().hex() for row in pixels],
    }


def audit(protocol, values, num_examples, mode="mean", restarts=None):
    """An audit's part of a record.

    Args:
        protocol: Its name.
        values: Epsilon -> robust accuracy; the first is the audit's own.
        num_examples: That it is of.
        mode: "mean" or "stochastic".
        restarts: Epsilon -> curve.
    """
    rows = []
    for epsilon, value in values.items():
        right = round(value * num_examples)
        row = {
            "epsilon": epsilon,
            "robust_accuracy": right / num_examples,
            "robust_accuracy_ci95": list(
                statistics.wilson_interval(right, num_examples)
            ),
        }
        if restarts:
            row["restart_curve"] = restarts[epsilon]
        rows.append(row)
    curve = (restarts or {}).get(rows[0]["epsilon"])
    curve = curve or [rows[0]["robust_accuracy"]]
    return {
        "protocol": protocol,
        "protocol_version": 1,
        "mode": mode,
        "num_samples": 12 if mode == "stochastic" else None,
        "num_examples": num_examples,
        "seed": 0,
        "threat_model": {"norm": "linf", "epsilon": rows[0]["epsilon"]},
        "largest_class_share": 0.126,
        "clean_accuracy": 0.98,
        "robust_accuracy": rows[0]["robust_accuracy"],
        "robust_accuracy_ci95": rows[0]["robust_accuracy_ci95"],
        "gradient_evaluations": num_examples,
        "seconds": 1.0,
        "stages": [
            {
                "name": "pgd",
                "num_restarts": len(curve),
                "robust_accuracy": rows[0]["robust_accuracy"],
                "num_attacked": num_examples,
                "num_broken": 0,
                "gradient_evaluations": num_examples,
                "restart_curve": curve,
            }
        ],
        "epsilon_curve": (
            sorted(rows, key=lambda r: r["epsilon"]) if len(rows) > 1 else []
        ),
        "verdict": None,
    }


def _strength(labels) -> float:
    """0 to 1, highest at beta = 0.01 or rho = 2."""
    if "rho" in labels:
        return math.exp(-((labels["rho"] - 2) ** 2) / 4)
    return math.exp(-((math.log10(labels["beta"]) + 2) ** 2) / 4)


def _audits(data, is_twin, strength, rng, num_examples, level):
    if data.startswith("toy"):
        return {}

    def noisy(value):
        return level * min(max(value + 0.03 * rng.normal(), 0.0), 1.0)

    if data == "mnist":
        factors = {0.2: 0.75, 0.35: 0.45, 0.5: 0.3}
        values = {e: noisy(f * strength + 0.08) for e, f in factors.items()}
        found = {"fgs_mean": audit("fgs_epsilons", values, num_examples)}
        if not is_twin:
            found["fgs_stochastic"] = audit(
                "fgs_epsilons",
                {e: v * 0.8 for e, v in values.items()},
                num_examples,
                "stochastic",
            )
        curves = {
            epsilon: _curve(
                level * ((0.3 if is_twin else 1) * first + 0.1 * rng.random()),
                power,
            )
            for epsilon, first, power in ((0.2, 0.3, 0.9), (0.1, 0.6, 0.2))
        }
        ends = {epsilon: curve[-1] for epsilon, curve in curves.items()}
        found["restarts"] = audit(
            "pgd_restarts", ends, num_examples, restarts=curves
        )
        return found
    own = 8 / 255
    base = 0.05 if is_twin else 0.5 * strength
    curves = {own: _curve(level * max(noisy(base), 0.02), 0.6)}
    return {
        "madry": audit("pgd_madry", {own: noisy(base)}, num_examples),
        "madry_restarts": audit(
            "pgd_madry",
            {own: curves[own][-1]},
            num_examples,
            restarts=curves,
        ),
        "aa_mt": audit(
            "aa_mt", {own: 0.0 if is_twin else noisy(base / 4)}, num_examples
        ),
    }


def _of_study(is_twin, rng, num_examples):
    """An audit at each radius in each mode, example by example."""
    found = {}
    for mode in ("mean", "stochastic")[: 1 if is_twin else 2]:
        for epsilon in ib_adversarial.RADII:
            robust = rng.random(num_examples) > epsilon
            values = {epsilon: robust.mean()}
            one = audit("fast_ensemble", values, num_examples, mode)
            one["is_robust"] = "".join("01"[int(r)] for r in robust)
            found[f"fast_ensemble_{mode}_{epsilon:g}"] = one
    return found


def _curve(first, power, length=100):
    return [round(first * n**-power, 4) for n in range(1, length + 1)]


def _toy_result(strength, is_twin, rng):
    def noisy(value):
        return float(np.clip(value + 0.01 * rng.normal(), 0, 1))

    result = {
        "step": 1000,
        "accuracy": noisy(0.995),
        "adversarial/accuracy": noisy(0.55 + 0.4 * strength),
    }
    if not is_twin:
        result |= {
            "accuracy_stochastic": noisy(0.97),
            "adversarial/accuracy_stochastic": noisy(0.6 + 0.4 * strength),
        }
    return result
