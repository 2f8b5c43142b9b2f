"""Writes the report of one audit, or of several side by side.

python -m launch.report --workdir=audits/pgd
python -m launch.report --workdir=audits/vib,audits/twin --output=both.html
python -m launch.report --workdir=audits/vib,audits/ceb --baseline=audits/ceb
python -m launch.report --format=latex --workdir=audits/vib --output=table.tex

Formats: html (a page), markdown, latex, csv, model_card (a README.md for the
Hugging Face hub) and robustbench (a claim as JSON).

The folder of a study stands for its finished audits.

Of several audits, each model is compared with a baseline, example by example,
by protocol, radius and mode. The baseline is the deterministic twin unless
--baseline names another model.
"""

from absl import flags as absl_flags

from launch import flags

absl_flags.DEFINE_multi_string(
    "workdir",
    None,
    "Audit folders: the flag several times, or commas between them.",
)
absl_flags.mark_flag_as_required("workdir")
absl_flags.DEFINE_string("format", "html", "What to write; see above.")
absl_flags.DEFINE_string(
    "output", None, "The file; in the first folder by default."
)
absl_flags.DEFINE_string(
    "baseline",
    None,
    "The model to compare the others with: one of the audit folders, or its "
    "model's name or path; the deterministic twin by default.",
)


def _audits(folder: str) -> list[str]:
    """The finished audits of a study; any other folder as it is."""
    from ib_keras.studies import folder as studies

    if not studies.is_study(folder):
        return [folder]
    return [place for *_, place in studies.finished(folder)]


def main() -> int:
    """Runs `ib_keras.audit.report.write` or `ib_keras.audit.formats.write`."""
    from ib_keras import errors
    from ib_keras.audit import formats
    from ib_keras.audit import report

    folders = [
        folder.rstrip("/")
        for listed in absl_flags.FLAGS.workdir
        for folder in listed.split(",")
        if folder
    ]
    folders = [audit for folder in folders for audit in _audits(folder)]
    if not folders:
        raise errors.UserError(
            "There is no audit to report",
            received="an empty --workdir",
            expected="one or more audit folders",
            fix="Name the --workdir of each audit.",
        )
    name, baseline = absl_flags.FLAGS.format, absl_flags.FLAGS.baseline
    if name == "html":
        page = report.write_page(folders, absl_flags.FLAGS.output, baseline)
        print(f"Report: {page}")
        return 0
    if name not in formats.names():
        raise errors.unknown_name(
            "format",
            name,
            ["html", *formats.names()],
            "Set --format to one of them.",
        )
    written = formats.write(folders, name, absl_flags.FLAGS.output, baseline)
    for note in written.notes:
        print(f"Note: {note}")
    print(f"Report: {written.path}")
    return 0


if __name__ == "__main__":
    flags.run(main)
