"""A config is refused for a value of another kind, before anything runs."""

import copy
import importlib
import pkgutil

import pytest

from configs import audits
from ib_keras.audit import runner
from ib_keras.audit import settings
from tests.support import runs

WRONG = {
    "seed": (None, "a", 1.5, 1.0, -1, True),
    "compact": ("no", 1, None),
    "protocol": (None, 3),
    "threat_model.epsilon": ("0.1", None, float("nan"), (0.1,)),
    "epsilon_curve": (0.1, None, "abc", ("a",), (0.1, float("inf"))),
    "diagnostics.twin": (5, ["a"]),
}


def with_value(name, value):
    config = copy.deepcopy(runs.audit_config())
    *sections, field = name.split(".")
    section = config
    for each in sections:
        section = section[each]
    section[field] = value
    return config


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in WRONG.items() for v in values]
)
def test_a_value_of_another_kind_is_named(name, value):
    error = runs.refused(settings.check, with_value(name, value))
    assert error.received.startswith(name)
    assert "=" in error.received


@pytest.mark.parametrize(
    "name",
    [
        "num_examples",
        "batch_size",
        "chunk_steps",
        "num_judge_samples",
        "diagnostics.num_examples",
    ],
)
@pytest.mark.parametrize("value", ["x", True, 0, float("nan"), 1e400])
def test_a_count_of_another_kind_is_named(tmp_path, name, value):
    config = with_value(name, value)
    model = runs.digits_model("deterministic")
    error = runs.refused(runner.audit, config, model, str(tmp_path / "audit"))
    assert name in error.received
    assert not (tmp_path / "audit").exists()


def test_the_configs_of_the_package_are_of_their_kinds():
    names = [m.name for m in pkgutil.iter_modules(audits.__path__)]
    assert "aa_mt" in names
    for name in names:
        module = importlib.import_module(f"configs.audits.{name}")
        settings.check(runs.plain(module.get_config(), {}))
