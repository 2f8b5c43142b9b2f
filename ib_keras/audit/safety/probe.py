"""The check in a child process, with the first calls of the model in it.

What the static pass cannot see (an endless loop, a tensor as large as the
machine) ends the child, by the kernel's own limits, and this process lives on.
A child can be started before its answer is wanted, and before this process has
TensorFlow: see `start`. An answer stands as long as the files do.
"""

import atexit
import contextlib
import copy
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable

from ib_keras import errors
from ib_keras import files
from ib_keras.audit.safety import tree
from ib_keras.audit.safety.report import Limits
from ib_keras.audit.safety.report import Problem
from ib_keras.audit.safety.report import Report
from ib_keras.audit.safety.report import refuse

# Of the environment the child gets these, so no credentials.
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
    signal.SIGALRM: "took more than {seconds:g} s",
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


_PR_SET_PDEATHSIG = 1

# What was asked -> the child that was started for it, and the last answer.
_pending: dict[str, "_Child"] = {}
_answers: dict[str, Report] = {}


def start(
    path: str, allow_ops: Iterable[str] = (), limits: Limits | None = None
) -> None:
    """Starts the child of a check that `safety.check` will ask for.

    Nothing is started for a remote model, which has to be copied first. The
    child ends with this process.

    Args:
        path: As of `safety.check`.
        allow_ops: As of `safety.check`.
        limits: As of `safety.check`.
    """
    path = os.fspath(path).rstrip("/")
    if files.is_remote(path):
        return
    job = _job(path, path, sorted(set(allow_ops)), limits or Limits())
    if _key(job) not in _pending:
        _pending[_key(job)] = _Child(job)


def run(place: str, path: str, allow_ops: list[str], limits: Limits) -> Report:
    """Checks local files in a child process, and makes the first calls there.

    What this process has asked before is answered as before, if all files are
    still the same.

    Args:
        place: Local file or folder.
        path: What messages and the report call it.
        allow_ops: As of `safety.check`.
        limits: As of `safety.check`.

    Returns:
        A `Report` with `probe`.

    Raises:
        UserError: If the model is damaged.
        UnsafeError: If it is refused, by the scan or for what it did.
    """
    job = _job(place, path, allow_ops, limits)
    key = _key(job)
    known = _answers.get(key)
    if known is None or known.files != _digests(place, path, limits):
        child = _pending.pop(key, None) or _Child(job)
        status, output, errors_text = child.answer(limits)
        known = _read(path, status, output, errors_text, limits)
        _answers[key] = known
    return copy.deepcopy(known)


def follow(parent: int) -> None:
    """Ends this process, a child, with its parent, however that ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _job(place, path, allow_ops, limits):
    return {
        "place": os.path.abspath(place),
        "path": path,
        "allow_ops": allow_ops,
        "limits": vars(limits),
    }


def _key(job):
    return json.dumps(job, sort_keys=True)


def _digests(place, path, limits):
    """As `Report.files` has them."""
    if not os.path.isdir(place):
        return {os.path.basename(path): tree.sha256(place)}
    return tree.digests(place, tree.listing(place, path, limits))


class _Child:
    """A child process at its job, and its private folder."""

    def __init__(self, job):
        self._home = tempfile.TemporaryDirectory(prefix="ib_keras_")
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
        self._process = _launch(command, _environment(self._home.name))
        atexit.register(self._end)

    def answer(self, limits):
        """Status, output and errors of the child, once it is over."""
        try:
            return _wait(self._process, limits)
        finally:
            atexit.unregister(self._end)
            self._home.cleanup()

    def _end(self):
        _end_group(self._process)
        self._process.communicate()
        self._home.cleanup()


def _read(path, status, output, errors_text, limits):
    """The report, or the error, that the lines of a child give."""
    stage, answer = "start", None
    for line in output.splitlines():
        with contextlib.suppress(ValueError, AttributeError):
            message = json.loads(line)
            stage = message.get("stage", stage)
            answer = message.get("answer", answer)
    if status == 0 and answer is not None:
        return _result(answer)
    raise _failed(path, stage, status, errors_text, limits)


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
    """The words before a command that take the network from it, if they can."""
    words = ["unshare", "--net", "--map-root-user"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        tried = subprocess.run(
            [*words, "true"], capture_output=True, timeout=10, check=False
        )
        if tried.returncode == 0:
            return [*words, "--"]
    return []


def _launch(command, environment):
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=environment["HOME"],
        start_new_session=True,
    )


def _wait(child, limits):
    """Waits for a child; its whole process group goes when it is over."""
    try:
        output, errors_text = child.communicate(timeout=_START + limits.seconds)
    except subprocess.TimeoutExpired:
        _end_group(child)
        output, errors_text = child.communicate()
        return -signal.SIGALRM, output.decode(), errors_text
    except BaseException:
        _end_group(child)
        child.communicate()
        raise
    _end_group(child)
    status = child.returncode
    # `unshare` reports the signal that ended its child as a shell does.
    status = 128 - status if status > 128 else status
    return status, output.decode(errors="replace"), errors_text


def _end_group(child):
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


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
    text = text.format(**vars(limits))
    if stage == "start" or status > 0:
        last = errors_text.decode("utf-8", "replace").strip().splitlines()
        return RuntimeError(
            f"the child process of the safety check {text} at {stage}:"
            f" {last[-1] if last else 'no message'}"
        )
    if stage == "scan":
        return refuse(path, [Problem(f"the process that read it {text}")])
    return errors.UnsafeError(
        "The model is refused for what it did in a child process",
        received=f"{path}: it {text} while {stage}",
        expected=f"first calls, on batches of 1 and 2, within"
        f" {limits.seconds:g} s and {limits.memory_gb:g} GiB",
        fix="Do not use a model that you do not trust; one that needs more"
        " takes other limits in ib_keras.audit.safety.check.",
    )
