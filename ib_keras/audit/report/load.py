"""Reads an audit folder into one frozen `Audit`, or says what is wrong.

The folder may be remote. The contract of its files is DESIGN's "Audit
folder"; what newer writers add is ignored, what older ones lack is None or
empty, and what the page cannot do without is an error.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ib_keras import files
from ib_keras import types
from ib_keras.audit import folder as folders
from ib_keras.audit.report import fields
from ib_keras.audit.report import findings
from ib_keras.audit.report import subject
from ib_keras.errors import UserError

# Name -> the dtype kinds it may have; one value per example.
_REQUIRED_ARRAYS = {
    "index": "iu",
    "label": "iu",
    "clean_prediction": "iu",
    "is_robust": "b",
    "adversarial_prediction": "iu",
    "broken_by_stage": "iu",
}
_OPTIONAL_ARRAYS = {
    "margin": "f",
    "broken_by_restart": "iu",
    "broken_by_target": "iu",
    "broken_at_step": "iu",
    "wrong_share": "f",
}
IMAGES = "adversarial_images"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One attack of the protocol, with its budget and what it left robust.

    `robust_accuracy` and `restart_curve` (one value per restart) are over all
    audited examples, worst case over this stage and all before it;
    `gradient_curve` is what the stage had spent after each restart.
    """

    name: str
    robust_accuracy: float
    attack: Mapping[str, Any]
    num_restarts: int | None
    num_attacked: int | None
    num_broken: int | None
    gradient_evaluations: int | None
    seconds: float | None
    restart_curve: tuple[float, ...]
    gradient_curve: tuple[int, ...]
    num_nonfinite: int


@dataclasses.dataclass(frozen=True)
class EpsilonPoint:
    """An independent audit of the same examples at another radius."""

    epsilon: float
    robust_accuracy: float
    interval: tuple[float, float] | None
    restart_curve: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Audit:
    """What an audit found. Texts are as written: foreign, not yet escaped.

    Accuracies are shares of `num_examples`; `examples` maps the names of
    `examples.npz` to arrays whose first axis is the example.
    """

    folder: str
    protocol: str
    protocol_version: Any
    threat_model: types.ThreatModel
    mode: str
    num_samples: int | None
    num_judge_samples: int | None
    logit_scale: float
    num_examples: int
    clean_accuracy: float
    robust_accuracy: float
    robust_interval: tuple[float, float]
    expected_accuracy: float | None
    stages: tuple[Stage, ...]
    epsilon_curve: tuple[EpsilonPoint, ...]
    gradient_evaluations: int | None
    num_nonfinite_examples: int
    num_zero_gradient_examples: int
    seconds: float | None
    seed: Any
    command: str | None
    model_path: str | None
    model_sha256: str | None
    metadata: Mapping[str, Any]
    recorded_accuracy: float | None
    recorded_step: int | None
    dataset: Mapping[str, Any]
    versions: Mapping[str, Any]
    model: subject.Model
    safety: subject.Safety | None
    findings: findings.Findings | None
    examples: Mapping[str, np.ndarray]

    @property
    def is_random(self) -> bool:
        """Whether verdicts rest on more than one draw of noise."""
        draws = self.num_judge_samples
        return draws != 1 if self.mode == "stochastic" else (draws or 1) > 1


def load(folder: str, has_examples: bool = True) -> Audit:
    """Reads and checks an audit folder.

    Args:
        folder: Path of the folder, local or remote.
        has_examples: Whether to read the examples, too; without them the
            audit has its numbers alone.

    Returns:
        The audit.

    Raises:
        UserError: If a file is missing or damaged, a required field or array
            is missing, or the two files do not belong together.
    """
    try:
        summary_path = files.join(folder, folders.SUMMARY)
        summary = files.read_json(summary_path)
        path = files.join(folder, folders.EXAMPLES)
        examples = files.read_npz(path) if has_examples else None
        found = _optional(folder, folders.FINDINGS)
        scan = _optional(folder, folders.SAFETY)
    except (OSError, *files.remote_errors("OpError")) as error:
        raise UserError(
            "Cannot read the audit",
            received=f"{folder} ({getattr(error, 'message', error)})",
            expected=f"a folder with {folders.SUMMARY} and {folders.EXAMPLES}",
            fix="Check the path and its permissions.",
        ) from error
    record = fields.Record(summary, summary_path)
    num_examples = record.count("num_examples")
    if scan is None and record.value.get("safety") is not None:
        scan = record.record("safety")
    return Audit(
        folder=folder,
        examples={}
        if examples is None
        else _examples(examples, path, num_examples),
        model=subject.read_model(record.record("model", {})),
        safety=scan and subject.read_safety(scan),
        findings=found and findings.read(found, num_examples),
        **_results(record),
        **_origin(record),
    )


def radii(audit: Audit) -> list[Audit]:
    """An audit at its own radius and at those whose folders are there.

    Args:
        audit: The audit.

    Returns:
        One `Audit` a radius, the smallest first.

    Raises:
        UserError: If a radius' folder is damaged.
    """
    return [
        audit
        if epsilon == audit.threat_model.epsilon
        else load(folders.radius(audit.folder, epsilon))
        for epsilon in kept_radii(audit)
    ]


def kept_radii(audit: Audit) -> list[float]:
    """The radius of an audit and those whose folders are there, ascending."""
    own = float(audit.threat_model.epsilon)
    others = {point.epsilon for point in audit.epsilon_curve} - {own}
    return sorted([own, *(other for other in others if _is_kept(audit, other))])


def _is_kept(audit: Audit, epsilon: float) -> bool:
    folder = folders.radius(audit.folder, epsilon)
    return files.exists(files.join(folder, folders.SUMMARY))


def _optional(folder: str, name: str) -> fields.Record | None:
    """A JSON file that audits of older versions do not have."""
    path = files.join(folder, name)
    if not files.exists(path):
        return None
    value = files.read_json(path)
    files.check_seal(value, path)
    return fields.Record(value, path)


def check_clean_images(audit: Audit, images: np.ndarray) -> np.ndarray:
    """Checks that images are those that an audit attacked, in its order.

    Args:
        audit: The audit.
        images: Float array `[num_examples, height, width, channels]`.

    Returns:
        The images, float32.

    Raises:
        UserError: If the shape differs, or a broken example is farther from
            its clean image than epsilon.
    """
    images = types.check_images(images)
    adversarial = audit.examples[IMAGES]
    if images.shape != adversarial.shape:
        raise UserError(
            "Clean images do not fit their audit",
            received=f"shape {images.shape} for {audit.folder}",
            expected=f"shape {adversarial.shape}",
            fix="Give the images of the audited examples, in their order.",
        )
    rows = audit.examples["broken_by_stage"] >= 0
    order = {"linf": np.inf, "l2": 2}[audit.threat_model.norm]
    changes = (adversarial - images).reshape(len(images), -1)[rows]
    farthest = np.linalg.norm(changes, order, axis=1).max(initial=0.0)
    epsilon = float(audit.threat_model.epsilon)
    if farthest > epsilon * (1 + 1e-3) + 1e-5:
        raise UserError(
            "Clean images are not those that the audit attacked",
            received=f"a distance of {farthest:.4g} for {audit.folder}",
            expected=f"at most epsilon, {epsilon:.4g}",
            fix="Give the images of the audited examples, in their order.",
        )
    return images


def _results(record: fields.Record) -> dict[str, Any]:
    """What was measured: the threat model, the numbers and the stages."""
    threat_model = record.record("threat_model")
    return dict(
        protocol=record.text("protocol"),
        protocol_version=record.value.get("protocol_version"),
        threat_model=types.ThreatModel(
            threat_model.text("norm"), threat_model.number("epsilon")
        ),
        mode=record.text("mode"),
        num_samples=record.count("num_samples", None),
        num_judge_samples=record.count("num_judge_samples", None),
        logit_scale=record.number("logit_scale", 1.0),
        num_examples=int(record.count("num_examples")),
        clean_accuracy=record.share("clean_accuracy"),
        robust_accuracy=record.share("robust_accuracy"),
        robust_interval=tuple(record.interval("robust_accuracy_ci95")),
        expected_accuracy=record.share("expected_accuracy", None),
        stages=tuple(map(_stage, record.records("stages"))),
        epsilon_curve=_epsilon_curve(record),
        gradient_evaluations=record.count("gradient_evaluations", None),
        num_nonfinite_examples=record.count("num_nonfinite_examples", 0),
        num_zero_gradient_examples=record.count(
            "num_zero_gradient_examples", 0
        ),
        seconds=record.number("seconds", None),
    )


def _stage(record: fields.Record) -> Stage:
    return Stage(
        name=record.text("name"),
        robust_accuracy=record.share("robust_accuracy"),
        attack=record.record("attack", {}).value,
        num_restarts=record.count("num_restarts", None),
        num_attacked=record.count("num_attacked", None),
        num_broken=record.count("num_broken", None),
        gradient_evaluations=record.count("gradient_evaluations", None),
        seconds=record.number("seconds", None),
        restart_curve=tuple(record.shares("restart_curve", ())),
        gradient_curve=tuple(record.counts("gradient_curve", ())),
        num_nonfinite=record.count("num_nonfinite", 0),
    )


def _epsilon_curve(record: fields.Record) -> tuple[EpsilonPoint, ...]:
    points = [
        EpsilonPoint(
            epsilon=point.number("epsilon"),
            robust_accuracy=point.share("robust_accuracy"),
            interval=tuple(point.interval("robust_accuracy_ci95", ())) or None,
            restart_curve=tuple(point.shares("restart_curve", ())),
        )
        for point in record.records("epsilon_curve", ())
    ]
    return tuple(sorted(points, key=lambda point: point.epsilon))


def _origin(record: fields.Record) -> dict[str, Any]:
    """What it was measured on and with: all of it optional."""
    model = record.record("model", {})
    metadata = model.record("metadata", {})
    return dict(
        seed=record.value.get("seed"),
        command=record.text("command", None),
        model_path=model.text("path", None),
        model_sha256=model.text("sha256", None),
        metadata=metadata.value,
        recorded_accuracy=_if_sound(metadata.share, "clean_accuracy"),
        recorded_step=_if_sound(metadata.count, "step"),
        dataset=record.record("dataset", {}).value,
        versions=record.record("versions", {}).value,
    )


def _if_sound(read, name: str):
    """A field of the model's own metadata: foreign, so never an error."""
    try:
        return read(name, None)
    except UserError:
        return None


def _examples(
    arrays: dict[str, np.ndarray], path: str, num_examples: int
) -> dict[str, np.ndarray]:
    """Keeps the arrays the page uses, checked against the summary."""
    checked = {}
    for name, kinds in (_REQUIRED_ARRAYS | _OPTIONAL_ARRAYS).items():
        if name not in arrays and name in _OPTIONAL_ARRAYS:
            continue
        array = _array(arrays, name, path)
        if array.shape != (num_examples,) or array.dtype.kind not in kinds:
            raise _wrong_array(
                path,
                name,
                array,
                f"shape ({num_examples},) as {folders.SUMMARY} says, one "
                "value for each example",
            )
        checked[name] = array
    images = _array(arrays, IMAGES, path)
    is_batch = images.ndim == 4 and len(images) == num_examples
    if not is_batch or not _is_box(images):
        raise _wrong_array(
            path,
            IMAGES,
            images,
            f"[{num_examples}, height, width, channels] in [0, 1]",
        )
    return {**checked, IMAGES: np.clip(images, 0.0, 1.0)}


def _array(arrays: dict[str, np.ndarray], name: str, path: str) -> np.ndarray:
    if name not in arrays:
        raise UserError(
            "An audit's file lacks an array",
            received=f'{path} without "{name}"',
            expected=", ".join([*_REQUIRED_ARRAYS, IMAGES]),
            fix="Run the audit again with this version.",
        )
    return arrays[name]


def _is_box(images: np.ndarray) -> bool:
    """Whether pixels are floats in [0, 1], up to rounding; NaN is not."""
    if images.dtype.kind != "f" or not images.size:
        return False
    return bool(images.min() >= -1e-6 and images.max() <= 1 + 1e-6)


def _wrong_array(path, name, array, expected: str) -> UserError:
    limits = ""
    if array.dtype.kind in "fiu" and array.size:
        limits = f", values from {array.min()} to {array.max()}"
    return UserError(
        "An audit's array is not what its summary says",
        received=f"{path}: {name}, shape {array.shape}, dtype {array.dtype}"
        + limits,
        expected=expected,
        fix="Restore the folder, or run the audit again.",
    )
