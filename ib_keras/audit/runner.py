"""Runs an audit: from a model, data and a protocol to an audit folder."""

import contextlib
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from ib_keras import files
from ib_keras import strategy as strategies
from ib_keras import watchdog
from ib_keras import workdirs
from ib_keras.attacks import base
from ib_keras.attacks import compiled
from ib_keras.attacks import devices
from ib_keras.attacks import losses
from ib_keras.attacks import runner as attacks
from ib_keras.audit import audited_model
from ib_keras.audit import examination
from ib_keras.audit import folder as folders
from ib_keras.audit import protocol
from ib_keras.audit import settings
from ib_keras.audit import subject as subjects
from ib_keras.audit.config import Certify
from ib_keras.audit.radius import Audit
from ib_keras.audit.subject import Subject


def plan(
    config: Mapping[str, Any],
    saved_model: str | audited_model.AuditedModel,
    allow_ops: Sequence[str] = (),
    probe: bool = False,
) -> list[dict[str, Any]]:
    """The most that a protocol can cost, from a measured gradient.

    Args:
        config: An audit config.
        saved_model: As `audit`.
        allow_ops: Operations that the safety check lets pass.
        probe: Whether a child process runs the model first, under limits.

    Returns:
        One row per stage and radius, if every example stays robust:
        `epsilon`, `stage`, `targets` (1 where it has none), `gradients`,
        `queries` (of an attack without gradients) and `seconds` for them at
        the measured speed. Diagnostics are not included.

    Raises:
        UserError: As `audit`.
    """
    settings.check_start(config, saved_model)
    return plan_subject(
        config, subjects.load(config, saved_model, None, allow_ops, probe)
    )


def plan_subject(
    config: Mapping[str, Any], subject: Subject
) -> list[dict[str, Any]]:
    """As `plan`, of a model and examples that are loaded already."""
    stages = protocol.build_stages(config)
    first = protocol.build_runner(config, subject, stages)
    most = {"gradients": first.most_gradients, "queries": first.most_queries}
    num_classes = subject.model.num_classes
    pace = {
        name: _seconds_per_call(subject, first.batch_size, name == "gradients")
        for name, each in most.items()
        if any(each(stage, num_classes) for stage in stages)
    }
    main = float(config["threat_model"]["epsilon"])
    radii = sorted({float(e) for e in config["epsilon_curve"]} | {main})
    rows = []
    for epsilon in radii:
        for stage in stages:
            counts = {
                name: each(stage, num_classes) * len(subject.labels)
                for name, each in most.items()
            }
            seconds = sum(n * pace.get(name, 0.0) for name, n in counts.items())
            rows.append(
                {
                    "epsilon": epsilon,
                    "stage": stage.name,
                    "targets": base.num_targets(stage.attack, num_classes),
                    **counts,
                    "seconds": seconds,
                }
            )
    return rows


def _seconds_per_call(subject, batch_size, is_gradient, repeats=5) -> float:
    """The median time of an example's gradient or query in a full batch."""
    images = tf.constant(subject.images[:batch_size])
    labels = tf.constant(subject.labels[:batch_size])

    def ask(images, labels, seed):
        if not is_gradient:
            return logits(images, seed)
        return base.evaluate_gradient(
            logits,
            lambda logits: losses.cross_entropy(logits, labels),
            images,
            labels,
            seed,
        )[1]

    logits = compiled.on(subject.logits_fn, None, strategies.jit_compile())
    logits.resolve(images.shape)
    call = logits.compiled(("pace", is_gradient), lambda: ask)
    times = []
    for repeat in range(repeats + 1):
        began = time.monotonic()
        seed = tf.constant([0, repeat])
        call(len(images), (images, labels), (seed,)).numpy()
        times.append(time.monotonic() - began)
    return float(np.median(times[1:])) / len(images)


def audit(
    config: Mapping[str, Any],
    saved_model: str | audited_model.AuditedModel,
    workdir: str,
    *,
    strategy: tf.distribute.Strategy | None = None,
    allow_ops: Sequence[str] = (),
    probe: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    watchdog_minutes: float = 0.0,
    command: str = "",
    git_commit: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Audits a SavedModel by a protocol, or resumes its audit.

    Args:
        config: Nested JSON values, as `configs/audits/` makes them.
        saved_model: Folder of the SavedModel, a .keras file, or a loaded
            `AuditedModel`, such as `audited_model.from_function` makes.
        workdir: The audit folder; the same call resumes.
        strategy: Where to run; None for TensorFlow's default device.
        allow_ops: Operations that the safety check lets pass.
        probe: Whether a child process runs the model first, under limits.
        should_stop: Called after every batch; true saves and stops.
        watchdog_minutes: Ends the process with status 76 and the stack of
            every thread when no call of the model ends for this long; 0 for
            never.
        command: For the summary, how this was started.
        git_commit: Likewise, of the code.
        quiet: Prints nothing.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: If config, model, data or workdir cannot be used, the
            strategy has workers, or another process holds the workdir.
        Interrupted: If it was stopped; progress is saved.
    """
    _check_alone(strategy)
    settings.check_start(config, saved_model, workdir)
    workdirs.check_free(workdir)
    given = (strategy, allow_ops, probe)
    return audit_subject(
        config,
        subjects.load(
            config, saved_model, *given, watchdog_minutes=watchdog_minutes
        ),
        workdir,
        load_twin=lambda: load_twin(config, *given),
        strategy=strategy,
        should_stop=should_stop,
        watchdog_minutes=watchdog_minutes,
        command=command,
        git_commit=git_commit,
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
    git_commit: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Audits a model and examples that are loaded already.

    Args:
        config: As `audit`.
        subject: The model and the examples.
        workdir: As `audit`.
        load_twin: Loads the deterministic baseline, if diagnostics use one.
        strategy: As `audit`.
        should_stop: As `audit`.
        watchdog_minutes: As `audit`.
        command: As `audit`.
        git_commit: As `audit`.
        quiet: As `audit`.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: As `audit`.
        Interrupted: As `audit`.
    """
    _check_alone(strategy)
    examination.check(config)
    stages = protocol.build_stages(config)
    # Checked before anything is written.
    *curve, whole = at_radii(
        config,
        subject,
        stages,
        protocol.build_runner(config, subject, stages, strategy),
        build_prover(config, subject),
        workdir,
        quiet,
    )
    for part in (*curve, whole):
        part.command = command
        part.git_commit = git_commit
    is_done = whole.is_done
    num_traced = len(devices.TRACES)

    def say(line):
        if not quiet:
            print(line, flush=True)

    tolerated = settings.tolerated("audit.")
    owner = {"audit": dict(config), "model_sha256": subject.model.sha256}
    workdirs.claim(workdir, owner, *tolerated)
    lock = workdirs.lock(workdir, say)
    with _Guard(lock, should_stop, watchdog_minutes) as guard:
        restate_diagnostics(workdir, config)
        if not is_done:
            _say_other_mode(config, subject, say)
            _write_safety(subject, workdir)
        with guard.watchdog():
            whole.curve = [
                curve_point(part.run(guard.asks_to_stop))
                for part in ([] if is_done else curve)
            ]
            summary = whole.run(guard.asks_to_stop)
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
                    strategy=strategy,
                ),
                should_stop=guard.asks_to_stop,
                quiet=quiet,
            )
        logging.debug(
            "%d functions traced: %s",
            len(devices.TRACES) - num_traced,
            ", ".join(devices.TRACES[num_traced:]),
        )
        if is_done and not is_new:
            say(f"Nothing left to do: {workdir} is whole.")
        return folders.summary(workdir)


def _check_alone(strategy):
    """Refuses the strategies of several processes."""
    _, count = strategies.place(strategy)
    if count > 1:
        raise settings.workers_error(f"a strategy of {count} workers")


class _Guard:
    """Keeps an audit alone in its folder, alive, and ready to stop.

    A context, which holds the folder.

    Args:
        lock: A context that gives a `workdirs.Lock`.
        should_stop: Asked after every batch.
        watchdog_minutes: As `audit`.
    """

    def __init__(self, lock, should_stop, watchdog_minutes):
        self._lock = lock
        self._should_stop = should_stop
        self._minutes = watchdog_minutes
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        self._held = self._stack.enter_context(self._lock)
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def watchdog(self) -> watchdog.Watchdog:
        """A context in which calls of the model must end."""
        return subjects.watchdog(self._minutes)

    def asks_to_stop(self) -> bool:
        """Whether to stop; to ask is a sign of life.

        Raises:
            UserError: If another process has taken the folder over.
        """
        self._held.check()
        watchdog.beat()
        return self._should_stop()


def _write_safety(subject, workdir):
    if subject.model.safety is not None:
        report = subject.model.safety.to_json()
        files.write_sealed_json(files.join(workdir, folders.SAFETY), report)


def build_prover(config: Mapping[str, Any], subject: Subject):
    """The `certificates.Prover` that a config asks for; None for none."""
    if not Certify.of(config).is_on:
        return None
    # What is not asked for is not imported.
    from ib_keras.audit import certificates

    return certificates.Prover(config, subject)


def at_radii(
    config: Mapping[str, Any],
    subject: Subject,
    stages: Sequence[attacks.Stage],
    runner: attacks.Runner,
    prover: Any,
    workdir: str,
    quiet: bool = True,
) -> list[Audit]:
    """The audits of the radii of the curve and, last, of the config's own.

    Args:
        config: An audit config.
        subject: What is audited.
        stages: What is run, in order.
        runner: Runs them at the config's own radius.
        prover: From `build_prover`.
        workdir: The audit folder.
        quiet: Prints nothing.

    Returns:
        One `radius.Audit` a radius, with compiled functions in common.
    """
    main = float(config["threat_model"]["epsilon"])
    curve = sorted({float(e) for e in config["epsilon_curve"]} - {main})
    places = [
        (runner.with_epsilon(epsilon), folders.radius(workdir, epsilon))
        for epsilon in curve
    ]
    return [
        Audit(config, subject, stages, one, folder, quiet, prover=prover)
        for one, folder in (*places, (runner, workdir))
    ]


def restate_diagnostics(workdir: str, config: Mapping[str, Any]) -> None:
    """Updates the set of diagnostics in the folder's config."""
    path = files.join(workdir, workdirs.CONFIG_FILE)
    stored = files.read_json(path)
    now = dict(config["diagnostics"])
    if stored["audit"].get("diagnostics") != now:
        stored["audit"]["diagnostics"] = now
        files.write_json(path, stored)


def _say_other_mode(config, subject, say):
    """Reports that the model has a mode that is not audited here."""
    if config["mode"] == "mean" and subject.model.metadata.get("is_stochastic"):
        say(
            "In mean mode. The model has a stochastic mode, too: "
            "--config.mode=stochastic audits that."
        )


def load_twin(
    config: Mapping[str, Any],
    strategy: tf.distribute.Strategy | None = None,
    allow_ops: Sequence[str] = (),
    probe: bool = False,
) -> Subject | None:
    """Loads the deterministic baseline (twin) of the diagnostics.

    The arguments and errors are those of `subject.load`.

    Returns:
        Its `Subject`; None where the config names none.
    """
    path = config["diagnostics"]["twin"]
    if path is None:
        return None
    unsaid = dict.fromkeys(config["model"])
    settings = {**config, "mode": "mean", "model": unsaid}
    return subjects.load(settings, path, strategy, allow_ops, probe)


def curve_point(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the summary of an audit says of another radius, from its own."""
    return {
        "epsilon": summary["threat_model"]["epsilon"],
        "robust_accuracy": summary["robust_accuracy"],
        "robust_accuracy_ci95": summary["robust_accuracy_ci95"],
        "certified_accuracy": summary.get("certified_accuracy"),
        "restart_curve": [
            accuracy
            for stage in summary["stages"]
            for accuracy in stage["restart_curve"]
        ],
    }
