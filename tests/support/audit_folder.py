"""A synthetic audit folder, as the runner would write one.

The numbers hang together: the curves, the stages and the headline are counted
from the same examples that `examples.npz` holds.
"""

import dataclasses
from typing import Any

import numpy as np

from ib_keras import files
from ib_keras.audit import statistics

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
        "protocol": "pgd_restarts",
        "protocol_version": 1,
        "threat_model": {"norm": norm, "epsilon": epsilon},
        "mode": mode,
        "num_samples": 12,
        "num_judge_samples": 1,
        **_numbers(examples, stages, radii, epsilon),
        "seed": seed,
        "model": {
            "path": f"runs/{model}/saved_model",
            "sha256": f"{seed:02x}" * 32,
            "metadata": {
                "class_names": class_names
                or [str(label) for label in range(num_classes)],
                "config": {"bottleneck": {"name": "vib", "beta": 0.01}},
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
    standing = clean.copy()
    records = []
    for position, (name, num_restarts) in enumerate(stages.items()):
        num_attacked = int(standing.sum())
        broken = examples["broken_by_stage"] == position
        restart = examples["broken_by_restart"]
        curve = [
            float((standing & ~(broken & (restart <= last))).mean())
            for last in range(num_restarts)
        ]
        standing &= ~broken
        evaluations = 40 * int(
            np.where(broken, restart + 1, num_restarts)[standing | broken].sum()
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
                "robust_accuracy": float(standing.mean()),
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
