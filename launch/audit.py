"""Audits a SavedModel by a protocol.

python -m launch.audit --config=configs/audits/pgd_restarts.py \
    --saved_model=runs/mnist_vib/saved_model --workdir=audits/pgd
"""

import functools
import importlib

from absl import flags as absl_flags

from launch import flags
from launch import outcomes

flags.define_config()
flags.define_workdir()
flags.define_quiet()
flags.define_strategy()
flags.define_watchdog()
absl_flags.DEFINE_bool(
    "plan", False, "Print what the audit can cost at most, and stop."
)
absl_flags.DEFINE_float(
    "max_hours",
    None,
    "Refuse a new audit before its first step if the attacks may take longer.",
    lower_bound=0.0,
)
absl_flags.DEFINE_string(
    "saved_model",
    None,
    "Folder of the SavedModel, a .keras file, or hf://ORG/NAME[@REVISION] of "
    "the Hugging Face Hub.",
)
absl_flags.DEFINE_list(
    "allow_ops",
    [],
    "Operations that the safety check shall let pass, by the names in its "
    "refusal, and limits to raise, such as max_nodes=400000; the summary "
    "records them.",
)
absl_flags.mark_flag_as_required("saved_model")
absl_flags.DEFINE_enum(
    "fail_on",
    "never",
    ["never", "upper_bound", "invalid"],
    "Exit with status 4 when the verdict is this or worse.",
)


def _print_plan(rows) -> None:
    print("At most, if every example stays robust:")
    for row in rows:
        calls = f"{row['gradients']:,} gradient evaluations"
        if row["queries"]:
            calls = f"{row['queries']:,} queries"
        if row["targets"] > 1:
            calls += f" ({row['targets']:,} targets a restart)"
        print(
            f"  epsilon {row['epsilon']:g}, {row['stage']}: {calls}, "
            f"{row['seconds'] / 60:.1f} min at the measured speed"
        )
    total = sum(row["seconds"] for row in rows)
    print(
        f"  together: {total / 60:.1f} min, without the diagnostics. "
        "Nothing was written."
    )


def _check_hours(rows, most) -> None:
    """Refuses an audit that may take longer than is wanted."""
    from ib_keras.errors import UserError

    hours = sum(row["seconds"] for row in rows) / 3600
    if hours > most:
        raise UserError(
            "The audit may take longer than --max_hours",
            received=f"up to {hours:.2f} hours at the measured speed, if every "
            "example stays robust, for the attacks alone",
            expected=f"at most {most:g}",
            fix="Raise --max_hours, or lower --config.num_examples; --plan "
            "says what each stage costs.",
        )


def main() -> int:
    """Runs `ib_keras.audit.runner.audit` and writes the report."""
    stop = flags.StopRequest()
    config = flags.config_values()

    from ib_keras import files
    from ib_keras import lazy
    from ib_keras import workdirs
    from ib_keras.audit import hub
    from ib_keras.audit import report
    from ib_keras.audit import settings
    from ib_keras.audit.formats import verdicts
    from ib_keras.audit.safety import names
    from ib_keras.audit.safety import probe
    from ib_keras.audit.safety import rlimits

    flags.check_strategy()
    if flags.FLAGS.strategy == "multi_worker":
        raise settings.workers_error("--strategy=multi_worker")
    names.check(absl_flags.FLAGS.allow_ops)
    most, workdir = absl_flags.FLAGS.max_hours, flags.FLAGS.workdir
    saved_model = absl_flags.FLAGS.saved_model
    check = functools.partial(
        settings.check_start,
        config,
        workdir=None if absl_flags.FLAGS.plan else workdir,
    )
    # All that can be refused before a model is fetched comes first.
    is_hub = hub.is_hub(saved_model)
    check(None if is_hub else saved_model)
    if not absl_flags.FLAGS.plan:
        verdicts.check_gate(absl_flags.FLAGS.fail_on, config, workdir)
    if is_hub:
        saved_model = hub.fetch(saved_model)
        check(saved_model)
    # It reads and calls the model while this process imports TensorFlow.
    probe.start(
        saved_model,
        absl_flags.FLAGS.allow_ops,
        batches=probe.batch_sizes(config["batch_size"]),
    )
    tf = lazy.tensorflow()
    rlimits.for_audit(absl_flags.FLAGS.allow_ops, config["num_samples"])

    from ib_keras.audit import runner

    if not absl_flags.FLAGS.plan:
        # The imports for drawing take a second, while the child works.
        importlib.import_module("ib_keras.audit.report.page")

    is_begun = files.exists(files.join(workdir, workdirs.CONFIG_FILE))
    # An audit that has begun may be resumed by the same command.
    is_asked = most is not None and not is_begun
    if absl_flags.FLAGS.plan or is_asked:
        rows = runner.plan(
            config,
            saved_model,
            allow_ops=absl_flags.FLAGS.allow_ops,
            probe=True,
        )
        if absl_flags.FLAGS.plan:
            _print_plan(rows)
            return 0
        _check_hours(rows, most)
    devices = flags.make_strategy()
    is_plain = isinstance(devices, tf.distribute.OneDeviceStrategy)
    summary = runner.audit(
        config,
        saved_model,
        workdir,
        # One device needs no strategy: its functions are called directly.
        strategy=None if is_plain else devices,
        allow_ops=absl_flags.FLAGS.allow_ops,
        probe=True,
        should_stop=stop,
        watchdog_minutes=flags.FLAGS.watchdog_minutes,
        command=flags.command_line(),
        git_commit=flags.git_commit(),
        quiet=flags.FLAGS.quiet,
    )
    page = report.write_page([workdir])
    outcomes.print_audit(summary)
    verdict = outcomes.print_verdict(workdir)
    print(f"Report: {page}")
    return verdicts.exit_status(verdict, absl_flags.FLAGS.fail_on)


if __name__ == "__main__":
    flags.run(main)
