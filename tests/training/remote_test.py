"""A workdir need not be on a disk: nothing opens it but `tf.io.gfile`."""

import builtins
import io
import os

import pytest

from ib_keras import files
from ib_keras.audit import examples
from ib_keras.audit import report
from ib_keras.audit import runner
from ib_keras.audit import summary as summaries
from ib_keras.errors import Interrupted
from ib_keras.training import loop
from tests.support import runs

pytestmark = pytest.mark.commands


@pytest.fixture
def no_open(monkeypatch):
    """Python's own ways to a file refuse what is not on a local disk."""

    def guard(module, name):
        real = getattr(module, name)

        def call(path, *arguments, **more):
            text = os.fsdecode(path) if not isinstance(path, int) else ""
            assert "ram:" not in text, f"{name} of {text}"
            return real(path, *arguments, **more)

        monkeypatch.setattr(module, name, call)

    for module, name in (
        (builtins, "open"),
        (io, "open"),
        (os, "open"),
        (os, "mkdir"),
        (os, "rename"),
        (os, "replace"),
        (os, "remove"),
        (os, "unlink"),
        (os, "listdir"),
        (os, "stat"),
    ):
        guard(module, name)


def test_the_guard_sees_what_it_is_for(no_open):
    for function in (open, os.listdir, os.stat):
        with pytest.raises(AssertionError, match="ram://x"):
            function("ram://x/y")


def test_train_audit_and_report_on_a_remote_workdir(no_open, capsys):
    """Stopped and resumed on the way; the end is that of a local run."""
    workdir = "ram://remote_test/run"
    config = runs.smoke_config()
    with pytest.raises(Interrupted):
        loop.train(config, workdir, should_stop=runs.Clock(1))
    result = loop.train(config, workdir)
    assert f"Resuming at step 4, from {workdir}" in capsys.readouterr().out
    assert result["step"] == 8
    assert files.listdir(workdir) == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "result.json",
        "saved_model",
        "tensorboard",
    ]
    audit = "ram://remote_test/audit"
    protocol = runs.audit_config(
        num_examples=8, batch_size=8, **{"stages.pgd.num_restarts": 1}
    )
    summary = runner.audit(
        protocol, files.join(workdir, loop.SAVED_MODEL), audit, quiet=True
    )
    assert summary["num_examples"] == 8
    page = files.join(audit, "report.html")
    clean = examples.of_folder(audit, summaries.read(audit).model)
    report.write([audit], page, {} if clean is None else {audit: clean})
    assert "<html" in files.read_text(page)


def test_a_remote_run_ends_like_a_local_one(no_open, tmp_path):
    config = runs.smoke_config()
    remote = "ram://remote_test/twin"
    loop.train(config, remote, quiet=True)
    local = str(tmp_path / "run")
    loop.train(config, local, quiet=True)
    name = "checkpoints/step-0000000008.npz"
    ours, theirs = (files.read_npz(f"{w}/{name}") for w in (remote, local))
    for arrays in (ours, theirs):
        del arrays["header.json"]  # The clock's.
    runs.assert_equal_arrays(ours, theirs)
