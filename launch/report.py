"""Writes the report of one audit, or of several side by side.

python -m launch.report --workdir=audits/pgd
python -m launch.report --workdir=audits/vib,audits/twin --output=both.html
"""

from absl import flags as absl_flags

from launch import flags

absl_flags.DEFINE_list(
    "workdir", None, "Audit folders, one or several with commas between them."
)
absl_flags.mark_flag_as_required("workdir")
absl_flags.DEFINE_string(
    "output", None, "The page; report.html in the first folder by default."
)


def main() -> int:
    """Runs `ib_keras.audit.report.write`."""
    from ib_keras import files
    from ib_keras.audit import examples
    from ib_keras.audit import report
    from ib_keras.audit import runner

    folders = [folder.rstrip("/") for folder in absl_flags.FLAGS.workdir]
    clean = {}
    for folder in folders:
        summary = files.read_json(files.join(folder, runner.SUMMARY_FILE))
        images = examples.of_folder(folder, summary)
        if images is not None:
            clean[folder] = images
    page = absl_flags.FLAGS.output or files.join(folders[0], "report.html")
    print(f"Report: {report.write(folders, page, clean)}")
    return 0


if __name__ == "__main__":
    flags.run(main)
