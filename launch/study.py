r"""Audits many models by many protocols, on several processes or machines.

python -m launch.study --config=configs/studies/digits.py \
    --workdir=studies/digits --workers=2
python -m launch.study --config=configs/studies/digits.py \
    --workdir=/shared/digits --scheduler=tcp://HOST:8786
python -m launch.study --workdir=studies/digits --table

It needs the extra `cluster`. The same command resumes after it was stopped or
killed; what has failed is in failures.jsonl, and is tried again.
"""

import importlib
import json
import os

from absl import flags as absl_flags

from launch import flags

# Audits whose results are printed in the end.
_MOST_LINES = 40

flags.define_config(is_required=False)
flags.define_workdir()
flags.define_quiet()
absl_flags.DEFINE_string(
    "scheduler",
    "local",
    "Where to run: local (processes of this machine), slurm, or the address "
    "of a Dask scheduler, tcp://HOST:8786.",
)
absl_flags.DEFINE_integer(
    "workers",
    1,
    "Processes to start here, or Slurm jobs; a scheduler that is there has "
    "its own.",
    lower_bound=1,
)
absl_flags.DEFINE_integer(
    "retries",
    2,
    "How often a part is tried again whose worker was lost or had too little "
    "memory.",
    lower_bound=0,
)
absl_flags.DEFINE_string(
    "slurm",
    None,
    "YAML file with the jobs of --scheduler=slurm; that of "
    "ib_keras/cluster/slurm.yaml by default.",
)
absl_flags.DEFINE_bool(
    "plan", False, "Print parts, bytes and machine-hours, and stop."
)
absl_flags.DEFINE_bool(
    "table", False, "Write the finished audits as Parquet, and stop."
)
absl_flags.DEFINE_list(
    "allow_ops",
    [],
    "Operations that the safety check shall let pass in all models.",
)


def _protocol(name: str):
    """A config of `configs/audits/`, as JSON values."""
    from ib_keras import errors
    from ib_keras import shipped

    names = shipped.config_names("configs/audits")
    if name not in names:
        raise errors.unknown_name(
            "protocol", name, names, "Correct the config's `protocols`."
        )
    module = importlib.import_module(f"configs.audits.{name}")
    return json.loads(module.get_config().to_json(sort_keys=False))


def _make_plan():
    from ib_keras.audit.safety import names
    from ib_keras.cluster import schedulers
    from ib_keras.errors import UserError
    from ib_keras.studies import plan

    values = flags.FLAGS
    if values.config is None:
        raise UserError(
            "A flag is missing",
            received="no --config",
            expected="--config=configs/studies/NAME.py, or --table",
            fix="Add it; --help says what it means.",
        )
    config = flags.config_values()
    names.check(values.allow_ops)
    if not values.plan:
        models = [path.rpartition("=")[2] for path in config.get("models", ())]
        schedulers.check(values.scheduler, [values.workdir, *models])
    return plan.make(
        config,
        values.workdir,
        _protocol,
        allow_ops=values.allow_ops,
        command=flags.command_line(),
        git_commit=flags.git_commit(),
    )


def _print_plan(plan) -> int:
    from ib_keras import lazy

    lazy.tensorflow()
    from ib_keras.studies import costs

    total = {"parts": 0, "bytes": 0, "seconds": 0.0}
    print("At most, if every example stays robust:", flush=True)
    for row in costs.rows(plan):
        total = {name: total[name] + row[name] for name in total}
        print(f"  {row['job']}: {_said(row)}", flush=True)
    print(
        f"  together: {_said(total)}, at the measured speed of this machine, "
        "without compiling and diagnostics. Nothing was written."
    )
    return 0


def _said(row) -> str:
    return (
        f"{row['parts']} part{'s' * (row['parts'] != 1)}, "
        f"{row['bytes'] / 1e6:.1f} MB, {row['seconds'] / 3600:.3g} "
        "machine-hours"
    )


def _write_table() -> int:
    from ib_keras.studies import table

    written = table.write(flags.FLAGS.workdir)
    print(
        f"Table: {written.path} with {written.num_summaries} rows, and "
        f"{written.num_examples} examples in examples/ beside it"
    )
    return 0


def _print_audits(workdir) -> None:
    from ib_keras.audit import folder as folders
    from ib_keras.studies import folder

    done = folder.finished(workdir)
    for model, protocol, place in done[:_MOST_LINES]:
        summary = folders.summary(place)
        label = folder.verdict_label(place) or "no verdict"
        low, high = summary["robust_accuracy_ci95"]
        print(
            f"  {model}/{protocol}: clean {summary['clean_accuracy']:.4f}, "
            f"robust {summary['robust_accuracy']:.4f} (95% interval "
            f"{low:.4f} to {high:.4f}), {label.replace('_', ' ')}"
        )
    if len(done) > _MOST_LINES:
        print(f"  and {len(done) - _MOST_LINES} more: see --table")


def main() -> int:
    """Runs `ib_keras.studies.study.run`, or prints what it would take."""
    values = flags.FLAGS
    if values.table:
        return _write_table()
    stop = flags.StopRequest()
    plan = _make_plan()
    if plan.left_out:
        print(
            "Left out, for the model has no stochastic mode: "
            + ", ".join(plan.left_out)
        )
    if values.plan:
        return _print_plan(plan)

    from ib_keras import files
    from ib_keras.studies import folder
    from ib_keras.studies import study

    result = study.run(
        plan,
        values.workdir,
        scheduler=values.scheduler,
        num_workers=values.workers,
        retries=values.retries,
        slurm=values.slurm,
        should_stop=stop,
        quiet=values.quiet,
    )
    print(f"Audits: {result.num_done} of {result.num_jobs} are done")
    _print_audits(values.workdir)
    for failure in result.failures:
        place = failure["range"] or "all"
        print(
            f"Failed: {failure['step']} of {failure['job']}, examples {place}: "
            f"{failure['error']}"
        )
    if result.failures:
        path = files.join(values.workdir, folder.FAILURES)
        print(f"Failures: {os.fspath(path)}")
    return 1 if result.failures else 0


if __name__ == "__main__":
    flags.run(main)
