"""Shows the result of an audit for one example, in words and as a picture.

python -m launch.show --workdir=audits/pgd --index=17
"""

from absl import flags as absl_flags

from launch import flags

absl_flags.DEFINE_string("workdir", None, "The audit folder.")
absl_flags.DEFINE_integer("index", None, "Of the example in its split.")
absl_flags.mark_flags_as_required(["workdir", "index"])
absl_flags.DEFINE_string(
    "output",
    None,
    "PNG or SVG to write; example_INDEX.png in the workdir if unset.",
)


def main() -> int:
    """Runs `ib_keras.audit.one_example`."""
    from ib_keras import files
    from ib_keras.audit import one_example

    values = absl_flags.FLAGS
    found = one_example.OneExample(values.workdir, values.index)
    for line in found.lines():
        print(line)
    name = f"example_{values.index}.png"
    path = values.output or files.join(values.workdir, name)
    found.write_picture(path)
    print(f"Picture: {path}")
    return 0


if __name__ == "__main__":
    flags.run(main)
