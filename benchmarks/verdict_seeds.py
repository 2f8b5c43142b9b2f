r"""How steady the verdict of borderline models is, seed by seed.

python -m benchmarks.verdict_seeds --output=results/verdict_seeds.csv \
    --model=runs/mnist_vib/saved_model@0.1

A model is borderline where attacks that are stronger than its protocol lower
the number by about the one point that decides. Here the protocol is AutoPGD
alone, one run of `--num_steps` on cross-entropy, and the quick diagnostics look
for more. Each audit, at 20 seeds and with the first 100, 300 and 1,000 test
images, gives a row: the verdict, whether its sentence says "borderline", and
what the checks broke with its interval. Where the verdicts of one model and
number of images differ, the rarer one should always say so; those that do not
are counted as silent.
"""

import tempfile

import pandas as pd
from absl import app
from absl import flags

from benchmarks import models as networks
from configs.audits import aa_mt
from ib_keras.audit import audited_model
from ib_keras.audit import folder as folders
from ib_keras.audit import runner
from ib_keras.audit import subject as subjects

flags.DEFINE_list("num_examples", ["100", "300", "1000"], "Test images.")
flags.DEFINE_integer("num_seeds", 20, "Of the audit and its checks.")
flags.DEFINE_integer("num_steps", 50, "Of the protocol's only stage.")
flags.DEFINE_string("output", None, "CSV to write.", required=True)
flags.DEFINE_multi_string("model", [], "[NAME=]SAVED_MODEL@EPSILON.")
FLAGS = flags.FLAGS


def make_config(epsilon, num_examples):
    """An audit by one run of AutoPGD on cross-entropy."""
    config = aa_mt.get_config()
    config.protocol = "apgd_ce"
    config.threat_model.epsilon = epsilon
    config.num_examples = num_examples
    for name in ("apgd_dlr", "multi_targeted"):
        del config.stages[name]
    config.stages.apgd_ce.num_restarts = 1
    config.stages.apgd_ce.attack.num_steps = FLAGS.num_steps
    return config.to_dict()


def audit(config, subject):
    """The row of one audit."""
    with tempfile.TemporaryDirectory() as folder:
        summary = runner.audit_subject(config, subject, folder, quiet=True)
        found = folders.findings(folder)
    (combined,) = (f for f in found["findings"] if f["id"] == "M3")
    verdict, data = found["verdict"], combined["data"]
    low, high = data.get("excess_ci95", (0.0, 0.0))
    return {
        "seed": config["seed"],
        "robust": summary["robust_accuracy"],
        "verdict": verdict["label"],
        "decided_by": " ".join(row["id"] for row in verdict["decided_by"]),
        "is_borderline": "Borderline" in verdict["sentence"],
        "num_attacked": data.get("num_attacked", 0),
        "num_broken": data.get("num_broken", 0),
        "excess": round(float(combined["value"] or 0.0), 5),
        "excess_low": round(low, 5),
        "excess_high": round(high, 5),
    }


def describe(rows: pd.DataFrame) -> pd.DataFrame:
    """How often each verdict was given, and borderline, by model and number."""

    def one(group):
        counts = group["verdict"].value_counts()
        usual = counts.index[counts == counts.max()]  # Both of a tie.
        is_rare = ~group["verdict"].isin(usual)
        return pd.Series(
            {
                "verdicts": ", ".join(f"{n} {v}" for v, n in counts.items()),
                "borderline": int(group.is_borderline.sum()),
                "silent": int((is_rare & ~group.is_borderline).sum()),
                "lowest": group.excess.min(),
                "median": group.excess.median(),
                "highest": group.excess.max(),
            }
        )

    keys = ["model", "epsilon", "num_examples"]
    return rows.groupby(keys).apply(one, include_groups=False).reset_index()


def main(unused_argv):
    rows = []
    for name, path, epsilon in networks.named(FLAGS.model):
        model = audited_model.load(path)
        for num_examples in map(int, FLAGS.num_examples):
            config = make_config(epsilon, num_examples)
            subject = subjects.load(config, model)
            for seed in range(FLAGS.num_seeds):
                row = audit({**config, "seed": seed}, subject)
                about = {
                    "model": name,
                    "epsilon": epsilon,
                    "num_examples": num_examples,
                }
                rows.append({**about, **row})
                print(rows[-1], flush=True)
                pd.DataFrame(rows).to_csv(FLAGS.output, index=False)
    print(describe(pd.DataFrame(rows)).to_string(index=False))


if __name__ == "__main__":
    app.run(main)
