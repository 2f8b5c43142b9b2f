"""Grids become whole configs, and what is wrong is refused before a run."""

import importlib
import json

import pytest

from configs import common
from ib_keras.audit import protocol
from ib_keras.audit import settings as audit_settings
from ib_keras.audit.landscape import records as landscapes
from ib_keras.sweeps import plan
from ib_keras.training import settings
from tests.support import runs

SWEPT = ("mnist_vib", "cifar10_ceb", "cifar10_vib", "digits_vib", "digits_ceb")


def values(module, *arguments):
    found = importlib.import_module(f"configs.{module}")
    return runs.plain(found.get_config(*arguments), {})


def make(sweep, config="digits_vib", preset="smoke", overrides=None):
    return plan.make(
        config,
        preset,
        sweep,
        values,
        lambda protocol: values(f"audits.{protocol}"),
        overrides,
    )


def plan_of(config, preset, overrides=None):
    sweep = importlib.import_module(f"configs.{config}").sweep
    return make(sweep, config, preset, overrides)


def one(**arguments):
    """A sweep of one run."""
    given = {"name": "a", "overrides": {}, **arguments}
    return lambda add, preset: add(
        given.pop("name"), given.pop("overrides"), **given
    )


@pytest.mark.parametrize("preset", common.PRESETS)
@pytest.mark.parametrize("config", SWEPT)
def test_a_grid_is_of_configs_that_training_and_audits_read(config, preset):
    found = plan_of(config, preset)
    assert found.budget.endswith(".")
    models = {run.labels["model"] for run in found.runs}
    assert models == {config.rpartition("_")[2], "deterministic"}
    for run in found.runs:
        settings.check(run.config)
        assert run.config["bottleneck"]["name"] == run.labels["model"]
        assert run.config["seed"] == run.labels["seed"]
        for name in ("beta", "rho"):
            assert run.config["bottleneck"].get(name) == run.labels.get(name)
        for audit in run.audits.values():
            audit_settings.check(audit)
            protocol.build_stages(audit)
        if run.landscape:
            known = {"epsilon", *landscapes.DEFAULTS}
            assert set(run.landscape) <= known


# By config: values of the bottleneck's weight and seeds, in the paper and in
# :cpu.
@pytest.mark.parametrize(
    ("config", "preset", "num_values", "num_seeds"),
    [
        ("mnist_vib", "", 8, 10),
        ("mnist_vib", "cpu", 5, 3),
        ("cifar10_ceb", "", 5, 10),
        ("cifar10_ceb", "cpu", 1, 1),
        ("cifar10_vib", "", 4, 10),
        ("cifar10_vib", "cpu", 1, 1),
    ],
)
def test_a_grid_is_as_large_as_it_should_be(
    config, preset, num_values, num_seeds
):
    runs_ = plan_of(config, preset).runs
    assert len(runs_) == (num_values + 1) * num_seeds
    twins = [run for run in runs_ if run.labels["model"] == "deterministic"]
    assert [run.config["seed"] for run in twins] == list(range(num_seeds))


def test_the_audits_are_those_of_the_figures():
    mnist = {run.name: run.audits for run in plan_of("mnist_vib", "cpu").runs}
    assert list(mnist["vib_beta_0.001_seed_0"]) == [
        "fgs_mean",
        "fgs_stochastic",
    ]
    fgs = mnist["vib_beta_0.001_seed_0"]["fgs_stochastic"]
    assert fgs["mode"] == "stochastic"
    assert fgs["num_examples"] == 1000
    assert fgs["epsilon_curve"] == [0.2, 0.35, 0.5]
    assert list(mnist["deterministic_seed_2"]) == ["fgs_mean", "restarts"]
    restarts = mnist["vib_beta_0.01_seed_1"]["restarts"]
    assert restarts["stages"]["pgd"]["num_restarts"] == 100
    assert restarts["epsilon_curve"] == [0.1, 0.2]
    assert restarts["mode"] == "mean"
    (ceb, twin) = plan_of("cifar10_ceb", "cpu").runs
    assert list(ceb.audits) == list(twin.audits)
    assert list(ceb.audits) == ["madry", "madry_restarts", "aa_mt"]
    assert ceb.landscape == {"epsilon": 8 / 255, "num_images": 4}
    assert twin.landscape is None
    digits = {run.name: run for run in plan_of("digits_ceb", "cpu").runs}
    run = digits["ceb_rho_3_seed_0"]
    assert list(run.audits) == list(ceb.audits)
    assert {a["threat_model"]["epsilon"] for a in run.audits.values()} == {0.1}
    assert {a["num_examples"] for a in run.audits.values()} == {300}
    step_size = run.audits["madry"]["stages"]["pgd"]["attack"]["step_size"]
    assert step_size == pytest.approx(0.007 * 0.1 / (8 / 255), rel=0.02)
    assert run.landscape == {"epsilon": 0.1, "num_images": 4}
    digits = {run.name: run for run in plan_of("digits_vib", "cpu").runs}
    for name in ("vib_beta_0.01_seed_0", "deterministic_seed_0"):
        assert set(digits[name].audits) >= {*ceb.audits, "fgs_mean", "restarts"}


def test_the_cpu_runs_of_cifar10_are_the_trainings_of_the_configs():
    """A folder that launch.train has filled is one that a sweep goes on in."""
    ceb, twin = plan_of("cifar10_ceb", "cpu").runs
    assert ceb.config == values("cifar10_ceb", "cpu")
    assert twin.config == values("cifar10_deterministic", "cpu")


@pytest.mark.parametrize(
    "path",
    sorted((runs.ROOT / "results").glob("*/sweep.json")),
    ids=lambda path: path.parent.name,
)
def test_the_committed_records_are_of_the_sweeps_of_today(path):
    said = json.loads(path.read_text())
    found = plan_of(said["config"], said["preset"], said["overrides"])
    assert found.budget == said["budget"]
    planned = {run.name: (run.labels, run.config) for run in found.runs}
    records = [
        json.loads(record.read_text())
        for record in path.parent.glob("records/*.json")
    ]
    assert records
    for record in records:
        kept = (record["labels"], record["config"])
        assert planned[record["name"]] == kept


def test_a_whole_number_becomes_a_float_where_the_field_is_one():
    (run,) = make(one(overrides={"bottleneck.beta": 1, "seed": 3})).runs
    assert type(run.config["bottleneck"]["beta"]) is float
    assert type(run.config["seed"]) is int


def test_overrides_are_for_the_runs_that_have_the_field():
    def sweep(add, preset):
        add("own", {"seed": 1})
        add("twin", {"seed": 1}, config="digits_deterministic")
        return "Cut."

    found = make(sweep, overrides={"bottleneck.beta": 0.5, "num_epochs": 7})
    own, twin = found.runs
    assert own.config["bottleneck"]["beta"] == 0.5
    assert "beta" not in twin.config["bottleneck"]
    assert own.config["num_epochs"] == twin.config["num_epochs"] == 7
    assert found.budget == "Cut. (with bottleneck.beta=0.5, num_epochs=7)"


def twice(add, preset):
    add("a", {})
    add("a", {})


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        (lambda add, preset: None, "no runs"),
        (twice, '"a" twice'),
        (one(name="A B"), "'A B'"),
        (one(name="../a"), "'../a'"),
        (one(overrides={"bottleneck.betta": 1}), 'mean "bottleneck.beta"'),
        (one(overrides={"nothing.at.all": 1}), '"nothing.at.all"'),
        (one(labels={"beta": [1]}), "'beta': [1]"),
        (one(audits={"x": {}}), "a protocol"),
        (one(audits={"x": {"protocol": "aa_mt", "ep": 1}}), '"ep"'),
        (one(landscape={"epsilon": 1}), "num_images"),
    ],
    ids=lambda value: value if isinstance(value, str) else "grid",
)
def test_a_wrong_grid_is_refused(sweep, said):
    assert said in str(runs.refused(make, sweep))


def test_a_field_of_the_grid_cannot_be_set_from_outside():
    error = runs.refused(
        make, one(overrides={"seed": 1}), overrides={"seed": 5}
    )
    assert "--config.seed" in str(error)


def test_attacked_are_the_data_that_were_trained_on():
    overrides = {"data.data_dir": "/data", "data.download": False}
    sweep = one(audits={"fgs": {"protocol": "fgs_epsilons"}})
    (run,) = make(sweep, "mnist_vib", "", overrides).runs
    dataset = run.audits["fgs"]["dataset"]
    assert dataset["data_dir"] == run.config["data"]["data_dir"] == "/data"
    assert dataset["download"] is run.config["data"]["download"] is False


def test_the_path_of_the_data_is_no_budget():
    overrides = {"data.data_dir": "/data", "encoder.hidden_units": (8, 8)}
    found = make(one(), "mnist_vib", "", overrides)
    assert "/data" not in found.budget
    assert "encoder.hidden_units=[8, 8]" in found.budget
    # As a file gives it back.
    assert (
        found.overrides == json.loads(json.dumps(found.to_json()))["overrides"]
    )
