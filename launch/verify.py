"""Recomputes the claims of an audit folder with independent code.

python -m launch.verify --workdir=audits/pgd

Exit status: 0 if all claims hold; 2 if one does not, or if model or data are
not available; 3 if the model is refused as unsafe.
"""

import os
import sys

from absl import flags as absl_flags

from launch import flags

absl_flags.DEFINE_string("workdir", None, "The audit folder.")
absl_flags.mark_flag_as_required("workdir")
absl_flags.DEFINE_string(
    "saved_model", None, "The model, where it is not at the summary's path."
)
absl_flags.DEFINE_string(
    "data_dir", None, "Folder of the data set, if not the audit's."
)
absl_flags.DEFINE_list(
    "allow_ops", [], "Operations that are allowed nevertheless."
)
absl_flags.DEFINE_integer(
    "num_draws",
    100,
    "Fresh draws of a noisy model for each image.",
    lower_bound=1,
)
absl_flags.DEFINE_integer("seed", 0, "Of the fresh noise.")
absl_flags.DEFINE_float(
    "tolerance",
    1e-4,
    "What rounding may change of a logit, relative to 1 + the largest.",
    lower_bound=0.0,
)
absl_flags.DEFINE_string("output", None, "JSON file to write the checks to.")
absl_flags.DEFINE_bool("quiet", False, "Print only claims that do not hold.")


def main() -> int:
    """Runs `ib_keras.audit.verify.verify`."""
    from ib_keras import files
    from ib_keras import lazy
    from ib_keras import workdirs
    from ib_keras.audit import folder as folders
    from ib_keras.audit.audited_model import options
    from ib_keras.audit.safety import names
    from ib_keras.audit.safety import probe
    from ib_keras.audit.safety import rlimits

    values = absl_flags.FLAGS
    names.check(values.allow_ops)
    if values.output and not files.is_remote(values.output):
        workdirs.check_writable(os.path.dirname(values.output) or ".")
    summary = folders.check(values.workdir)
    path = values.saved_model
    if path is None and isinstance(summary, dict):
        path = folders.model_path(summary)
    if values.saved_model is not None and not files.is_remote(path):
        options.check_path(path.rstrip("/"))
    if path is not None and files.exists(path):
        # It reads and calls the model while this process imports TensorFlow.
        batches = probe.batch_sizes(folders.batch_size(values.workdir))
        probe.start(path, values.allow_ops, batches=batches)
    lazy.tensorflow()
    rlimits.for_audit(values.allow_ops, values.num_draws)

    from ib_keras.audit import verify

    result = verify.verify(
        values.workdir,
        values.saved_model,
        data_dir=values.data_dir,
        allow_ops=values.allow_ops,
        probe=True,
        num_draws=values.num_draws,
        seed=values.seed,
        tolerance=values.tolerance,
    )
    for check in result.checks:
        if not check.ok:
            print(f"FAILED {check.name}: {check.sentence}.", file=sys.stderr)
        elif not values.quiet:
            print(f"ok     {check.name}: {check.sentence}.")
    if result.unchecked and not values.quiet:
        print(f"Not checked: {', '.join(result.unchecked)}.")
    if values.output:
        files.write_json(values.output, result.to_json())
    if not result.ok:
        print(
            f"{values.workdir} has false claims: {len(result.failed)} of "
            f"{len(result.checks)} checks failed.",
            file=sys.stderr,
        )
        return 2
    if not values.quiet:
        print(f"All {len(result.checks)} checks hold.")
    return 0


if __name__ == "__main__":
    flags.run(main)
