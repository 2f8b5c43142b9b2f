"""Draws the loss landscapes of a finished audit (figures 4 and 10).

python -m launch.landscape --workdir=audits/pgd --output=landscapes
python -m launch.landscape --workdir=audits/pgd --examples=3,17 --grid=81 \
    --span=2 --output=landscapes

Writes heat maps and a surface as PNG and SVG, and the numbers as CSV, for each
example; and prints what each landscape amounts to.
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
absl_flags.DEFINE_integer("grid", 41, "Points along each axis, odd.")
absl_flags.DEFINE_float("span", 1.25, "End of the axes, in units of epsilon.")
absl_flags.DEFINE_integer("num_draws", 1, "Draws of noise at each point.")
absl_flags.DEFINE_integer("seed", 0, "Of the random directions.")
absl_flags.DEFINE_string(
    "saved_model", None, "The model, where it is not at the summary's path."
)
absl_flags.DEFINE_list(
    "allow_ops", [], "Operations that the model may hold all the same."
)


def main() -> int:
    """Surveys, draws and writes one example after the other."""
    from ib_keras import files
    from ib_keras import lazy
    from ib_keras.audit import folder as folders

    values = absl_flags.FLAGS
    folders.check(values.workdir)
    lazy.tensorflow()

    from ib_keras.audit.landscape import examples as landscape_examples
    from ib_keras.audit.landscape import survey as landscape_survey
    from ib_keras.audit.report import landscapes

    output = values.output
    files.make_folder(output)
    for index, found in landscape_survey.survey(
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
        for ending, content in landscapes.pictures(found).items():
            files.write_bytes(start + ending, content)
        files.write_text(f"{start}.csv", landscape_examples.to_csv(found))
        print(f"Example {index}: {start}.png")
        for name, value in landscapes.facts(found):
            print(f"  {name}: {value}")
    return 0


if __name__ == "__main__":
    flags.run(main)
