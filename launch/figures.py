"""Draws the paper's ten figures, and figure 11, from the records of sweeps.

python -m launch.figures --figure=1,2 --runs=results/mnist_vib_cpu
python -m launch.figures --figure=all --runs=results/mnist_vib_cpu \
    --runs=results/cifar10_ceb_cpu --output=figures

Writes figure_N.pdf, .svg and .png, figure_N.csv with the numbers that are drawn
and figure_N.md with their means over seeds. Of a sweep's folder sweep.json and
records/ are enough. `all` draws what the given runs have, and figure 6, which
needs none. Runs that are missing, damaged, collapsed or diverged are left out;
the figure says how many there are, and this command names them.
"""

import sys

from absl import flags as absl_flags

from launch import flags

absl_flags.DEFINE_list("figure", None, "Numbers, 1 to 11, or all.")
absl_flags.mark_flag_as_required("figure")
absl_flags.DEFINE_multi_string(
    "runs", [], "A sweep's folder; the flag several times for several."
)
absl_flags.DEFINE_string("output", "figures", "Folder to write to.")


def main() -> int:
    """Draws one figure after the other; a failure does not stop the rest."""
    from ib_keras import errors
    from ib_keras import figures
    from ib_keras.figures import reading

    values = absl_flags.FLAGS
    sweeps, status = [], 0
    for folder in dict.fromkeys(f.rstrip("/") for f in values.runs):
        try:
            sweeps.append(reading.load(folder))
        except errors.UserError as error:
            print(f"Error: {error}", file=sys.stderr)
            status = error.exit_status
    for number in figures.choose(values.figure, sweeps):
        try:
            paths, notes = figures.write(number, sweeps, values.output)
        except errors.UserError as error:
            print(f"Error: {error}", file=sys.stderr)
            status = error.exit_status
            continue
        print(f"Figure {number}: {', '.join(paths)}", flush=True)
        for note in notes:
            print(f"  {note}")
    return status


if __name__ == "__main__":
    flags.run(main)
