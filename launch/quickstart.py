"""Trains a VIB and its deterministic baseline on digits and audits both.

python -m launch.quickstart [--workdir=quickstart]

The main task in small, on real images and without a download: a model that
looks robust to a weak attack, and its accuracy under a stronger one. It prints
the equivalent commands, and runs them in one process; after an interruption the
same command resumes.
"""

import importlib
import json
import os
import shlex
import time
from collections.abc import Mapping
from typing import Any

from absl import flags as absl_flags

from launch import flags
from launch import outcomes

absl_flags.DEFINE_string("workdir", "quickstart", "Folder to write to.")
flags.define_watchdog()

# Model -> its modes; a deterministic model has no noise.
_MODELS = {
    "digits_vib": ("mean", "stochastic"),
    "digits_deterministic": ("mean",),
}
# Protocol -> its diagnostics; one step is not evidence, so it has none.
_PROTOCOLS = {"fgs_epsilons": "none", "pgd_restarts": "quick"}


def _config(name: str, **changes: Any) -> dict[str, Any]:
    """A config of `configs/` with some fields set, as nested JSON values."""
    config = importlib.import_module(f"configs.{name}").get_config()
    config.update_from_flattened_dict(changes)
    return json.loads(config.to_json(sort_keys=False))


def _command(
    module: str, config: str, changes: Mapping[str, Any], **more: str
) -> str:
    """Prints the equivalent command."""
    words = [f"--config=configs/{config.replace('.', '/')}.py"]
    words += [f"--config.{name}={value}" for name, value in changes.items()]
    words += [f"--{name}={value}" for name, value in more.items()]
    line = f"python -m launch.{module} {shlex.join(words)}"
    print(f"\n$ {line}", flush=True)
    return line


def _train(name: str, run: str, strategy, stop) -> None:
    from ib_keras.training import loop

    command = _command("train", name, {}, workdir=run)
    provenance = {"git_commit": flags.git_commit(), "command": command}
    result = loop.train(
        _config(name),
        run,
        strategy=strategy,
        should_stop=stop,
        watchdog_minutes=flags.FLAGS.watchdog_minutes,
        provenance=provenance,
    )
    outcomes.print_training(result, run)


def _audit(name: str, run: str, mode: str, audits: str, stop) -> list[str]:
    """Audits a model in one mode by each protocol; the folders."""
    from ib_keras.audit import report
    from ib_keras.audit import runner
    from ib_keras.audit import subject as subjects

    folders, subject = [], None
    saved_model = os.path.join(run, "saved_model")
    for protocol, diagnostics in _PROTOCOLS.items():
        folder = os.path.join(audits, f"{name}_{protocol}_{mode}")
        changes = {
            "mode": mode,
            "num_examples": 300,
            "threat_model.epsilon": 0.1,
            "diagnostics.set": diagnostics,
        }
        config = _config(f"audits.{protocol}", **changes)
        command = _command(
            "audit",
            f"audits.{protocol}",
            changes,
            saved_model=saved_model,
            workdir=folder,
        )
        # Loaded and compiled once, for both protocols.
        subject = subject or subjects.load(config, saved_model, probe=True)
        summary = runner.audit_subject(
            config,
            subject,
            folder,
            should_stop=stop,
            watchdog_minutes=flags.FLAGS.watchdog_minutes,
            command=command,
            git_commit=flags.git_commit(),
        )
        outcomes.print_audit(summary)
        if diagnostics != "none":
            outcomes.print_verdict(folder)
        report.write_page([folder])
        folders.append(folder)
    return folders


def _table(folders: list[str]) -> str:
    import pandas as pd

    from ib_keras.audit.report import load

    rows = []
    for folder in folders:
        audit = load.load(folder, has_examples=False)
        found = audit.findings
        curve = [(p.epsilon, p.robust_accuracy) for p in audit.epsilon_curve]
        own = (audit.threat_model.epsilon, audit.robust_accuracy)
        for epsilon, robust in curve or [own]:
            rows.append(
                {
                    "model": os.path.basename(
                        os.path.dirname(audit.model.path or "")
                    ),
                    "mode": audit.mode,
                    "attack": audit.protocol,
                    "epsilon": epsilon,
                    "clean": audit.clean_accuracy,
                    "robust": robust,
                    "verdict": found.verdict.label if found else "not judged",
                }
            )
    table = pd.DataFrame(rows)
    return table.to_string(index=False, float_format="{:.3f}".format)


def main() -> int:
    """Executes the printed commands, and prints their results."""
    began = time.monotonic()
    stop = flags.StopRequest()
    print("Importing TensorFlow ...", flush=True)
    from ib_keras import lazy

    with lazy.importing():
        from ib_keras import strategy

    workdir = absl_flags.FLAGS.workdir
    device = strategy.get("one_device")
    folders = []
    for name, modes in _MODELS.items():
        run = os.path.join(workdir, name)
        _train(name, run, device, stop)
        for mode in modes:
            audits = os.path.join(workdir, "audits")
            folders += _audit(name, run, mode, audits, stop)
    from ib_keras.audit import report

    page = os.path.join(workdir, "report.html")
    words = {"workdir": ",".join(folders), "output": page}
    line = shlex.join(f"--{name}={value}" for name, value in words.items())
    print(f"\n$ python -m launch.report {line}", flush=True)
    report.write_page(folders, page)
    print(f"\n{_table(folders)}\n")
    print(f"Report: {page}")
    print(f"Took {time.monotonic() - began:.0f} seconds.")
    return 0


if __name__ == "__main__":
    flags.run(main)
