"""Every objective trains digits by the loop, is exported and audited."""

import os

import pytest

import ib_keras
from ib_keras import plugins
from ib_keras.training import loop
from tests.support import marks
from tests.support import runs

_QUICK = {"epsilon": 0.1, "num_steps": 2, "step_size": 0.06}


def _train(name, workdir):
    takes = {
        k: v for k, v in _QUICK.items() if plugins.takes("objectives", name, k)
    }
    config = runs.train_config("vib", num_epochs=3)
    config |= {"objective": {"name": name, **takes}}
    return loop.train(config, workdir, quiet=True)


def _robust_accuracy(workdir) -> float:
    from ib_keras.data import digits

    images, labels = digits.build().load("test[:60]")
    found = ib_keras.audit(
        os.path.join(workdir, loop.SAVED_MODEL),
        images / 255.0,
        labels,
        epsilon=0.1,
        protocol="pgd_madry",
        diagnostics="none",
    )
    return found.robust_accuracy


@pytest.mark.parametrize(
    "name", marks.others_slow(plugins.names("objectives"), ("pgd_at",))
)
def test_it_trains_exports_and_is_audited(name, tmp_path):
    result = _train(name, str(tmp_path))
    assert result["accuracy"] > 0.6
    assert 0.0 <= _robust_accuracy(str(tmp_path)) <= result["accuracy"] + 0.15


@pytest.mark.slow
def test_adversarial_training_makes_a_model_robust(tmp_path):
    found = {}
    for name in ("standard", "pgd_at"):
        workdir = str(tmp_path / name)
        _train(name, workdir)
        found[name] = _robust_accuracy(workdir)
    assert found["pgd_at"] > found["standard"] + 0.1
