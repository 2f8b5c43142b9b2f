"""An audit in parts: each attacks a range of the examples, wherever it runs.

Three functions of JSON values and paths, for whatever engine calls them:

    job = jobs.make(config, saved_model, workdir)  # Who plans; once.
    jobs.claim(job)
    shards.attack(job, 0, 500)  # Anywhere, in any order, again after a crash.
    shards.attack(job, 500, 1000)
    shards.merge(job, [(0, 500), (500, 1000)])  # The folder of `launch.audit`.
    shards.examine(job)  # Diagnostics and verdict: they need all examples.

A part leaves its progress in `part_FIRST_LAST/` of the audit folder and, when
it is whole, `part.json` with the digests of its files. Attacks draw by an
example's place in the whole list, so in mean mode the parts merged are what one
process finds, up to rounding; where the model has noise, the draws of
judgements follow from the part's first example, too.

A process keeps the last model, its compiled functions and the examples for the
next part, since tracing takes longer than most parts.
"""

import gc
import hashlib
import json
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from ib_keras import files
from ib_keras import workdirs
from ib_keras.attacks import ledger as ledgers
from ib_keras.audit import examination
from ib_keras.audit import examples
from ib_keras.audit import folder as folders
from ib_keras.audit import jobs
from ib_keras.audit import protocol
from ib_keras.audit import radius
from ib_keras.audit import runner
from ib_keras.audit import settings
from ib_keras.audit import subject as subjects
from ib_keras.errors import UserError

PART_FILE = "part.json"

_RESUME = "Run the same command again, which attacks this part anew."


def attack(
    job: Mapping[str, Any],
    first: int,
    last: int,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    watchdog_minutes: float = 0.0,
) -> dict[str, Any]:
    """Attacks a range of the examples and leaves its progress, whole.

    A part that is done is not attacked again, one that was stopped goes on.

    Args:
        job: From `jobs.make`; its folder was claimed.
        first: Position of the first example.
        last: Position after the last one.
        should_stop: Called after every batch; true saves and stops.
        watchdog_minutes: As `runner.audit`.

    Returns:
        What `part.json` holds.

    Raises:
        UserError: If the range, the model or the folder cannot be used.
        InUseError: If another process attacks this part.
        Interrupted: If it was stopped; its progress is saved.
    """
    _check_folder(job)
    _check_range(job, first, last)
    place = folders.part(job["workdir"], first, last)
    done = _read_part(job, first, last)
    if done is not None and not _damaged(place, done):
        return done
    files.make_folder(place)
    with workdirs.lock(place, lambda line: None) as held:

        def asks_to_stop():
            held.check()
            return should_stop()

        opened = _open(job, watchdog_minutes)
        with subjects.watchdog(watchdog_minutes):
            opened.check_finite(first, last)
            parts = opened.parts(first, last)
            for part in parts:
                part.attack_and_save(asks_to_stop)
        found = _describe(job, first, last, parts)
        files.write_json(files.join(place, PART_FILE), found)
    return found


def _describe(job, first, last, parts):
    place = folders.part(job["workdir"], first, last)
    progress = parts[-1].restore()
    return {
        **_identity(job, first, last),
        "num_robust": int(progress.ledger.is_robust.sum()),
        "gradient_evaluations": int(progress.ledger.gradient_evaluations.sum()),
        "seconds": round(sum(s.seconds for s in progress.stages), 3),
        "files": {
            name: _digest(files.join(place, name))
            for name in sorted(_names(parts, place))
        },
    }


def _names(parts, place):
    """The files of the progress at each radius, relative to the part."""
    for part in parts:
        path = files.join(part.folder, radius.PARTIAL_FILE)
        yield path.removeprefix(place).lstrip("/")


def _digest(path):
    return hashlib.sha256(files.read_bytes(path)).hexdigest()


def _identity(job, first, last) -> dict[str, Any]:
    """What must agree for a part to be one of a job."""
    may_differ, _ = settings.tolerated()
    fields = workdirs.flatten(job["config"])
    kept = {k: v for k, v in fields.items() if k not in may_differ}
    text = json.dumps(kept, sort_keys=True)
    return {
        "first": first,
        "last": last,
        "model_sha256": job["sha256"],
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def _read_part(job, first, last) -> dict[str, Any] | None:
    """`part.json`; None if it is not there, or is cut off."""
    place = folders.part(job["workdir"], first, last)
    path = files.join(place, PART_FILE)
    if not files.exists(path):
        return None
    try:
        found = files.read_json(path)
    except UserError:
        return None
    expected = _identity(job, first, last)
    there = {name: found.get(name) for name in expected}
    if there != expected:
        raise UserError(
            "A part is that of another audit",
            received=f"{path} of {there}",
            expected=f"{expected}",
            fix=f"Remove {place}, or choose another --workdir.",
        )
    return found


def _damaged(place, part) -> list[str]:
    """The files of a part that are not as they were when it was whole."""
    names = part.get("files") or {}
    return [
        name for name, digest in names.items() if not _is(place, name, digest)
    ]


def _is(place, name, digest):
    path = files.join(place, name)
    return files.exists(path) and _digest(path) == digest


def merge(
    job: Mapping[str, Any],
    parts: Sequence[Sequence[int]],
    *,
    watchdog_minutes: float = 0.0,
) -> dict[str, Any]:
    """Writes the audit folder that `launch.audit` writes, and removes parts.

    Args:
        job: As of `attack`.
        parts: (first, last) of each, in any order.
        watchdog_minutes: As `attack`.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: If parts overlap, leave a gap, are not whole or are of
            another audit.
        InUseError: If another process merges.
    """
    _check_folder(job)
    ranges = jobs.check_parts(parts, job["config"]["num_examples"])
    path = files.join(job["workdir"], folders.SUMMARY)
    if files.exists(path):
        folders.remove_parts(job["workdir"])
        return folders.summary(job["workdir"])
    for first, last in ranges:
        _check_whole(job, first, last)
    with workdirs.lock(job["workdir"], lambda line: None):
        opened = _open(job, watchdog_minutes)
        _write_safety(job, opened)
        by_radius = zip(
            *(opened.parts(first, last) for first, last in ranges), strict=True
        )
        *curve, whole = opened.audits
        *others, own = (list(shares) for shares in by_radius)
        whole.curve = [
            runner.curve_point(_finish(audit, shares))
            for audit, shares in zip(curve, others, strict=True)
        ]
        return _finish(whole, own)


def _finish(audit, shares):
    """Puts the shares of one radius together; its summary."""
    if audit.is_done:
        return audit.read()
    files.make_folder(audit.folder)
    progress = [_restored(part) for part in shares]
    audit.take_certificates([part.certificates for part in shares])
    return audit.finish(ledgers.merge(progress))


def _restored(part):
    progress = part.restore()
    if progress.position.stage < len(part.stages):
        raise _not_whole(part.folder, "progress that is not at its end")
    return progress


def _not_whole(place, received):
    return UserError(
        "A part of the audit is not whole",
        received=f"{received} in {place}",
        expected="the whole progress of every part, in a folder that all "
        "processes share",
        fix=_RESUME,
    )


def _check_whole(job, first, last):
    place = folders.part(job["workdir"], first, last)
    found = _read_part(job, first, last)
    if found is None:
        raise _not_whole(place, f"no whole {PART_FILE}")
    damaged = _damaged(place, found)
    if damaged:
        raise UserError(
            "The progress of a part is cut off or altered",
            received=f"{damaged[0]} in {place}",
            expected=f"the file whose SHA-256 {PART_FILE} has",
            fix=_RESUME,
        )


def examine(
    job: Mapping[str, Any],
    *,
    should_stop: Callable[[], bool] = lambda: False,
    watchdog_minutes: float = 0.0,
) -> dict[str, Any] | None:
    """Runs the diagnostics of a merged audit, and gives the verdict.

    Args:
        job: As of `attack`.
        should_stop: Called between diagnostics; true stops.
        watchdog_minutes: As `attack`.

    Returns:
        What `findings.json` holds; None where the config asks for none.

    Raises:
        UserError: If the folder cannot be used.
        Interrupted: If it was stopped.
    """
    _check_folder(job)
    config, workdir = job["config"], job["workdir"]
    summary = folders.check(workdir)

    def make_case():
        opened = _open(job, watchdog_minutes)
        return examination.build_case(
            config,
            opened.subject,
            opened.stages,
            summary,
            workdir,
            twin=runner.load_twin(config, None, job.get("allow_ops", ())),
        )

    with (
        workdirs.lock(workdir, lambda line: None),
        subjects.watchdog(watchdog_minutes),
    ):
        runner.restate_diagnostics(workdir, config)
        found, _ = examination.examine(
            config, workdir, make_case, should_stop=should_stop
        )
    return found


def _write_safety(job, opened):
    """What the check found, if who planned has not written it."""
    path = files.join(job["workdir"], folders.SAFETY)
    safety = opened.subject.model.safety
    if safety is not None and not files.exists(path):
        files.write_sealed_json(path, safety.to_json())


def _check_folder(job):
    """Refuses a folder that this process does not see as it was claimed."""
    workdir = job["workdir"]
    if not files.exists(files.join(workdir, workdirs.CONFIG_FILE)):
        raise UserError(
            "This process does not see the audit folder",
            received=f"no {workdirs.CONFIG_FILE} in {workdir}",
            expected="a folder that all processes share, which was claimed",
            fix="Put --workdir on a shared file system or on gs://.",
        )
    workdirs.check(workdir, jobs.owner(job), *settings.tolerated("audit."))


def _check_range(job, first, last):
    count = job["config"]["num_examples"]
    if not 0 <= first < last <= count:
        raise UserError(
            "A part is not a range of the examples",
            received=f"first={first}, last={last}",
            expected=f"0 <= first < last <= {count}",
            fix="Give a part of the audit.",
        )


class _Opened:
    """A job's model, examples and compiled functions, for all of its parts.

    Args:
        job: The job.
        model: A loaded model, if the previous job had the same.
        watchdog_minutes: As `attack`.
    """

    def __init__(self, job, model, watchdog_minutes):
        config = job["config"]
        self._config = config
        self.loaded = subjects.load_model(
            config, model or job["saved_model"], None, job.get("allow_ops", ())
        )
        _check_model(job, self.loaded)
        found = examples.load(config, self.loaded.about)
        with subjects.watchdog(watchdog_minutes):
            self._settled = subjects.settle(config, self.loaded, found)
        self.subject = self._settled.of(found.images, found.labels)
        examination.check(config)
        self.stages = protocol.build_stages(config)
        check_targets(self.stages, self.subject.model.num_classes)
        self._runner = protocol.build_runner(config, self.subject, self.stages)
        self._prover = runner.build_prover(config, self.subject)
        self._workdir = job["workdir"]
        self._facts = job.get("command", ""), job.get("git_commit")

    def check_finite(self, first, last):
        self._settled.check_finite(
            self.subject.images[first:last], self._config["batch_size"]
        )

    @property
    def audits(self) -> list[radius.Audit]:
        """The whole audit at each radius, the config's own last."""
        return self._at(self._runner, self._workdir)

    def parts(self, first: int, last: int) -> list[radius.Audit]:
        """The same of a range of the examples."""
        place = folders.part(self._workdir, first, last)
        return [
            audit.of_share(first, last, audit.folder)
            for audit in self._at(self._runner.at(first), place)
        ]

    def _at(self, attacker, folder):
        found = runner.at_radii(
            self._config,
            self.subject,
            self.stages,
            attacker,
            self._prover,
            folder,
        )
        for audit in found:
            audit.command, audit.git_commit = self._facts
        return found


def check_targets(stages: Sequence[Any], num_classes: int) -> None:
    """Refuses attacks that aim at more classes than there are.

    Args:
        stages: As `protocol.build_stages` makes them.
        num_classes: Of the model.

    Raises:
        UserError: If one does.
    """
    for stage in stages:
        asked, others = stage.attack.num_targets or 0, num_classes - 1
        if asked > others:
            raise jobs.targets_error(stage.name, asked, num_classes)


def _check_model(job, model):
    if model.sha256 != job["sha256"]:
        raise UserError(
            "The model has changed since the audit was planned",
            received=f"{job['saved_model']} with SHA-256 {model.sha256}",
            expected=job["sha256"],
            fix="Restore the model, or plan the audit again in another "
            "--workdir.",
        )


# The last job of this process: its key, that of its model, and what is open.
_held: tuple[str, str, _Opened] | None = None


def _open(job, watchdog_minutes) -> _Opened:
    """The job, opened; as it was, if it was this process' last one."""
    global _held
    model_key = json.dumps(
        [job["saved_model"], job["sha256"], job.get("allow_ops", ())]
    )
    key = json.dumps([model_key, job["workdir"], job["config"]], sort_keys=True)
    if _held is not None and _held[0] == key:
        return _held[2]
    model = None
    if _held is not None and _held[1] == model_key:
        model = _held[2].loaded
    forget()
    opened = _Opened(job, model, watchdog_minutes)
    _held = key, model_key, opened
    return opened


def forget() -> None:
    """Frees what this process keeps of its last job."""
    global _held
    if _held is not None:
        _held = None
        gc.collect()
