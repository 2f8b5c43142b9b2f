"""A whole audit against whole runs of other tools, as processes.

python -m venv /tmp/peers && /tmp/peers/bin/pip install torch pyautoattack \
    torchattacks foolbox adversarial-robustness-toolbox==1.20.1
python -m benchmarks.race --vib=runs/mnist_vib/saved_model \
    --deterministic=runs/mnist_deterministic/saved_model \
    --peer_python=/tmp/peers/bin/python [--output=results/race.json]

Every figure is of a whole process, in turns: `launch.audit` with AutoPGD on
cross-entropy and on DLR, 5 x 100 each, and no diagnostics, then each peer with
the same, on the same images and the same weights (rebuilt from the SavedModel's
variables, and checked to give the same logits). Robust accuracy is shown beside
the time. foolbox has no AutoPGD and runs PGD 10 x 100; ART takes eps_step = 2
epsilon, since its default is weaker. A peer that is not installed is left out.

Run it on an idle machine: PyTorch's threads wait by spinning, so that with
another process a peer takes several times as long.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app
from absl import flags

from benchmarks import race_peer

flags.DEFINE_string("vib", None, "SavedModel of a VIB of the MNIST MLP.")
flags.DEFINE_string(
    "deterministic", None, "SavedModel of its deterministic baseline."
)
flags.DEFINE_list("epsilons", ["0.2", "0.1"], "Radii, linf.")
flags.DEFINE_integer("num_examples", 500, "MNIST test images.")
flags.DEFINE_integer("rounds", 3, "Runs of each.")
flags.DEFINE_list("peers", ["auto_attack"], f"Of {list(race_peer.PEERS)}.")
flags.DEFINE_string("peer_python", sys.executable, "Python of the peers.")
flags.DEFINE_string("output", None, "JSON file to write.")
flags.mark_flags_as_required(["vib", "deterministic"])
FLAGS = flags.FLAGS

# Packages of the peers, and a program that prints their versions.
PACKAGES = (
    "torch",
    "pyautoattack",
    "torchattacks",
    "foolbox",
    "adversarial-robustness-toolbox",
)
ASK_VERSIONS = f"""
import importlib.metadata as m, json
names = {{d.metadata["Name"].lower(): d.version for d in m.distributions()}}
print(json.dumps({{n: names[n] for n in {PACKAGES} if n in names}}))
"""
TARGET = 0.8
QUIET = 0.5  # Processes that run, as an average over the last minute.
IMPORT = "import tensorflow as tf"


def export(path, images, folder):
    """Writes the network's arrays; returns their file and some logits."""
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    arrays = [v.numpy() for v in loaded._model_variables]
    arrays = [a for a in arrays if a.ndim in (1, 2)]
    latent = arrays[6].shape[0]
    # A stochastic encoder ends in means and then raw deviations.
    arrays[4], arrays[5] = arrays[4][:, :latent], arrays[5][:latent]
    file = os.path.join(folder, "model.npz")
    np.savez(file, **{f"{i:02}": a for i, a in enumerate(arrays[:8])})
    return file, loaded.mean(tf.constant(images)).numpy()


def run(command):
    """Seconds of a whole process, and the last line that it prints."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode == 3:
        return None, done.stderr.strip()
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return seconds, done.stdout.strip().rpartition("\n")[2]


def ours(path, epsilon, workdir):
    command = [sys.executable, "-m", "launch.audit"]
    command += ["--config=benchmarks/race_config.py", f"--saved_model={path}"]
    command += [f"--config.num_examples={FLAGS.num_examples}", "--quiet"]
    command += [f"--config.threat_model.epsilon={epsilon}"]
    command += ["--config.diagnostics.set=none", f"--workdir={workdir}"]
    seconds, _ = run(command)
    with open(f"{workdir}/summary.json", encoding="utf-8") as file:
        summary = json.load(file)
    return seconds, summary["robust_accuracy"], summary["gradient_evaluations"]


def race(model, path, epsilon, data, folder, peers):
    """The row of a model at a radius."""
    row = {"model": model, "epsilon": float(epsilon), "seconds": {"ours": []}}
    robust = row["robust_accuracy"] = {}
    for turn in range(FLAGS.rounds):
        workdir = os.path.join(folder, f"{epsilon}_{turn}")
        seconds, robust["ours"], row["gradients"] = ours(path, epsilon, workdir)
        row["seconds"]["ours"].append(seconds)
        for name in list(peers):
            seconds, line = run(peer(name, folder, data, epsilon))
            if seconds is None:
                print(f"{name} is left out: {line}")
                peers.remove(name)
                continue
            row["seconds"].setdefault(name, []).append(seconds)
            robust[name] = json.loads(line)["robust_accuracy"]
    mine = statistics.median(row["seconds"]["ours"])
    print(f"{model}, epsilon {epsilon}, {row['gradients']:,} gradients of ours")
    for name, times in row["seconds"].items():
        median = statistics.median(times)
        print(
            f"  {name:14} {median:7.1f} s ({min(times):.1f} to "
            f"{max(times):.1f}), robust {robust[name]:.3f}"
            + (f", ours / it {mine / median:.2f}" if name != "ours" else ""),
            flush=True,
        )
        row.setdefault("ours_over", {})[name] = round(mine / median, 3)
    return row


def peer(name, folder, data, epsilon):
    script = race_peer.__file__
    model = os.path.join(folder, "model.npz")
    return [FLAGS.peer_python, script, name, model, data, epsilon]


def starts(models):
    """Median seconds of processes that only import."""
    codes = {IMPORT: (sys.executable, IMPORT)}
    for name, path in models.items():
        load = f"{IMPORT}; tf.saved_model.load({path!r})"
        codes[f"and load {name}"] = (sys.executable, load)
    codes["import torch"] = (FLAGS.peer_python, "import torch")
    found = {}
    for name, (python, code) in codes.items():
        times = [run([python, "-c", code])[0] for _ in range(3)]
        found[name] = round(statistics.median(times), 2)
        print(f"{name}: {found[name]} s", flush=True)
    return found


def versions():
    """Package -> version, of TensorFlow here and of the peers there."""
    _, line = run([FLAGS.peer_python, "-c", ASK_VERSIONS])
    peers = json.loads(line)
    if "torch" not in peers:
        raise app.UsageError(
            f"PyTorch is not installed for {FLAGS.peer_python}. Install the "
            "peers as the docstring says, and give their --peer_python."
        )
    return {"tensorflow": importlib.metadata.version("tensorflow"), **peers}


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line for line in file if line.startswith("model name")]
    return f"{names[0].partition(': ')[2].strip()}, {len(names)} cores"


def main(argv):
    from ib_keras.data import mnist
    from ib_keras.data import source

    del argv
    installed = versions()
    load = os.getloadavg()[0]
    if load > QUIET:
        print(
            f"Another program runs (load {load:.1f}): the times are not valid."
        )
    images, labels = mnist.build().load(f"test[:{FLAGS.num_examples}]")
    images = source.to_float(images).numpy()
    models = {"vib": FLAGS.vib, "deterministic": FLAGS.deterministic}
    rows, peers = [], list(FLAGS.peers)
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "data.npz")
        np.savez(data, images=images, labels=labels)
        begun = starts(models)
        for model, path in models.items():
            inside = os.path.join(folder, model)
            os.mkdir(inside)
            _, logits = export(path, images, inside)
            _, line = run(peer("logits", inside, data, "0"))
            gap = float(np.abs(np.array(json.loads(line)) - logits).max())
            assert gap < 1e-4 * max(1, np.abs(logits).max()), gap
            rows += [
                race(model, path, epsilon, data, inside, peers)
                for epsilon in FLAGS.epsilons
            ]
    ratios = [row["ours_over"].get("auto_attack") for row in rows]
    if None not in ratios:
        met = "met" if max(ratios) <= TARGET else "NOT MET"
        print(f"largest ratio to auto-attack {max(ratios)}, {TARGET}: {met}")
    if FLAGS.output:
        found = {
            "command": "python -m benchmarks.race " + " ".join(sys.argv[1:]),
            "cpu": processor(),
            "load_before": round(load, 2),
            "python": platform.python_version(),
            "versions": installed,
            "date": datetime.date.today().isoformat(),
            "num_examples": FLAGS.num_examples,
            "starts": begun,
            "rows": rows,
        }
        with open(FLAGS.output, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    app.run(main)
