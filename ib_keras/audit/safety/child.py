"""The child process of the safety check; no other process imports it."""

import functools
import hashlib
import importlib
import json
import os
import socket
import time
import warnings

import numpy as np
import tensorflow as tf

from ib_keras.audit import safety
from ib_keras.audit.safety import rlimits
from ib_keras.audit.safety import tree
from ib_keras.audit.safety.report import Limits
from ib_keras.audit.safety.report import raising
from ib_keras.audit.safety.report import reason
from ib_keras.errors import UnsafeError
from ib_keras.errors import UserError

BATCHES = (1, 2)
# Used for dimensions that a signature leaves open, except for the batch.
_EXTENT = 32
_MAX_CALLS = 16
_ALLOWED_FILE_BYTES = 64 << 20
_MAX_TEXT = 10_000


def main(job: dict) -> None:
    """Checks the model of a job and prints the answer as lines of JSON."""
    # Other output on standard output must not be taken for an answer.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**message):
        output.write(json.dumps(message) + "\n")
        output.flush()

    say(stage="scan")
    limits = Limits(**job["limits"])
    rlimits.for_reading(limits)
    try:
        report = safety.inspect(
            job["place"],
            job["path"],
            job["allow_ops"],
            limits,
            functools.partial(rlimits.for_weights, limits),
        )
        with safety.loadable(job["place"], report) as copy:
            _probe(copy, report, limits, job["batches"], say)
            # With no space for files left, the copy is removed with `home`.
            output.close()
            os._exit(0)
    except MemoryError:
        os.abort()
    except UserError as error:
        kind = "UnsafeError" if isinstance(error, UnsafeError) else "UserError"
        say(
            answer={
                "error": kind,
                "what": error.what,
                "received": error.received,
                "expected": error.expected,
                "fix": error.fix,
            }
        )


def _probe(copy, report, limits, batches, say):
    """Loads the copy under the limits and calls it; reports the results."""
    # Imports may write caches, so they come before the limits.
    if report.kind == "keras":
        importlib.import_module("keras")
    # An allowed operation may write.
    is_excepted = set(report.exceptions) - raising(report.exceptions)
    file_bytes = _ALLOWED_FILE_BYTES if is_excepted else 0
    if report.kind == "keras":
        # Keras unpacks the weights beside the file.
        file_bytes = max(file_bytes, _weight_bytes(copy))
    rlimits.for_calls(limits, _weight_bytes(copy), file_bytes)
    say(stage="loading")
    began = time.monotonic()
    try:
        functions, variables = _load(copy, report.kind)
    except Exception as error:
        # TensorFlow has seven kinds of errors for one fault.
        if _is_memory(error):
            os.abort()
        raise UserError(
            "The model is damaged or incomplete",
            received=f"{report.path} ({reason(error)})",
            expected="a model that TensorFlow can load",
            fix="Copy or export the model again.",
        ) from error
    functions = functions[:_MAX_CALLS]
    # Compiled code is made by the first call; others show their pace at once.
    is_quick = not _is_compiled(copy)
    until = rlimits.Deadline(limits, time.monotonic() - began, is_quick)
    before = _hash(variables)
    calls, paces = [], []
    for name, function, inputs in functions:
        say(stage=f"calling {name}")
        call, pace = _call(name, function, inputs, until)
        calls.append(call)
        paces.append(pace)
    changed = _hash(variables) != before
    network = _has_network()
    report.notes += _notes(calls, changed, network)
    report.probe = {
        "calls": calls,
        "num_variables": len(variables),
        "changes_variables": changed,
        "has_network": network,
    }
    say(answer={"report": report.to_json()})
    sizes = sorted(set(batches) - set(BATCHES))
    say(larger=_call_larger(functions, paces, sizes, until, say))


def _is_compiled(copy):
    if os.path.isfile(copy):
        return True  # Keras may compile whatever it calls.
    with open(os.path.join(copy, tree.GRAPH_FILE), "rb") as file:
        return b"_XlaMustCompile" in file.read()


def _call_larger(functions, paces, sizes, until, say):
    """Calls each function once on larger batches; those that were left out.

    They are left out if a call would take long, by the speed of the small ones,
    since the audit waits for them.
    """
    left_out = set()
    for (name, function, inputs), pace in zip(functions, paces, strict=True):
        if pace is None or not _takes_any_batch(inputs):
            continue
        for size in sizes:
            if not until.allows(pace * size):
                left_out.add(size)
                continue
            say(stage=f"calling {name} on a batch of {size}")
            until.start(pace * size)
            _call_once(function, inputs, size)
    return sorted(left_out)


def _takes_any_batch(inputs):
    return any(
        spec.shape.rank and spec.shape[0] is None
        for spec in tf.nest.flatten(inputs)
    )


def _notes(calls, changed, network):
    """Sentences about the first calls."""
    notes = []
    for call in calls:
        if call["error"]:
            notes.append(f"A first call of {call['name']}: {call['error']}.")
        elif not call["repeats"]:
            notes.append(f"Two equal calls of {call['name']} differ.")
    if changed:
        notes.append("The model changes its own variables when called.")
    if network:
        notes.append(
            "The first calls could not be cut off from the network here."
        )
    return notes


def _weight_bytes(copy):
    if os.path.isfile(copy):
        return os.path.getsize(copy)
    return sum(
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(copy)
        for name in names
    )


def _load(copy, kind):
    """The functions of a model, [name, function, specs], and its variables."""
    if kind == "keras":
        import keras

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = keras.saving.load_model(copy, compile=False, safe_mode=True)
        shape = getattr(model, "input_shape", None)
        # A subclass may store the shape that it was built for.
        if shape is None:
            shape = (model.get_build_config() or {}).get("input_shape")
        if not shape or not all(isinstance(n, int | None) for n in shape):
            return [], [v.value for v in model.variables]
        spec = tf.TensorSpec(shape, model.compute_dtype)
        return (
            [("the model", lambda x: model(*x, training=False), [spec])],
            [v.value for v in model.variables],
        )
    loaded = tf.saved_model.load(copy)
    functions = []
    for name, function in sorted(loaded.signatures.items()):
        _, named = function.structured_input_signature
        functions.append((f'signature "{name}"', function, named))
    for name in sorted(set(dir(loaded)) - {"signatures"}):
        attribute = getattr(loaded, name, None)
        for concrete in getattr(attribute, "concrete_functions", []):
            positional, named = concrete.structured_input_signature
            if not named and all(
                isinstance(spec, tf.TensorSpec)
                for spec in tf.nest.flatten(positional)
            ):
                functions.append((f'"{name}"', attribute, list(positional)))
                break
    # Otherwise only the functions' captures keep them alive.
    functions = [(n, _keeping(loaded, f), s) for n, f, s in functions]
    return functions, _variables(loaded)


def _keeping(loaded, function):
    """One argument, all inputs, in place of several."""

    def call(inputs):
        if isinstance(inputs, dict):
            return loaded and function(**inputs)
        return loaded and function(*inputs)

    return call


def _variables(loaded):
    """All variables of a loaded SavedModel, each once."""
    found, pending, seen = [], [loaded], set()
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, tf.Variable):
            found.append(item)
        elif hasattr(item, "_trackable_children"):
            pending += item._trackable_children().values()
    return found


def _hash(variables):
    total = hashlib.sha256()
    for variable in variables:
        total.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return total.hexdigest()


def _call(name, function, specs, until):
    """Calls a function twice on each batch; a failure is a result, too.

    Returns:
        The result, and the seconds per example; None after a failure.
    """
    result = {"name": name, "batches": [], "repeats": True, "error": None}
    for batch in BATCHES:
        answers = []
        for _ in range(2):
            began = time.monotonic()
            until.start()
            answer, result["error"] = _call_once(function, specs, batch)
            pace = (time.monotonic() - began) / batch
            if answer is None:
                return result, None
            answers.append(answer)
        first, second = answers
        result["batches"].append([list(value.shape) for value in first])
        result["repeats"] &= all(
            a.shape == b.shape and a.tobytes() == b.tobytes()
            for a, b in zip(first, second, strict=True)
        )
    return result, pace


def _call_once(function, specs, batch):
    """The output of a function for a batch, or its error."""
    inputs = tf.nest.map_structure(lambda spec: _input(spec, batch), specs)
    try:
        return [np.asarray(v) for v in tf.nest.flatten(function(inputs))], None
    except Exception as error:  # A foreign graph can raise any error.
        if _is_memory(error):
            os.abort()
        return None, reason(error)


def _input(spec, batch):
    """An input by a spec: a ramp in [0, 1], ones for integers."""
    shape = [] if spec.shape.rank is None else list(spec.shape)
    open_axes = [axis for axis, extent in enumerate(shape) if extent is None]
    for axis in open_axes:
        shape[axis] = batch if axis == 0 else _EXTENT
    if spec.dtype == tf.string:
        return tf.fill(shape, "")
    if not spec.dtype.is_floating:
        return tf.ones(shape, spec.dtype)
    # Unlike uniform grey, a ramp shows a flip or a rotation.
    values = np.linspace(0.0, 1.0, int(np.prod(shape))).reshape(shape)
    return tf.constant(values, spec.dtype)


def _is_memory(error):
    text = str(error)[:_MAX_TEXT].lower()
    return isinstance(
        error, MemoryError | tf.errors.ResourceExhaustedError
    ) or any(
        word in text for word in ("oom when", "bad_alloc", "out of memory")
    )


def _has_network():
    """Whether there is any interface but the loopback."""
    try:
        return any(name != "lo" for _, name in socket.if_nameindex())
    except OSError:
        return True
