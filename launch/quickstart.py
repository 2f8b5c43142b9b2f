"""Trains a VIB and its deterministic twin on digits and audits both.

python -m launch.quickstart [--workdir=quickstart]

The main job in small, on real images and without a download: a model that one
weak attack calls robust, and what a stronger one makes of it.
"""

import os
import subprocess
import sys
import time

from absl import flags as absl_flags

from launch import flags

absl_flags.DEFINE_string("workdir", "quickstart", "Folder to write to.")

_MODELS = ("digits_vib", "digits_deterministic")
# Protocol -> its diagnostics; one step is no evidence that could be judged.
_PROTOCOLS = {"fgs_epsilons": "none", "pgd_restarts": "quick"}


def _command(module: str, *arguments: str) -> None:
    """Runs one of our commands, as a user would."""
    line = [sys.executable, "-m", f"launch.{module}", *arguments]
    print("$ python " + " ".join(line[1:]), flush=True)
    done = subprocess.run(line, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def _modes(name: str) -> tuple[str, ...]:
    # A deterministic model has no noise, and so no stochastic mode.
    if name.endswith("deterministic"):
        return ("mean",)
    return ("mean", "stochastic")


def _table(folders: list[str]) -> str:
    import pandas as pd

    from ib_keras import files
    from ib_keras.audit import folder as names

    rows = []
    for folder in folders:
        summary = files.read_json(os.path.join(folder, names.SUMMARY))
        verdict = "not judged"
        findings = os.path.join(folder, names.FINDINGS)
        if files.exists(findings):
            verdict = files.read_json(findings)["verdict"]["label"]
        curve = summary["epsilon_curve"] or [
            {
                "epsilon": summary["threat_model"]["epsilon"],
                "robust_accuracy": summary["robust_accuracy"],
            }
        ]
        for point in curve:
            rows.append(
                {
                    "model": os.path.basename(
                        os.path.dirname(summary["model"]["path"])
                    ),
                    "mode": summary["mode"],
                    "attack": summary["protocol"],
                    "epsilon": point["epsilon"],
                    "clean": summary["clean_accuracy"],
                    "robust": point["robust_accuracy"],
                    "verdict": verdict,
                }
            )
    table = pd.DataFrame(rows)
    return table.to_string(index=False, float_format="{:.3f}".format)


def main() -> int:
    """Runs the commands one after the other and prints what they found."""
    began = time.monotonic()
    workdir = absl_flags.FLAGS.workdir
    folders = []
    for name in _MODELS:
        run = os.path.join(workdir, name)
        _command("train", f"--config=configs/{name}.py", f"--workdir={run}")
        for protocol, diagnostics in _PROTOCOLS.items():
            for mode in _modes(name):
                folder = os.path.join(
                    workdir, "audits", f"{name}_{protocol}_{mode}"
                )
                _command(
                    "audit",
                    f"--config=configs/audits/{protocol}.py",
                    f"--config.mode={mode}",
                    "--config.num_examples=300",
                    "--config.threat_model.epsilon=0.1",
                    f"--config.diagnostics.set={diagnostics}",
                    f"--saved_model={run}/saved_model",
                    f"--workdir={folder}",
                )
                folders.append(folder)
    page = os.path.join(workdir, "report.html")
    _command("report", f"--workdir={','.join(folders)}", f"--output={page}")
    print(f"\n{_table(folders)}\n")
    print(f"Report: {page}")
    print(f"Took {time.monotonic() - began:.0f} seconds.")
    return 0


if __name__ == "__main__":
    flags.run(main)
