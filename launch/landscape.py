"""Draws the loss landscapes of a finished audit (figures 4 and 10).

python -m launch.landscape --workdir=audits/pgd --output=landscapes
python -m launch.landscape --workdir=audits/pgd --examples=3,17 --grid=81 \
    --span=2 --output=landscapes

Writes heat maps and a surface as PNG and SVG, and the numbers as CSV, for each
example; and prints the summary of each landscape.
"""

from absl import flags as absl_flags

from launch import flags

absl_flags.DEFINE_string("workdir", None, "The audit folder.")
absl_flags.mark_flag_as_required("workdir")
absl_flags.DEFINE_string("output", None, "Folder to write to.")
absl_flags.mark_flag_as_required("output")
absl_flags.DEFINE_list(
    "examples", None, "Their numbers; a few hard and typical ones by default."
)
absl_flags.DEFINE_integer(
    "grid", 41, "Points along each axis, odd.", lower_bound=5
)
absl_flags.register_validator(
    "grid",
    lambda count: count % 2 == 1,
    "it must be odd, for the image is its middle",
)
absl_flags.DEFINE_float(
    "span", 1.25, "End of the axes, in units of epsilon.", lower_bound=1.0
)
absl_flags.DEFINE_integer(
    "num_draws", 1, "Draws of noise at each point.", lower_bound=1
)
absl_flags.DEFINE_integer("seed", 0, "Of the random directions.")
absl_flags.DEFINE_string(
    "saved_model", None, "The model, where it is not at the summary's path."
)
absl_flags.DEFINE_list(
    "allow_ops", [], "Operations that are allowed nevertheless."
)


def _check_examples(given) -> None:
    from ib_keras.errors import UserError

    for word in given or ():
        if not word.strip().isdigit():
            raise UserError(
                "An example is named by its number",
                received=f"--examples={','.join(given)}",
                expected="whole numbers, such as 3,17",
                fix="Give the numbers that the report shows.",
            )


def main() -> int:
    """Evaluates, draws and writes one example after the other."""
    from ib_keras import files
    from ib_keras import lazy
    from ib_keras import workdirs
    from ib_keras.audit import folder as folders
    from ib_keras.audit.audited_model import options
    from ib_keras.audit.safety import names

    values = absl_flags.FLAGS
    names.check(values.allow_ops)
    folders.check(values.workdir)
    _check_examples(values.examples)
    if not files.is_remote(values.output):
        workdirs.check_writable(values.output)
    path = values.saved_model
    if path is not None and not files.is_remote(path):
        options.check_path(path.rstrip("/"))
    lazy.tensorflow()

    from ib_keras.audit.landscape import drawing
    from ib_keras.audit.landscape import examples as landscape_examples
    from ib_keras.audit.landscape import of_audit

    output = values.output
    files.make_folder(output)
    for index, found in of_audit.evaluate(
        values.workdir,
        values.examples,
        saved_model=values.saved_model,
        allow_ops=values.allow_ops,
        grid=values.grid,
        span=values.span,
        num_draws=values.num_draws,
        seed=values.seed,
    ):
        start = files.join(output, f"example_{index}")
        for ending, content in drawing.pictures(found).items():
            files.write_bytes(start + ending, content)
        files.write_text(f"{start}.csv", landscape_examples.to_csv(found))
        print(f"Example {index}: {start}.png")
        for name, value in drawing.facts(found):
            print(f"  {name}: {value}")
    return 0


if __name__ == "__main__":
    flags.run(main)
