"""The findings of three scanners on planted and on honest models.

python -m benchmarks.safety_table --modelscan=DIR/bin/python \
    --output=results/safety_table.csv

Ours against `modelscan` (in an environment of its own: `pip install
modelscan`; TensorFlow, which it needs for SavedModels, is ours) and the
`saved_model_cli scan` of TensorFlow.
"""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import tempfile
import time

import keras
import pandas as pd
import tensorflow as tf
from absl import app
from absl import flags
from tensorflow.python.tools import saved_model_cli
from tensorflow.python.tools import saved_model_utils

from ib_keras.audit import safety
from ib_keras.errors import UserError
from tests.support import honest
from tests.support import hostile

flags.DEFINE_string("modelscan", None, "Python with modelscan; none: skip it.")
flags.DEFINE_string("output", None, "CSV file to write.")
FLAGS = flags.FLAGS

# Reads paths, one a line; answers with the number of issues and of errors.
_MODELSCAN = """
import json, logging, sys
from modelscan.modelscan import ModelScan

for line in sys.stdin:
    scanner = ModelScan()
    result = scanner.scan(line.strip())
    issues = result["summary"]["total_issues"]
    print(json.dumps([issues, len(result["errors"])]), flush=True)
"""

APPLICATIONS = {
    "MobileNetV2": keras.applications.MobileNetV2,
    "ConvNeXtTiny": keras.applications.ConvNeXtTiny,
}


def application(build):
    """A maker of an exported classifier with random weights."""

    def make(path):
        model = build(weights=None, classes=10, input_shape=(64, 64, 3))
        model.export(str(path), verbose=False)

    return make


def mixture(path):
    """Layers that the applications do not have."""
    layers = keras.layers
    images = keras.Input((8, 8, 3))
    x = layers.Conv2DTranspose(4, 3, activation="gelu")(images)
    x = layers.UpSampling2D(interpolation="bilinear")(x)
    x = layers.GroupNormalization(2)(x)
    x = layers.Reshape((-1, 4))(x)
    x = layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.LayerNormalization()(x)
    x = layers.GRU(6)(layers.LSTM(6, return_sequences=True)(x))
    keras.Model(images, layers.Dense(3)(x)).export(str(path), verbose=False)


def asserting(path):
    """A model that checks its input."""
    hostile.save(
        path,
        hostile.Linear(lambda x: tf.debugging.assert_less_equal(x, 1.0)),
    )


def noisy(path):
    """A randomised model, with a generator of TensorFlow's."""
    hostile.save(path, hostile.Linear(lambda x: tf.random.normal([2])))


HONEST = {
    **honest.MODELS,
    **{name: application(make) for name, make in APPLICATIONS.items()},
    "attention, recurrence": mixture,
    "assertion": asserting,
    "random": noisy,
}


def models(folder):
    """Makes all models; yields (group, name, path, whether it needs calls)."""
    marker = os.path.join(folder, "marker")
    groups = {
        "planted": hostile.SAVED_MODELS,
        "planted .keras": hostile.KERAS_FILES,
    }
    for group, cases in groups.items():
        for index, (name, (make, _, _)) in enumerate(cases.items()):
            end = ".keras" if "keras" in group else ""
            path = os.path.join(folder, f"{len(group)}-{index}{end}")
            yield group, name, str(make(path, marker)), False
    for name, make in hostile.BOMBS.items():
        path = os.path.join(folder, name.replace(" ", "_"))
        yield "planted", name, str(make(path, marker)), True
    for index, (name, make) in enumerate(HONEST.items()):
        path = os.path.join(folder, f"honest-{index}")
        make(path)
        yield "honest", name, path, False
    path = os.path.join(folder, "honest.keras")
    yield "honest .keras", "small CNN", hostile.rewrite(path), False


def by_us(path, probe) -> str:
    try:
        limits = safety.Limits(seconds=5.0)
        safety.check(path, probe=probe, limits=limits)
    except UserError as error:
        return "flagged" if error.exit_status == 3 else "error"
    return "passed"


def by_tensorflow(path) -> str:
    """The outcome of `saved_model_cli scan` for a folder."""
    if path.endswith(".keras"):
        return "not for it"
    output = io.StringIO()
    try:
        model = saved_model_utils.read_saved_model(path)
        with contextlib.redirect_stdout(output):
            for graph in model.meta_graphs:
                saved_model_cli.scan_meta_graph_def(
                    graph, saved_model_cli._OP_DENYLIST
                )
    except Exception as error:
        return f"error: {type(error).__name__}"
    found = "contains the following denylisted ops" in output.getvalue()
    return "flagged" if found else "passed"


def by_modelscan(paths) -> list[str]:
    """All paths in one process of the other environment."""
    lent = str(pathlib.Path(tf.__file__).parents[1])
    done = subprocess.run(
        [FLAGS.modelscan, "-c", _MODELSCAN],
        input="\n".join(paths),
        env={**os.environ, "PYTHONPATH": lent, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    answers = []
    for line in done.stdout.splitlines():
        if line.startswith("["):
            issues, errors = json.loads(line)
            answers.append("flagged" if issues else "passed")
            if errors and not issues:
                answers[-1] = "error"
    assert len(answers) == len(paths), done.stderr[-2000:]
    return answers


def main(unused):
    with tempfile.TemporaryDirectory() as folder:
        rows, paths = [], []
        for group, name, path, needs_calls in models(folder):
            began = time.perf_counter()
            ours = by_us(path, needs_calls)
            seconds = time.perf_counter() - began
            rows.append(
                {
                    "group": group,
                    "model": name,
                    "ours": ours,
                    "seconds": round(seconds, 2),
                    "saved_model_cli": by_tensorflow(path),
                }
            )
            paths.append(path)
            print(rows[-1], flush=True)
        table = pd.DataFrame(rows)
        if FLAGS.modelscan:
            table["modelscan"] = by_modelscan(paths)
        assert not os.path.exists(os.path.join(folder, "marker"))
    print(table.to_string(index=False))
    for group, part in table.groupby("group"):
        counts = {
            name: int((part[name] == "flagged").sum())
            for name in ("ours", "modelscan", "saved_model_cli")
            if name in part
        }
        print(f"{group}: of {len(part)} flagged {counts}")
    if FLAGS.output:
        table.to_csv(FLAGS.output, index=False)


if __name__ == "__main__":
    app.run(main)
