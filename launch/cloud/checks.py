"""What a TPU VM needs: checks in order, a line each, none of which can hang.

What a check looks at comes to it as an argument, so that each can be tried on
any machine; `launch.cloud.machine` looks at this one.
"""

import dataclasses
import threading
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping

MIN_FREE_GB = 10.0
MAX_CLOCK_SECONDS = 30.0
_DATA_SETS = ("mnist", "cifar10")


@dataclasses.dataclass(frozen=True)
class Check:
    """What one check found.

    Args:
        name: Of the check.
        is_fine: Whether it stands in nobody's way.
        says: What was found; how to mend it, if it is not fine.
    """

    name: str
    is_fine: bool
    says: str

    def __str__(self):
        return (
            f"{'ok' if self.is_fine else 'FAILED':6} {self.name}: {self.says}"
        )


def stack(
    requirements: Iterable[str], version_of: Callable[[str], str | None]
) -> Check:
    """Whether the versions are those of setup.py, libtpu's pin among them.

    Args:
        requirements: Of the distribution, as its metadata has them.
        version_of: Gives an installed version by name; None if there is none.
    """
    from packaging.requirements import Requirement

    if not requirements:
        return Check("stack", False, "ib_keras is not installed: run install.")
    problems, found = [], {}
    for line in requirements:
        wanted = Requirement(line)
        marker = wanted.marker
        extras = ("tpu", "gcs") if wanted.name != "tf_keras" else ("cpu",)
        if marker and not any(marker.evaluate({"extra": e}) for e in extras):
            continue
        version = found[wanted.name] = version_of(wanted.name)
        if version is None:
            problems.append(f"{wanted.name} is not there")
        elif not wanted.specifier.contains(version, prereleases=True):
            problems.append(f"{wanted.name} {version}, not {wanted.specifier}")
    if version_of("tensorflow") is not None:
        problems.append("tensorflow is installed over tensorflow-tpu")
    if problems:
        return Check("stack", False, f"{'; '.join(problems)}. Run install.")
    names = ("tensorflow-tpu", "libtpu", "tf_keras", "keras")
    versions = ", ".join(f"{n} {found[n]}" for n in names if n in found)
    return Check("stack", True, f"{versions}, as pinned.")


def devices(
    chips: list[str],
    held_by: Mapping[int, str],
    ask: Callable[[], tuple[int | None, str]],
) -> Check:
    """Whether there are chips, and TensorFlow can use them.

    Args:
        chips: Their device files.
        held_by: Process IDs that hold one, which TensorFlow would wait for.
        ask: Gives how many cores TensorFlow sees, or None and why not.
    """
    if not chips:
        return Check(
            "devices",
            False,
            "no chip in /dev: this is no TPU VM, or it is ill.",
        )
    if held_by:
        return Check(
            "devices", True, f"{len(chips)} chips, not tried: they are held."
        )
    cores, why = ask()
    if not cores:
        return Check(
            "devices", False, f"{len(chips)} chips, but TensorFlow: {why}"
        )
    return Check(
        "devices", True, f"{len(chips)} chips, {cores} cores in TensorFlow."
    )


def holders(held_by: Mapping[int, str], lock_file: str | None) -> Check:
    """Whether the chips are free.

    Args:
        held_by: Command lines of the processes that hold them, by ID.
        lock_file: That of libtpu, if it is there.
    """
    if held_by:
        who = "; ".join(f"{p}: {c[:120]}" for p, c in sorted(held_by.items()))
        return Check("chip", False, f"held by {who}. Wait, or stop it.")
    left = f" ({lock_file} was left, harmless.)" if lock_file else ""
    return Check("chip", True, f"nobody holds it.{left}")


def disk(free_bytes: int, folder: str) -> Check:
    """Whether there is room for data and logs."""
    free = free_bytes / 1e9
    says = f"{free:.1f} GB free in {folder}"
    if free < MIN_FREE_GB:
        says += f", less than {MIN_FREE_GB:g}. Remove files; use gs://."
        return Check("disk", False, says)
    return Check("disk", True, f"{says}.")


def data(folder: str, ask: Callable[[], tuple[list[str] | None, str]]) -> Check:
    """Whether data sets are prepared; absent ones are made on first use.

    Args:
        folder: Where TFDS looks.
        ask: Gives the names in it; None and why, if it cannot be read.
    """
    names, why = ask()
    if names is None:
        return Check("data", False, f"{folder} cannot be read: {why}")
    there = [name for name in _DATA_SETS if name in names]
    absent = [name for name in _DATA_SETS if name not in names]
    says = f"{', '.join(there) or 'none'} in {folder}"
    if absent:
        says += f"; not {', '.join(absent)}, which the first use downloads"
    return Check("data", True, f"{says}.")


def bucket(
    folder: str | None, ask: Callable[[], tuple[str | None, str]]
) -> Check:
    """Whether a remote workdir can be written and read.

    Args:
        folder: Where to try; None for nowhere.
        ask: Writes a text and reads it; None and why, if that fails.
    """
    if folder is None:
        return Check("gs", True, "not tried: no --workdir=gs://... was given.")
    read, why = ask()
    if read is None:
        return Check("gs", False, f"{folder}: {why}")
    return Check("gs", True, f"{folder} can be written and read.")


def clock(seconds_off: float | None) -> Check:
    """Whether the clock is right, by which tokens and locks expire.

    Args:
        seconds_off: Ahead of another clock; None if none answered.
    """
    if seconds_off is None:
        return Check("clock", True, "not compared: no server answered.")
    says = f"{seconds_off:+.0f} s off"
    if abs(seconds_off) > MAX_CLOCK_SECONDS:
        return Check("clock", False, f"{says}. Run sudo timedatectl set-ntp 1.")
    return Check("clock", True, f"{says}.")


def run(
    checks: Iterable[tuple[str, Callable[[], Check]]], *, seconds: float = 180.0
) -> list[Check]:
    """Runs checks in order; one that raises or takes too long has failed.

    Args:
        checks: Names and functions.
        seconds: After which a check is left alone.
    """
    return [_within(name, function, seconds) for name, function in checks]


def _within(name, function, seconds) -> Check:
    found = [Check(name, False, f"no answer in {seconds:g} s.")]

    def look():
        try:
            found.append(function())
        except Exception as error:
            found.append(Check(name, False, f"{type(error).__name__}: {error}"))

    # What hangs stays behind, and does not keep the process from its end.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[-1]
