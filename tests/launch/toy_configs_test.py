"""The sweeps of the toys: their grids, and nothing cut on a CPU."""

import importlib
import json

import pytest

TOYS = ("toy_overlap", "toy_tsipras")


def plan(data, preset):
    """The runs that a sweep adds, `{name: what}`, and what it says of cuts."""
    runs = {}

    def add(name, overrides, **more):
        assert name not in runs
        runs[name] = {"overrides": overrides, **more}

    module = importlib.import_module(f"configs.{data}_vib")
    return runs, module.sweep(add, preset)


@pytest.mark.parametrize("data", TOYS)
def test_a_sweep_has_ten_seeds_of_each_model(data):
    runs, said = plan(data, "")
    linear = [r for r in runs.values() if r["labels"]["model"] == "linear"]
    assert [r["labels"]["seed"] for r in linear] == list(range(10))
    for run in linear:
        assert run["config"] == f"{data}_linear"
        assert run["overrides"] == {"seed": run["labels"]["seed"]}
    by_beta = {}
    for run in runs.values():
        if run["labels"]["model"] == "vib":
            labels = run["labels"]
            by_beta.setdefault(labels["beta"], []).append(labels["seed"])
            assert run["overrides"] == {
                "bottleneck.beta": labels["beta"],
                "seed": labels["seed"],
            }
            assert "config" not in run
    assert len(runs) == 10 + 10 * len(by_beta)
    assert min(by_beta) == 1e-4 and max(by_beta) == 2.0
    for seeds in by_beta.values():
        assert seeds == list(range(10))
    # Their robust accuracy is that of a split, so no audits are asked for.
    assert not any("audits" in run for run in runs.values())
    assert said == "The paper's steps, batches and examples."


@pytest.mark.parametrize("data", TOYS)
def test_nothing_is_cut_on_a_cpu(data):
    assert plan(data, "cpu") == plan(data, "")
    for model in ("vib", "linear"):
        module = importlib.import_module(f"configs.{data}_{model}")
        full, cpu = (module.get_config(p).to_json() for p in ("", "cpu"))
        assert json.loads(full) == json.loads(cpu)


@pytest.mark.parametrize("data", TOYS)
def test_the_smoke_of_a_sweep_is_three_runs(data):
    runs, said = plan(data, "smoke")
    assert list(runs) == [
        "vib_beta_0.01_seed_0",
        "vib_beta_1_seed_0",
        "linear_seed_0",
    ]
    assert "mean nothing" in said
