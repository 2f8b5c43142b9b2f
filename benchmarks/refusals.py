"""Seconds until the error message of wrong command lines.

python -m benchmarks.refusals [--output=results/refusals.csv]

Each line is a whole process of a command with one mistake in it. Run it on an
idle machine.
"""

import csv
import os
import shlex
import subprocess
import sys
import tempfile
import time

from absl import app
from absl import flags

flags.DEFINE_string("output", None, "CSV file to write.")
FLAGS = flags.FLAGS

TARGET = 2.0
AUDIT = "audit --config=configs/audits/pgd_restarts.py --workdir={0}/audit "
OF_MODEL = AUDIT + "--saved_model={0}/model "
TRAIN = "train --config=configs/digits_vib.py --workdir={0}/run "
COMMANDS = (
    OF_MODEL + "--config.dataset.name=mnits",
    OF_MODEL + "--config.dataset.name=tfds:fashion_mnits",
    OF_MODEL + "--config.dataset.name=npz:{0}/none.npz",
    OF_MODEL + "--config.dataset.name=image_folder:{0}/none",
    OF_MODEL + "--config.dataset.name=my_data",
    OF_MODEL + "--config.dataset.name=npz:{0}/a.npz --config.dataset.pth=1",
    OF_MODEL,  # Its metadata have no data set.
    OF_MODEL + "--config.threat_model.norm=L2",
    OF_MODEL + "--config.threat_model.epsilon=8",
    OF_MODEL + "--config.threat_model.epsilon=8/0",
    OF_MODEL + "--config.stages.pgd.attack.name=pdg",
    OF_MODEL + "--config.stages.pgd.attack.steps=3",
    OF_MODEL + "--config.stages.pgd.attack.loss=ce",
    OF_MODEL + "--config.stages.pgd.num_restarts=2.5",
    OF_MODEL + "--config.model.layout=NCHW",
    OF_MODEL + "--config.model.outputs=softmax",
    OF_MODEL + "--config.model.preprocessing.recipe=imagnet",
    OF_MODEL + "--config.mode=noisy",
    OF_MODEL + "--config.diagnostics.set=some",
    OF_MODEL + "--strategy=miror",
    OF_MODEL + "--tpu=grpc//10.0.0.2:8470",
    OF_MODEL + "--allow_ops=ReadFil",
    OF_MODEL + "--quite",
    AUDIT + "--saved_model={0}/nothing",
    AUDIT + "--saved_model={0}/model.tflite",
    AUDIT + "--saved_model={0}/model.onnx",
    AUDIT + "--saved_model={0}/serving",
    AUDIT + "--saved_model={0}/model/saved_model.pb",
    TRAIN + "--config.data.name=mnits",
    TRAIN + "--config.bottleneck.beta=-1",
    TRAIN + "--config.bottleneck.name=vibb",
    TRAIN + "--config.encoder.hidden_unit=8",
    TRAIN + "--config.optim.name=adamm",
    TRAIN + "--config.num_epochs=many",
    "train --config=configs/digits_vibb.py --workdir={0}/run",
    "verify --workdir={0}/nothing",
    "report --workdir={0}/nothing",
    "show --workdir={0}/nothing --index=0",
    "landscape --workdir={0}/nothing --output={0}/o",
    "sweep --config=configs/mnist_vib.py --workdir={0}/s --only=nothing",
)


def prepare(folder):
    """Makes folders that look like models."""
    for name in ("model", "serving/1"):
        os.makedirs(f"{folder}/{name}")
        with open(f"{folder}/{name}/saved_model.pb", "wb"):
            pass
    for name in ("model.tflite", "model.onnx"):
        with open(f"{folder}/{name}", "wb") as file:
            file.write(b"TFL3")


def ask(line):
    """Seconds, exit status and message of a command."""
    command = [sys.executable, "-m", *shlex.split(f"launch.{line}")]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    said = done.stderr.strip().rpartition("\n")[2]
    return round(seconds, 2), done.returncode, said


def main(argv):
    del argv
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        for line in COMMANDS:
            seconds, status, said = ask(line.format(folder))
            shown, said = line.format("DIR"), said.replace(folder, "DIR")
            rows.append((shown.strip(), seconds, status, said))
            print(f"{seconds:5.2f} s, {status}: {shown}\n    {said}")
    worst = max(row[1] for row in rows)
    met = "met" if worst <= TARGET else "NOT MET"
    print(f"{len(rows)} mistakes; the longest took {worst} s, {TARGET}: {met}")
    if FLAGS.output:
        with open(FLAGS.output, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("command", "seconds", "status", "message"))
            writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
