"""All audits of a study as Parquet: a row an audit, and a row an example.

`summaries.parquet` has a row for each model, protocol, mode and radius.
`examples/protocol=P/*.parquet` has `model_sha256`, `mode`, `epsilon`, `index`
and the one-dimensional arrays of the ledger; adversarial images stay in
`examples.npz`. Both are written audit by audit, so that memory does not grow
with the study.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from ib_keras import files
from ib_keras import workdirs
from ib_keras.audit import folder as folders
from ib_keras.errors import UserError
from ib_keras.studies import folder

# Of `attacks.ledger.Ledger`, which a test compares: reading a table needs no
# TensorFlow, and importing the attacks does.
COLUMNS = {
    "label": "int32",
    "clean_prediction": "int32",
    "is_robust": "bool",
    "adversarial_prediction": "int32",
    "margin": "float32",
    "wrong_share": "float32",
    "gradient_evaluations": "int64",
    "loss": "float32",
    "gradient_norm": "float32",
    "num_zero_gradients": "int64",
    "num_nonfinite": "int64",
    "broken_by_stage": "int32",
    "broken_by_restart": "int32",
    "broken_by_target": "int32",
    "broken_at_step": "int32",
}
_SUMMARY = {
    "model_sha256": "string",
    "saved_model": "string",
    "protocol": "string",
    "protocol_version": "string",
    "mode": "string",
    "num_samples": "int64",
    "dataset": "string",
    "split": "string",
    "norm": "string",
    "epsilon": "float64",
    "seed": "int64",
    "num_examples": "int64",
    "clean_accuracy": "float64",
    "robust_accuracy": "float64",
    "ci95_low": "float64",
    "ci95_high": "float64",
    "expected_accuracy": "float64",
    "gradient_evaluations": "int64",
    "seconds": "float64",
    "verdict": "string",
    "config_sha256": "string",
    "git_commit": "string",
    "workdir": "string",
}

# Rows that are kept until they are written, and of one file.
_GROUP_ROWS, _FILE_ROWS = 100_000, 5_000_000


@dataclasses.dataclass(frozen=True)
class Written:
    """What a table holds.

    Attributes:
        path: Of `summaries.parquet`.
        num_summaries: Its rows.
        num_examples: Rows of all files of examples.
    """

    path: str
    num_summaries: int
    num_examples: int


def write(workdir: str) -> Written:
    """Writes the table of the finished audits of a study.

    Args:
        workdir: The folder of the study.

    Returns:
        Where it is, and how long.

    Raises:
        UserError: If it is no study, nothing is finished, or a file of an
            audit is missing or damaged.
    """
    audits = folder.finished(workdir)
    if not audits:
        raise UserError(
            "The study has no finished audits",
            received=workdir,
            expected="at least one audit with its summary.json",
            fix="Run the study first.",
        )
    path = files.join(workdir, folder.SUMMARIES)
    rows: list[dict[str, Any]] = []
    count = 0

    def write_examples(place):
        nonlocal count
        with contextlib.ExitStack() as stack:
            writers: dict[str, _Examples] = {}
            for _, protocol, audit in audits:
                if protocol not in writers:
                    inside = files.join(place, f"protocol={protocol}")
                    writers[protocol] = stack.enter_context(_Examples(inside))
                for row, arrays in _of_audit(audit, protocol):
                    rows.append(row)
                    count += len(arrays["label"])
                    writers[protocol].add(row, arrays)

    files.write_folder(files.join(workdir, folder.EXAMPLES), write_examples)
    _write(path, _table(_SUMMARY, _columns(rows)))
    return Written(path, len(rows), count)


def _of_audit(
    audit: str, protocol: str
) -> Iterator[tuple[dict[str, Any], Mapping[str, np.ndarray]]]:
    """Row and arrays of each radius of an audit."""
    config = files.read_json(files.join(audit, workdirs.CONFIG_FILE))
    text = json.dumps(config["audit"], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    verdict = folder.verdict_label(audit)
    places = [audit] + [
        files.join(audit, name)
        for name in sorted(files.listdir(audit))
        if name.startswith(folders.RADIUS_PREFIX)
    ]
    for place in places:
        summary = folders.summary(place)
        # A verdict is on the audit's own radius.
        row = _row(summary, verdict if place == audit else None)
        row |= {"config_sha256": digest, "workdir": audit, "protocol": protocol}
        yield row, _read_arrays(files.join(place, folders.EXAMPLES))


def _row(summary, verdict):
    low, high = summary["robust_accuracy_ci95"]
    model, dataset = summary["model"], summary["dataset"]
    same = (
        *("mode", "num_samples", "seed", "num_examples", "clean_accuracy"),
        *("robust_accuracy", "expected_accuracy", "gradient_evaluations"),
        "seconds",
    )
    return {
        **{name: summary.get(name) for name in same},
        "protocol_version": str(summary["protocol_version"]),
        "model_sha256": model["sha256"],
        "saved_model": model["path"],
        "dataset": dataset["name"],
        "split": dataset["split"],
        "norm": summary["threat_model"]["norm"],
        "epsilon": float(summary["threat_model"]["epsilon"]),
        "ci95_low": low,
        "ci95_high": high,
        "verdict": verdict,
        "git_commit": summary["versions"].get("git_commit"),
    }


def _read_arrays(path):
    """The arrays of examples.npz without the images, which are not read."""
    try:
        with (
            files.open_bytes(path) as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            return {name: arrays[name] for name in ("index", *COLUMNS)}
    except UserError:
        raise
    except Exception as error:  # Of zipfile, zlib or numpy.
        raise UserError(
            "A file is damaged",
            received=f"{path} ({type(error).__name__}: {error})",
            expected="the examples.npz of a finished audit",
            fix="Restore it, or remove the audit's folder and run the study "
            "again.",
        ) from error


class _Examples:
    """The files of one protocol, as a context.

    Args:
        place: The folder.
    """

    _SCHEMA = {
        "model_sha256": "string",
        "mode": "string",
        "epsilon": "float64",
        "index": "int64",
        **COLUMNS,
    }

    def __init__(self, place):
        self._place = place
        self._parts: list[Any] = []
        self._rows = self._file_rows = self._num_files = 0
        self._stack = contextlib.ExitStack()
        self._writer: Any = None

    def __enter__(self):
        files.make_folder(self._place)
        return self

    def __exit__(self, kind, *error):
        if kind is None:
            self._flush()
        self._stack.close()

    def add(self, row, arrays):
        """Adds the examples of one audit at one radius."""
        count = len(arrays["label"])
        same = {name: row[name] for name in ("model_sha256", "mode", "epsilon")}
        columns = {n: np.repeat([v], count) for n, v in same.items()}
        self._parts.append(_table(self._SCHEMA, {**columns, **arrays}))
        self._rows += count
        if self._rows >= _GROUP_ROWS:
            self._flush()

    def _flush(self):
        if not self._parts:
            return
        import pyarrow as pa

        if self._writer is None or self._file_rows >= _FILE_ROWS:
            self._open()
        self._writer.write_table(pa.concat_tables(self._parts))
        self._file_rows += self._rows
        self._parts, self._rows = [], 0

    def _open(self):
        from pyarrow import parquet

        self._stack.close()
        name = f"{self._num_files:05d}.parquet"
        file = files.gfile.GFile(files.join(self._place, name), "wb")
        self._stack.enter_context(file)
        writer = parquet.ParquetWriter(file, _schema(self._SCHEMA))
        self._writer = self._stack.enter_context(writer)
        self._num_files += 1
        self._file_rows = 0


def _schema(kinds):
    import pyarrow as pa

    return pa.schema(
        [(name, pa.type_for_alias(kind)) for name, kind in kinds.items()]
    )


def _table(kinds, columns):
    import pyarrow as pa

    return pa.table(
        {name: columns[name] for name in kinds}, schema=_schema(kinds)
    )


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in _SUMMARY}


def _write(path, table):
    import io

    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    files.write_bytes(path, buffer.getvalue())
