"""The claims of an audit folder, checked with NumPy alone.

Nothing here evaluates a model or runs an attack, and the code that makes audits
uses nothing of it: so its bugs are not repeated. `verify` evaluates the model
and calls these checks.
"""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np

from ib_keras import plugins

# The most that rounding may add to a distance, in pixel units.
LINF_SLACK = 1e-6
L2_SLACK = 1e-5

_FLAT = {
    "index": "i",
    "label": "i",
    "clean_prediction": "i",
    "is_robust": "b",
    "adversarial_prediction": "i",
    "margin": "f",
    "wrong_share": "f",
    "broken_by_stage": "i",
    "broken_by_restart": "i",
    "broken_by_target": "i",
    "broken_at_step": "i",
    "gradient_evaluations": "i",
}
# Fields and files that some check uses.
CHECKED_ARRAYS = {
    *_FLAT,
    "adversarial_images",
    "num_nonfinite",
    "num_zero_gradients",
}
_KINDS = {"i": "whole numbers", "b": "booleans", "f": "floating-point numbers"}


@dataclasses.dataclass(frozen=True)
class Check:
    """One claim, checked.

    Attributes:
        name: Of the claim; with the folder in front for other radii.
        ok: Whether it holds.
        sentence: What was found.
    """

    name: str
    ok: bool
    sentence: str


@dataclasses.dataclass(frozen=True)
class Folder:
    """One radius of an audit, as it was read.

    Attributes:
        config: The audit's config, with this radius in `threat_model`.
        config_sha256: Of the model, by `config.json`.
        summary: `summary.json`.
        arrays: `examples.npz`.
        name: "" for the audit itself, else the subfolder with a slash.
    """

    config: Mapping[str, Any]
    config_sha256: str
    summary: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    name: str = ""


def check(
    name: str, holds: str, find: Callable[..., list[str]], *arguments
) -> Check:
    """Makes a check of one claim; an unreadable folder is a problem.

    Args:
        name: Of the claim.
        holds: The sentence if there are none.
        find: Returns problems, one phrase each.
        *arguments: Of `find`.
    """
    try:
        problems = find(*arguments)
    except KeyError as error:
        problems = [f"{error.args[0]!r} is missing"]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        problems = [f"not as audits are written ({error})"]
    more = f"; and {len(problems) - 3} more" if problems[3:] else ""
    return Check(name, not problems, "; ".join(problems[:3]) + more or holds)


def rows(where: np.ndarray) -> str:
    """Names the first examples that a mask holds."""
    places = np.flatnonzero(where)
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    word = "example" if len(places) == 1 else "examples"
    return f"{word} {', '.join(map(str, places[:3]))}{more}"


def differences(name: str, received, expected) -> list[str]:
    """One phrase if a value, number or list is not the expected one."""
    if equal(received, expected):
        return []
    return [f"{name} is {_short(received)}, not {_short(expected)}"]


def equal(a, b) -> bool:
    """Whether JSON values agree, numbers up to the rounding of float64."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return a == b


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def arrays(folder: Folder) -> list[str]:
    """The arrays are there, of their kinds, with a row for each example."""
    found, problems = folder.arrays, []
    count = folder.config["num_examples"]
    for name, kind in (_FLAT | {"adversarial_images": "f"}).items():
        array = found.get(name)
        if array is None:
            problems.append(f"{name} is missing")
        elif array.dtype.kind != kind:
            problems.append(
                f"{name} holds {array.dtype}, not {_KINDS[kind]}",
            )
        elif name in _FLAT and array.ndim != 1:
            problems.append(f"{name} has shape {array.shape}")
        elif len(array) != count:
            problems.append(
                f"{name} has {len(array)} rows; the config asks for {count}"
            )
    return problems


def config(folder: Folder) -> list[str]:
    """The summary is of the audit that the config asks for."""
    asked, said = folder.config, folder.summary
    problems = []
    for name in ("protocol", "protocol_version", "seed", "mode"):
        problems += differences(name, said[name], asked[name])
    problems += differences(
        "num_examples", said["num_examples"], asked["num_examples"]
    )
    for name in ("num_samples", "num_judge_samples"):
        if asked[name] is not None:
            problems += differences(name, said[name], asked[name])
    problems += differences(
        "threat_model", said["threat_model"], dict(asked["threat_model"])
    )
    problems += _data(said["dataset"], asked["dataset"])
    names = [stage["name"] for stage in said["stages"]]
    if names != list(asked["stages"]):
        listed = f"{names}, not {list(asked['stages'])}"
        return [*problems, f"the stages are {listed}"]
    for stage in said["stages"]:
        section = asked["stages"][stage["name"]]
        for name in ("num_restarts", "attack"):
            problems += differences(
                f"{name} of stage {stage['name']}", stage[name], section[name]
            )
    return problems


def _data(said, asked) -> list[str]:
    """The data set and split are those of the config, if named by it."""
    problems, name = [], asked.get("name")
    # A user's own module can name its data arbitrarily.
    if name is not None and plugins.is_ours("data", name):
        full = plugins.expand("data", asked)
        part = full["name"]
        known = {
            f"{part}:{full.get(argument)}"
            for argument in plugins.needed("data", part)
        }
        if said["name"] not in {part, *known}:
            problems += differences("dataset.name", said["name"], name)
    if asked.get("split") is not None:
        problems += differences("dataset.split", said["split"], asked["split"])
    return problems


def index(folder: Folder) -> list[str]:
    """Each example is there once, in the order of the data set."""
    found = folder.arrays["index"]
    expected = np.arange(len(found))
    if np.array_equal(found, expected):
        return []
    values, times = np.unique(found, return_counts=True)
    if (times > 1).any():
        return [f"index {values[times > 1][0]} is there more than once"]
    return [f"index is not 0, 1, 2, ... at {rows(found != expected)}"]


def ball(folder: Folder, clean: np.ndarray) -> list[str]:
    """Every adversarial image is finite, in the box and in the ball.

    Distances are taken in float64 from the clean images of the data set.
    """
    images = folder.arrays["adversarial_images"]
    if images.shape != clean.shape:
        return [f"images of shape {images.shape}, not {clean.shape}"]
    flat = images.reshape(len(images), -1).astype(np.float64)
    moved = flat - clean.reshape(len(clean), -1)
    threat_model = folder.config["threat_model"]
    epsilon = float(threat_model["epsilon"])
    if threat_model["norm"] == "linf":
        distance, slack = np.abs(moved).max(axis=1), LINF_SLACK
    elif threat_model["norm"] == "l2":
        distance = np.sqrt(np.sum(moved**2, axis=1))
        slack = L2_SLACK * (1 + epsilon)
    else:
        return [f"the norm {threat_model['norm']!r} is unknown"]
    finite = np.all(np.isfinite(flat), axis=1)
    inside = (flat >= 0).all(axis=1) & (flat <= 1).all(axis=1)
    far = finite & (distance > epsilon + slack)
    problems = []
    if not finite.all():
        problems.append(f"{rows(~finite)}: not finite")
    if (finite & ~inside).any():
        problems.append(f"{rows(finite & ~inside)}: outside of [0, 1]")
    if far.any():
        problems.append(
            f"{rows(far)}: {distance[far].max():.6g} from the clean image, "
            f"with epsilon {epsilon:g}"
        )
    return problems


def clean_errors(folder: Folder, clean: np.ndarray) -> list[str]:
    """Clean errors keep their clean image and cost nothing."""
    found = folder.arrays
    wrong = found["clean_prediction"] != found["label"]
    axes = tuple(range(1, clean.ndim))
    moved = (found["adversarial_images"] != clean).any(axis=axes)
    problems = []
    if (wrong & moved).any():
        problems.append(f"{rows(wrong & moved)}: not the clean image")
    spent = wrong & (found["gradient_evaluations"] != 0)
    if spent.any():
        problems.append(f"{rows(spent)}: attacked, though a clean error")
    return problems


def judgements(folder: Folder, is_noisy: bool) -> list[str]:
    """is_robust, the predictions and the breaks are consistent."""
    found, stages = folder.arrays, folder.summary["stages"]
    label, stage = found["label"], found["broken_by_stage"]
    prediction = found["adversarial_prediction"]
    right = found["clean_prediction"] == label
    broken = stage >= 0
    restarts = np.array([s["num_restarts"] for s in stages])
    allowed = restarts[np.clip(stage, 0, len(stages) - 1)]
    restart = found["broken_by_restart"]
    share = found["wrong_share"]
    rules = {
        "is_robust is not (correct without attack and never broken)": (
            found["is_robust"] != (right & ~broken)
        ),
        "broken by a stage that is not in the summary": stage >= len(stages),
        "broken, though a clean error": broken & ~right,
        "broken_by_stage is neither a stage nor -1": stage < -1,
        "broken_by_restart does not fit the stage": np.where(
            broken, (restart < 0) | (restart >= allowed), restart != -1
        ),
        "broken_at_step does not fit the stage": (
            (found["broken_at_step"] >= 0) != broken
        ),
        "broken_by_target without a stage": (
            (found["broken_by_target"] != -1) & ~broken
        ),
        "another prediction than the clean one, though not broken": (
            (prediction != found["clean_prediction"]) & ~broken
        ),
        "wrong_share is not a share": ~((share >= 0) & (share <= 1)),
    }
    # For a noisy model the judgement and the prediction may be two votes.
    if not is_noisy:
        rules["broken, though predicted as the label"] = broken & (
            prediction == label
        )
    return [f"{rows(m)}: {rule}" for rule, m in rules.items() if m.any()]
