r"""Whole commands against each other: the same weights, the same images.

python -m venv /tmp/peers && /tmp/peers/bin/pip install torch torchattacks \
    pyautoattack --extra-index-url https://download.pytorch.org/whl/cpu
python -m benchmarks.race --peer_python=/tmp/peers/bin/python \
    --vib=runs/mnist_vib/saved_model \
    --deterministic=runs/mnist_deterministic/saved_model \
    --output=results/race.json

APGD-CE, then APGD-DLR, 5 restarts of 100 steps each, untargeted, l_inf, mean
mode. Ours is `python -m launch.audit`, which also checks the model, writes the
audit folder and its report; a peer is a process that imports PyTorch, rebuilds
the network from the SavedModel's variables and attacks. Both are timed from
start to exit, in turns, each round in a new folder. Before the race the peer's
logits must equal the SavedModel's to 1e-4, and its clean accuracy ours. What a
process cannot avoid, importing TensorFlow or PyTorch and loading the model,
is timed beside them. A peer that is not installed is named and left out.

Run it with nothing else running: PyTorch's threads wait by spinning, so that
beside another process a peer takes several times as long as alone.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd
from absl import app
from absl import flags
from absl import logging

from benchmarks import race_peers

flags.DEFINE_string("vib", None, "SavedModel of an MNIST VIB.")
flags.DEFINE_string("deterministic", None, "SavedModel of its twin.")
flags.DEFINE_list("epsilons", ["0.2", "0.1"], "Radii, in pixel units.")
flags.DEFINE_integer("num_examples", 500, "MNIST test images.")
flags.DEFINE_integer("rounds", 3, "Turns; medians are over them.")
flags.DEFINE_list(
    "peers",
    ["auto_attack", "torchattacks"],
    f"Of {', '.join(race_peers.MODULES)}.",
)
flags.DEFINE_string("peer_python", sys.executable, "Where the peers are.")
flags.DEFINE_string("output", None, "JSON file to write.")
FLAGS = flags.FLAGS

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOLERANCE = 1e-4
QUIET = 0.5  # Processes that run, as an average over the last minute.


def ours(model, epsilon, workdir):
    return [
        sys.executable,
        "-m",
        "launch.audit",
        "--config=benchmarks/apgd_config.py",
        f"--saved_model={os.path.abspath(model)}",
        f"--config.num_examples={FLAGS.num_examples}",
        f"--config.threat_model.epsilon={epsilon}",
        "--config.diagnostics.set=none",
        f"--workdir={workdir}",
    ]


def theirs(*words):
    return [FLAGS.peer_python, "-m", "benchmarks.race_peers", *words]


def run(command):
    """Runs a process in the checkout: its seconds and its stdout."""
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nfailed:\n{done.stdout}{done.stderr}")
    return seconds, done.stdout


def last_json(text):
    return json.loads(text.splitlines()[-1])


def look():
    """The peers that can run, saying which cannot, and their versions."""
    for name in FLAGS.peers:
        if name not in race_peers.MODULES:
            sys.exit(f"--peers: {name} is none of {list(race_peers.MODULES)}")
    found = last_json(run(theirs("look", *FLAGS.peers))[1])
    for name, problem in found["problems"].items():
        print(f"{name} is left out: {problem} ({FLAGS.peer_python}).")
    peers = [name for name in FLAGS.peers if name not in found["problems"]]
    for name in peers:
        print(f"{name} runs {race_peers.RUNS[name]}.")
    return peers, found["versions"]


def export(models, folder):
    """Writes weights and images of each model for the peers, and checks them.

    Args:
        models: Name -> SavedModel.
        folder: Where to.

    Returns:
        Name -> .npz file.
    """
    import tensorflow as tf

    from ib_keras.data import mnist
    from ib_keras.data import source

    images, labels = mnist.build().load(f"test[:{FLAGS.num_examples}]")
    images = source.to_float(images).numpy()
    paths = {}
    for name, model in models.items():
        loaded = tf.saved_model.load(model)
        arrays = [v.numpy() for v in loaded._model_variables]
        assert [a.ndim for a in arrays] == [2, 1] * 4, f"{model} is no MLP"
        # A stochastic encoder gives means and then deviations.
        width = len(arrays[6])
        arrays[4:6] = arrays[4][:, :width], arrays[5][:width]
        layers = {f"kernel_{i}": a for i, a in enumerate(arrays[::2])}
        layers |= {f"bias_{i}": a for i, a in enumerate(arrays[1::2])}
        paths[name] = os.path.join(folder, f"{name}.npz")
        np.savez(paths[name], images=images, labels=labels, **layers)
        rebuilt = os.path.join(folder, f"{name}_logits.npy")
        run(theirs("logits", paths[name], rebuilt))
        wanted = loaded.mean(tf.constant(images)).numpy()
        error = np.abs(np.load(rebuilt) - wanted).max()
        print(f"{name}: logits rebuilt to {error:.1e}")
        if error > TOLERANCE:
            sys.exit(f"The peers' network is not {model}: off by {error:.1e}.")
    return paths


def spread(seconds):
    return {
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
        "all": seconds,
    }


def race(model, data, epsilon, peers):
    """One row: ours and each peer in turns."""
    seconds = {name: [] for name in ("ours", *peers)}
    found = {}
    for number in range(FLAGS.rounds):
        with tempfile.TemporaryDirectory() as folder:
            workdir = os.path.join(folder, "audit")
            taken, _ = run(ours(model, epsilon, workdir))
            with open(os.path.join(workdir, "summary.json")) as file:
                found["ours"] = json.load(file)
        seconds["ours"].append(taken)
        for name in peers:
            taken, text = run(theirs("attack", name, data, epsilon))
            found[name] = last_json(text)
            seconds[name].append(taken)
        last = ", ".join(f"{k} {v[-1]:.1f} s" for k, v in seconds.items())
        print(f"  round {number + 1}: {last}", flush=True)
    clean = {name: found[name]["clean_accuracy"] for name in found}
    if max(clean.values()) - min(clean.values()) > 1e-6:
        sys.exit(f"They did not attack the same: clean accuracies {clean}.")
    row = {"clean_accuracy": clean["ours"]}
    for name, values in found.items():
        row[name] = {
            "seconds": spread(seconds[name]),
            "robust_accuracy": values["robust_accuracy"],
        }
    row["ours"]["gradient_evaluations"] = found["ours"]["gradient_evaluations"]
    for name in peers:
        row[name]["ours_over_it"] = statistics.median(
            seconds["ours"]
        ) / statistics.median(seconds[name])
    return row


def floors(models):
    """Whole processes that attack nothing."""
    commands = {
        "import tensorflow": [sys.executable, "-c", "import tensorflow"],
        "import torch": [FLAGS.peer_python, "-c", "import torch"],
    }
    for name, model in models.items():
        commands[f"import tensorflow, load {name}"] = [
            sys.executable,
            "-c",
            "import tensorflow as tf; "
            f"tf.saved_model.load({os.path.abspath(model)!r})",
        ]
    seconds = {name: [] for name in commands}
    for _ in range(FLAGS.rounds):
        for name, command in commands.items():
            seconds[name].append(run(command)[0])
    return {
        name: {"command": commands[name], "seconds": spread(values)}
        for name, values in seconds.items()
    }


def show_seconds(spread):
    return f"{spread['median']:.1f} ({spread['min']:.1f}-{spread['max']:.1f})"


def print_rows(rows, peers):
    lines = []
    for row in rows:
        line = {
            "model": row["model"],
            "epsilon": row["epsilon"],
            "ours, s": show_seconds(row["ours"]["seconds"]),
            "robust": f"{row['ours']['robust_accuracy']:.1%}",
            "gradients": row["ours"]["gradient_evaluations"],
        }
        for name in peers:
            line[f"{name}, s"] = show_seconds(row[name]["seconds"])
            line[f"robust by {name}"] = f"{row[name]['robust_accuracy']:.1%}"
            line[f"ours / {name}"] = f"{row[name]['ours_over_it']:.3f}"
        lines.append(line)
    print(f"\n{pd.DataFrame(lines).to_string(index=False)}\n")


def cpu():
    with open("/proc/cpuinfo") as file:
        names = [line for line in file if line.startswith("model name")]
    return names[0].partition(":")[2].strip()


def our_versions():
    code = (
        "import json; from ib_keras import export; "
        "print(json.dumps(export.describe_versions()))"
    )
    return last_json(run([sys.executable, "-c", code])[1])


def main(unused):
    models = {"vib": FLAGS.vib, "deterministic": FLAGS.deterministic}
    models = {name: model for name, model in models.items() if model}
    if not models:
        sys.exit("Name a model: --vib, --deterministic or both.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.ERROR)
    load = os.getloadavg()[0]
    if load > QUIET:
        print(f"Something else runs (load {load:.1f}): these are no times.")
    peers, versions = look()
    commands = {"ours": ours("MODEL", "EPSILON", "DIR")}
    for name in peers:
        commands[name] = theirs("attack", name, "DATA.npz", "EPSILON")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = export(models, folder)
        for name, model in models.items():
            for epsilon in FLAGS.epsilons:
                print(f"{name}, epsilon {epsilon}:", flush=True)
                row = race(model, data[name], epsilon, peers)
                rows.append({"model": name, "epsilon": float(epsilon), **row})
    alone = floors(models)
    print_rows(rows, peers)
    for name, row in alone.items():
        print(f"{name}: {show_seconds(row['seconds'])} s")
    if FLAGS.output:
        record = {
            "date": time.strftime("%Y-%m-%d"),
            "cpu": cpu(),
            "cores": os.cpu_count(),
            "load_before": load,
            "platform": platform.platform(),
            "versions": our_versions(),
            "peer_versions": versions,
            "num_examples": FLAGS.num_examples,
            "rounds": FLAGS.rounds,
            "commands": {k: " ".join(v) for k, v in commands.items()},
            "peers_run": {name: race_peers.RUNS[name] for name in peers},
            "rows": rows,
            "alone": alone,
        }
        with open(FLAGS.output, "w") as file:
            json.dump(record, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    app.run(main)
