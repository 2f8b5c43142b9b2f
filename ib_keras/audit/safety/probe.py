"""The check in a child process, with the first calls of the model in it.

What the static pass cannot detect (an endless loop, a tensor as large as the
machine) ends the child, by the kernel's own limits, and not this process. A
child can be started before its answer is needed, and before this process has
imported TensorFlow: see `start`. An answer is valid as long as the files are
unchanged.
"""

import atexit
import contextlib
import copy
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Iterable

from ib_keras import errors
from ib_keras import files
from ib_keras.audit.safety import rlimits
from ib_keras.audit.safety import scratch
from ib_keras.audit.safety import tree
from ib_keras.audit.safety.report import Limits
from ib_keras.audit.safety.report import Problem
from ib_keras.audit.safety.report import Report
from ib_keras.audit.safety.report import refuse

# The child gets only these variables, so no credentials.
_PASSED = (
    "KERAS_HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PATH",
    "TF_ENABLE_ONEDNN_OPTS",
    "TZ",
)
# Seconds for starting Python and importing TensorFlow on a busy machine, and
# for reading a large model; the child watches its calls by itself.
_START = 600.0

_SIGNALS = {
    signal.SIGALRM: "took too long (at most {seconds:g} s)",
    signal.SIGXFSZ: "wrote to a file",
    signal.SIGXCPU: "took more than {seconds:g} s",
    signal.SIGKILL: "was killed, most likely for its use of memory",
    signal.SIGABRT: "aborted, most likely for want of memory (it may take"
    " {memory_gb:g} GiB)",
    signal.SIGSEGV: "crashed (segmentation fault)",
    signal.SIGBUS: "crashed (bus error)",
    signal.SIGILL: "crashed (illegal instruction)",
    signal.SIGFPE: "crashed (arithmetic fault)",
}


_SMALLEST_BATCH = 8
# Seconds for a child to end after its last message.
_AT_EXIT = 10.0
# Bytes of a child's output that are kept.
_MAX_OUTPUT = 16 << 20
_MAX_ERRORS = 64 << 10

_PR_SET_PDEATHSIG = 1

# Request -> the child that was started for it, and the last answer.
_pending: dict[str, "_Child"] = {}
_answers: dict[str, Report] = {}
# Model -> the child that still tries larger batches.
_running: dict[str, "_Child"] = {}


def batch_sizes(largest: int | None) -> list[int]:
    """The batches of an audit, which halves the largest where it can.

    Args:
        largest: None for an audit of small batches alone.

    Returns:
        The largest and its halves, ascending: as `attacks.devices` has them.
    """
    sizes = [largest] if isinstance(largest, int) and largest > 0 else []
    while sizes and sizes[-1] > _SMALLEST_BATCH:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes[::-1]


def start(
    path: str,
    allow_ops: Iterable[str] = (),
    limits: Limits | None = None,
    batches: Iterable[int] = (),
) -> None:
    """Starts the child of a check that `safety.check` will ask for.

    Nothing is started for a remote model, which has to be copied first. The
    child ends with this process.

    Args:
        path: As of `safety.check`.
        allow_ops: As of `safety.check`.
        limits: As of `safety.check`.
        batches: As of `safety.check`.
    """
    path = os.fspath(path).rstrip("/")
    if files.is_remote(path):
        return
    allow_ops = sorted(set(allow_ops))
    limits = (limits or Limits()).raised(allow_ops)
    job = _job(path, path, allow_ops, limits, batches)
    if _key(job) not in _pending:
        _pending[_key(job)] = _Child(job)


def run(
    place: str,
    path: str,
    allow_ops: list[str],
    limits: Limits,
    batches: Iterable[int] = (),
) -> Report:
    """Checks local files in a child process, and makes the first calls there.

    Repeated requests get the same answer, if all files are unchanged.

    Args:
        place: Local file or folder.
        path: What messages and the report call it.
        allow_ops: As of `safety.check`.
        limits: As of `safety.check`, raised by what is allowed.
        batches: As of `safety.check`.

    Returns:
        A `Report` with `probe`.

    Raises:
        UserError: If the model is damaged.
        UnsafeError: If it is refused, by the scan or for its behaviour.
    """
    job = _job(place, path, allow_ops, limits, batches)
    key = _key(job)
    known = _answers.get(key)
    if known is None or known.files != _digests(place, path, limits):
        child = _pending.pop(key, None) or _Child(job)
        known = _answers[key] = child.answer()
        _running[path] = child
        if not job["batches"]:
            finish(known)
    return copy.deepcopy(known)


def finish(report: Report) -> None:
    """Waits for the calls on larger batches, of whose model there is an answer.

    The child makes them while the model is loaded. Those that would take long
    are left out, which the report notes.

    Args:
        report: Of the check; gets the note.

    Raises:
        UnsafeError: If the model took more than its limits.
    """
    child = _running.pop(report.path, None)
    left_out = child.finish() if child is not None else []
    if left_out:
        sizes = ", ".join(map(str, left_out))
        report.notes.append(
            f"Batches of {sizes} were not tried beforehand: by the pace of"
            " smaller ones that would have taken long."
        )


def follow(parent: int) -> None:
    """Ends this child process when its parent ends, for any reason."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _job(place, path, allow_ops, limits, batches):
    return {
        "place": os.path.abspath(place),
        "path": path,
        "allow_ops": allow_ops,
        "limits": vars(limits),
        "batches": sorted(set(batches)),
    }


def _key(job):
    return json.dumps(job, sort_keys=True)


def _digests(place, path, limits):
    """In the form of `Report.files`."""
    if not os.path.isdir(place):
        return {os.path.basename(path): tree.sha256(place)}
    return tree.digests(place, tree.listing(place, path, limits))


class _Child:
    """A child process at its job, and its private folder."""

    def __init__(self, job):
        self._home = scratch.Folder()
        self._path, self._limits = job["path"], Limits(**job["limits"])
        job = {
            **job,
            "home": self._home.name,
            "parent": os.getpid(),
            "sys_path": [os.path.abspath(p) for p in sys.path],
        }
        command = [
            *_without_network(),
            sys.executable,
            "-c",
            "import json, sys; job = json.loads(sys.argv[1]);"
            " sys.path[:] = job['sys_path'];"
            " from ib_keras.audit.safety import probe;"
            " probe.follow(job['parent']);"
            " from ib_keras import lazy; lazy.tensorflow();"
            " from ib_keras.audit.safety import child; child.main(job)",
            json.dumps(job),
        ]
        self._process = Process(command, _environment(self._home.name))
        atexit.register(self._end)

    def answer(self):
        """The report, as soon as it is there; the child may continue."""
        seconds = _START + rlimits.MOST_SLOWDOWN * self._limits.seconds
        said = self._listen(self._has_answered, seconds)
        if "answer" not in said:
            raise self._failure(said)
        answer = said["answer"]
        if "report" not in answer:
            self._end()
        return _result(answer)

    def _has_answered(self):
        lines = self._process.output.split(b"\n")[:-1]
        return any(line.startswith(b'{"answer"') for line in lines)

    def finish(self):
        """The larger batches that were left out, once all others are done."""
        said = self._listen(
            lambda: False, rlimits.MOST_SLOWDOWN * self._limits.seconds
        )
        if "larger" not in said:
            raise self._failure(said)
        status = self._end()
        if status != 0:
            raise self._failure(said, status)
        return said["larger"]

    def _listen(self, is_enough, seconds):
        """The messages of the child so far: name -> its last value."""
        try:
            self._process.listen(is_enough, seconds)
        except BaseException:
            self._end()
            raise
        said = {"stage": "start"}
        # The last line may be incomplete.
        for line in self._process.output.split(b"\n")[:-1]:
            with contextlib.suppress(ValueError, TypeError):
                said.update(json.loads(line))
        return said

    def _failure(self, said, status=None):
        status = self._end() if status is None else status
        texts = (said["stage"], status, self._process.errors)
        return _failed(self._path, *texts, self._limits)

    def _end(self):
        status = self._process.end()
        self._home.remove()
        atexit.unregister(self._end)
        return status


def _environment(home):
    kept = {name: os.environ[name] for name in _PASSED if name in os.environ}
    return {
        **kept,
        "CUDA_VISIBLE_DEVICES": "-1",
        "HOME": home,
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TMPDIR": home,
    }


def _without_network():
    """The prefix of a command that removes its network, if possible."""
    words = ["unshare", "--net", "--map-root-user"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        tried = subprocess.run(
            [*words, "true"], capture_output=True, timeout=10, check=False
        )
        if tried.returncode == 0:
            return [*words, "--"]
    return []


class Process:
    """A process in its own group, and its output so far.

    Attributes:
        output: Of its standard output.
        errors: The end of its standard error.
    """

    def __init__(self, command: list[str], environment: dict[str, str]):
        self.output = self.errors = b""
        self._status: int | None = None
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=environment["HOME"],
            start_new_session=True,
        )
        pipes = (self._child.stdout, self._child.stderr)
        self._pipes = [pipe for pipe in pipes if pipe is not None]

    def listen(self, is_enough: Callable[[], bool], seconds: float) -> None:
        """Reads until there is enough, or the end, or a timeout."""
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            for stream in self._pipes:
                if not stream.closed:
                    selector.register(stream, selectors.EVENT_READ, stream)
            while selector.get_map() and not is_enough():
                ready = selector.select(max(until - time.monotonic(), 0.0))
                if not ready or len(self.output) > _MAX_OUTPUT:
                    self._status = -signal.SIGALRM
                    return
                for key, _ in ready:
                    if not self._read(key.data):
                        selector.unregister(key.data)
                        key.data.close()

    def _read(self, stream):
        data = os.read(stream.fileno(), 1 << 16)
        if stream is self._child.stdout:
            self.output += data
        else:
            self.errors = (self.errors + data)[-_MAX_ERRORS:]
        return data

    def end(self) -> int:
        """Ends it and its whole group; its status, negative for a signal."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # It has closed its outputs.
            self._child.wait(_AT_EXIT if self._pipes[0].closed else 0)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        status = self._child.wait()
        for stream in self._pipes:
            stream.close()
        # `unshare` reports the signal that ended its child as a shell does.
        status = 128 - status if status > 128 else status
        return status if self._status is None else self._status


def _result(answer):
    """The child's report, or its error raised here."""
    if "report" in answer:
        return Report.from_json(answer["report"])
    kind = {
        "UnsafeError": errors.UnsafeError,
        "UserError": errors.UserError,
    }[answer["error"]]
    raise kind(
        answer["what"],
        received=answer["received"],
        expected=answer["expected"],
        fix=answer["fix"],
    )


def _failed(path, stage, status, errors_text, limits):
    """The error for a child that did not answer."""
    number = signal.Signals(-status) if status < 0 else None
    text = _SIGNALS.get(number, f"ended with status {status}")
    is_reading = stage == "scan"
    text = text.format(
        seconds=limits.scan_seconds if is_reading else limits.seconds,
        memory_gb=limits.scan_memory_mb / 1024
        if is_reading
        else limits.memory_gb,
    )
    if stage == "start" or status >= 0:
        last = errors_text.decode("utf-8", "replace").strip().splitlines()
        return RuntimeError(
            f"the child process of the safety check {text} at {stage}:"
            f" {last[-1] if last else 'no message'}"
        )
    if is_reading:
        return refuse(path, [Problem(f"the process that read it {text}")])
    return errors.UnsafeError(
        "The model is refused for what it did in a child process",
        received=f"{path}: it {text} while {stage}",
        expected=f"first calls within {limits.seconds:g} s and"
        f" {limits.memory_gb:g} GiB",
        fix="Do not use a model that you do not trust; for one that needs more"
        " add --allow_ops=seconds=NUMBER or memory_gb=NUMBER, and see"
        " config.batch_size.",
    )
