"""Audits a SavedModel by a protocol.

python -m launch.audit --config=configs/audits/pgd_restarts.py \
    --saved_model=runs/mnist_vib/saved_model --workdir=audits/pgd
"""

from absl import flags as absl_flags

from launch import flags

flags.define_config()
flags.define_workdir()
flags.define_quiet()
flags.define_strategy()
absl_flags.DEFINE_bool(
    "plan", False, "Print what the audit can cost at most, and stop."
)
absl_flags.DEFINE_string("saved_model", None, "Folder of the SavedModel.")
absl_flags.mark_flag_as_required("saved_model")


def _print_plan(rows) -> None:
    print("At most, if every example stood to the end:")
    for row in rows:
        print(
            f"  epsilon {row['epsilon']:g}, {row['stage']}: "
            f"{row['gradients']:,} gradient evaluations, "
            f"{row['seconds'] / 60:.1f} min at the measured pace"
        )
    total = sum(row["seconds"] for row in rows)
    print(f"  together: {total / 60:.1f} min. Nothing was written.")


def main() -> int:
    """Runs `ib_keras.audit.runner.audit` and writes the report."""
    stop = flags.StopRequest()
    config = flags.config_values()

    from ib_keras import files
    from ib_keras import strategy
    from ib_keras.audit import examples
    from ib_keras.audit import report
    from ib_keras.audit import runner

    if absl_flags.FLAGS.plan:
        _print_plan(runner.plan(config, absl_flags.FLAGS.saved_model))
        return 0
    workdir = flags.FLAGS.workdir
    name = flags.FLAGS.strategy
    summary = runner.audit(
        config,
        flags.FLAGS.saved_model,
        workdir,
        # One device needs no strategy: its functions are called directly.
        strategy=None if name == "one_device" else strategy.get(name),
        should_stop=stop,
        command=flags.command_line(),
        quiet=flags.FLAGS.quiet,
    )
    page = files.join(workdir, "report.html")
    clean = examples.of_folder(workdir, summary)
    pictures = {} if clean is None else {workdir: clean}
    report.write([workdir], page, pictures)
    low, high = summary["robust_accuracy_ci95"]
    threat_model = summary["threat_model"]
    print(
        f"{summary['protocol']}, {summary['mode']} mode, "
        f"{threat_model['norm']} {threat_model['epsilon']:g}: clean accuracy "
        f"{summary['clean_accuracy']:.4f}, robust accuracy "
        f"{summary['robust_accuracy']:.4f} (95% interval {low:.4f} to "
        f"{high:.4f}), {summary['num_examples']} examples, "
        f"{summary['gradient_evaluations']} gradient evaluations."
    )
    for stage in summary["stages"]:
        print(
            f"  after {stage['name']}: {stage['robust_accuracy']:.4f} "
            f"({stage['num_broken']} of {stage['num_attacked']} broken)"
        )
    print(f"Report: {page}")
    return 0


if __name__ == "__main__":
    flags.run(main)
