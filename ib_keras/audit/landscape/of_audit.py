"""Landscapes of a finished audit, from its folder, its model and its data."""

from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from ib_keras import files
from ib_keras import seeds
from ib_keras import workdirs
from ib_keras.attacks.ledger import Ledger
from ib_keras.audit import folder as folders
from ib_keras.audit import subject as subjects
from ib_keras.audit import summary as summaries
from ib_keras.audit.audited_model import loading
from ib_keras.audit.landscape import examples as landscape_examples
from ib_keras.audit.landscape import surface as landscape
from ib_keras.errors import UserError

_NUM_EXAMPLES = 4


def evaluate(
    workdir: str,
    examples: Sequence[str | int] | None = None,
    *,
    saved_model: str | None = None,
    allow_ops: Sequence[str] = (),
    seed: int = 0,
    **arguments,
) -> Iterator[tuple[int, landscape.Landscape]]:
    """Evaluates planes of some examples, one after the other.

    Args:
        workdir: The audit folder.
        examples: Their numbers, as the audit's `index` has them; None takes
            a few hard and typical ones.
        saved_model: The model, where it is not at the summary's path.
        allow_ops: Operations that are allowed nevertheless.
        seed: Of the random directions and the model's noise.
        **arguments: Those of `landscape.LandscapeEvaluator`.

    Yields:
        Number and `Landscape` of each example.

    Raises:
        UserError: If the folder is not a finished audit, the model is another
            one, an example is not in the audit, or an argument is wrong.
        UnsafeError: If the model holds what could do harm.
    """
    summary = summaries.read(workdir)
    config = files.read_json(files.join(workdir, workdirs.CONFIG_FILE))
    arrays = files.read_npz(files.join(workdir, folders.EXAMPLES))
    try:
        index = arrays["index"]
        ledger = Ledger.of_arrays(arrays)
        path = saved_model or summary.model.path
        # Before it is loaded: only this model passed the audit's safety check.
        _check_same_model(path, summary.model.sha256)
        subject = subjects.load(
            config["audit"], path, allow_ops=tuple(allow_ops)
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            "The folder is not that of an audit",
            received=f"{workdir} ({type(error).__name__}: {error})",
            expected="what launch.audit writes, by this version",
            fix="Give the --workdir of an audit, or run it again.",
        ) from error
    if examples is None:
        rows = landscape_examples.choose(
            ledger, range(len(index)), _NUM_EXAMPLES
        )
    else:
        rows = [_row(example, index) for example in examples]
    evaluator = landscape.LandscapeEvaluator(
        subject.logits_fn, summary.threat_model, **arguments
    )
    start = seeds.from_int(seed)
    for row in rows:
        plane = landscape_examples.plane(
            subject.images, ledger, row, summary.threat_model, start
        )
        yield int(index[row]), evaluator(plane, seeds.fold(start, row))


def _check_same_model(path: str, recorded: str) -> None:
    loading.check_path(path)
    found = loading.hash_folder(path)
    if found != recorded:
        raise UserError(
            "The model is not the audited one",
            received=f"{path}, sha256 {found}",
            expected=f"sha256 {recorded}",
            fix="Give the audited model with --saved_model.",
        )


def _row(example: str | int, index: np.ndarray) -> int:
    try:
        found = np.flatnonzero(index == int(example))
    except ValueError:
        found = ()
    if len(found) != 1:
        raise UserError(
            "The audit has no such example",
            received=f"{example!r}",
            expected=f"a number from {index.min()} to {index.max()}",
            fix="Give the numbers that the report shows.",
        )
    return int(found[0])
