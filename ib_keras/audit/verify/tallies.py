"""The numbers of a summary, recounted from its examples with NumPy."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ib_keras import plugins
from ib_keras.audit.verify import certificates
from ib_keras.audit.verify import claims


def counts(folder: claims.Folder) -> list[str]:
    """The headline numbers are counted from the examples."""
    said, found = folder.summary, folder.arrays
    right = found["clean_prediction"] == found["label"]
    expected = {
        "num_examples": len(right),
        "clean_accuracy": float(right.mean()),
        "robust_accuracy": float(found["is_robust"].mean()),
        "gradient_evaluations": int(found["gradient_evaluations"].sum()),
    }
    counted = {
        "num_nonfinite_examples": "num_nonfinite",
        "num_zero_gradient_examples": "num_zero_gradients",
    }
    for name, array in counted.items():
        expected[name] = int((found[array] > 0).sum())
    problems = []
    for name, value in expected.items():
        problems += claims.differences(name, said[name], value)
    # This one is a mean of float32 numbers.
    expected_accuracy = 1 - found["wrong_share"].astype(np.float64).mean()
    if not abs(said["expected_accuracy"] - expected_accuracy) < 1e-5:
        problems += claims.differences(
            "expected_accuracy", said["expected_accuracy"], expected_accuracy
        )
    seconds = sum(stage["seconds"] for stage in said["stages"])
    if abs(said["seconds"] - seconds) > 0.001 * (1 + len(said["stages"])):
        problems.append(f"seconds is {said['seconds']}, not {seconds:.3f}")
    return problems


def wilson(num_success: int, num_trials: int) -> list[float]:
    """The 95% Wilson interval from its closed form."""
    z = 1.959963984540054
    share, spread = num_success / num_trials, z * z / num_trials
    centre = share + spread / 2
    width = z * math.sqrt((share * (1 - share) + spread / 4) / num_trials)
    ends = (centre - width) / (1 + spread), (centre + width) / (1 + spread)
    return [max(ends[0], 0.0), min(ends[1], 1.0)]


def intervals(folder: claims.Folder) -> list[str]:
    """Each interval follows from its count."""
    robust = folder.arrays["is_robust"]
    return claims.differences(
        "robust_accuracy_ci95",
        folder.summary["robust_accuracy_ci95"],
        wilson(int(robust.sum()), len(robust)),
    )


def stages(folder: claims.Folder) -> list[str]:
    """Each stage's numbers and curves are counted from the examples."""
    found, problems = folder.arrays, []
    right = found["clean_prediction"] == found["label"]
    spared = certificates.spared(folder)
    stage, restart = found["broken_by_stage"], found["broken_by_restart"]
    for i, row in enumerate(folder.summary["stages"]):
        still_robust = right & ((stage < 0) | (stage >= i))
        here = right & (stage == i)
        curve = [
            float((still_robust & ~(here & (restart <= last))).mean())
            for last in range(row["num_restarts"])
        ]
        expected = {
            "num_attacked": int((still_robust & ~spared).sum()),
            "num_broken": int(here.sum()),
            "robust_accuracy": float((still_robust & ~here).mean()),
            "restart_curve": curve,
        }
        for name, value in expected.items():
            problems += claims.differences(
                f"{row['name']}: {name}", row[name], value
            )
        costs = row["gradient_curve"]
        grows = all(a <= b for a, b in zip(costs, costs[1:], strict=False))
        if len(costs) != len(curve) or not grows:
            problems.append(f"{row['name']}: gradient_curve does not grow")
        problems += claims.differences(
            f"{row['name']}: last of gradient_curve",
            costs[-1],
            row["gradient_evaluations"],
        )
    return problems


def budget(folder: claims.Folder, num_classes: int) -> list[str]:
    """Robust examples cost the whole protocol, and no example more.

    One that is certified costs nothing, unless the config says so. Any other
    robust example was attacked to the end of every stage, so its gradient
    evaluations follow from the protocol; those of a broken one are
    between the restarts before its last and the end of that one.
    """
    found, problems = folder.arrays, []
    spent, stage = found["gradient_evaluations"], found["broken_by_stage"]
    before = np.zeros(len(spent), np.int64)
    spared = certificates.spared(folder)
    for i, row in enumerate(folder.summary["stages"]):
        attack = plugins.build("attacks", row["attack"])
        targets = 1
        if attack.num_targets is not None:
            others = num_classes - 1
            targets = min(attack.num_targets or others, others)
        once = targets * (
            attack.gradients_at_init
            + attack.num_steps * attack.gradients_per_step
        )
        here = stage == i
        low = before + found["broken_by_restart"] * once
        odd = here & ((spent < low) | (spent > low + once))
        if odd.any():
            problems.append(
                f"{claims.rows(odd)}: broken by {row['name']} after "
                f"{spent[odd][0]} gradients, which is not in that restart"
            )
        target, step = found["broken_by_target"], found["broken_at_step"]
        fits = (target >= 0) & (target < targets)
        if attack.num_targets is None:
            fits = target == -1
        odd = here & ~(fits & (step <= attack.num_steps))
        if odd.any():
            problems.append(
                f"{claims.rows(odd)}: broken by {row['name']} at target "
                f"{target[odd][0]}, step {step[odd][0]}, which it has not"
            )
        later = ((stage < 0) | (stage > i)) & ~spared
        whole = row["num_restarts"] * once * later
        problems += claims.differences(
            f"{row['name']}: gradient_evaluations",
            row["gradient_evaluations"],
            int(np.where(here, spent - before, whole)[_right(found)].sum()),
        )
        before += whole
    odd = found["is_robust"] & (spent != before)
    if odd.any():
        problems.append(
            f"{claims.rows(odd)}: called robust after {spent[odd][0]} "
            f"gradients; the protocol takes {before[odd][0]}"
        )
    return problems


def _right(found):
    return found["clean_prediction"] == found["label"]


def curve(
    folder: claims.Folder, parts: Mapping[float, Mapping[str, Any]]
) -> list[str]:
    """The epsilon curve is that of the folders.

    Args:
        folder: The audit.
        parts: Radius -> summary, for the other radii.
    """
    here = float(folder.config["threat_model"]["epsilon"])
    asked = sorted({float(e) for e in folder.config["epsilon_curve"]} | {here})
    said = folder.summary["epsilon_curve"]
    if len(asked) == 1:
        return ["there is a curve, and no radius for it"] if said else []
    if not claims.equal([row["epsilon"] for row in said], asked):
        radii = [row["epsilon"] for row in said]
        return [f"the radii are {radii}, not {asked}"]
    problems = []
    for row in said:
        part = {**parts, here: folder.summary}[row["epsilon"]]
        for name in ("robust_accuracy", "robust_accuracy_ci95"):
            problems += claims.differences(
                f"{name} at {row['epsilon']:g}", row[name], part[name]
            )
        problems += claims.differences(
            f"certified_accuracy at {row['epsilon']:g}",
            row.get("certified_accuracy"),
            part.get("certified_accuracy"),
        )
        if "restart_curve" in row:
            restarts = [
                accuracy
                for stage in part["stages"]
                for accuracy in stage["restart_curve"]
            ]
            problems += claims.differences(
                f"restart_curve at {row['epsilon']:g}",
                row["restart_curve"],
                restarts,
            )
    return problems
