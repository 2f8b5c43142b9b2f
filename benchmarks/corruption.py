"""Random bit flips in the files of a model: what a user sees.

python -m benchmarks.corruption --num_flips=200 --output=results/corruption.csv

One bit of one file, files by their sizes but each at least a tenth of the
flips. Ours (`audit.audited_model.load`) against a bare `tf.saved_model.load`.
"Noticed" is a note in the report with unchanged or changed answers; "silent
wrong" is another answer without a note.
"""

import pathlib
import tempfile

import numpy as np
import pandas as pd
import tensorflow as tf
from absl import app
from absl import flags

from ib_keras.audit import audited_model
from ib_keras.errors import UserError
from tests.support import hostile

flags.DEFINE_integer("num_flips", 200, "How many models to damage.")
flags.DEFINE_string("output", None, "CSV file to write.")
FLAGS = flags.FLAGS

IMAGES = np.random.default_rng(1).random((4, *hostile.SHAPE), np.float32)


def answer(folder):
    loaded = tf.saved_model.load(folder)
    signature = loaded.signatures["serving_default"]
    return value_of(signature(images=tf.constant(IMAGES)))


def value_of(scores):
    (value,) = tf.nest.flatten(scores)
    return value.numpy()


def outcome(work, expected) -> str:
    """The outcome of one attempt, in a word."""
    notes = []
    try:
        value = work(notes)
    except UserError as error:
        is_line = str(error).isprintable() and "Fix: " in str(error)
        return "clear error" if is_line else "unclear error"
    except Exception as error:
        return f"raw {type(error).__name__}"
    is_same = value.shape == expected.shape and np.array_equal(value, expected)
    if notes:
        return "noticed"
    return "harmless" if is_same else "silent wrong"


def main(unused):
    rng = np.random.default_rng(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(hostile.honest(folder))
        names = sorted(
            p.relative_to(root).as_posix() for p in root.rglob("*.*")
        )
        names = [name for name in names if (root / name).is_file()]
        sizes = np.array([(root / name).stat().st_size for name in names])
        share = np.maximum(sizes / sizes.sum(), 0.1)
        expected = answer(folder)

        def ours(notes):
            loaded = audited_model.load(folder)
            notes += loaded.safety.notes
            return value_of(loaded.endpoint.call(tf.constant(IMAGES)))

        for _ in range(FLAGS.num_flips):
            name = str(rng.choice(names, p=share / share.sum()))
            whole = (root / name).read_bytes()
            bit = int(rng.integers(8 * len(whole)))
            data = bytearray(whole)
            data[bit // 8] ^= 1 << (bit % 8)
            (root / name).write_bytes(data)
            rows.append(
                {
                    "file": name,
                    "bit": bit,
                    "ours": outcome(ours, expected),
                    "tensorflow": outcome(
                        lambda notes: answer(folder), expected
                    ),
                }
            )
            (root / name).write_bytes(whole)
    table = pd.DataFrame(rows)
    for who in ("ours", "tensorflow"):
        print(pd.crosstab(table.file, table[who]).to_string())
    if FLAGS.output:
        table.to_csv(FLAGS.output, index=False)


if __name__ == "__main__":
    app.run(main)
