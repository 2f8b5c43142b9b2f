"""The check of a model, and the copy of it that may be loaded."""

import contextlib
import difflib
import hashlib
import importlib
import os
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

from ib_keras.audit.safety import archive
from ib_keras.audit.safety import fingerprint
from ib_keras.audit.safety import ops
from ib_keras.audit.safety import probe as probes
from ib_keras.audit.safety import scan
from ib_keras.audit.safety import scratch
from ib_keras.audit.safety import strip
from ib_keras.audit.safety import tree
from ib_keras.audit.safety import variables
from ib_keras.audit.safety.report import Limits
from ib_keras.audit.safety.report import Report
from ib_keras.audit.safety.report import raising
from ib_keras.audit.safety.report import refuse
from ib_keras.audit.safety.report import unused
from ib_keras.errors import UserError


def check(
    path: str,
    *,
    allow_ops: Iterable[str] = (),
    limits: Limits | None = None,
    probe: bool = True,
    batches: Iterable[int] = (),
) -> Report:
    """Checks a model before anything of it runs.

    Args:
        path: A SavedModel folder or a `.keras` file, local or remote.
        allow_ops: Operations, hidden attributes or Keras classes to accept
            beyond the rules, by the names that a refusal gives; or a limit to
            raise, such as "max_nodes=400000".
        limits: What the model may take; None takes `Limits()`.
        probe: Whether to make the first calls, in a child process with limits
            on memory and time and without network where that is possible. Then
            the whole check is in the child. Without it the files are only read,
            in this process.
        batches: The batch sizes that the first calls shall try beside 1 and 2.
            `finish` waits for them.

    Returns:
        A `Report` on a model that is accepted.

    Raises:
        UserError: If there is no such model or it is damaged.
        UnsafeError: If it is refused.
    """
    allowed = _check_allowed(allow_ops)
    limits = (limits or Limits()).raised(allowed)
    path = os.fspath(path).rstrip("/")
    began = time.monotonic()
    with tree.local(path, limits) as place:
        if probe:
            report = probes.run(place, path, allowed, limits, batches)
        else:
            report = inspect(place, path, allowed, limits)
    report.seconds = round(time.monotonic() - began, 3)
    return report


def _check_allowed(allow_ops):
    names = sorted(set(allow_ops))
    for name in names:
        is_op = name.isidentifier() and not name.startswith("_")
        if is_op and ops.definition(name) is None:
            near = difflib.get_close_matches(name, ops.known(), n=1)
            hint = f'Did you mean "{near[0]}"? ' if near else ""
            raise UserError(
                "No operation of TensorFlow has this name",
                received=f"{name} in --allow_ops",
                expected="names of operations",
                fix=f"{hint}Give the names from the refusal.",
            )
    return names


def inspect(
    place: str,
    path: str,
    allow_ops: list[str],
    limits: Limits,
    make_room: Callable[[int, int], None] = lambda largest, total: None,
) -> Report:
    """The static pass over local files; nothing of the model runs.

    Args:
        place: Local file or folder.
        path: In messages and in the report.
        allow_ops: As of `check`, sorted.
        limits: As of `check`.
        make_room: Called after reading all but the weights, with the bytes of
            the largest variable and of all files.

    Returns:
        A `Report` without `probe`.

    Raises:
        UserError: If the model is damaged.
        UnsafeError: If it is refused.
    """
    if not os.path.isdir(place):
        return archive.inspect(place, path, allow_ops, limits, make_room)
    names = tree.listing(place, path, limits)
    data = tree.read(place, tree.GRAPH_FILE, limits.graph_bytes())
    proto = scan.parse(data, path, limits)
    found = scan.scan(proto, frozenset(allow_ops), limits)
    if found.problems:
        raise refuse(path, found.problems)
    meta_graph = proto.meta_graphs[0]
    _check_assets_are_there(meta_graph, names, path)
    largest = variables.check(place, names, meta_graph, path, limits)
    make_room(largest, sum(os.path.getsize(f"{place}/{n}") for n in names))
    variables.read(place, names, path)
    families: dict[str, list[str]] = {}
    for name in sorted(found.ops):
        families.setdefault(ops.family(name), []).append(name)
    if only_main := found.main_ops - found.ops:
        families["main graph, not run"] = sorted(only_main)
    if found.saver_ops:
        families["saver, not loaded"] = sorted(found.saver_ops)
    return Report(
        path=path,
        kind="saved_model",
        files=tree.digests(place, names),
        ops=families,
        allow_ops=list(allow_ops),
        exceptions=sorted(found.used | raising(allow_ops)),
        limits=vars(limits),
        notes=[
            *fingerprint.notes(place, names),
            *unused(allow_ops, found.used),
        ],
    )


def _check_assets_are_there(meta_graph, names, path):
    for asset in meta_graph.asset_file_def:
        if f"assets/{asset.filename}" not in names:
            raise UserError(
                "The model is damaged or incomplete",
                received=f"{path} without assets/{asset.filename}",
                expected="a whole SavedModel folder",
                fix="Copy or export the model again.",
            )


def _import_classes(report):
    """Imports our modules whose classes a `.keras` file names.

    Keras finds such classes only once they are registered, which importing
    their modules does.
    """
    for name in report.ops.get("classes", ()):
        if name.startswith("ib_keras."):
            importlib.import_module(name.rpartition(".")[0])


@contextlib.contextmanager
def loadable(path: str, report: Report) -> Iterator[str]:
    """A copy to load in place of a checked model.

    Args:
        path: The model that `check` accepted.
        report: What it returned.

    Yields:
        A private folder with a copy that has no saver, for
        `tf.saved_model.load`; or a private `.keras` file with nothing but
        config and weights, for `keras.saving.load_model(..., compile=False)`.
        It is removed after the block, so load inside.

    Raises:
        UserError: If the files are not the checked ones.
    """
    limits = Limits(**report.limits)
    path = os.fspath(path).rstrip("/")
    with (
        tree.local(path, limits) as place,
        scratch.Folder() as folder,
    ):
        if report.kind == "keras":
            _import_classes(report)
            yield archive.write(place, path, report, folder)
            return
        names = tree.listing(place, path, limits)
        data = tree.read(place, tree.GRAPH_FILE, limits.graph_bytes())
        digest = hashlib.sha256(data).hexdigest()
        # The parsed bytes have been scanned.
        if digest != report.files.get(tree.GRAPH_FILE):
            raise _changed(path)
        proto = scan.parse(data, path, limits)
        # Of what was read and of what will be: not of the source again.
        copied = strip.write(proto, place, names, folder)
        if {tree.GRAPH_FILE: digest, **copied} != report.files:
            raise _changed(path)
        linked = strip.linked(folder, names)
        yield folder
        if any(copied[n] != tree.sha256(f"{folder}/{n}") for n in linked):
            raise _changed(path)


def _changed(path):
    return UserError(
        "The model has changed since it was checked",
        received=path,
        expected="the files whose SHA-256 the check recorded",
        fix="Run the same command again.",
    )
