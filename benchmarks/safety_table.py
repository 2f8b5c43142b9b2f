"""The findings of three scanners on planted and on honest models.

python -m benchmarks.safety_table --modelscan=DIR/bin/python \
    --output=results/safety_table.csv

Ours against `modelscan` (in an environment of its own: `pip install
modelscan`; TensorFlow, which it needs for SavedModels, is ours) and the
`saved_model_cli scan` of TensorFlow.

Ours is measured as an audit runs it: a new process starts the child, imports
TensorFlow, takes the answer, loads the model and waits for the calls on
batches of 128. `seconds` are from its start to its end; `megabytes` are the
peak of both processes together, without the files that they map.
"""

import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile

import keras
import pandas as pd
import tensorflow as tf
from absl import app
from absl import flags
from tensorflow.python.tools import saved_model_cli
from tensorflow.python.tools import saved_model_utils

from benchmarks import meter
from tests.support import bombs
from tests.support import honest
from tests.support import hostile

flags.DEFINE_string("modelscan", None, "Python with modelscan; none: skip it.")
flags.DEFINE_string("output", None, "CSV file to write.")
flags.DEFINE_string("only", "", "Models whose names this is found in.")
FLAGS = flags.FLAGS

# Answers with the number of issues and of errors.
_MODELSCAN = """
import json, sys
from modelscan.modelscan import ModelScan

result = ModelScan().scan(sys.argv[1])
issues = result["summary"]["total_issues"]
print(json.dumps([issues, len(result["errors"])]), flush=True)
"""
BATCH = 128

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
    """Makes all models; yields (group, name, path), and removes each after."""
    marker = os.path.join(folder, "marker")
    groups = {
        "planted": hostile.SAVED_MODELS,
        "bomb": {**hostile.BOMBS, **bombs.SAVED_MODELS, **bombs.LARGER_BATCHES},
        "planted .keras": {**hostile.KERAS_FILES, **bombs.KERAS_FILES},
        "honest": HONEST,
        "honest .keras": {"small CNN": lambda path, _: hostile.rewrite(path)},
    }
    for group, cases in groups.items():
        for name, case in cases.items():
            if not re.search(FLAGS.only, name):
                continue
            path = os.path.join(folder, "model")
            path += ".keras" if "keras" in group else ""
            make = case[0] if isinstance(case, tuple) else case
            if group == "honest":
                make(path)
            else:
                make(path, marker)
            yield group, name, path
            if os.path.isfile(path):
                os.remove(path)
            else:
                shutil.rmtree(path)


# Loads a model as an audit does.
_AUDIT = f"""
import sys
from ib_keras.audit.safety import probe
path, batch = sys.argv[1], {BATCH}
probe.start(path, batches=probe.batch_sizes(batch))
from ib_keras.audit.audited_model import loading
from ib_keras.errors import UserError
try:
    loading.load(path, probe=True, batch_size=batch)
except UserError as error:
    print(error.received)
    sys.exit(error.exit_status)
"""
_ANSWERS = {0: "passed", 2: "error", 3: "flagged"}


def by_us(path) -> dict:
    """Answer, seconds and megabytes of the start of an audit."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", _AUDIT, path]
    done = meter.run(command, cwd=meter.ROOT, env=environment)
    if done["status"] not in _ANSWERS:
        print(done["errors"][-2000:], flush=True)
    return {
        "ours": _ANSWERS.get(done["status"], "fault"),
        "seconds": done["seconds"],
        "megabytes": done["megabytes"],
    }


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


def by_modelscan(path) -> str:
    """What it says in a process of the other environment."""
    lent = str(pathlib.Path(tf.__file__).parents[1])
    done = meter.run(
        [FLAGS.modelscan, "-c", _MODELSCAN, path],
        timeout=60.0,
        env={**os.environ, "PYTHONPATH": lent, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    lines = done["output"].splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("[")]
    if not answers:
        return "error"
    issues, errors = answers[-1]
    return "flagged" if issues else "error" if errors else "passed"


def main(unused):
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for group, name, path in models(folder):
            row = {"group": group, "model": name, **by_us(path)}
            row["saved_model_cli"] = by_tensorflow(path)
            if FLAGS.modelscan:
                row["modelscan"] = by_modelscan(path)
            rows.append(row)
            print(row, flush=True)
        assert not os.path.exists(os.path.join(folder, "marker"))
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    for group, part in table.groupby("group"):
        counts = {
            name: int((part[name] == "flagged").sum())
            for name in ("ours", "modelscan", "saved_model_cli")
            if name in part
        }
        print(
            f"{group}: of {len(part)} flagged {counts}; ours at most "
            f"{part.seconds.max()} s and {part.megabytes.max()} MB"
        )
    if FLAGS.output:
        table.to_csv(FLAGS.output, index=False)


if __name__ == "__main__":
    app.run(main)
