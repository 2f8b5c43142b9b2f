"""Verification: are the claims of an audit folder those of its evidence?

It loads the model and the data as an audit does, and then uses independent
code: the geometry is NumPy's, the model is evaluated in other batches and with
other noise, and every number is recounted. No attack is run. So it proves that
broken examples are broken and that the statistics are consistent. It cannot
prove that robust examples cannot be broken; it checks the budget that was spent
on them.
"""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ib_keras import export
from ib_keras import files
from ib_keras import workdirs
from ib_keras.attacks.base import check_count
from ib_keras.audit import audited_model
from ib_keras.audit import folder as folders
from ib_keras.audit import subject as subjects
from ib_keras.audit.verify import certificates
from ib_keras.audit.verify import claims
from ib_keras.audit.verify import provenance
from ib_keras.audit.verify import rescoring
from ib_keras.audit.verify import tallies
from ib_keras.audit.verify.claims import Check
from ib_keras.audit.verify.claims import check
from ib_keras.errors import UserError
from ib_keras.schemas import CONFIG

TOLERANCE = 1e-4
NUM_DRAWS = 100

# What `config.json` of an audit folder holds.
_CONFIG = {"audit": Mapping[str, Any], "model_sha256": str | None}

# The fields of a summary that some check recomputes or compares.
_CHECKED = {
    "protocol",
    "protocol_version",
    "threat_model",
    "mode",
    "num_samples",
    "num_judge_samples",
    "num_final_draws",
    "num_examples",
    "clean_accuracy",
    "robust_accuracy",
    "robust_accuracy_ci95",
    "expected_accuracy",
    "certified_accuracy",
    "certification",
    "stages",
    "gradient_evaluations",
    "num_nonfinite_examples",
    "num_zero_gradient_examples",
    "seconds",
    "seed",
    "model",
    "dataset",
    "versions",
    "epsilon_curve",
    "safety",
}


@dataclasses.dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Attributes:
        checks: Every claim, in the order of checking.
        fresh: Of a noisy model, for each radius by the name of its folder
            ("" for the audit itself): accuracies on the saved images by noise
            that the audit did not use.
        unchecked: Fields of the summary, arrays of the examples and files
            that no check looks at, or not at all of them.
    """

    checks: tuple[Check, ...]
    fresh: dict[str, dict[str, Any]]
    unchecked: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every claim holds."""
        return all(one.ok for one in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the claims that do not hold."""
        return tuple(one.name for one in self.checks if not one.ok)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "ok": self.ok,
            "failed": list(self.failed),
            "checks": [dataclasses.asdict(one) for one in self.checks],
            "fresh": self.fresh,
            "unchecked": list(self.unchecked),
            "versions": export.describe_versions(),
        }


@dataclasses.dataclass(frozen=True)
class _Case:
    """The inputs of the checks of one radius."""

    subject: subjects.Subject
    ask: rescoring.AskFn
    is_noisy: bool
    tolerance: float
    num_draws: int
    again: Callable[[], certificates.Again]


def verify(
    workdir: str,
    saved_model: str | audited_model.AuditedModel | None = None,
    *,
    data_dir: str | None = None,
    allow_ops: Sequence[str] = (),
    probe: bool = False,
    batch_size: int | None = None,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    strategy: tf.distribute.Strategy | None = None,
) -> Verification:
    """Recomputes every claim of an audit folder; writes nothing.

    Args:
        workdir: The folder of a finished audit.
        saved_model: The model, where it is not at the path of the summary; a
            model that is loaded already is taken, too.
        data_dir: The folder of the data set, where it is another than the
            audit's.
        allow_ops: Operations that are allowed nevertheless. Those that the
            audit allowed are not adopted: the folder is not trusted.
        probe: Whether a child process runs the model first, under limits.
        batch_size: Images per batch; by default two thirds of the audit's.
        num_draws: Fresh draws of a noisy model for each image; as many as a
            last judgement takes, if that is more.
        seed: Of the fresh noise.
        tolerance: Of rounding in a logit, relative to 1 + the largest of the
            example.
        strategy: Its devices get the model's variables.

    Returns:
        A `Verification`.

    Raises:
        UserError: If there is no finished audit, or model or data are not
            available.
        UnsafeError: If the model is refused.
    """
    workdir = str(workdir).rstrip("/")
    top = _read(workdir)
    path = saved_model or folders.model_path(top.summary)
    subject = _load_subject(top, data_dir, path, strategy, allow_ops, probe)
    if batch_size is None:
        audited = check_count("batch_size", top.config["batch_size"])
        batch_size = max(2 * min(audited, len(subject.labels)) // 3, 1)
    case = _Case(
        subject,
        rescoring.asker(
            subject.logits_fn, check_count("batch_size", batch_size), seed
        ),
        subject.mode == "stochastic" or subject.num_judge_samples > 1,
        float(tolerance),
        max(
            check_count("num_draws", num_draws),
            _num_final_draws(subject.num_judge_samples),
        ),
        functools.cache(lambda: certificates.Again(subject)),
    )
    checks, fresh = _verify_radius(top, case)
    parts = {}
    for folder in _radii(workdir, top, checks):
        more, noise = _verify_radius(folder, case)
        parts[float(folder.config["threat_model"]["epsilon"])] = folder.summary
        checks += more
        fresh |= noise
    checks += [
        check(
            "epsilon_curve", "is that of its folders", tallies.curve, top, parts
        ),
        check(
            "safety",
            provenance.says_safety(workdir),
            provenance.safety,
            workdir,
            top,
            path,
        ),
        check(
            "findings",
            provenance.says_findings(workdir),
            provenance.findings,
            workdir,
            top,
        ),
    ]
    unchecked = sorted(set(top.summary) - _CHECKED)
    known = claims.CHECKED_ARRAYS | certificates.ARRAYS.keys()
    unchecked += [
        f"{folders.EXAMPLES}: {name}"
        for name in sorted(set(top.arrays) - known)
    ]
    if files.exists(files.join(workdir, folders.FINDINGS)):
        unchecked.append(f"{folders.FINDINGS}: what each check measured")
    return Verification(tuple(checks), fresh, tuple(unchecked))


def _read(workdir) -> claims.Folder:
    summary = files.read_json(files.join(workdir, folders.SUMMARY))
    config = files.read_json(files.join(workdir, workdirs.CONFIG_FILE))
    arrays = files.read_npz(files.join(workdir, folders.EXAMPLES))
    try:
        CONFIG.read(_CONFIG, config)
        if not isinstance(summary, Mapping):
            raise TypeError(f"a summary that is a {type(summary).__name__}")
    except (AttributeError, TypeError) as error:
        raise UserError(
            "The folder is not that of an audit",
            received=f"{workdir} ({error})",
            expected="what launch.audit writes",
            fix="Give the --workdir of an audit.",
        ) from error
    return claims.Folder(
        config["audit"], config["model_sha256"], summary, arrays
    )


def _load_subject(folder, data_dir, *model):
    config = dict(folder.config)
    try:
        if data_dir is not None:
            config["dataset"] = {**config["dataset"], "data_dir": data_dir}
        said = folder.summary["model"]
        if "preprocessing" not in said and said.get("input_range"):
            # Version 0.1 chose itself where today the user has to decide.
            range_ = {"input_range": tuple(said["input_range"])}
            config["model"] = {**config["model"], **range_}
        return subjects.load(config, *model)
    except (KeyError, TypeError) as error:
        raise UserError(
            "The audit's config cannot be read",
            received=f"{type(error).__name__}: {error}",
            expected="the config.json of an audit of this version",
            fix="Run the audit again with this version.",
        ) from error


def _radii(workdir, top, checks):
    """The folders of the other radii; a missing one fails a check."""
    main = float(top.config["threat_model"]["epsilon"])
    curve = top.config["epsilon_curve"]
    try:
        asked = {float(e) for e in curve} - {main}
    except (TypeError, ValueError):
        checks.append(Check("folders", False, f"the radii are {curve!r}"))
        return []
    names = {folders.radius_name(epsilon): epsilon for epsilon in sorted(asked)}
    found = []
    for name, epsilon in names.items():
        folder = files.join(workdir, name)
        try:
            summary = files.read_json(files.join(folder, folders.SUMMARY))
            arrays = files.read_npz(files.join(folder, folders.EXAMPLES))
        except UserError as error:
            checks.append(Check(f"{name}/files", False, str(error)))
            continue
        config = dict(top.config)
        config["threat_model"] = {**config["threat_model"], "epsilon": epsilon}
        found.append(
            claims.Folder(
                config, top.config_sha256, summary, arrays, f"{name}/"
            )
        )
    others = [
        name
        for name in files.listdir(workdir)
        if name.startswith(folders.RADIUS_PREFIX) and name not in names
    ]
    if others:
        checks.append(
            Check("folders", False, f"{others[0]} is of no radius asked for")
        )
    return found


def _verify_radius(folder, case):
    """All checks of one radius, and the accuracies on fresh noise."""
    subject, found = case.subject, folder.arrays
    checks = []

    def add(name, holds, find, *arguments):
        name = f"{folder.name}{name}"
        checks.append(check(name, holds, find, *arguments))

    add("config", "agrees with the summary", claims.config, folder)
    add(
        "model",
        f"has sha256 {subject.model.sha256}",
        provenance.model,
        folder,
        subject,
    )
    add(
        "versions",
        provenance.says_versions(folder),
        provenance.versions,
        folder,
    )
    add("arrays", f"{len(subject.labels)} rows each", claims.arrays, folder)
    if not checks[-1].ok:
        return checks, {}
    add("index", "each example once, in order", claims.index, folder)
    add(
        "labels",
        "are those of the data set",
        provenance.labels,
        folder,
        subject,
    )
    add("ball", _says_ball(folder), claims.ball, folder, subject.images)
    add(
        "clean_errors",
        "keep their clean image",
        claims.clean_errors,
        folder,
        subject.images,
    )
    add(
        "judgements", "are consistent", claims.judgements, folder, case.is_noisy
    )
    add("draws", _says_draws(case), _draws, folder, subject)
    add("counts", "are those of the examples", tallies.counts, folder)
    add("intervals", "follow from the counts", tallies.intervals, folder)
    add("stages", "are those of the examples", tallies.stages, folder)
    add(
        "budget",
        "each robust example took the whole protocol",
        tallies.budget,
        folder,
        subject.model.num_classes,
    )
    if _has_certificates(folder):
        add(
            "certificates",
            f"all {certificates.mask(folder).sum()} are of examples that "
            "nothing broke, and counted",
            certificates.claims_hold,
            folder,
        )
        if checks[-1].ok and certificates.mask(folder).any():
            again = case.again()
            add(
                "proofs",
                again.says(folder),
                again.proves,
                folder,
            )
    shape = found["adversarial_images"].shape
    if shape != subject.images.shape:
        return checks, {}
    rescore = _rescore_noisy if case.is_noisy else _rescore
    return checks, rescore(folder, case, add)


def _has_certificates(folder):
    """Whether any were asked for, or are claimed."""
    section = certificates.asked(folder)
    return (
        section["method"] != "none"
        or certificates.are_there(folder)
        or bool(folder.summary.get("certification"))
    )


def _rescore(folder, case, add):
    found, labels = folder.arrays, case.subject.labels
    say = [case.ask, case.subject.images, labels, case.tolerance]
    clean = rescoring.answers(*say)
    say[1] = found["adversarial_images"]
    adversarial = rescoring.answers(*say)
    add(
        "clean_predictions",
        "are those of the model",
        rescoring.clean_predictions,
        found,
        clean,
    )
    again = (found, adversarial)
    broken = int((found["broken_by_stage"] >= 0).sum())
    add(
        "broken_examples",
        f"all {broken} are misclassified",
        rescoring.broken_examples,
        *again,
    )
    add(
        "robust_examples",
        "no saved image breaks one",
        rescoring.robust_examples,
        *again,
    )
    add("margins", "are those of the model", rescoring.margins, *again)
    add(
        "wrong_shares",
        "are those of the judgements",
        rescoring.wrong_shares,
        *again,
    )
    return {}


def _rescore_noisy(folder, case, add):
    found, subject = folder.arrays, case.subject
    # Clean and final judgements take more draws than those between them.
    labels = subject.labels
    group = _num_final_draws(subject.num_judge_samples)
    draws = (labels, case.num_draws, group)
    clean = rescoring.Draws(case.ask, subject.images, *draws)
    fresh = rescoring.Draws(case.ask, found["adversarial_images"], *draws)
    said = fresh.of(labels)
    add(
        "clean_predictions",
        "are those of fresh judgements",
        rescoring.noisy_clean_predictions,
        found,
        clean,
        case.ask,
        subject.images,
        group,
    )
    add(
        "broken_examples",
        f"are wrong on fresh draws; accuracy {said['accuracy_per_draw']:.4f} "
        f"per draw, {said['accuracy_of_mean']:.4f} of the mean, "
        f"{said['accuracy_on_every_draw']:.4f} on every one of "
        f"{case.num_draws}",
        rescoring.noisy_broken_examples,
        found,
        fresh,
    )
    add(
        "robust_examples",
        "no saved image breaks one on every fresh draw",
        rescoring.noisy_robust_examples,
        found,
        fresh,
        case.ask,
        group,
    )
    add(
        "margins",
        "are numbers",
        rescoring.finite_margins,
        found,
        fresh.finite,
    )
    add(
        "wrong_shares",
        "agree with fresh draws within binomial error",
        rescoring.noisy_wrong_shares,
        found,
        fresh,
        group,
    )
    return {folder.name.rstrip("/"): said}


def _num_final_draws(draws: int) -> int:
    """Clean and final judgements of a noisy model take 5 times the draws."""
    return 5 * draws if draws > 1 else 1


def _draws(folder, subject):
    """The last judgements took the draws that follow from the config."""
    return claims.differences(
        "num_final_draws",
        folder.summary["num_final_draws"],
        _num_final_draws(subject.num_judge_samples),
    )


def _says_draws(case):
    draws = case.subject.num_judge_samples
    return f"judgements take {draws}, the last {_num_final_draws(draws)}"


def _says_ball(folder):
    threat_model = folder.config["threat_model"]
    norm, epsilon = threat_model["norm"], threat_model["epsilon"]
    return f"all images are within {norm} {epsilon} and [0, 1]"
