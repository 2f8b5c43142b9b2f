"""Reads an audit folder into one frozen `Audit`, or raises an error.

The folder may be remote. Fields that newer writers add are ignored, those that
older ones lack are None or empty, and missing fields that the page needs are
errors. docs/reference/files.md describes the files.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ib_keras import files
from ib_keras import types
from ib_keras.audit import folder as folders
from ib_keras.audit import summary
from ib_keras.audit.report import findings
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
    "is_certified": "b",
}
IMAGES = "adversarial_images"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit(summary.Summary):
    """What an audit found: its summary and the other files of its folder.

    `examples` maps the names of `examples.npz` to arrays whose first axis is
    the example.
    """

    folder: str
    findings: findings.Findings | None
    examples: Mapping[str, np.ndarray]


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
    summary_path, path, said_path, scan_path = (
        files.join(folder, name)
        for name in (
            folders.SUMMARY,
            folders.EXAMPLES,
            folders.FINDINGS,
            folders.SAFETY,
        )
    )
    try:
        content = files.read_sealed_json(summary_path)
        examples = files.read_npz(path) if has_examples else None
        said = _if_there(said_path)
        scan = _if_there(scan_path)
    except (OSError,) + files.remote_errors("OpError") as error:
        raise UserError(
            "Cannot read the audit",
            received=f"{folder} ({getattr(error, 'message', error)})",
            expected=f"a folder with {folders.SUMMARY} and {folders.EXAMPLES}",
            fix="Check the path and its permissions.",
        ) from error
    found = vars(folders.source(summary_path).read(summary.Summary, content))
    num_examples = found["num_examples"]
    if scan is not None:
        found["safety"] = folders.source(scan_path).read(summary.Safety, scan)
    return Audit(
        **found,
        folder=folder,
        examples={}
        if examples is None
        else _examples(examples, path, num_examples),
        findings=None
        if said is None
        else findings.read(said, said_path, num_examples),
    )


def radii(audit: Audit) -> list[Audit]:
    """An audit at its own radius and at those whose folders exist.

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
    """The radius of an audit and those whose folders exist, ascending."""
    own = float(audit.threat_model.epsilon)
    others = {point.epsilon for point in audit.epsilon_curve} - {own}
    return sorted([own, *(other for other in others if _is_kept(audit, other))])


def _is_kept(audit: Audit, epsilon: float) -> bool:
    folder = folders.radius(audit.folder, epsilon)
    return files.exists(files.join(folder, folders.SUMMARY))


def _if_there(path: str) -> Any:
    """A JSON file that audits of older versions do not have."""
    if not files.exists(path):
        return None
    return files.read_sealed_json(path)


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
