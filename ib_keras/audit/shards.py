"""An audit in parts: each attacks a range of the examples, wherever it runs.

Three functions of JSON values and paths, for whatever engine calls them:

    job = shards.job(config, saved_model, workdir)  # Who plans; once.
    shards.claim(job)
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
from ib_keras.audit import protocol
from ib_keras.audit import radius
from ib_keras.audit import runner
from ib_keras.audit import settings
from ib_keras.audit import subject as subjects
from ib_keras.audit.audited_model import options
from ib_keras.errors import UserError

PART_FILE = "part.json"

_RESUME = "Run the same command again, which attacks this part anew."


def job(
    config: Mapping[str, Any],
    saved_model: str,
    workdir: str,
    *,
    sha256: str | None = None,
    allow_ops: Sequence[str] = (),
    command: str = "",
    git_commit: str | None = None,
) -> dict[str, Any]:
    """Describes an audit to those who will make it.

    Args:
        config: An audit config, nested JSON values.
        saved_model: Folder of the SavedModel, or a .keras file.
        workdir: The audit folder.
        sha256: Of the model, where it is known; None computes it.
        allow_ops: Operations that the safety check lets pass.
        command: For the summary, how this was started.
        git_commit: Likewise, of the code.

    Returns:
        JSON values.

    Raises:
        UserError: If there is no model, or config or workdir cannot be used.
    """
    settings.check_start(config, saved_model, workdir)
    return {
        "saved_model": saved_model,
        "sha256": sha256 or options.hash_folder(saved_model.rstrip("/")),
        "config": json.loads(json.dumps(config)),
        "workdir": workdir,
        "allow_ops": list(allow_ops),
        "command": command,
        "git_commit": git_commit,
    }


def claim(job: Mapping[str, Any]) -> None:
    """Makes the audit folder this job's.

    Raises:
        UserError: If it is that of another audit.
    """
    tolerated = settings.tolerated("audit.")
    workdirs.claim(job["workdir"], _owner(job), *tolerated)


def _owner(job):
    return {"audit": job["config"], "model_sha256": job["sha256"]}


def is_merged(job: Mapping[str, Any]) -> bool:
    """Whether the audit folder has its summary."""
    return files.exists(files.join(job["workdir"], folders.SUMMARY))


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
        job: From `job`; its folder was claimed.
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
    ranges = check_parts(parts, job["config"]["num_examples"])
    path = files.join(job["workdir"], folders.SUMMARY)
    if files.exists(path):
        folders.remove_parts(job["workdir"])
        return files.read_json(path)
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


def check_parts(
    parts: Sequence[Sequence[int]], num_examples: int
) -> list[tuple[int, int]]:
    """Refuses parts that do not hold every example exactly once.

    Args:
        parts: (first, last) of each, in any order.
        num_examples: Of the audit.

    Returns:
        The parts in the order of their examples.

    Raises:
        UserError: If two overlap, or an example is in none.
    """
    ranges = sorted((int(first), int(last)) for first, last in parts)
    end = 0
    for first, last in [*ranges, (num_examples, num_examples)]:
        if first < end or last > num_examples:
            raise UserError(
                "Parts of the audit overlap",
                received=f"examples {first} to {last - 1} beside those up to "
                f"{end - 1}, of {num_examples}",
                expected="every example in one part",
                fix="Give parts that follow one another.",
            )
        if first > end:
            raise UserError(
                "Parts of the audit leave a gap",
                received=f"no part with examples {end} to {first - 1}",
                expected="every example in one part",
                fix="Attack these examples, too.",
            )
        end = last
    return ranges


def split(
    num_examples: int, examples_per_part: int | None
) -> list[tuple[int, int]]:
    """Ranges of so many examples; the last one has the rest.

    Args:
        num_examples: Of the audit.
        examples_per_part: None for one part.

    Returns:
        (first, last) of each.

    Raises:
        UserError: If the size is none, or larger than the audit.
    """
    size = num_examples if examples_per_part is None else examples_per_part
    if type(size) is not int or not 1 <= size <= num_examples:
        raise UserError(
            "The size of parts does not fit the audit",
            received=f"examples_per_part={size}",
            expected=f"a whole number from 1 to num_examples={num_examples}",
            fix="Set --config.examples_per_part to it, or leave it out.",
        )
    return [
        (first, min(first + size, num_examples))
        for first in range(0, num_examples, size)
    ]


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
    workdirs.check(workdir, _owner(job), *settings.tolerated("audit."))


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
            raise UserError(
                "The protocol has more targets than the model has classes",
                received=f"num_targets={asked} of stage {stage.name}",
                expected=f"at most {others}, the other classes; 0 for all",
                fix=f"Set stages.{stage.name}.attack.num_targets=0.",
            )


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
