"""Tests for how often a whole audit traces: a trace takes a second."""

import collections
import os

from configs.audits import aa_mt
from ib_keras import files
from ib_keras.attacks import devices
from ib_keras.audit import runner
from ib_keras.audit import subject as subjects
from tests.support import runs

# Of three stages and the diagnostics ten kinds of attacks, each with a start
# and a loop; the judge for the audited mode and for the other; six others.
MOST_TRACES = 29


def quick_aa_mt():
    """AA+MT and the quick diagnostics, in few steps on few images."""
    short = {
        f"stages.{name}.{field}": value
        for name, stage in aa_mt.get_config().stages.items()
        for field, value in (("num_restarts", 2), ("attack.num_steps", 6))
    }
    return runs.plain(
        aa_mt.get_config(),
        {
            "num_examples": 40,
            "batch_size": 16,
            "threat_model.epsilon": 0.05,
            "diagnostics.set": "quick",
            "diagnostics.num_examples": 8,
            **short,
        },
    )


def test_an_audit_of_aa_mt_traces_each_function_once(tmp_path):
    config = quick_aa_mt()
    subject = subjects.load(config, runs.digits_model("vib"))
    before = len(devices.TRACES)
    summary = runner.audit_subject(config, subject, str(tmp_path), quiet=True)
    traced = collections.Counter(devices.TRACES[before:])
    assert 0 < summary["robust_accuracy"] < summary["clean_accuracy"]
    findings = files.read_json(os.path.join(tmp_path, "findings.json"))
    assert len(findings["findings"]) > 20
    assert traced["start"] == traced["advance"]
    assert sum(traced.values()) <= MOST_TRACES, traced
    for key, sizes in subject.logits_fn.num_traces().items():
        assert set(sizes.values()) == {1}, (key, sizes)
