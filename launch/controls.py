"""Audits planted models and compares the verdicts with the expected ones.

python -m launch.controls [--only="linear softmax"] [--workdir=controls]

Exit status 0 if every verdict is right, and 1 if not.
"""

from absl import flags as absl_flags

from launch import flags

absl_flags.DEFINE_string(
    "workdir", None, "Folder to keep the audits in; none is kept without it."
)
absl_flags.DEFINE_multi_string(
    "only", [], "Name of a control; may be given several times."
)


def _print_table(rows, table) -> None:
    import pandas as pd

    listed = [
        {
            "planted model": row["name"],
            "clean": row["clean_accuracy"],
            "robust": row["robust_accuracy"],
            "expected": row["expected"],
            "verdict": row["verdict"],
            "": "right" if row["is_right"] else "WRONG",
        }
        for row in rows
    ]
    print(pd.DataFrame(listed).to_string(index=False, na_rep="-"))
    print("\nExpected (rows) against verdict (columns):")
    print(pd.DataFrame(table).T.to_string())


def main() -> int:
    """Runs the control models one by one."""
    import os
    import tempfile

    from ib_keras import files
    from launch import control_models as controls

    chosen = controls.select(flags.FLAGS.only)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        workdir = flags.FLAGS.workdir or scratch
        for control in chosen:
            folder = os.path.join(workdir, control.name.replace(" ", "_"))
            row = controls.run(control, folder)
            rows.append(row)
            print(f"{control.name}: {row['verdict']}", flush=True)
            for reason in row["decided_by"]:
                print(f"  {reason}", flush=True)
        table = controls.confusion(rows)
        files.make_folder(workdir)
        files.write_json(
            os.path.join(workdir, "controls.json"),
            {"controls": rows, "confusion": table},
        )
    _print_table(rows, table)
    wrong = sum(not row["is_right"] for row in rows)
    print(f"{len(rows) - wrong} of {len(rows)} verdicts are right.")
    return int(wrong > 0)


if __name__ == "__main__":
    flags.run(main)
