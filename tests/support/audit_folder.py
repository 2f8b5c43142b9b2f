"""A synthetic audit folder, as the runner would write one.

`write` makes what every audit has; `write_findings` and `write_safety` add
what audits with diagnostics and with a scan of the model have.

The numbers are consistent: the curves, the stages and the headline are counted
from the same examples that `examples.npz` holds.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from ib_keras import files
from ib_keras.audit import statistics
from ib_keras.audit.diagnostics import base

VERSIONS = {"ib_keras": "0.1.0", "tensorflow": "2.20.0"}


@dataclasses.dataclass(frozen=True)
class Content:
    """What was written, and the clean images, which the folder lacks."""

    summary: dict[str, Any]
    examples: dict[str, np.ndarray]
    clean_images: np.ndarray


def write(
    folder: str,
    *,
    seed: int = 0,
    num_examples: int = 40,
    image_shape: tuple[int, int, int] = (8, 8, 1),
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    num_classes: int = 10,
    norm: str = "linf",
    epsilon: float = 0.2,
    stages: dict[str, int] | None = None,
    hardness: float = 5.0,
    mode: str = "mean",
    model: str = "mnist_vib",
    class_names: list[str] | None = None,
    radii: tuple[float, ...] = (0.05, 0.1, 0.3),
    protocol: str = "pgd_restarts",
    bottleneck: str = "vib",
    training: dict[str, Any] | None = None,
) -> Content:
    """Writes `summary.json` and `examples.npz` of an audit that never was.

    Args:
        folder: Where to; local or remote.
        seed: Of all that is random.
        num_examples: How many examples; `images` and `labels` fix it.
        image_shape: Of the invented images, `[height, width, channels]`.
        images: Clean images in [0, 1], or None to invent them.
        labels: Their classes.
        num_classes: Classes are 0 to `num_classes - 1`.
        norm: Of the threat model.
        epsilon: Of the threat model.
        stages: Name -> number of restarts.
        hardness: Restarts that a typical example withstands.
        mode: "mean" or "stochastic".
        model: Name of the model's folder.
        class_names: In the model's metadata; digits where None.
        radii: Where the epsilon curve has points.
        protocol: Its name.
        bottleneck: Of the model's training config.
        training: More of that config.

    Returns:
        What was written.
    """
    rng = np.random.default_rng(seed)
    if images is None:
        images = _blobs(rng, num_examples, image_shape)
    num_examples = len(images)
    if labels is None:
        labels = rng.integers(0, num_classes, num_examples)
    stages = stages or {"pgd_ce": 10, "pgd_margin": 10}
    examples = _examples(
        rng, images, labels, num_classes, norm, epsilon, stages, hardness
    )
    summary = {
        "protocol": protocol,
        "protocol_version": 1,
        "threat_model": {"norm": norm, "epsilon": epsilon},
        "mode": mode,
        "num_samples": 12,
        "num_judge_samples": 1,
        **_numbers(examples, stages, radii, epsilon),
        "seed": seed,
        "model": {
            "path": f"runs/{model}/saved_model",
            "sha256": hashlib.sha256(
                f"{seed} {model}".encode(errors="replace")
            ).hexdigest(),
            "metadata": {
                "class_names": class_names
                or [str(label) for label in range(num_classes)],
                "config": {
                    "bottleneck": {"name": bottleneck, "beta": 0.01},
                    **(training or {}),
                },
                "clean_accuracy": 0.9812,
                "step": 120000,
            },
        },
        "dataset": {"name": "mnist", "split": "test", "description": "MNIST"},
        "versions": VERSIONS,
        "command": "python -m launch.audit "
        "--config=configs/audits/pgd_restarts.py "
        f"--saved_model=runs/{model}/saved_model --workdir=audits/{model}",
    }
    files.make_folder(folder)
    files.write_npz(files.join(folder, "examples.npz"), examples)
    files.write_json(files.join(folder, "summary.json"), summary)
    return Content(summary, examples, images)


def write_certificates(folder: str, count: int = 5) -> dict[str, Any]:
    """Adds certificates of the first robust examples, and of all radii.

    Args:
        folder: Of an audit that `write` wrote.
        count: How many examples are certified at the audit's own radius.

    Returns:
        The summary.
    """
    path = files.join(folder, "examples.npz")
    arrays = files.read_npz(path)
    certified = np.zeros(len(arrays["label"]), bool)
    certified[np.flatnonzero(arrays["is_robust"])[:count]] = True
    arrays["is_certified"] = certified
    arrays["certified_by"] = np.where(certified, 1, -1).astype(np.int32)
    files.write_npz(path, arrays)
    path = files.join(folder, "summary.json")
    summary = files.read_json(path)
    summary["certified_accuracy"] = float(certified.mean())
    summary["certification"] = {
        "method": "crown",
        "statement": "exact",
        "reason": None,
        "num_certified": count,
        "num_by_method": {"crown": count},
        "num_draws": None,
        "confidence": None,
        "num_withdrawn": 0,
        "attack_certified": False,
        "seconds": 12.5,
    }
    for point in summary["epsilon_curve"]:
        is_own = point["epsilon"] == summary["threat_model"]["epsilon"]
        point["certified_accuracy"] = float(certified.mean()) if is_own else 0.0
    files.write_json(path, summary)
    return summary


def write_findings(folder: str, label: str = "upper_bound") -> dict[str, Any]:
    """Adds `findings.json`: findings of every status, with all their data.

    Args:
        folder: Of an audit that `write` wrote.
        label: Of the verdict.

    Returns:
        What was written.
    """
    statuses = {"believable": ("pass", "pass"), "upper_bound": ("fail", "warn")}
    restarts, chance = statuses.get(label, ("fail", "fail"))
    findings = [
        _finding(
            "D1",
            "Do iterative attacks beat one step?",
            "pass",
            value=0,
            threshold=0,
            evidence="No example is broken by one step alone.",
            source="Athalye et al. 2018, section 3",
        ),
        _finding(
            "D3",
            "Is accuracy at epsilon 0.5 that of chance?",
            chance,
            value=0.135,
            threshold=0.1,
            evidence="At epsilon 0.5, where grey is in reach of every image, "
            "13.5% are still classified rightly.",
            advice="Raise the restarts at epsilon 0.5 until it falls.",
            source="Carlini et al. 2019, section 4.8, arXiv:1902.06705",
        ),
        _finding(
            "D6",
            "Do restarts converge?",
            restarts,
            value=-0.042,
            threshold=0.005,
            evidence="From 10 to 20 restarts robust accuracy fell by 4.2 "
            "points, more than 2 standard errors.",
            advice="Run 100 restarts or more.",
            source="Carlini et al. 2019, section 4.9, arXiv:1902.06705",
            examples=[2, 7, 11],
            data={"restarts": [1, 2, 4], "robust_accuracy": [0.8, 0.7, 0.5]},
        ),
        _finding(
            "D23",
            "Is robustness a property of the image, not of the draw?",
            "pass",
            value=0.015,
            threshold=0.05,
            evidence="One draw is right on 61.5% on average, all 20 on 60.0%.",
            source="Korshunova et al. 2021, section 3.1; AutoAttack, "
            "evaluation of randomised defences",
            data={"num_draws": 20, "mean": 0.615, "every_draw": 0.6},
        ),
        _finding(
            "D24",
            "Does no other mode attack better?",
            "pass",
            evidence="Each mode is broken best from within.",
            source="Tramer et al. 2020",
            data={
                "rows": ["mean", "stochastic", "fixed_noise"],
                "columns": ["mean", "stochastic"],
                "robust_accuracy": [[0.5, 0.675], [0.55, 0.6], [0.6, 0.65]],
                "num_examples": 40,
            },
        ),
        _finding(
            "D20",
            "Are there classes enough for DLR?",
            "not applicable",
            evidence="DLR is not used.",
            source="AutoAttack",
        ),
    ]
    decided_by = [
        {"id": finding["id"], "why": finding["evidence"]}
        for finding in findings
        if finding["status"] in ("fail", "warn")
    ]
    content = {
        "format_version": 1,
        "set": "quick",
        "num_examples": 40,
        "seed": 0,
        "verdict": {
            "label": label,
            "sentence": "More restarts still break examples, so the attacks "
            "were not done.",
            "decided_by": decided_by,
            "next": ["Run aa_mt with 100 restarts.", "Attack the mean mode."],
        },
        "findings": findings,
        "gradient_evaluations": 128000,
        "seconds": 93.5,
    }
    files.write_json(files.join(folder, "findings.json"), content)
    return content


def _finding(id: str, question: str, status: str, **rest) -> dict[str, Any]:
    """One finding as `findings.json` holds it."""
    finding = base.Finding(id, question, status, **rest)
    return finding.to_json() | {
        "name": id.lower(),
        "gradient_evaluations": 100,
        "seconds": 1.5,
    }


def write_safety(folder: str, *, has_exceptions: bool = False) -> dict:
    """Adds `safety.json`.

    Args:
        folder: Of an audit that `write` wrote.
        has_exceptions: Whether an operation was allowed by name.

    Returns:
        What was written.
    """
    allowed = ["ReadFile"] if has_exceptions else []
    content = {
        "status": "accepted with exceptions" if has_exceptions else "accepted",
        "rules_version": 1,
        "allow_ops": allowed,
        "exceptions": [
            f"{name} in function serving_default, node Read" for name in allowed
        ],
        "notes": ["The saver's functions were taken out before loading."],
        "ops": {
            "allowed": ["Conv2D", "MatMul", "Relu", "StatefulPartitionedCall"]
        },
        "files": {
            "saved_model.pb": "ab" * 32,
            "variables/variables.index": "cd" * 32,
        },
    }
    files.write_json(files.join(folder, "safety.json"), content)
    return content


def _blobs(rng, num_examples: int, shape: tuple[int, int, int]) -> np.ndarray:
    """One soft bright spot an image."""
    height, width, channels = shape
    rows, columns = np.mgrid[:height, :width]
    spot_rows = rng.uniform(0, height, (num_examples, 1, 1))
    spot_columns = rng.uniform(0, width, (num_examples, 1, 1))
    distance = (rows - spot_rows) ** 2 + (columns - spot_columns) ** 2
    images = np.exp(-distance / (height * width / 16))[..., None]
    tint = rng.uniform(0.4, 1, (num_examples, 1, 1, channels))
    return (images * tint).astype(np.float32)


def _examples(
    rng, images, labels, num_classes, norm, epsilon, stages, hardness
) -> dict[str, np.ndarray]:
    """Who broke when: the restart, over all stages, that breaks each."""
    num_examples = len(images)
    is_clean = rng.random(num_examples) < 0.95
    is_clean[0] = True
    broken_at = np.ceil(rng.lognormal(np.log(hardness), 1.3, num_examples))
    ends = np.cumsum(list(stages.values()))
    stage = np.searchsorted(ends, broken_at)
    is_broken = is_clean & (stage < len(ends))
    starts = np.concatenate([[0], ends])[np.minimum(stage, len(ends) - 1)]
    other = (labels + rng.integers(1, num_classes, num_examples)) % num_classes
    noise = epsilon * np.sign(rng.normal(size=images.shape))
    if norm == "l2":
        noise /= np.sqrt(np.prod(images.shape[1:]))
    noise[~is_clean] = 0
    none = np.full(num_examples, -1)
    return {
        "index": np.arange(num_examples),
        "label": labels.astype(np.int32),
        "clean_prediction": np.where(is_clean, labels, other).astype(np.int32),
        "is_robust": is_clean & ~is_broken,
        "adversarial_prediction": np.where(
            is_clean & ~is_broken, labels, other
        ).astype(np.int32),
        "margin": np.where(is_clean & ~is_broken, -1, 1)
        * rng.gamma(2.0, 0.8, num_examples).astype(np.float32),
        "wrong_share": is_broken.astype(np.float32),
        "broken_by_stage": np.where(is_broken, stage, none),
        "broken_by_restart": np.where(
            is_broken, broken_at - starts - 1, none
        ).astype(np.int64),
        "broken_by_target": none,
        "broken_at_step": np.where(
            is_broken, rng.integers(1, 40, num_examples), none
        ),
        "gradient_evaluations": (40 * np.minimum(broken_at, ends[-1])).astype(
            np.int64
        ),
        "adversarial_images": np.clip(images + noise, 0, 1).astype(np.float32),
    }


def _numbers(examples, stages, radii, epsilon) -> dict[str, Any]:
    """Everything in the summary that is counted from the examples."""
    num_examples = len(examples["index"])
    clean = examples["clean_prediction"] == examples["label"]
    num_robust = int(examples["is_robust"].sum())
    still_robust = clean.copy()
    records = []
    for position, (name, num_restarts) in enumerate(stages.items()):
        num_attacked = int(still_robust.sum())
        broken = examples["broken_by_stage"] == position
        restart = examples["broken_by_restart"]
        curve = [
            float((still_robust & ~(broken & (restart <= last))).mean())
            for last in range(num_restarts)
        ]
        still_robust &= ~broken
        evaluations = 40 * int(
            np.where(broken, restart + 1, num_restarts)[
                still_robust | broken
            ].sum()
        )
        records.append(
            {
                "name": name,
                "attack": {
                    "name": "pgd",
                    "loss": name.rpartition("_")[2],
                    "num_steps": 40,
                    "step_size": 0.01,
                },
                "num_restarts": num_restarts,
                "robust_accuracy": float(still_robust.mean()),
                "num_attacked": num_attacked,
                "num_broken": int(broken.sum()),
                "gradient_evaluations": evaluations,
                "seconds": evaluations / 9000,
                "restart_curve": curve,
                "num_nonfinite": 0,
            }
        )
    clean_accuracy = float(clean.mean())
    robust_accuracy = num_robust / num_examples
    total = sum(record["gradient_evaluations"] for record in records)
    return {
        "num_examples": num_examples,
        "clean_accuracy": clean_accuracy,
        "robust_accuracy": robust_accuracy,
        "robust_accuracy_ci95": list(
            statistics.wilson_interval(num_robust, num_examples)
        ),
        "stages": records,
        "gradient_evaluations": total,
        "num_nonfinite_examples": 0,
        "num_zero_gradient_examples": 0,
        "seconds": total / 9000,
        "epsilon_curve": [
            _point(
                radius, epsilon, clean_accuracy, robust_accuracy, num_examples
            )
            for radius in radii
        ],
    }


def _point(radius, epsilon, clean, robust, num_examples) -> dict[str, Any]:
    """A falling curve through clean accuracy at 0 and robust at epsilon."""
    rate = max(robust, 1 / num_examples) / clean
    correct = round(num_examples * clean * rate ** ((radius / epsilon) ** 1.5))
    return {
        "epsilon": radius,
        "robust_accuracy": correct / num_examples,
        "robust_accuracy_ci95": list(
            statistics.wilson_interval(correct, num_examples)
        ),
    }
