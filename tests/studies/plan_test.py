"""Which audits a study has, and what is refused before any of them."""

import json
import shutil

import pytest

from configs.studies import digits
from configs.studies import paper_mnist
from ib_keras.studies import folder
from ib_keras.studies import plan
from tests.support import runs

FGS = {"fgs_epsilons": {"num_examples": 8, "epsilon_curve": []}}
DATA = {"name": "random_images", "image_shape": [4, 4, 1]}


def write_model(path, content="graph", num_classes=3, **more):
    """What a plan reads of a SavedModel: its files and metadata."""
    assets = path / "assets"
    assets.mkdir(parents=True)
    (path / "saved_model.pb").write_text(content)
    metadata = runs.random_model_metadata(num_classes=num_classes, **more)
    (assets / "ib_keras.json").write_text(json.dumps(metadata))
    return str(path)


def get_protocol(name):
    return runs.audit_config(name) if name in runs._AUDITS else aa_mt()


def aa_mt():
    from configs.audits import aa_mt as module

    return json.loads(module.get_config().to_json())


def config(*models, protocols=None, **more):
    protocols = FGS if protocols is None else protocols
    return {
        "models": list(models),
        "protocols": protocols,
        "examples_per_part": None,
        **more,
    }


def make(asked, workdir):
    return plan.make(asked, str(workdir), get_protocol)


def test_models_by_protocols_in_parts(tmp_path):
    for name in "ab":
        write_model(tmp_path / "runs" / name / "saved_model", name)
    protocols = FGS | {
        "short": {"protocol": "pgd_restarts", "num_examples": 7},
    }
    pattern = f"{tmp_path}/runs/*/saved_model"
    asked = config(pattern, protocols=protocols, examples_per_part=3)
    made = make(asked, tmp_path / "study")
    assert [job.name for job in made.jobs] == [
        *("a/fgs_epsilons", "a/short", "b/fgs_epsilons", "b/short")
    ]
    assert made.jobs[0].parts == ((0, 3), (3, 6), (6, 8))
    assert made.jobs[1].parts == ((0, 3), (3, 6), (6, 7))
    audit = made.jobs[3].audit
    assert audit["saved_model"] == f"{tmp_path}/runs/b/saved_model"
    assert audit["workdir"] == f"{tmp_path}/study/audits/b/short"
    assert audit["config"]["num_examples"] == 7
    assert audit["config"]["protocol"] == "pgd_restarts"
    assert audit["sha256"] != made.jobs[0].audit["sha256"]
    assert json.loads(json.dumps(audit)) == audit
    assert not (tmp_path / "study").exists()


def test_names_of_models(tmp_path):
    write_model(tmp_path / "runs" / "beta=0.1" / "saved_model")
    write_model(tmp_path / "plain")
    (tmp_path / "net.keras").touch()
    found = plan.find_models(
        [
            f"{tmp_path}/runs/beta=0.1/saved_model",
            f"{tmp_path}/plain/",
            f"{tmp_path}/*.keras",
            f"other={tmp_path}/plain",
        ]
    )
    assert found == {
        "beta=0.1": f"{tmp_path}/runs/beta=0.1/saved_model",
        "plain": f"{tmp_path}/plain",
        "net": f"{tmp_path}/net.keras",
        "other": f"{tmp_path}/plain",
    }


def test_a_pattern_that_matches_nothing(tmp_path):
    asked = config(f"{tmp_path}/runs/*/saved_model")
    error = runs.refused(make, asked, tmp_path / "study")
    assert error.what == "No model matches"
    assert error.received == f"{tmp_path}/runs/*/saved_model"


def test_two_jobs_of_one_folder(tmp_path):
    for top in "xy":
        write_model(tmp_path / top / "vib" / "saved_model")
    asked = config(f"{tmp_path}/*/vib/saved_model")
    error = runs.refused(make, asked, tmp_path / "study")
    assert error.what == "Two jobs have one workdir"
    assert "both named vib" in error.received
    # The same model twice is one.
    one = f"{tmp_path}/x/vib/saved_model"
    assert len(make(config(one, one), tmp_path / "study").jobs) == 1


def test_stochastic_audits_of_models_without_noise_are_left_out(tmp_path):
    """By the metadata; of a model without them nothing is known."""
    models = [
        write_model(tmp_path / "plain", "a", is_stochastic=False),
        write_model(tmp_path / "vib", "b", is_stochastic=True),
        write_model(tmp_path / "foreign", "c"),
    ]
    stochastic = {"protocol": "fgs_epsilons", "mode": "stochastic"}
    asked = config(*models, protocols=FGS | {"noisy": stochastic})
    made = make(asked, tmp_path / "study")
    assert made.left_out == ("plain/noisy",)
    assert [job.name for job in made.jobs] == [
        *("plain/fgs_epsilons", "vib/fgs_epsilons", "vib/noisy"),
        *("foreign/fgs_epsilons", "foreign/noisy"),
    ]
    alone = config(models[0], protocols={"noisy": stochastic})
    error = runs.refused(make, alone, tmp_path / "other")
    assert error.what == "No model of the study has a stochastic mode"


def test_more_targets_than_classes(tmp_path):
    model = write_model(tmp_path / "model")
    nine = {"multi_targeted": {"attack": {"num_targets": 9}}}
    asked = config(model, protocols={"aa_mt": {"stages": nine}})
    error = runs.refused(make, asked, tmp_path / "study")
    assert error.what.startswith("The protocol has more targets")
    assert "num_targets=9 of stage multi_targeted" in error.received
    assert "at most 2" in error.expected


@pytest.mark.parametrize("size", [0, 9, -1, 2.5])
def test_sizes_of_parts_that_are_none(tmp_path, size):
    model = write_model(tmp_path / "model")
    asked = config(model, examples_per_part=size)
    error = runs.refused(make, asked, tmp_path / "study")
    assert error.received == f"examples_per_part={size}"
    assert "num_examples=8" in error.expected


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"protocols": {}}, "no protocols"),
        ({"models": []}, "no models"),
        ({"protocols": {"fgs_epsilons": {"seeds": 1}}}, "fgs_epsilons.seeds"),
        ({"protocols": {"a b": {"protocol": "fgs_epsilons"}}}, "folder"),
        ({"parts": 3}, "No config field"),
    ],
)
def test_other_configs_that_are_none(tmp_path, changes, says):
    asked = config(write_model(tmp_path / "model")) | changes
    assert says in str(runs.refused(make, asked, tmp_path / "study"))


def test_a_model_that_is_not_there(tmp_path):
    error = runs.refused(make, config(f"{tmp_path}/none"), tmp_path / "study")
    assert error.what == "There is no SavedModel"


def test_the_folder_of_another_study(tmp_path):
    model = write_model(tmp_path / "model")
    workdir = str(tmp_path / "study")
    folder.claim(workdir, make(config(model), workdir))
    before = runs.snapshot(workdir)
    other = {"fgs_epsilons": FGS["fgs_epsilons"] | {"seed": 1}}
    for asked, says in (
        (config(model, examples_per_part=4), "examples_per_part=None"),
        (config(model, protocols=other), "protocols.fgs_epsilons.seed=0"),
    ):
        made = make(asked, workdir)
        error = runs.refused(folder.check, workdir, made)
        assert error.what == "The folder is that of another study"
        assert error.expected.startswith(says)
    assert runs.snapshot(workdir) == before
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.tex").touch()
    made = make(config(model), str(strange))
    error = runs.refused(folder.check, str(strange), made)
    assert "thesis.tex" in error.received


def test_a_model_that_has_changed_since(tmp_path):
    model = write_model(tmp_path / "model")
    workdir = str(tmp_path / "study")
    folder.claim(workdir, make(config(model), workdir))
    shutil.rmtree(model)
    write_model(tmp_path / "model", "another")
    error = runs.refused(folder.check, workdir, make(config(model), workdir))
    assert error.what == "A model has changed since the study was planned"


def test_a_study_may_grow(tmp_path):
    first, second = (write_model(tmp_path / n, n) for n in ("one", "two"))
    workdir = str(tmp_path / "study")
    folder.claim(workdir, make(config(first), workdir))
    more = FGS | {"pgd_restarts": {"num_examples": 8}}
    made = make(config(second, protocols=more), workdir)
    folder.check(workdir, made)
    folder.claim(workdir, made)
    found = folder.read(workdir)
    assert list(found["models"]) == ["one", "two"]
    assert list(found["protocols"]) == ["fgs_epsilons", "pgd_restarts"]


@pytest.mark.parametrize("module", [digits, paper_mnist])
def test_shipped_studies(module, tmp_path):
    write_model(tmp_path / "model", num_classes=10)
    asked = json.loads(module.get_config().to_json())
    asked["models"] = [f"{tmp_path}/model"]

    def shipped(name):
        import importlib

        protocol = importlib.import_module(f"configs.audits.{name}")
        return json.loads(protocol.get_config().to_json())

    made = plan.make(asked, str(tmp_path / "study"), shipped)
    assert len(made.jobs) == len(asked["protocols"]) == 2
