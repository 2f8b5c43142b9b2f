"""One audit: a model, data and a protocol in, a folder of evidence out.

The attack room runs the stages; this file makes the run last: it saves the
books after batches, resumes from them, shows progress and writes the files
that DESIGN calls an audit folder.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import export
from ib_keras import files
from ib_keras import strategy as strategies
from ib_keras import workdirs
from ib_keras.attacks import base
from ib_keras.attacks import losses
from ib_keras.attacks import runner
from ib_keras.audit import examination
from ib_keras.audit import examples
from ib_keras.audit import sharing
from ib_keras.audit import target as targets
from ib_keras.audit.statistics import wilson_interval
from ib_keras.audit.target import behaviour as behaviours
from ib_keras.errors import Interrupted
from ib_keras.errors import UserError
from ib_keras.progress import Progress
from ib_keras.types import ThreatModel
from ib_keras.watchdog import Watchdog

SUMMARY_FILE = "summary.json"
EXAMPLES_FILE = "examples.npz"
SAFETY_FILE = "safety.json"
# What it has and the summary has not: long, or other from run to run.
SAFETY_FILE_ALONE = ("ops", "path", "probe", "seconds")
_PARTIAL_FILE = "partial.npz"
_STATE = "state.json"

# Fields that change no result: an audit may be continued with others.
MAY_DIFFER = (
    "dataset.data_dir",
    "dataset.download",
    "diagnostics.set",
    "diagnostics.num_examples",
    "diagnostics.twin",
)

# The fields of a config; what is open here is checked by the parts.
_FIELDS = {
    "protocol": None,
    "protocol_version": None,
    "seed": None,
    "mode": None,
    "num_samples": None,
    "num_judge_samples": None,
    "num_examples": None,
    "batch_size": None,
    "chunk_steps": None,
    "compact": None,
    "model": {
        "signature": None,
        "output": None,
        "outputs": None,
        "input_range": None,
        "layout": None,
    },
    "dataset": ...,
    "threat_model": {"norm": None, "epsilon": None},
    "epsilon_curve": None,
    "stages": ...,
    "diagnostics": {"set": None, "num_examples": None, "twin": None},
}

# Draws of the classifier per verdict on a stochastic model.
_JUDGE_SAMPLES = 5
_FEWEST_JUDGE_SAMPLES = 3


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is audited: the model in one mode, and the examples.

    Attributes:
        target: The loaded model.
        logits_fn: The audited classifier.
        mode: "mean" or "stochastic".
        num_samples: S; None in mean mode.
        num_judge_samples: Draws per verdict.
        images: float32 `[examples, ...]`.
        labels: int32 `[examples]`.
        dataset: For the summary: name, split, description.
        behaviour: What a few calls of the model showed.
    """

    target: targets.Target
    logits_fn: Callable
    mode: str
    num_samples: int | None
    num_judge_samples: int
    images: np.ndarray
    labels: np.ndarray
    dataset: dict[str, str]
    behaviour: behaviours.Behaviour


def load_subject(
    config: Mapping[str, Any],
    saved_model: str | targets.Target,
    strategy: tf.distribute.Strategy | None = None,
    allow_ops: Sequence[str] = (),
    probe: bool = False,
    given: examples.Examples | None = None,
) -> Subject:
    """Loads the model and the examples that a config asks for.

    Args:
        config: An audit config.
        saved_model: Folder of the SavedModel, a .keras file, or a target
            that is loaded already.
        strategy: Whose devices get the model's variables.
        allow_ops: Operations that the safety check lets pass.
        probe: Whether a child process runs the model first, under limits.
        given: Examples in place of those that the config names.

    Returns:
        A `Subject`.

    Raises:
        UserError: If the model, its endpoint or the data cannot be used.
        UnsafeError: If the model holds what could do harm.
    """
    options = targets.Options.from_config(config["model"])
    if isinstance(saved_model, targets.Target):
        target = saved_model.with_options(options)
    else:
        target = targets.load(saved_model, strategy, options, allow_ops, probe)
    state = target.state_hash()
    mode = config["mode"]
    target.caller(mode)  # Refuses a mode that the model has not.
    is_stochastic = mode == "stochastic"
    num_samples = None
    if is_stochastic:
        num_samples = config["num_samples"]
        if num_samples is None:
            num_samples = target.metadata.get("num_samples") or 1
        num_samples = base.check_count("num_samples", num_samples)
    found = given or examples.load(config, target.about)
    _check_radius(config["threat_model"], found.images.shape[1:])
    target = target.settle(
        found.probe_images, found.probe_labels, mode, num_samples
    )
    logits_fn = target.logits_fn(mode, num_samples)
    targets.check_gradients(
        logits_fn,
        target.image_shape,
        target.num_classes,
        _take_gradients(build_stages(config)),
    )
    targets.check_finite(
        logits_fn,
        found.images,
        base.check_count("batch_size", config["batch_size"]),
    )
    behaviour = behaviours.observe(
        target,
        logits_fn,
        found.probe_images,
        found.probe_labels,
        mode,
        state,
    )
    has_noise = is_stochastic or behaviour.is_random
    judge_samples = config["num_judge_samples"]
    if judge_samples is None:
        judge_samples = _JUDGE_SAMPLES if has_noise else 1
    if has_noise and judge_samples < _FEWEST_JUDGE_SAMPLES:
        raise UserError(
            "A verdict on a model with noise takes several draws",
            received=f"num_judge_samples={judge_samples}",
            expected=f"{_FEWEST_JUDGE_SAMPLES} or more, or none for "
            f"{_JUDGE_SAMPLES}",
            fix="Raise --config.num_judge_samples, or leave it out.",
        )
    return Subject(
        target=target.with_notes(*behaviour.notes()),
        logits_fn=logits_fn,
        mode=mode,
        num_samples=num_samples,
        num_judge_samples=base.check_count("num_judge_samples", judge_samples),
        images=found.images,
        labels=found.labels,
        dataset=found.dataset,
        behaviour=behaviour,
    )


def _check_radius(threat_model, image_shape):
    """Refuses a ball of l2 that holds the whole box, by a slip of units."""
    most = float(np.sqrt(np.prod(image_shape)))
    epsilon = threat_model["epsilon"]
    is_number = isinstance(epsilon, int | float)
    if threat_model["norm"] == "l2" and is_number and epsilon > most:
        raise UserError(
            "Epsilon is larger than the whole box of images",
            received=epsilon,
            expected=f"at most {most:.4g} for l2, in pixel units of [0, 1]",
            fix=f"Did you mean {epsilon:g}/255 = {epsilon / 255:.6g}?",
        )


def build_stages(config: Mapping[str, Any]) -> list[runner.Stage]:
    """Builds the stages of a protocol, in its order.

    Raises:
        UserError: If there are none, or a part or argument is unknown.
    """
    stage = {"num_restarts": None, "attack": ...}
    fields = {name: stage for name in config["stages"]}
    workdirs.check_fields(config["stages"], fields, "stages.")
    stages = [
        runner.Stage.build({"name": name, **section})
        for name, section in config["stages"].items()
    ]
    if not stages:
        raise UserError(
            "The protocol has no stages",
            received="stages={}",
            expected="at least one stage",
            fix="Name one in the config's `stages`.",
        )
    return stages


def _take_gradients(stages) -> bool:
    attacks = [stage.attack for stage in stages]
    return any(a.gradients_at_init or a.gradients_per_step for a in attacks)


def _check_targets(stages, num_classes):
    """The runner refuses it too, but only once something is written."""
    for stage in stages:
        count = stage.attack.num_targets
        if count is not None and count >= num_classes:
            raise UserError(
                f"Stage {stage.name} has more targets than other classes",
                received=f"num_targets={count}",
                expected=f"at most {num_classes - 1}, or 0 for all",
                fix="Lower num_targets in the attack's section.",
            )


def build_runner(
    config, subject, stages, strategy=None, first=0
) -> runner.Runner:
    """Builds the runner of a protocol at the config's own radius."""
    _check_targets(stages, subject.target.num_classes)
    threat_model = config["threat_model"]
    batch_size = base.check_count("batch_size", config["batch_size"])
    return runner.Runner(
        subject.logits_fn,
        stages,
        ThreatModel(threat_model["norm"], threat_model["epsilon"]),
        batch_size=min(batch_size, len(subject.labels)),
        seed=config["seed"],
        num_judge_samples=subject.num_judge_samples,
        chunk_steps=config["chunk_steps"],
        compact=config["compact"],
        strategy=strategy,
        jit_compile=strategies.jit_compile(strategy),
        first=first,
    )


class Audit:
    """One radius of one audit, in one folder.

    Args:
        config: An audit config.
        subject: What is audited.
        stages: What is run, in order.
        attack_runner: Runs them at this radius.
        folder: Where the files go.
        quiet: Prints nothing.
        share: (first, last) of the examples among those of the audit, where
            this is one process' part of it.
    """

    def __init__(
        self,
        config,
        subject,
        stages,
        attack_runner,
        folder,
        quiet=False,
        share=None,
    ):
        self.share = share
        self.config = config
        self.subject = subject
        self.folder = folder
        self.quiet = quiet
        self.curve = []
        self.command = ""
        self.stages = stages
        self.runner = attack_runner
        self.threat_model = attack_runner.threat_model

    def budget(self) -> int:
        """Most gradient evaluations that the protocol can cost."""
        return len(self.subject.labels) * sum(
            self.runner.most_gradients(stage, self.subject.target.num_classes)
            for stage in self.stages
        )

    def run(self, should_stop=lambda: False) -> dict[str, Any]:
        """Runs or resumes the audit and writes its files.

        Args:
            should_stop: Asked after every batch; true saves and stops.

        Returns:
            The summary.

        Raises:
            UserError: If the folder holds another audit or cannot be written.
            Interrupted: If it was stopped; the books are saved.
        """
        if self.is_done:
            return self.read()
        return self.finish(self.attack(should_stop))

    @property
    def is_done(self) -> bool:
        """Whether there is a summary."""
        return files.exists(files.join(self.folder, SUMMARY_FILE))

    def read(self) -> dict[str, Any]:
        """The summary of an audit that is done."""
        # A kill right after the summary leaves the books behind.
        self._remove_books()
        return files.read_json(files.join(self.folder, SUMMARY_FILE))

    def _remove_books(self):
        files.remove(files.join(self.folder, _PARTIAL_FILE))
        sharing.remove_books(self.folder)

    def of_share(self, first: int, last: int, folder: str) -> "Audit":
        """The part of the audit that one of several processes has.

        Args:
            first: Where its examples begin; its runner has to know it too.
            last: Where they end.
            folder: Of its books.
        """
        some = dataclasses.replace(
            self.subject,
            images=self.subject.images[first:last],
            labels=self.subject.labels[first:last],
        )
        return Audit(
            self.config,
            some,
            self.stages,
            self.runner,
            folder,
            self.quiet,
            (first, last),
        )

    def attack_and_save(self, should_stop=lambda: False) -> None:
        """Attacks to the end and saves the books, for another process."""
        self._save(self.attack(should_stop))

    def attack(self, should_stop=lambda: False) -> runner.Progress:
        """Runs or resumes the attacks; the arguments and errors of `run`.

        Returns:
            The books.
        """
        files.make_folder(self.folder)
        progress = self.restore()
        total = self.budget()
        ledger = progress.ledger
        with Progress(
            total,
            "gradient",
            f"audit, epsilon {self.threat_model.epsilon:g}",
            int(ledger.gradient_evaluations.sum()),
            self.quiet,
        ) as bar:
            saved = time.monotonic()

            def on_batch(state):
                nonlocal saved
                position = state.position
                bar.update(
                    int(state.ledger.gradient_evaluations.sum()),
                    stage=position.stage,
                    restart=position.restart,
                    robust=f"{state.ledger.robust_accuracy:.3f}",
                )
                stop = should_stop()
                # Saving costs about as much as the images' size in writes;
                # no more than a few per cent of the time goes into it.
                if stop or time.monotonic() - saved > self._save_every():
                    self._save(state)
                    saved = time.monotonic()
                if stop:
                    raise Interrupted(
                        f"Stopped in stage {position.stage}, restart "
                        f"{position.restart}; the same command resumes there."
                    )

            self.runner.run(self.subject.images, progress, on_batch)
        return progress

    def _save_every(self) -> float:
        return 2.0 + self.subject.images.nbytes / 1e7

    def _save(self, progress):
        state = {
            "position": dataclasses.asdict(progress.position),
            "stages": [dataclasses.asdict(s) for s in progress.stages],
            "identity": self._identity(),
        }
        text = json.dumps(state).encode()
        arrays = progress.ledger.arrays()
        files.write_npz(
            files.join(self.folder, _PARTIAL_FILE),
            {**arrays, _STATE: np.frombuffer(text, np.uint8)},
        )

    def _identity(self):
        """What must agree for books to be continued."""
        return {
            "model": self.subject.target.sha256,
            "mode": self.subject.mode,
            "epsilon": float(self.threat_model.epsilon),
            "dataset": self.subject.dataset,
            "num_examples": len(self.subject.labels),
            **({"share": list(self.share)} if self.share else {}),
        }

    def restore(self) -> runner.Progress:
        """The books as they were saved; new ones where there are none.

        Raises:
            UserError: If they are of another audit.
        """
        fresh = self.runner.start(self.subject.images, self.subject.labels)
        path = files.join(self.folder, _PARTIAL_FILE)
        if not files.exists(path):
            return fresh
        try:
            arrays = files.read_npz(path)
            state = json.loads(arrays.pop(_STATE).tobytes())
            identity = state["identity"]
            progress = runner.Progress(
                runner.Ledger(**arrays),
                runner.Position(**state["position"]),
                [runner.StageBooks(**books) for books in state["stages"]],
            )
        except (KeyError, TypeError, ValueError) as error:
            self._say(f"Starting again, for the saved books are bad: {error}")
            return fresh
        if identity != self._identity():
            raise UserError(
                "The workdir holds the books of another audit",
                received=f"{path} of {identity}",
                expected=f"{self._identity()}",
                fix="Choose another --workdir.",
            )
        position = progress.position
        self._say(
            f"Resuming at stage {position.stage}, restart {position.restart}, "
            f"batch {position.batch}, from {self.folder}"
        )
        return progress

    def _say(self, line):
        if not self.quiet:
            print(line, flush=True)

    def finish(self, progress: runner.Progress) -> dict[str, Any]:
        """Writes what attacks have found; returns the summary."""
        ledger = progress.ledger
        arrays = {"index": np.arange(len(ledger.label), dtype=np.int64)}
        files.write_npz(
            files.join(self.folder, EXAMPLES_FILE),
            {**arrays, **ledger.arrays()},
        )
        summary = self._summary(progress)
        files.write_json(files.join(self.folder, SUMMARY_FILE), summary)
        self._remove_books()
        return summary

    def _summary(self, progress):
        subject, config, ledger = self.subject, self.config, progress.ledger
        count = len(ledger.label)
        robust = int(ledger.is_robust.sum())
        stages = [
            self._stage_row(index, stage, books, ledger)
            for index, (stage, books) in enumerate(
                zip(self.stages, progress.stages, strict=True)
            )
        ]
        return {
            "protocol": config["protocol"],
            "protocol_version": config["protocol_version"],
            "threat_model": {
                "norm": self.threat_model.norm,
                "epsilon": float(self.threat_model.epsilon),
            },
            "mode": subject.mode,
            "num_samples": subject.num_samples,
            "num_judge_samples": subject.num_judge_samples,
            "num_final_draws": self.runner.num_final_draws,
            "num_examples": count,
            "clean_accuracy": ledger.clean_accuracy,
            "robust_accuracy": ledger.robust_accuracy,
            "robust_accuracy_ci95": list(wilson_interval(robust, count)),
            "expected_accuracy": ledger.expected_accuracy,
            "stages": stages,
            "gradient_evaluations": int(ledger.gradient_evaluations.sum()),
            "num_nonfinite_examples": int((ledger.num_nonfinite > 0).sum()),
            "num_zero_gradient_examples": int(
                (ledger.num_zero_gradients > 0).sum()
            ),
            "seconds": round(sum(s["seconds"] for s in stages), 3),
            "seed": config["seed"],
            "model": subject.target.describe(),
            "safety": _safety(subject.target),
            "dataset": subject.dataset,
            "versions": export.describe_versions(),
            "command": self.command,
            "epsilon_curve": self._epsilon_curve(ledger, robust, count),
        }

    def _epsilon_curve(self, ledger, robust, count):
        """The other radii and this one, ascending; empty if there are none."""
        if not self.curve:
            return []
        here = {
            "epsilon": float(self.threat_model.epsilon),
            "robust_accuracy": ledger.robust_accuracy,
            "robust_accuracy_ci95": list(wilson_interval(robust, count)),
        }
        return sorted([*self.curve, here], key=lambda row: row["epsilon"])

    def _stage_row(self, index, stage, books, ledger):
        fallen = (ledger.broken_by_stage <= index) & (
            ledger.broken_by_stage >= 0
        )
        right = ledger.clean_prediction == ledger.label
        count = len(ledger.label)
        last_target = {}
        for restart, _, standing, gradients in books.curve:
            last_target[restart] = (standing / count, gradients)
        return {
            "name": stage.name,
            "attack": stage.config,
            "num_restarts": stage.num_restarts,
            "robust_accuracy": float((right & ~fallen).mean()),
            "num_attacked": books.num_attacked,
            "num_broken": int((ledger.broken_by_stage == index).sum()),
            "gradient_evaluations": books.gradient_evaluations,
            "seconds": round(books.seconds, 3),
            "restart_curve": [v for v, _ in last_target.values()],
            "gradient_curve": [g for _, g in last_target.values()],
        }


def _safety(target) -> dict[str, Any] | None:
    """What the summary says of the safety check; safety.json has all of it.

    Equal audits have equal summaries, so what differs from run to run stays
    there.
    """
    if target.safety is None:
        return None
    report = target.safety.to_json()
    return {n: report[n] for n in report if n not in SAFETY_FILE_ALONE}


def plan(
    config: Mapping[str, Any],
    saved_model: str | targets.Target,
    allow_ops: Sequence[str] = (),
    probe: bool = False,
) -> list[dict[str, Any]]:
    """What a protocol can cost at most, by a measured gradient.

    Args:
        config: An audit config.
        saved_model: As `audit`.
        allow_ops: Operations that the safety check lets pass.
        probe: Whether a child process runs the model first, under limits.

    Returns:
        One row a stage and radius: `epsilon`, `stage`, `gradients` (if every
        example stood to the end) and `seconds` for them at the measured pace.

    Raises:
        UserError: As `audit`.
    """
    subject = load_subject(config, saved_model, None, allow_ops, probe)
    stages = build_stages(config)
    first = build_runner(config, subject, stages)
    pace = 0.0
    if _take_gradients(stages):
        pace = _seconds_per_gradient(subject, first.batch_size)
    main = float(config["threat_model"]["epsilon"])
    radii = sorted({float(e) for e in config["epsilon_curve"]} | {main})
    rows = []
    for epsilon in radii:
        for stage in stages:
            each = first.most_gradients(stage, subject.target.num_classes)
            count = each * len(subject.labels)
            rows.append(
                {
                    "epsilon": epsilon,
                    "stage": stage.name,
                    "gradients": count,
                    "seconds": count * pace,
                }
            )
    return rows


def _seconds_per_gradient(subject, batch_size, repeats=5) -> float:
    """The median time of one example's gradient in a full batch."""
    images = tf.constant(subject.images[:batch_size])
    labels = tf.constant(subject.labels[:batch_size])

    @tf.function(jit_compile=strategies.jit_compile())
    def gradient(images, seed):
        return base.evaluate_gradient(
            subject.logits_fn,
            lambda logits: losses.cross_entropy(logits, labels),
            images,
            labels,
            seed,
        )[1]

    times = []
    for repeat in range(repeats + 1):
        began = time.monotonic()
        gradient(images, tf.constant([0, repeat])).numpy()
        times.append(time.monotonic() - began)
    return float(np.median(times[1:])) / len(images)


def audit(
    config: Mapping[str, Any],
    saved_model: str | targets.Target,
    workdir: str,
    *,
    strategy: tf.distribute.Strategy | None = None,
    allow_ops: Sequence[str] = (),
    probe: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    watchdog_minutes: float = 0.0,
    command: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Audits a SavedModel by a protocol, or goes on auditing it.

    Args:
        config: Nested JSON values, as `configs/audits/` makes them.
        saved_model: Folder of the SavedModel, a .keras file, or a target
            that is loaded already, such as `target.from_function` makes.
        workdir: The audit folder; the same call resumes.
        strategy: Where to run; None for TensorFlow's default device. Workers
            share the examples out, each on one device, and see one workdir.
        allow_ops: Operations that the safety check lets pass.
        probe: Whether a child process runs the model first, under limits.
        should_stop: Asked after every batch; true saves and stops.
        watchdog_minutes: Ends the process with status 76 and the stack of
            every thread when no call of the model ends for this long; 0 for
            never.
        command: For the summary, how this was started.
        quiet: Prints nothing.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: If config, model, data or workdir cannot be used, or
            another process holds the workdir.
        Interrupted: If it was stopped, or a worker was lost; the books are
            saved.
    """
    workdirs.check_fields(config, _FIELDS)
    team = sharing.Team.of(strategy)
    if team.is_chief:
        workdirs.check_free(workdir)
    given = (team.devices, allow_ops, probe)
    return audit_subject(
        config,
        load_subject(config, saved_model, *given),
        workdir,
        load_twin=lambda: _load_twin(config, *given),
        strategy=strategy,
        should_stop=should_stop,
        watchdog_minutes=watchdog_minutes,
        command=command,
        quiet=quiet,
    )


def audit_subject(
    config: Mapping[str, Any],
    subject: Subject,
    workdir: str,
    *,
    load_twin: Callable[[], Subject | None] = lambda: None,
    strategy: tf.distribute.Strategy | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    watchdog_minutes: float = 0.0,
    command: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Audits a model and examples that are loaded already.

    Args:
        config: As `audit`.
        subject: The model and the examples.
        workdir: As `audit`.
        load_twin: Gives the undefended twin, if diagnostics shall have one.
        strategy: As `audit`.
        should_stop: As `audit`.
        watchdog_minutes: As `audit`.
        command: As `audit`.
        quiet: As `audit`.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: As `audit`.
        Interrupted: As `audit`.
    """
    examination.check(config)
    stages = build_stages(config)
    team = sharing.Team.of(strategy)
    quiet = quiet or not team.is_chief
    main = float(config["threat_model"]["epsilon"])
    curve = sorted({float(e) for e in config["epsilon_curve"]} - {main})
    owner = {"audit": dict(config), "model_sha256": subject.target.sha256}
    may_differ = tuple(f"audit.{name}" for name in MAY_DIFFER)
    # Checked before anything is written; the radii share compiled functions.
    own, _ = team.share(len(subject.labels), team.index)
    first = build_runner(config, subject, stages, team.devices, own)

    def make(attack_runner, folder):
        part = Audit(config, subject, stages, attack_runner, folder, quiet)
        part.command = command
        return part

    audits = {
        epsilon: make(
            first.with_epsilon(epsilon),
            files.join(workdir, f"epsilon_{epsilon!r}"),
        )
        for epsilon in curve
    }
    audits[main] = make(first, workdir)
    is_done = audits[main].is_done

    def say(line):
        if not quiet:
            print(line, flush=True)

    def asked():
        held.check()
        watchdog.beat()
        return should_stop()

    def conclude(part):
        """The summary of one radius."""
        if team.is_alone or part.is_done:
            return part.run(asked)
        return part.finish(team.gather(part))

    with strategies.watched(strategy), contextlib.ExitStack() as stack:
        workdirs.check(workdir, owner, may_differ)
        team.check(owner, len(subject.labels))
        if team.is_chief:
            workdirs.claim(workdir, owner, may_differ)
        team.wait()
        team.check_same_folder(workdir, workdirs.CONFIG_FILE)
        held = stack.enter_context(team.lock(workdir, say))
        if subject.target.safety is not None and team.is_chief and not is_done:
            report = subject.target.safety.to_json()
            files.write_json(files.join(workdir, SAFETY_FILE), report)
        if not team.is_alone:
            with _watchdog(watchdog_minutes) as watchdog:
                team.attack(list(audits.values()), asked)
            if not team.is_chief:
                stack.close()  # The chief will take the folder away.
            team.wait()
        if team.is_chief:
            with _watchdog(watchdog_minutes) as watchdog:
                audits[main].curve = [
                    _curve_point(epsilon, conclude(audits[epsilon]))
                    for epsilon in ([] if is_done else curve)
                ]
                summary = conclude(audits[main])
                _, is_new = examination.examine(
                    config,
                    workdir,
                    lambda: examination.build_case(
                        config,
                        subject,
                        stages,
                        summary,
                        workdir,
                        twin=load_twin(),
                        strategy=team.devices,
                    ),
                    should_stop=asked,
                    quiet=quiet,
                )
            if is_done and not is_new:
                say(f"Nothing left to do: {workdir} is whole.")
        # A worker that left would be one lost to the chief.
        team.wait()
        return files.read_json(files.join(workdir, SUMMARY_FILE))


def _watchdog(minutes: float) -> Watchdog:
    return Watchdog(
        minutes * 60,
        what="call of the model",
        resume="The same command resumes.",
        smaller="batch_size or chunk_steps",
    )


def _load_twin(config, strategy, allow_ops, probe) -> Subject | None:
    """The undefended twin that the diagnostics are told of."""
    path = config["diagnostics"]["twin"]
    if path is None:
        return None
    unsaid = dict.fromkeys(config["model"])
    settings = {**config, "mode": "mean", "model": unsaid}
    return load_subject(settings, path, strategy, allow_ops, probe)


def _curve_point(epsilon, summary):
    return {
        "epsilon": epsilon,
        "robust_accuracy": summary["robust_accuracy"],
        "robust_accuracy_ci95": summary["robust_accuracy_ci95"],
        "restart_curve": [
            accuracy
            for stage in summary["stages"]
            for accuracy in stage["restart_curve"]
        ],
    }
