r"""The cost of the quick diagnostics, relative to their protocol.

python -m benchmarks.diagnostics --saved_model=runs/mnist_vib/saved_model

`pgd_restarts` as its config has it (1,000 examples, radii 0.1 and 0.2), then
its diagnostics; both with tracing and compiling, in one process.
"""

import json
import tempfile
import time

from absl import app
from absl import flags

from configs.audits import pgd_restarts
from ib_keras import files
from ib_keras.audit import runner

flags.DEFINE_string("saved_model", None, "An MNIST model.")
flags.DEFINE_string("mode", "mean", "mean or stochastic.")
flags.DEFINE_integer("num_examples", 1000, "To audit.")
flags.mark_flag_as_required("saved_model")


def audit(folder, diagnostics):
    config = json.loads(pgd_restarts.get_config().to_json())
    config["mode"] = flags.FLAGS.mode
    config["num_examples"] = flags.FLAGS.num_examples
    config["diagnostics"]["set"] = diagnostics
    began = time.perf_counter()
    summary = runner.audit(config, flags.FLAGS.saved_model, folder, quiet=True)
    return summary, time.perf_counter() - began


def main(unused):
    with tempfile.TemporaryDirectory() as folder:
        summary, seconds = audit(folder, "none")
        gradients = summary["gradient_evaluations"]
        for point in summary["epsilon_curve"]:
            name = files.join(folder, f"epsilon_{point['epsilon']!r}")
            if files.exists(name):
                part = files.read_json(files.join(name, "summary.json"))
                gradients += part["gradient_evaluations"]
        _, more = audit(folder, "quick")
        findings = files.read_json(files.join(folder, "findings.json"))
    for row in sorted(findings["findings"], key=lambda f: -f["seconds"])[:8]:
        print(f"  {row['name']}: {row['seconds']:.1f} s")
    print(
        f"protocol {seconds:.1f} s, {gradients} gradients; quick diagnostics "
        f"{more:.1f} s (loading included), {findings['gradient_evaluations']} "
        f"gradients: ratios {more / seconds:.2f} and "
        f"{findings['gradient_evaluations'] / gradients:.2f} (target 1)"
    )
    print(f"verdict: {findings['verdict']['label']}")


if __name__ == "__main__":
    app.run(main)
